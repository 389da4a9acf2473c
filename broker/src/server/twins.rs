//! What happens to the shadows of vehicles, told to whoever listens.
//!
//! Owns that nobody waits for a slow listener, who is told that it missed something. It never decides what happened.

use std::sync::Arc;

use causeway_core::TwinEvent;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

/// How many events a listener may be behind. Each is as large as a shadow at most.
const BEHIND_MAX: usize = 512;

/// Where shards tell. Clones tell the same listeners.
#[derive(Debug, Clone)]
pub(crate) struct Twins {
    events: broadcast::Sender<Arc<TwinEvent>>,
    is_over: Arc<watch::Sender<bool>>,
}

/// One listener.
#[derive(Debug)]
pub struct TwinWatch {
    events: broadcast::Receiver<Arc<TwinEvent>>,
    is_over: watch::Receiver<bool>,
}

/// What a listener hears.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Something happened to a shadow.
    Event(Arc<TwinEvent>),
    /// So many events came faster than they were taken, and are lost for this listener.
    Missed(u64),
}

impl Twins {
    pub(crate) fn new() -> Twins {
        Twins { events: broadcast::Sender::new(BEHIND_MAX), is_over: Arc::new(watch::Sender::new(false)) }
    }

    pub(crate) fn subscribe(&self) -> TwinWatch {
        TwinWatch { events: self.events.subscribe(), is_over: self.is_over.subscribe() }
    }

    pub(super) fn close(&self) {
        self.is_over.send_replace(true);
    }

    /// Whether anybody listens.
    pub(crate) fn is_watched(&self) -> bool {
        self.events.receiver_count() > 0
    }

    pub(crate) fn tell(&self, event: TwinEvent) {
        // Nobody may listen any more.
        let _ = self.events.send(Arc::new(event));
    }
}

impl TwinWatch {
    /// What comes next. None: the broker stops.
    pub async fn next(&mut self) -> Option<Heard> {
        tokio::select! {
            biased;
            _ = self.is_over.wait_for(|is_over| *is_over) => None,
            event = self.events.recv() => match event {
                Ok(event) => Some(Heard::Event(event)),
                Err(RecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
                Err(RecvError::Closed) => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_core::Millis;

    use super::*;

    fn event(version: u64) -> TwinEvent {
        let vin = "1M8GDM9AXKP042788".parse().unwrap();
        TwinEvent { vin, name: None, version, at: Millis(0), entry: Arc::from(&b"{}"[..]) }
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed_and_nobody_waits_for_it() {
        let twins = Twins::new();
        twins.tell(event(0));
        let mut watch = twins.subscribe();
        (1..=BEHIND_MAX as u64 + 3).for_each(|version| twins.tell(event(version)));
        assert_eq!(watch.next().await, Some(Heard::Missed(3)));
        assert_eq!(watch.next().await, Some(Heard::Event(Arc::new(event(4)))));
        twins.close();
        assert_eq!(watch.next().await, None);
    }
}
