//! The scenarios, as data.
//!
//! Owns who there is, who listens to whom and how much may be under way.

use anyhow::{Context as _, Result};

/// Who gets the messages of whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Subscriber i gets what publisher i sends.
    Pairs,
    /// Each subscriber gets everything, by one filter with a wildcard.
    Everything,
    /// Each subscriber gets everything of the one publisher, by its topic.
    FanOut,
    /// The subscribers share everything among them.
    Shared,
    /// Subscriber i gets what the publishers of region i send, by a wildcard; each publisher listens for commands.
    Regions,
}

/// What becomes of the subscribers' sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// They end with their connections: nothing has to outlive the broker's process.
    Clean,
    /// They last, so that what is acknowledged must be kept. The subscribers are there all the time.
    Kept,
    /// They last, and the subscribers are away while the publishers send; they come back afterwards.
    Away,
}

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// Its name on command lines.
    pub(crate) name: &'static str,
    /// What it is like.
    pub(crate) about: &'static str,
    pub(crate) publishers: usize,
    pub(crate) subscribers: usize,
    pub(crate) pattern: Pattern,
    /// Messages of each publisher that may be under way, by QoS: sent, and not yet both acknowledged and received.
    pub(crate) windows: [u32; 3],
    /// Messages a second of all publishers together; without it as many as the windows let through.
    pub(crate) rate: Option<u64>,
    pub(crate) sessions: Sessions,
}

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "one-to-one",
        about: "100 publishers, each with a subscriber of its own",
        publishers: 100,
        subscribers: 100,
        pattern: Pattern::Pairs,
        windows: [50, 20, 20],
        rate: None,
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "fan-in",
        about: "200 vehicles and one backend that listens to all by a wildcard",
        publishers: 200,
        subscribers: 1,
        pattern: Pattern::Everything,
        windows: [50, 20, 20],
        rate: None,
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "fan-out",
        about: "one publisher and 500 vehicles that listen to it",
        publishers: 1,
        subscribers: 500,
        pattern: Pattern::FanOut,
        windows: [50, 20, 20],
        rate: None,
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "fan-out-1000",
        about: "one publisher and 1,000 vehicles that listen to it",
        publishers: 1,
        subscribers: 1_000,
        pattern: Pattern::FanOut,
        windows: [50, 20, 20],
        rate: None,
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "shared",
        about: "200 vehicles and two backends that share one subscription",
        publishers: 200,
        subscribers: 2,
        pattern: Pattern::Shared,
        windows: [50, 20, 20],
        rate: None,
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "one-in-flight",
        about: "500 pairs, each with one message at a time",
        publishers: 500,
        subscribers: 500,
        pattern: Pattern::Pairs,
        windows: [1, 1, 1],
        rate: None,
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "fleet",
        about: "10,000 mostly idle vehicles that listen for commands, and 10 backends with a region each",
        publishers: 10_000,
        subscribers: 10,
        pattern: Pattern::Regions,
        windows: [u32::MAX; 3],
        rate: Some(5_000),
        sessions: Sessions::Clean,
    },
    Scenario {
        name: "kept",
        about: "100 publishers, each with a subscriber that is there and has a session that lasts",
        publishers: 100,
        subscribers: 100,
        pattern: Pattern::Pairs,
        windows: [0, 20, 20],
        rate: None,
        sessions: Sessions::Kept,
    },
    Scenario {
        name: "away",
        about: "1,000 sessions that are away, with a publisher for each; then they come back for what waits",
        publishers: 1_000,
        subscribers: 1_000,
        pattern: Pattern::Pairs,
        windows: [0, 20, 20],
        rate: None,
        sessions: Sessions::Away,
    },
];

/// The group of a shared subscription.
const GROUP: &str = "$share/backends/";

impl Scenario {
    /// The scenario of this name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name).copied();
        found.with_context(|| format!("no scenario is called {name}; there are {}", names()))
    }

    /// Whether the subscribers are not there while the publishers send.
    pub(crate) fn is_away(&self) -> bool {
        self.sessions == Sessions::Away
    }

    /// Where a publisher publishes.
    pub(crate) fn topic(&self, publisher: usize) -> String {
        format!("load/{:02}/{publisher:05}/telemetry", self.region(publisher))
    }

    /// What a subscriber subscribes to.
    pub(crate) fn filter(&self, subscriber: usize) -> String {
        match self.pattern {
            Pattern::Pairs => self.topic(subscriber),
            Pattern::FanOut => self.topic(0),
            Pattern::Everything => "load/+/+/telemetry".to_owned(),
            Pattern::Shared => format!("{GROUP}load/+/+/telemetry"),
            Pattern::Regions => format!("load/{subscriber:02}/+/telemetry"),
        }
    }

    /// What a publisher itself subscribes to.
    pub(crate) fn command_filter(&self, publisher: usize) -> Option<String> {
        let listens = self.pattern == Pattern::Regions;
        listens.then(|| format!("load/{:02}/{publisher:05}/command", self.region(publisher)))
    }

    /// How many subscribers get each message.
    pub(crate) fn copies(&self) -> u64 {
        match self.pattern {
            Pattern::Pairs | Pattern::Shared | Pattern::Regions => 1,
            Pattern::Everything | Pattern::FanOut => self.subscribers as u64,
        }
    }

    /// Whether a subscriber is to get what a publisher sends, where it shares with nobody.
    pub(crate) fn is_for(&self, subscriber: usize, publisher: usize) -> bool {
        match self.pattern {
            Pattern::Pairs => subscriber == publisher,
            Pattern::Regions => subscriber == self.region(publisher),
            Pattern::Everything | Pattern::FanOut | Pattern::Shared => true,
        }
    }

    fn region(&self, publisher: usize) -> usize {
        if self.pattern == Pattern::Regions { publisher % self.subscribers } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_as_many_receivers_as_it_says() {
        for scenario in SCENARIOS {
            let receivers =
                |publisher| (0..scenario.subscribers).filter(|own| scenario.is_for(*own, publisher)).count();
            let shares = if scenario.pattern == Pattern::Shared { scenario.subscribers } else { 1 };
            for publisher in [0, scenario.publishers - 1] {
                assert_eq!(receivers(publisher), scenario.copies() as usize * shares, "{}", scenario.name);
            }
        }
    }
}
