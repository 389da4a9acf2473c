//! What the clients of this shard want of others.
//!
//! Owns, for each filter, how many of the shard's own sessions subscribe to it, and how much they want: the highest QoS, whether
//! anybody wants it beyond the life of a connection, and of a shared subscription whether anybody is there. It says when that changes; telling others is not its
//! business.

use std::collections::HashMap;

use causeway_protocol::QoS;
use foldhash::fast::FixedState;

/// How much a filter is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) qos: QoS,
    /// Nobody who wants it outlives their connection.
    pub(crate) fleeting: bool,
    /// Nobody who wants it has a connection, or more waits for them than may; only of shared subscriptions.
    pub(crate) away: bool,
    /// The queue of somebody who wants it is full.
    pub(crate) full: bool,
}

/// Subscriptions to one filter: by QoS, of sessions that last and of others, and how many of them are not away.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    by_qos: [[u32; 2]; 3],
    here: u32,
    full: u32,
    /// Of a shared subscription, whether its own queue is full.
    is_stuffed: bool,
}

impl Counts {
    fn add(&mut self, wish: Wish) {
        self.by_qos[wish.qos as usize][usize::from(wish.fleeting)] += 1;
        self.here += u32::from(!wish.away);
        self.full += u32::from(wish.full);
    }

    fn remove(&mut self, wish: Wish) {
        let count = &mut self.by_qos[wish.qos as usize][usize::from(wish.fleeting)];
        *count = count.saturating_sub(1);
        self.here = self.here.saturating_sub(u32::from(!wish.away));
        self.full = self.full.saturating_sub(u32::from(wish.full));
    }

    fn wish(&self) -> Option<Wish> {
        let all = [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce];
        let qos = all.into_iter().find(|qos| self.by_qos[*qos as usize] != [0, 0])?;
        // What is sent with QoS 0 lasts for nobody.
        let lasts = [QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().any(|qos| self.by_qos[qos as usize][0] > 0);
        Some(Wish { qos, fleeting: !lasts, away: self.here == 0 || self.is_stuffed, full: self.full > 0 })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    by_filter: HashMap<Box<str>, Counts, FixedState>,
}

impl Interest {
    /// A session subscribed, and had `before` to the same filter. The wish that others are to know now, where it changed.
    pub(crate) fn add(&mut self, filter: &str, before: Option<Wish>, wish: Wish) -> Option<Wish> {
        if !self.by_filter.contains_key(filter) {
            self.by_filter.insert(filter.into(), Counts::default());
        }
        let counts = self.by_filter.get_mut(filter)?;
        let known = counts.wish();
        if let Some(before) = before {
            counts.remove(before);
        }
        counts.add(wish);
        counts.wish().filter(|wish| Some(*wish) != known)
    }

    /// A session unsubscribed. What others are to know now, where it changed: a lesser wish, or none.
    pub(crate) fn remove(&mut self, filter: &str, wish: Wish) -> Option<Option<Wish>> {
        let counts = self.by_filter.get_mut(filter)?;
        let known = counts.wish();
        counts.remove(wish);
        let now = counts.wish();
        if now.is_none() {
            self.by_filter.remove(filter);
        }
        (now != known).then_some(now)
    }

    /// The queue of a shared subscription is full, or has room again. What others are to know now, where it changed.
    pub(crate) fn set_stuffed(&mut self, filter: &str, is_stuffed: bool) -> Option<Wish> {
        let counts = self.by_filter.get_mut(filter)?;
        let known = counts.wish();
        counts.is_stuffed = is_stuffed;
        counts.wish().filter(|wish| Some(*wish) != known)
    }

    /// Everything that is wanted.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, Wish)> {
        self.by_filter.iter().filter_map(|(filter, counts)| Some((&**filter, counts.wish()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(qos: QoS, fleeting: bool) -> Wish {
        Wish { qos, fleeting, away: false, full: false }
    }

    #[test]
    fn only_changes_are_told() {
        let mut interest = Interest::default();
        let (low, high) = (wish(QoS::AtMostOnce, true), wish(QoS::ExactlyOnce, true));
        let lasting = wish(QoS::AtLeastOnce, false);
        assert_eq!(interest.add("a", None, low), Some(low));
        assert_eq!(interest.add("a", None, low), None);
        assert_eq!(interest.add("a", Some(low), high), Some(high));
        assert_eq!(interest.add("a", None, lasting), Some(wish(QoS::ExactlyOnce, false)));
        assert_eq!(interest.all().collect::<Vec<_>>(), [("a", wish(QoS::ExactlyOnce, false))]);
        assert_eq!(interest.remove("a", high), Some(Some(lasting)));
        assert_eq!(interest.remove("a", low), None);
        assert_eq!(interest.remove("a", lasting), Some(None));
        assert_eq!(interest.remove("a", lasting), None);
        assert_eq!(interest.all().count(), 0);
        let away = Wish { away: true, ..lasting };
        assert_eq!(interest.add("b", None, away), Some(away));
        assert_eq!(interest.add("b", Some(away), lasting), Some(lasting));
        assert_eq!(interest.add("b", None, away), None);
        assert_eq!(interest.remove("b", lasting), Some(Some(away)));
        assert_eq!(interest.add("b", None, lasting), Some(lasting));
        assert_eq!(interest.set_stuffed("b", true), Some(away));
        assert_eq!(interest.set_stuffed("b", true), None);
        assert_eq!(interest.set_stuffed("b", false), Some(lasting));
        assert_eq!(interest.set_stuffed("nobody's", true), None);
        let full = Wish { full: true, ..lasting };
        assert_eq!(interest.add("c", None, lasting), Some(lasting));
        assert_eq!(interest.add("c", None, full), Some(full));
        assert_eq!(interest.remove("c", full), Some(Some(lasting)));
    }
}
