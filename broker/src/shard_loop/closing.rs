//! The end of a connection.
//!
//! Owns the order: what is in the outbox, the layer's farewell, the end of our half, and then, for a bounded time,
//! whatever the peer still says, so that it can read the rest. The shard is told before that last wait.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_core::ConnectionId;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::connection::{Connection, End};
use super::{ShardLoop, World, find};
use crate::transport::socket::{linger, shut_down_write};

/// A client that is told to go has this long to take what is in its outbox.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

impl ShardLoop {
    /// Closes a connection in the way that its `end` allows, and forgets it.
    pub(super) async fn close(&self, id: ConnectionId, end: End) {
        match &end {
            End::Asked => {
                // Whoever does not take its farewell in time goes without.
                let _ = timeout(FAREWELL_TIMEOUT, self.take_leave(id)).await;
            }
            End::Closed | End::Peer(_) => {
                // The answers to what it sent last are written at the end of this turn.
                yield_now().await;
                let _ = timeout(Duration::ZERO, self.take_leave(id)).await;
            }
            End::Lost(_) => {}
        }
        let why = match &end {
            End::Asked => "closed by the broker",
            End::Closed => "closed by the client",
            End::Peer(why) | End::Lost(why) => why,
        };
        let Some(connection) = self.forget(id, why) else { return };
        // Of a peer that has said all it will, nothing is left to be heard: closing takes no byte from it.
        if matches!(end, End::Asked | End::Peer(_)) {
            shut_down_write(&connection.stream);
            linger(&connection.stream).await;
        }
    }

    /// Forgets a connection whose client said farewell, closed, and is owed no word; whether it was one. Most end so.
    pub(super) fn forget_at_once(&self, id: ConnectionId, end: &End) -> bool {
        let is_done = *end == End::Closed && {
            let World { shard, connections, .. } = &mut *self.world.borrow_mut();
            let is_written = shard.outbox(id).is_none_or(|outbox| outbox.is_empty());
            let connection = find(connections, id);
            !shard.is_open(id) && is_written && connection.is_some_and(|connection| connection.owes_nothing())
        };
        is_done && self.forget(id, "closed by the client").is_some()
    }

    /// Writes the outbox and the layer's farewell.
    async fn take_leave(&self, id: ConnectionId) {
        poll_fn(|context| self.poll_written(id, context)).await;
        if let Some(connection) = self.world.borrow_mut().connection(id) {
            connection.say_farewell();
        }
        poll_fn(|context| self.poll_written(id, context)).await;
    }

    /// Whether everything is written, or never will be.
    fn poll_written(&self, id: ConnectionId, context: &mut Context<'_>) -> Poll<()> {
        let World { shard, connections, scratch, .. } = &mut *self.world.borrow_mut();
        let Some(connection) = find(connections, id) else {
            return Poll::Ready(());
        };
        loop {
            let mut written = 0;
            let outcome = connection.write(shard, scratch, &mut written);
            self.sent.set(self.sent.get() + written);
            match outcome {
                Ok(true) | Err(_) => return Poll::Ready(()),
                Ok(false) if connection.stream.poll_write_ready(context).is_pending() => return Poll::Pending,
                Ok(false) => {}
            }
        }
    }

    /// Takes the connection out of the world.
    fn forget(&self, id: ConnectionId, why: &str) -> Option<Box<Connection>> {
        let now = self.begin_turn();
        let world = &mut *self.world.borrow_mut();
        world.blocked.retain(|blocked| *blocked != id);
        world.allowances.end(id);
        world.shard.closed(now, id, why);
        let slot = world.connections.get_mut(id.index())?;
        slot.take_if(|connection| connection.id == id)
    }
}
