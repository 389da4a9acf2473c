//! What the clients of this shard want of others.
//!
//! Owns, for each filter, how many of the shard's own sessions subscribe to it, and how much they want: the highest QoS, and whether
//! anybody wants it beyond the life of a connection. It says when that changes; telling others is not its business.

use std::collections::HashMap;

use causeway_protocol::QoS;
use foldhash::fast::FixedState;

/// How much a filter is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) qos: QoS,
    /// Nobody who wants it outlives their connection.
    pub(crate) fleeting: bool,
}

/// Subscriptions to one filter: by QoS, of sessions that last and of others.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts([[u32; 2]; 3]);

impl Counts {
    fn at(&mut self, wish: Wish) -> &mut u32 {
        &mut self.0[wish.qos as usize][usize::from(wish.fleeting)]
    }

    fn wish(&self) -> Option<Wish> {
        let all = [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce];
        let qos = all.into_iter().find(|qos| self.0[*qos as usize] != [0, 0])?;
        // What is sent with QoS 0 lasts for nobody.
        let lasts = [QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().any(|qos| self.0[qos as usize][0] > 0);
        Some(Wish { qos, fleeting: !lasts })
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
            *counts.at(before) = counts.at(before).saturating_sub(1);
        }
        *counts.at(wish) += 1;
        counts.wish().filter(|wish| Some(*wish) != known)
    }

    /// A session unsubscribed. What others are to know now, where it changed: a lesser wish, or none.
    pub(crate) fn remove(&mut self, filter: &str, wish: Wish) -> Option<Option<Wish>> {
        let counts = self.by_filter.get_mut(filter)?;
        let known = counts.wish();
        *counts.at(wish) = counts.at(wish).saturating_sub(1);
        let now = counts.wish();
        if now.is_none() {
            self.by_filter.remove(filter);
        }
        (now != known).then_some(now)
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
        Wish { qos, fleeting }
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
    }
}
