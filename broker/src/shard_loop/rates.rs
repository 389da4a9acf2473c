//! Reading from connections whose class may send only so much.
//!
//! Owns when they are not read, and that this is no silence of theirs. Nothing of what they send is dropped: it waits in the socket.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_core::{ConnectionId, Shard};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::budget::TurnBudget;
use super::connection::End;
use super::{PanicWatch, ShardLoop, World};

/// Who waits is woken no later than this, and counts as heard: keep alive goes on.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Who waits does so for at least this long: one timer for a few messages.
const WAIT_MIN: Duration = Duration::from_millis(10);

impl ShardLoop {
    /// Reads what the connection may still send, and counts it.
    pub(super) fn read_within_rate(&self, world: &mut World, id: ConnectionId, context: &mut Context<'_>) -> Poll<End> {
        let owed = Duration::from_millis(world.allowances.owed_ms(id, self.clock.now().0));
        if !owed.is_zero() {
            self.let_it_wait(world, id, owed);
            return Poll::Pending;
        }
        let budget = TurnBudget::begin().at_most(world.allowances.messages_left(id));
        let (messages, bytes) = (messages_received(&world.shard), self.received.get());
        let polled = self.read(world, id, context, budget);
        let (messages, bytes) = (messages_received(&world.shard) - messages, self.received.get() - bytes);
        world.allowances.spend(id, messages, bytes, self.clock.now().0);
        polled
    }

    /// Its task is woken when it may send again, or after a while, to wait again.
    fn let_it_wait(&self, world: &mut World, id: ConnectionId, owed: Duration) {
        if !world.allowances.wait(id) {
            return;
        }
        self.counters.reads_paused.add(1);
        let Some(shard_loop) = self.itself.upgrade() else { return };
        spawn_local(wake_after(shard_loop, id, owed.clamp(WAIT_MIN, WAIT_MAX)));
    }
}

async fn wake_after(shard_loop: Rc<ShardLoop>, id: ConnectionId, wait: Duration) {
    let _watch = PanicWatch(shard_loop.clone());
    sleep(wait).await;
    let now = shard_loop.begin_turn();
    let world = &mut *shard_loop.world.borrow_mut();
    world.allowances.waited(id);
    // It may have said something that we did not want to hear.
    world.shard.heard(now, id);
    if let Some(connection) = world.connection(id) {
        connection.wake();
    }
}

fn messages_received(shard: &Shard) -> u64 {
    shard.counters().publish_received.iter().sum()
}
