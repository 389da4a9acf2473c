//! What was requested, what came of it, and whether both agree.
//!
//! Owns the books. It never speaks MQTT.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::Serialize;
use tokio::sync::Notify;

/// What becomes of a command's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Plan {
    /// The vehicle answers after a while: in another order than it was asked.
    Reply,
    /// It answers twice.
    Duplicate,
    /// Another vehicle answers first, which was not asked.
    Contested,
    /// Only another vehicle answers.
    Forged,
    /// It answers when the deadline is over.
    Late,
    /// It does not answer.
    Missing,
}

impl Plan {
    /// So many of a hundred.
    pub(super) const SHARES: [(Plan, u64); 6] = [
        (Plan::Reply, 40),
        (Plan::Duplicate, 15),
        (Plan::Contested, 15),
        (Plan::Forged, 10),
        (Plan::Late, 10),
        (Plan::Missing, 10),
    ];

    /// Whether the vehicle answers in time.
    pub(super) fn is_answered(self) -> bool {
        matches!(self, Plan::Reply | Plan::Duplicate | Plan::Contested)
    }
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) requester: usize,
    pub(super) vehicle: usize,
    pub(super) plan: Plan,
    pub(super) qos: u8,
    told: Option<Told>,
}

/// An outcome, as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) outcome: String,
    /// The number of the command; empty where the request was refused.
    pub(super) command: String,
    /// Who answered, as the payload says.
    pub(super) by: Option<usize>,
    /// Which request the payload is about.
    pub(super) about: Option<usize>,
}

/// All requests, and what is wrong.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) requests: Vec<Request>,
    pub(super) counts: Counts,
    pub(super) open: usize,
    outcomes: BTreeMap<String, u64>,
    wrong: Vec<String>,
    /// Told when the last request has its outcome.
    pub(super) all_told: Rc<Notify>,
}

/// What was counted.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Counts {
    pub(super) requested: u64,
    /// Requests that were made and had no outcome, the most at any time.
    pub(super) pending_most: u64,
    pub(super) delivered: u64,
    pub(super) delivered_again: u64,
    pub(super) replies: u64,
    pub(super) replies_duplicate: u64,
    pub(super) replies_forged: u64,
    pub(super) replies_late: u64,
    /// Outcomes that came again and said so (DUP), as QoS 1 allows.
    pub(super) repeated: u64,
    /// Outcomes that came again because their request, of QoS 1 and with an idempotency key, did.
    pub(super) told_again: u64,
    /// Commands that would have been answered, had the deadline not come first.
    pub(super) too_slow: u64,
    pub(super) sessions_lost: u64,
    pub(super) reconnects: u64,
}

/// The figures.
#[derive(Debug, Serialize)]
pub(super) struct Findings {
    pub(super) requests: u64,
    pub(super) without_outcome: u64,
    pub(super) with_several: u64,
    pub(super) wrong: u64,
    pub(super) outcomes: BTreeMap<String, u64>,
    #[serde(flatten)]
    pub(super) counts: Counts,
}

impl Book {
    pub(super) fn add(&mut self, requester: usize, vehicle: usize, plan: Plan, qos: u8) {
        self.requests.push(Request { requester, vehicle, plan, qos, told: None });
        self.open += 1;
    }

    /// A request is made, for the first time.
    pub(super) fn requested(&mut self) {
        self.counts.requested += 1;
        let told = (self.requests.len() - self.open) as u64;
        self.counts.pending_most = self.counts.pending_most.max(self.counts.requested.saturating_sub(told));
    }

