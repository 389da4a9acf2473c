//! The second half of a turn: commit, write, carry out.
//!
//! Owns the one task that writes to sockets while connections live, the shard's timers, and the report to whoever watches.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use causeway_core::{ConnectionId, Effect, Event, EventLevel, Millis, OUTBOX_LOW_BYTES, OutboxMut, Verdict};
use causeway_protocol::ReasonCode;
use causeway_storage::LogError;
use tokio::time::{Sleep, sleep};

use super::budget::after_next_io;
use super::connection::End;
use super::pause::CatchUp;
use super::{PanicWatch, ShardLoop, Upkeep, World, find, pause};
use crate::audit::AuditEvent;
use crate::server::Counter;
use crate::shown::Line;

/// Outboxes written before other tasks have their turn.
const WRITES_PER_TURN: usize = 4096;
/// A peer that takes nothing for this long, though there is something for it, is closed.
const WRITE_STALL_MILLISECONDS: u64 = 30_000;
/// How often stalled peers are looked for, while any socket is full.
const STALL_CHECK_MILLISECONDS: u64 = 1000;
/// How often the report is renewed: it is the shard's sign of life, too.
const REPORT_MILLISECONDS: u64 = 1000;

/// What the flusher does without being woken.
struct Timers {
    sleep: Pin<Box<Sleep>>,
    /// When `sleep` elapses, if it is set.
    armed: Option<Millis>,
    stall_check_at: Option<Millis>,
    report_at: Option<Millis>,
    /// Set from when a pause is noticed until what came meanwhile has been read.
    catching_up: Option<CatchUp>,
    /// Whether more was due than one turn does.
    has_more_due: bool,
}

impl ShardLoop {
    pub(super) async fn flush_forever(self: Rc<Self>) {
        let _watch = PanicWatch(self.clone());
        let mut timers = Timers {
            sleep: Box::pin(sleep(Duration::ZERO)),
            armed: None,
            stall_check_at: None,
            report_at: None,
            catching_up: None,
            has_more_due: false,
        };
        poll_fn(|context| self.poll_turn(context, &mut timers)).await;
    }

