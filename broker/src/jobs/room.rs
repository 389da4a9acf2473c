//! Whether the disk has room for what jobs do.
//!
//! Owns waiting for it. How much is enough is decided where the disk is looked at: each shard does that.

use std::sync::Arc;

use crate::server::LogReport;

/// What the shards say about the disk, by their numbers.
#[derive(Debug)]
pub(super) struct Room(Vec<Arc<LogReport>>);

impl Room {
    pub(super) fn new(shards: Vec<Arc<LogReport>>) -> Room {
        Room(shards)
    }

    /// Waits until a shard takes what makes records.
    pub(super) async fn of(&self, shard: u32) {
        if let Some(shard) = self.0.get(shard as usize) {
            shard.until_room().await;
        }
    }

    /// Waits until all shards do.
    pub(super) async fn of_all(&self) {
        for shard in &self.0 {
            shard.until_room().await;
        }
    }

    /// Whether a shard takes nothing that makes records, because the disk is nearly full.
    pub(super) fn is_short(&self) -> bool {
        self.0.iter().any(|shard| shard.refusing.get() != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn who_waits_for_room_goes_on_when_all_shards_have_it() {
        let shards: Vec<Arc<LogReport>> = (0..2).map(|shard| Arc::new(LogReport::of_shard(shard))).collect();
        let room = Room::new(shards.clone());
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(pin!(room.of_all()).poll(&mut context), Poll::Ready(()));
        shards.iter().for_each(|shard| shard.set_refusing(true));
        assert!(room.is_short());
        let (mut all, mut first) = (pin!(room.of_all()), pin!(room.of(0)));
        assert_eq!(
            (all.as_mut().poll(&mut context), first.as_mut().poll(&mut context)),
            (Poll::Pending, Poll::Pending)
        );
        shards[0].set_refusing(false);
        assert_eq!(
            (all.as_mut().poll(&mut context), first.as_mut().poll(&mut context)),
            (Poll::Pending, Poll::Ready(()))
        );
        shards[1].set_refusing(false);
        assert_eq!(all.as_mut().poll(&mut context), Poll::Ready(()));
        assert!(!room.is_short());
    }
}