    /// A requester was told what became of a request.
    pub(super) fn told(&mut self, number: usize, requester: usize, told: Told, is_dup: bool) {
        let Some(request) = self.requests.get_mut(number) else {
            self.wrong.push(format!("an outcome of request {number}, which there is not: {told:?}"));
            return;
        };
        if request.requester != requester {
            self.wrong.push(format!("requester {requester} got somebody else's outcome: {number}, {told:?}"));
            return;
        }
        if let Some(before) = &request.told {
            match *before == told {
                true if is_dup => self.counts.repeated += 1,
                true if request.qos == 1 => self.counts.told_again += 1,
                _ => self.wrong.push(format!("request {number} has a second outcome: {before:?} and {told:?}")),
            }
            return;
        }
        if told.outcome == "replied" {
            let is_its = told.by == Some(request.vehicle) && told.about == Some(number);
            if !is_its || !request.plan.is_answered() {
                self.wrong.push(format!("request {number} ({:?}) has a wrong reply: {told:?}", request.plan));
            }
        } else if told.outcome == "timed-out" {
            self.counts.too_slow += u64::from(request.plan.is_answered());
        } else {
            self.wrong.push(format!("request {number} ({:?}) ended so: {told:?}", request.plan));
        }
        *self.outcomes.entry(told.outcome.clone()).or_insert(0) += 1;
        request.told = Some(told);
        self.open -= 1;
        if self.open == 0 {
            self.all_told.notify_waiters();
        }
    }

    /// Something that may not be.
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// The first things that are wrong, for people.
    pub(super) fn complaints(&self) -> impl Iterator<Item = &str> {
        self.wrong.iter().map(String::as_str).take(20)
    }

    pub(super) fn findings(&self) -> Findings {
        let several = self.wrong.iter().filter(|what| what.contains("a second outcome")).count();
        Findings {
            requests: self.requests.len() as u64,
            without_outcome: self.open as u64,
            with_several: several as u64,
            wrong: (self.wrong.len() - several) as u64,
            outcomes: self.outcomes.clone(),
            counts: self.counts.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: &str, by: usize, about: usize) -> Told {
        Told { outcome: outcome.to_owned(), command: "c".to_owned(), by: Some(by), about: Some(about) }
    }

    fn book(plan: Plan, qos: u8) -> Book {
        let mut book = Book::default();
        book.add(0, 5, plan, qos);
        book
    }

    #[test]
    fn one_outcome_is_right() {
        let mut book = book(Plan::Reply, 2);
        assert_eq!(book.findings().without_outcome, 1);
        book.told(0, 0, told("replied", 5, 0), false);
        book.told(0, 0, told("replied", 5, 0), true);
        let findings = book.findings();
        assert_eq!((findings.without_outcome, findings.with_several, findings.wrong), (0, 0, 0));
        assert_eq!((findings.counts.repeated, findings.outcomes["replied"]), (1, 1));
    }

    #[test]
    fn anything_else_is_wrong() {
        for (plan, qos, tellings, several, wrong) in [
            (Plan::Reply, 2, vec![(0, told("replied", 5, 0)), (0, told("replied", 5, 0))], 1, 0),
            (Plan::Reply, 1, vec![(0, told("replied", 5, 0)), (0, told("timed-out", 5, 0))], 1, 0),
            (Plan::Reply, 1, vec![(1, told("replied", 5, 0))], 0, 1),
            (Plan::Reply, 1, vec![(0, told("replied", 4, 0))], 0, 1),
            (Plan::Reply, 1, vec![(0, told("replied", 5, 1))], 0, 1),
            (Plan::Missing, 1, vec![(0, told("replied", 5, 0))], 0, 1),
            (Plan::Missing, 1, vec![(0, told("retired", 5, 0))], 0, 1),
        ] {
            let mut book = book(plan, qos);
            tellings.into_iter().for_each(|(requester, told)| book.told(0, requester, told, false));
            let findings = book.findings();
            assert_eq!((findings.with_several, findings.wrong), (several, wrong), "{plan:?}");
        }
        let mut book = book(Plan::Reply, 1);
        book.told(7, 0, told("replied", 5, 0), false);
        assert_eq!(book.findings().wrong, 1);
    }

    #[test]
    fn shares_are_of_a_hundred() {
        assert_eq!(Plan::SHARES.iter().map(|(_, share)| share).sum::<u64>(), 100);
    }
}