    /// One turn, if there is reason for one. `Ready` once the log failed.
    fn poll_turn(&self, context: &mut Context<'_>, timers: &mut Timers) -> Poll<()> {
        let world = &mut *self.world.borrow_mut();
        if self.flusher.borrow().as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            *self.flusher.borrow_mut() = Some(context.waker().clone());
            world.commit.wakes(context.waker());
            world.upkeep.iter().for_each(|upkeep| upkeep.wakes(context.waker()));
        }
        let due = timers.armed;
        if due.is_some() && timers.sleep.is_elapsed() {
            timers.armed = None;
        } else if due.is_some() && !self.flush_wanted.get() && timers.catching_up.is_none() && !world.has_news() {
            return Poll::Pending;
        }
        if !self.flush_wanted.replace(true) {
            self.now.set(self.clock.now());
        }
        let now = self.now.get();
        if timers.catching_up.is_none() && pause::happened(due, now) {
            timers.catching_up = Some(CatchUp::begin(world, due, now));
        } else if timers.catching_up.as_mut().is_some_and(|catching_up| catching_up.is_done(world, now)) {
            timers.catching_up = None;
        }
        if timers.catching_up.is_some() {
            after_next_io(context);
        } else {
            // What the clock brings makes records, too: it waits with the clients while the log is behind.
            if is_due(world, now) {
                world.shard.tick(now);
            }
            close_stalled(world, &self.counters.write_stalls, timers, now);
        }
        timers.has_more_due = is_due(world, now) && timers.catching_up.is_none();
        match self.settle(world, now) {
            Ok(has_more) if self.keep_up(world, now) || has_more || timers.has_more_due => {
                // Others have their turn, then this one goes on, at its own time.
                self.now.set(self.clock.now());
                after_next_io(context);
            }
            Ok(_) => self.flush_wanted.set(false),
            Err(failure) => {
                world.failure = Some(failure.into());
                self.changed.notify_one();
                return Poll::Ready(());
            }
        }
        if self.linking.get() && world.shard.peers_know_all() {
            self.linking.set(false);
            self.changed.notify_one();
        }
        self.publish_counts(world, timers, now);
        self.let_go(context, world, timers, now);
        self.arm(context, world, timers);
        Poll::Pending
    }

    /// Has all clients read again once the log and other shards have caught up.
    fn let_go(&self, context: &mut Context<'_>, world: &mut World, timers: &mut Timers, now: Millis) {
        if world.holding_since.is_none() || !world.commit.has_caught_up() {
            return;
        }
        // Other shards catch up by what comes from them.
        let links = std::mem::take(&mut world.held_links);
        wake_held(world, links);
        if !world.shard.peers_have_caught_up() {
            return;
        }
        let since = world.holding_since.take();
        let clients = std::mem::take(&mut world.held);
        wake_held(world, clients);
        if timers.catching_up.is_none() && pause::happened(since, now) {
            timers.catching_up = Some(CatchUp::begin(world, since, now));
            context.waker().wake_by_ref();
        }
        self.changed.notify_one();
    }

    /// A little of what goes on beside; whether there is more at once.
    fn keep_up(&self, world: &mut World, now: Millis) -> bool {
        let World { shard, upkeep: Some(upkeep), commit, .. } = world else { return false };
        let Some(writer) = commit.writer() else { return false };
        let has_more = upkeep.step(now, shard, writer);
        if upkeep.is_over() {
            self.changed.notify_one();
        }
        // Whoever waited for a fold that ended just now is to be read again, and nothing else may bring another turn soon.
        has_more || shard.has_dirty()
    }

    /// Commits, writes and carries out until nothing is left to do, or for long enough: `Ok(true)`.
    fn settle(&self, world: &mut World, now: Millis) -> Result<bool, LogError> {
        if world.upkeep.as_ref().is_some_and(Upkeep::is_gone) {
            let why = "its folder was removed, or another took its place, while the broker ran";
            return Err(io::Error::other(why).into());
        }
        let mut writes = 0;
        while writes < WRITES_PER_TURN {
            let mut quiet = true;
            if let Some(group) = world.shard.take_group()
                && let Some(durable) = world.commit.submit(group)?
            {
                world.shard.persisted(now, durable);
            }
            if let Some(durable) = world.commit.poll_durable()? {
                world.shard.persisted(now, durable);
            }
            // After what became durable: that may need bodies.
            if let Some(upkeep) = &mut world.upkeep
                && upkeep.fetch(now, &mut world.shard)
            {
                quiet = false;
            }
            while let Some(id) = world.writable.pop() {
                unblock(world, id);
                self.write_out(world, id, now);
                (quiet, writes) = (false, writes + 1);
            }
            let written = self.write_dirty(world, now);
            (quiet, writes) = (quiet && written == 0, writes + written);
            while let Some(effect) = world.shard.poll_effect() {
                carry_out(world, effect, now);
                quiet = false;
            }
            if quiet {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the outboxes that got something, up to a bound. How many.
    pub(super) fn write_dirty(&self, world: &mut World, now: Millis) -> usize {
        self.unanswered.set(0);
        let mut writes = 0;
        while writes < WRITES_PER_TURN
            && let Some(id) = world.shard.poll_dirty()
        {
            self.write_out(world, id, now);
            writes += 1;
        }
        writes
    }

    fn write_out(&self, world: &mut World, id: ConnectionId, now: Millis) {
        let Some(connection) = find(&mut world.connections, id) else { return };
        if connection.blocked {
            world.shard.outbox(id).into_iter().for_each(|mut outbox| outbox.keep());
            return;
        }
        let mut written = 0;
        let outcome = connection.write(&mut world.shard, &mut world.scratch, &mut written);
        self.sent.set(self.sent.get() + written);
        if written > 0 {
            connection.stalled_since = None;
        }
        match outcome {
            Ok(true) => connection.stalled_since = None,
            Ok(false) => {
                connection.blocked = true;
                connection.stalled_since.get_or_insert(now);
                // Its task waits for the socket from now on.
                connection.wake();
                world.blocked.push(id);
            }
            Err(error) => connection.finish(End::Lost(error.to_string())),
        }
        let low = |outbox: OutboxMut<'_>| outbox.bytes() < OUTBOX_LOW_BYTES;
        if written > 0 && world.shard.outbox(id).is_some_and(low) {
            world.shard.flushed(now, id);
        }
        if let Some(connection) = find(&mut world.connections, id)
            && connection.paused
            && connection.may_read(&world.shard)
        {
            connection.paused = false;
            connection.wake();
        }
    }

    fn publish_counts(&self, world: &mut World, timers: &mut Timers, now: Millis) {
        self.counters.bytes_received.add(self.received.take());
        self.counters.bytes_sent.add(self.sent.take());
        let due = *timers.report_at.get_or_insert(now);
        if due <= now {
            let (counters, gauges) = (*world.shard.counters(), world.shard.survey());
            world.asking.look_around(&mut world.shard);
            self.report.renew(counters, gauges, Duration::from_millis(REPORT_MILLISECONDS));
            timers.report_at = Some(Millis(now.0 + REPORT_MILLISECONDS));
        }
    }

    /// Sets the timer to the earliest thing that is due by itself. A timer that is set too early only wakes in vain.
    fn arm(&self, context: &mut Context<'_>, world: &World, timers: &mut Timers) {
        if timers.catching_up.is_some() || timers.has_more_due {
            // What is due waits until then, or until others had their turn; this task goes on without a timer.
            timers.armed = None;
            return;
        }
        let next_deadline = world.shard.next_deadline().filter(|_| world.holding_since.is_none());
        let upkeep_due = world.upkeep.as_ref().and_then(Upkeep::due);
        let dues = [next_deadline, timers.stall_check_at, timers.report_at, upkeep_due];
        let Some(due) = dues.into_iter().flatten().min() else {
            return;
        };
        if timers.armed.is_some_and(|armed| armed <= due) {
            return;
        }
        timers.armed = Some(due);
        timers.sleep.as_mut().reset(self.clock.instant(due));
        if timers.sleep.as_mut().poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }
}

impl World {
    /// Whether other threads have something to tell.
    fn has_news(&self) -> bool {
        self.commit.has_news() || self.upkeep.as_ref().is_some_and(Upkeep::has_news)
    }
}

/// Whether something is due that may be done.
fn is_due(world: &World, now: Millis) -> bool {
    world.holding_since.is_none() && world.shard.next_deadline().is_some_and(|deadline| deadline <= now)
}

/// These may be read again.
fn wake_held(world: &mut World, held: Vec<ConnectionId>) {
    for id in held {
        if let Some(connection) = world.connection(id) {
            connection.held = false;
            connection.wake();
        }
    }
}

/// The connection's socket may take bytes again.
fn unblock(world: &mut World, id: ConnectionId) {
    if let Some(connection) = find(&mut world.connections, id)
        && std::mem::take(&mut connection.blocked)
    {
        world.blocked.retain(|blocked| *blocked != id);
        // Its task may have stopped reading for as long as the outbox was too full.
        connection.wake();
    }
}

/// Ends connections whose sockets took nothing for too long.
fn close_stalled(world: &mut World, stalls: &Counter, timers: &mut Timers, now: Millis) {
    if world.blocked.is_empty() {
        timers.stall_check_at = None;
        return;
    }
    let next = Millis(now.0 + STALL_CHECK_MILLISECONDS);
    if *timers.stall_check_at.get_or_insert(next) > now {
        return;
    }
    timers.stall_check_at = Some(next);
    for id in &world.blocked {
        let Some(connection) = find(&mut world.connections, *id) else { continue };
        if world.shard.is_peer(*id) {
            // Another shard may be slow, and is never given up.
            continue;
        }
        let stalled = |since: Millis| now.0.saturating_sub(since.0) >= WRITE_STALL_MILLISECONDS;
        if connection.stalled_since.is_some_and(stalled) && connection.end.is_none() {
            stalls.add(1);
            connection.finish(End::Lost("the client takes nothing".to_owned()));
        }
    }
}

fn carry_out(world: &mut World, effect: Effect, now: Millis) {
    match effect {
        Effect::Close { connection } => {
            if let Some(connection) = world.connection(connection) {
                connection.finish(End::Asked);
            }
        }
        Effect::Reauthenticate { connection: id, method, data } => {
            let exchange = world.connection(id).and_then(|connection| connection.exchange.as_mut());
            let verdict = match exchange {
                Some(exchange) => exchange.step(&method, &data),
                None => Verdict::Deny {
                    reason: ReasonCode::ProtocolError,
                    why: "re-authentication without authentication".to_owned(),
                },
            };
            world.shard.reauthenticated(now, id, verdict);
        }
        Effect::Answer { ask, answer } => world.asking.answer(ask, answer),
        Effect::GroupCommand(request) => {
            let whose = (request.connection, request.packet_id);
            if let Err(refusal) = world.asking.request(request) {
                world.shard.group_command_taken(now, whose, Err(refusal));
            }
        }
        Effect::Twin(event) => world.asking.tell(*event),
        Effect::Event(event) => tell(world, &event),
        // Nobody asks yet.
    }
}

/// One line for whoever reads the log. Of warnings, which strangers may cause, there are a few a second.
fn tell(world: &mut World, event: &Event) {
    let id = event.connection;
    let peer = id.and_then(|id| world.connection(id)).map(|connection| connection.peer);
    if world.audit.is_on()
        && let Some(event) = AuditEvent::of_shard(event, peer)
    {
        world.audit.record(event);
    }
    if event.level() == EventLevel::Warn && !world.warnings.pass() {
        return;
    }
    let peer = peer.map(tracing::field::display);
    match event.level() {
        EventLevel::Debug => tracing::debug!(target: "causeway::client", peer, "{}", Line(event)),
        EventLevel::Info => tracing::info!(target: "causeway::client", peer, "{}", Line(event)),
        EventLevel::Warn => tracing::warn!(target: "causeway::client", peer, "{}", Line(event)),
    }
}
