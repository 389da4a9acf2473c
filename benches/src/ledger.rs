//! The books of a load whose messages are numbered: what senders were told,
//! what a receiver got, and whether both agree.
//!
//! Owns every judgement about loss, repetition and order. It does no I/O, so
//! that any history can be put before it.

use serde::Serialize;

/// What the sender of a message was told about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing yet: it may or may not arrive.
    Nothing,
    /// That the broker has taken it over (PUBACK or PUBREC): it must arrive.
    Acknowledged,
    /// That the broker does not take it.
    Refused,
}

/// What one sender sent: what it was told, by number.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The QoS it publishes with.
    pub(crate) qos: u8,
    /// By number.
    pub(crate) told: Vec<Told>,
}

/// What one receiver got.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The QoS of its subscription.
    qos: u8,
    /// One for each sender.
    lines: Vec<Line>,
    /// Messages received, each counted once.
    delivered: u64,
}

/// What came from one sender.
#[derive(Debug, Default, Clone)]
struct Line {
    /// How often each number came, up to 255 times.
    times: Vec<u8>,
    /// The highest number that came.
    highest: Option<usize>,
    repetitions: u64,
    out_of_order: u64,
}

/// What is wrong, or at least to be counted, at one receiver or at all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// Messages received, each counted once.
    pub(crate) delivered: u64,
    /// Acknowledged to their sender, and not received.
    pub(crate) lost: u64,
    /// Received again where QoS 1 allows it.
    pub(crate) duplicates_qos1: u64,
    /// Received again although both sides use QoS 2.
    pub(crate) duplicates_qos2: u64,
    /// Received for the first time behind a later one of the same topic.
    pub(crate) out_of_order: u64,
    /// Received although nobody ever sent them.
    pub(crate) unknown: u64,
}

impl Sent {
    /// How many messages were answered so.
    pub(crate) fn count(&self, wanted: Told) -> u64 {
        self.told.iter().filter(|told| **told == wanted).count() as u64
    }
}

impl Findings {
    /// Whether a promise was broken.
    pub(crate) fn is_bad(&self) -> bool {
        self.lost + self.duplicates_qos2 + self.out_of_order + self.unknown > 0
    }

    /// Adds those of another receiver.
    pub(crate) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.duplicates_qos1 += other.duplicates_qos1;
        self.duplicates_qos2 += other.duplicates_qos2;
        self.out_of_order += other.out_of_order;
        self.unknown += other.unknown;
    }
}

impl Ledger {
    /// For a receiver with a subscription of this QoS to so many senders.
    pub(crate) fn new(qos: u8, senders: usize) -> Self {
        Self { qos, lines: vec![Line::default(); senders], delivered: 0 }
    }

    /// Enters a message that was received. `false`: no such sender.
    pub(crate) fn enter(&mut self, sender: usize, number: usize) -> bool {
        let Some(line) = self.lines.get_mut(sender) else {
            return false;
        };
        if line.times.len() <= number {
            line.times.resize(number + 1, 0);
        }
        let times = &mut line.times[number];
        self.delivered += u64::from(*times == 0);
        if *times > 0 {
            line.repetitions += 1;
        } else if line.highest.is_some_and(|highest| number < highest) {
            line.out_of_order += 1;
        }
        *times = times.saturating_add(1);
        line.highest = line.highest.max(Some(number));
        true
    }

    /// Messages received, each counted once.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether all that was acknowledged has been received; looks at every message.
    pub(crate) fn is_complete(&self, sent: &[Sent]) -> bool {
        self.pairs(sent).all(|(line, sent)| line.lost(sent) == 0)
    }

    /// The judgement.
    pub(crate) fn audit(&self, sent: &[Sent]) -> Findings {
        let mut findings = Findings { delivered: self.delivered, ..Findings::default() };
        for (line, sent) in self.pairs(sent) {
            findings.lost += line.lost(sent);
            findings.out_of_order += line.out_of_order;
            findings.unknown += line.times.iter().skip(sent.told.len()).filter(|times| **times > 0).count() as u64;
            let duplicates = match self.qos.min(sent.qos) {
                2 => &mut findings.duplicates_qos2,
                _ => &mut findings.duplicates_qos1,
            };
            *duplicates += line.repetitions;
        }
        findings
    }

