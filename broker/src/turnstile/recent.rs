//! When those who connect did so lately.
//!
//! Owns the bound of what is remembered. It bans nobody.

use std::collections::{HashMap, VecDeque};

use super::bucket::{Bucket, Rate};
use crate::registry::Subject;

/// So many are remembered. Where there are more, those who come last are not: a storm of very many is no flapping of one.
const SUBJECTS_MAX: usize = 131_072;

/// How often one may connect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Often {
    pub(super) rate: Option<Rate>,
    /// More than so many connects within so many milliseconds are flapping. 0: never.
    pub(super) flapping_connects: usize,
    pub(super) flapping_window_ms: u64,
    pub(super) ban_ms: u64,
}

/// What is said about one more connect.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Welcome,
    /// More than its rate allows.
    TooOften,
    /// Banned from now on, until then.
    Flapping {
        until_ms: u64,
    },
    /// As it was said before.
    StillBanned {
        until_ms: u64,
    },
}

#[derive(Debug)]
struct Lately {
    bucket: Option<Bucket>,
    /// As many as would be flapping, at most.
    connects: VecDeque<u64>,
    /// Until the registry says it, this does.
    banned_until_ms: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Recent {
    subjects: HashMap<Subject, Lately>,
    swept_ms: u64,
}

impl Recent {
    pub(super) fn connect(&mut self, subject: &Subject, often: Often, now_ms: u64) -> Said {
        if !self.subjects.contains_key(subject) && !self.has_room(often, now_ms) {
            return Said::Welcome;
        }
        let fresh = || Lately {
            bucket: often.rate.map(|rate| Bucket::full(rate, now_ms)),
            connects: VecDeque::new(),
            banned_until_ms: None,
        };
        let lately = self.subjects.entry(subject.clone()).or_insert_with(fresh);
        if let Some(until_ms) = lately.banned_until_ms.filter(|until| now_ms < *until) {
            return Said::StillBanned { until_ms };
        }
        lately.banned_until_ms = None;
        if often.flapping_connects > 0 {
            let begin = now_ms.saturating_sub(often.flapping_window_ms);
            while lately.connects.front().is_some_and(|at| *at <= begin) {
                lately.connects.pop_front();
            }
            lately.connects.push_back(now_ms);
            if lately.connects.len() > often.flapping_connects {
                let until_ms = now_ms + often.ban_ms;
                lately.banned_until_ms = Some(until_ms);
                lately.connects.clear();
                return Said::Flapping { until_ms };
            }
        }
        match lately.bucket.as_mut().zip(often.rate).is_none_or(|(bucket, rate)| bucket.take(rate, now_ms)) {
            true => Said::Welcome,
            false => Said::TooOften,
        }
    }

    /// Somebody else says from now on whether it is banned.
    pub(super) fn leave_ban(&mut self, subject: &Subject) {
        self.subjects.get_mut(subject).into_iter().for_each(|lately| lately.banned_until_ms = None);
    }

    fn has_room(&mut self, often: Often, now_ms: u64) -> bool {
        if self.subjects.len() < SUBJECTS_MAX {
            return true;
        }
        // Looking at all of them takes milliseconds: not for each of a storm.
        if now_ms < self.swept_ms + 1000 {
            return false;
        }
        self.swept_ms = now_ms;
        let begin = now_ms.saturating_sub(often.flapping_window_ms);
        self.subjects.retain(|_, lately| {
            let rested = match (&mut lately.bucket, often.rate) {
                (Some(bucket), Some(rate)) => bucket.is_full(rate, now_ms),
                _ => true,
            };
            let is_calm = lately.connects.back().is_none_or(|at| *at <= begin);
            !rested || !is_calm || lately.banned_until_ms.is_some_and(|until| now_ms < until)
        });
        self.subjects.len() < SUBJECTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFTEN: Often = Often { rate: None, flapping_connects: 3, flapping_window_ms: 1000, ban_ms: 5000 };

    fn client(number: usize) -> Subject {
        Subject::Client(number.to_string())
    }

    #[test]
    fn who_comes_too_often_is_banned_for_a_while() {
        let (mut recent, one) = (Recent::default(), client(1));
        for now_ms in [0, 500, 1000, 1500, 2001] {
            assert_eq!(recent.connect(&one, OFTEN, now_ms), Said::Welcome, "{now_ms}");
        }
        assert_eq!(recent.connect(&one, OFTEN, 2100), Said::Welcome);
        assert_eq!(recent.connect(&one, OFTEN, 2200), Said::Flapping { until_ms: 7200 });
        assert_eq!(recent.connect(&client(2), OFTEN, 2200), Said::Welcome);
        assert_eq!(recent.connect(&one, OFTEN, 7199), Said::StillBanned { until_ms: 7200 });
        assert_eq!(recent.connect(&one, OFTEN, 7200), Said::Welcome);
    }

    #[test]
    fn a_ban_that_another_keeps_is_no_longer_kept_here() {
        let (mut recent, one) = (Recent::default(), client(1));
        for _ in 0..4 {
            recent.connect(&one, OFTEN, 0);
        }
        recent.leave_ban(&one);
        assert_eq!(recent.connect(&one, OFTEN, 1), Said::Welcome);
    }

    #[test]
    fn a_rate_is_kept() {
        let often = Often { rate: Rate::per_minute(2), flapping_connects: 0, ..OFTEN };
        let (mut recent, one) = (Recent::default(), client(1));
        let said: Vec<_> = [0, 0, 0, 30_000, 30_000].map(|now_ms| recent.connect(&one, often, now_ms)).into();
        assert_eq!(said, [Said::Welcome, Said::Welcome, Said::TooOften, Said::Welcome, Said::TooOften]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        for number in 0..SUBJECTS_MAX + 10 {
            assert_eq!(recent.connect(&client(number), OFTEN, 5000), Said::Welcome);
        }
        assert_eq!(recent.subjects.len(), SUBJECTS_MAX);
        recent.connect(&client(0), OFTEN, 20_000);
        recent.connect(&client(SUBJECTS_MAX), OFTEN, 20_000);
        assert_eq!(recent.subjects.len(), 2, "those who were calm for long are forgotten");
    }
}