    fn pairs<'a>(&'a self, sent: &'a [Sent]) -> impl Iterator<Item = (&'a Line, &'a Sent)> {
        self.lines.iter().zip(sent)
    }
}

impl Line {
    fn lost(&self, sent: &Sent) -> u64 {
        let came = self.times.iter().copied().chain(std::iter::repeat(0));
        let lost = sent.told.iter().zip(came).filter(|(told, times)| **told == Told::Acknowledged && *times == 0);
        lost.count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender of `qos` with `count` acknowledged messages.
    fn sent(qos: u8, count: usize) -> Sent {
        Sent { qos, told: vec![Told::Acknowledged; count] }
    }

    /// What is found when a receiver of `qos` gets these numbers of one sender.
    fn audit(qos: u8, sent: Sent, numbers: &[usize]) -> Findings {
        let mut ledger = Ledger::new(qos, 1);
        for number in numbers {
            assert!(ledger.enter(0, *number));
        }
        ledger.audit(&[sent])
    }

    #[test]
    fn a_whole_history_is_good() {
        let findings = audit(2, sent(2, 4), &[0, 1, 2, 3]);
        assert_eq!(findings, Findings { delivered: 4, ..Findings::default() });
        assert!(!findings.is_bad());
    }

    #[test]
    fn a_lost_message_is_found_wherever_it_was() {
        for lost in 0..4 {
            let numbers: Vec<usize> = (0..4).filter(|number| *number != lost).collect();
            let findings = audit(1, sent(1, 4), &numbers);
            assert_eq!(findings, Findings { delivered: 3, lost: 1, ..Findings::default() }, "without {lost}");
            assert!(findings.is_bad());
        }
    }

    #[test]
    fn a_receiver_that_got_nothing_lost_everything() {
        assert_eq!(audit(1, sent(1, 3), &[]).lost, 3);
        assert!(!Ledger::new(1, 1).is_complete(&[sent(1, 1)]));
    }

    #[test]
    fn what_was_not_acknowledged_may_be_missing_or_not() {
        let told = vec![Told::Acknowledged, Told::Nothing, Told::Refused];
        for numbers in [&[0][..], &[0, 1], &[0, 1, 2]] {
            assert!(!audit(2, Sent { qos: 2, told: told.clone() }, numbers).is_bad(), "{numbers:?}");
        }
    }

    #[test]
    fn a_repetition_is_bad_only_where_both_sides_use_qos2() {
        let numbers = [0, 1, 0, 1, 2];
        assert_eq!(audit(2, sent(2, 3), &numbers).duplicates_qos2, 2);
        assert!(audit(2, sent(2, 3), &numbers).is_bad());
        for (receiver, sender) in [(1, 1), (1, 2), (2, 1)] {
            let findings = audit(receiver, sent(sender, 3), &numbers);
            assert_eq!((findings.duplicates_qos1, findings.duplicates_qos2), (2, 0));
            assert!(!findings.is_bad(), "repetitions come in their old order");
        }
    }

    #[test]
    fn a_message_behind_a_later_one_is_out_of_order() {
        let findings = audit(1, sent(1, 4), &[0, 2, 1, 3]);
        assert_eq!(findings, Findings { delivered: 4, out_of_order: 1, ..Findings::default() });
        assert!(findings.is_bad());
    }

    #[test]
    fn a_message_nobody_sent_is_found() {
        let findings = audit(1, sent(1, 2), &[0, 1, 2]);
        assert_eq!(findings.unknown, 1);
        assert!(findings.is_bad());
        assert!(!Ledger::new(1, 1).enter(1, 0));
    }

    #[test]
    fn one_receiver_s_gap_is_not_filled_by_another() {
        let mut total = Findings::default();
        total.add(&audit(1, sent(1, 2), &[0, 1, 1]));
        total.add(&audit(1, sent(1, 2), &[0]));
        assert_eq!(total, Findings { delivered: 3, lost: 1, duplicates_qos1: 1, ..Findings::default() });
    }
}
