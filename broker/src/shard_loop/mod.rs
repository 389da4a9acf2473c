//! One shard's thread: the state machine, its log, and all its connections.
//!
//! Owns the turn. Readers hand packets to the shard as their sockets become ready; the first of them wakes the flusher,
//! which the runtime runs after all readers that were ready with it; the flusher commits the group, writes every dirty
//! outbox once, and carries out what the shard asks for. Nothing here waits while it holds the world, and nothing per
//! message allocates, wakes or queues.

mod asking;
mod bodies;
mod budget;
mod checkpoint;
mod clock;
mod closing;
mod commit;
mod connection;
mod flusher;
mod folding;
mod linking;
mod pause;
mod rates;
mod recovery;
mod reserve;
mod upkeep;
mod writer;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use causeway_core::{ConnectionId, GroupRequest, Limits, Millis, Notice, Shard};
use causeway_fleet::policy::Policy;
use causeway_storage::{LogError, VolatileLog};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;

use crate::audit::{Audit, AuditEvent, Decision, What};
use crate::data_directory::{ShardDirectory, StorageError};
use crate::frontdoor::{Arrival, Inbox};
use crate::log_gate::LogGate;
use crate::server::{
    AskInbox, AskSender, Asked, Backups, EdgeCounters, FoldedShard, LogReport, ShardReport, Twins, ask_channel,
};
use crate::turnstile::Allowances;
use asking::Asking;
use budget::{TurnBudget, after_next_io};
use clock::Clock;
use commit::Commit;
use connection::{Connection, End, Reading, Scratch};
use upkeep::Upkeep;

/// Connections that wait between the front door and the shard.
const ARRIVALS_MAX: usize = 1024;
/// Notices that wait for the shard. Whoever tells more waits.
const NOTICES_MAX: usize = 64;
/// A connection reads this much, or for as long as its [`TurnBudget`] lasts, then lets others have their turn.
const READ_BYTES_PER_TURN: usize = 256 * 1024;
/// A clock that is behind by less was set right while the broker ran, as clocks are all the time.
const CLOCK_TOLERANCE_SECONDS: u64 = 5;
/// So much is read between two rounds of writing, and what one turn reads.
const UNANSWERED_BYTES_MAX: u64 = 512 * 1024;
/// Tasks that run before the runtime looks for new readiness.
const EVENT_INTERVAL: u32 = 128;

/// What a shard is made of.
pub(crate) struct ShardParts {
    /// Counted from 0.
    pub(crate) number: u32,
    /// How many there are.
    pub(crate) shards: u32,
    /// A connection to each of the others, with its number.
    pub(crate) links: Vec<(u32, std::net::TcpStream)>,
    /// Its share of what is for all shards together.
    pub(crate) limits: Arc<Limits>,
    /// Where it keeps its log; without it, nothing is kept.
    pub(crate) directory: Option<ShardDirectory>,
    pub(crate) counters: Arc<EdgeCounters>,
    pub(crate) report: Arc<ShardReport>,
    pub(crate) log_report: Arc<LogReport>,
    /// Where backups are asked for, if it makes any.
    pub(crate) backups: Option<Arc<Backups>>,
    /// Where its folded state can be read while it runs.
    pub(crate) folded: FoldedShard,
    /// Where it records what is about rights.
    pub(crate) audit: Audit,
    /// How quickly connections may send.
    pub(crate) allowances: Allowances,
    pub(crate) hash_seed: u64,
    /// What everybody may do, until a notice says otherwise.
    pub(crate) policy: Arc<Policy>,
    /// Where it tells what happens to shadows, while anybody listens.
    pub(crate) twins: Twins,
    /// Where commands to groups are made of what clients request.
    pub(crate) requests: mpsc::Sender<Box<GroupRequest>>,
}

/// A running shard.
pub(crate) struct ShardHandle {
    /// Clients that were let in.
    pub(crate) inbox: Inbox,
    /// What it is to know while it runs.
    pub(crate) notices: mpsc::Sender<(u64, Notice)>,
    /// What it is asked.
    pub(crate) asks: AskSender,
    /// Says farewell to all clients and ends; they have this long to take it. Dropping it leaves them no time.
    pub(crate) stop: oneshot::Sender<Duration>,
    /// Told once the shard has its state back and takes clients. Dropped where it ends before.
    pub(crate) ready: oneshot::Receiver<()>,
    /// Has the outcome once the thread ends, and only an error where it panicked.
    pub(crate) ended: oneshot::Receiver<Result<(), ShardError>>,
}

/// Why a shard stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Nothing can be acknowledged any more.
    #[error("the log failed, so nothing more can be promised: {0}")]
    Log(#[from] LogError),
    /// What it kept cannot be had back.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The thread or its runtime could not be made.
    #[error("cannot start a shard: {0}")]
    Start(#[from] std::io::Error),
    /// What one shard said to another could not be: a bug, too. A start makes good what the link owed.
    #[error("what came from another shard breaks the rules: see the line before")]
    Link,
    /// A bug.
    #[error("a shard's thread panicked")]
    Panicked,
}

/// What the shard hears from outside.
struct Ears {
    /// Clients whose class goes first.
    first: mpsc::Receiver<Box<Arrival>>,
    arrivals: mpsc::Receiver<Box<Arrival>>,
    notices: mpsc::Receiver<(u64, Notice)>,
    asks: AskInbox,
    stop: oneshot::Receiver<Duration>,
}

/// Starts the thread.
///
/// # Errors
/// Where the system gives none.
pub(crate) fn start(parts: ShardParts) -> Result<ShardHandle, ShardError> {
    let ((first, first_arrivals), (others, arrivals)) = (mpsc::channel(ARRIVALS_MAX), mpsc::channel(ARRIVALS_MAX));
    let inbox = Inbox { first, others };
    let (notices, noticed) = mpsc::channel(NOTICES_MAX);
    let (asks, asked) = ask_channel();
    let (stop, stopped) = oneshot::channel();
    let (be_ready, ready) = oneshot::channel();
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new().name(format!("shard-{}", parts.number)).spawn(move || {
        // With others beside it, each line says which it is about; the helpers' lines, too.
        let _named = (parts.shards > 1).then(|| tracing::error_span!("shard", number = parts.number).entered());
        let ears = Ears { first: first_arrivals, arrivals, notices: noticed, asks: asked, stop: stopped };
        // Nobody listens any more where the whole broker was dropped.
        let _ = end.send(serve(parts, ears, be_ready));
    })?;
    Ok(ShardHandle { inbox, notices, asks, stop, ready, ended })
}

fn serve(parts: ShardParts, ears: Ears, ready: oneshot::Sender<()>) -> Result<(), ShardError> {
    let mut clock = Clock::new();
    let version = concat!("causewayd ", env!("CARGO_PKG_VERSION"));
    let mut shard = Shard::new(clock.now(), parts.limits.clone(), version, parts.hash_seed);
    // The check of a configuration has its range.
    shard.become_shard(parts.number as u16, parts.shards as u16);
    shard.set_policy(parts.policy);
    shard.tell_details(tracing::enabled!(target: "causeway::client", tracing::Level::DEBUG));
    let (upkeep, commit) = match parts.directory {
        None => (None, Commit::InLine(VolatileLog::new())),
        Some(directory) => {
            let recovered = recovery::recover(&directory, &mut shard, || !ready.is_closed())?;
            parts.folded.open(&recovered.state);
            let (upkeep, writer) = Upkeep::start(clock.now(), recovered, directory, parts.log_report, parts.backups)?;
            (Some(upkeep), Commit::Beside(writer))
        }
    };
    let (system, newest) = (clock.now(), shard.newest_record());
    if newest > system {
        clock = clock.not_before(newest);
        let behind_seconds = (newest.0 - system.0) / 1000;
        if behind_seconds >= CLOCK_TOLERANCE_SECONDS {
            tracing::warn!(target: "causeway::log", behind_seconds, "the system's clock is behind the newest record, so it is wrong now \
                or was wrong then: time goes on from the newest record, for all that expires. Set the clock, and start again");
        }
    }
    shard.recovered(clock.now());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default())?;
    let world = World {
        shard,
        upkeep,
        commit,
        connections: Vec::new(),
        scratch: Scratch::new(),
        writable: Vec::new(),
        blocked: Vec::new(),
        held: Vec::new(),
        held_links: Vec::new(),
        holding_since: None,
        failure: None,
        warnings: Arc::new(LogGate::new("warnings about clients were not logged")),
        audit: parts.audit,
        allowances: parts.allowances,
        asking: Asking::new(parts.twins, parts.requests),
    };
    let shard_loop = Rc::new_cyclic(|itself| ShardLoop {
        itself: itself.clone(),
        world: RefCell::new(world),
        clock,
        limits: parts.limits,
        counters: parts.counters,
        report: parts.report,
        now: Cell::new(clock.now()),
        flush_wanted: Cell::new(false),
        flusher: RefCell::new(None),
        unanswered: Cell::new(0),
        received: Cell::new(0),
        sent: Cell::new(0),
        alive: Cell::new(0),
        changed: Notify::new(),
        panicked: Cell::new(false),
        linking: Cell::new(false),
        stopping: Cell::new(false),
    });
    let outcome = runtime.block_on(shard_loop.clone().run(ears, ready, parts.links));
    // With it, its tasks end, and with them the connections that are left.
    drop(runtime);
    outcome?;
    Ok(shard_loop.world.borrow_mut().close_log()?)
}

/// Everything that changes. Borrowed for the length of one poll, never across a wait.
struct World {
    shard: Shard,
    /// There where there is a log on disk, and dropped before it: with the log, others may have the folder.
    upkeep: Option<Upkeep>,
    commit: Commit,
    /// By [`ConnectionId::index`].
    connections: Vec<Option<Box<Connection>>>,
    scratch: Scratch,
    /// Connections to write though their outboxes did not change: the socket has room again, or the layer has bytes.
    writable: Vec<ConnectionId>,
    /// Connections whose sockets take nothing.
    blocked: Vec<ConnectionId>,
    /// Connections that are not read until the log and other shards have caught up.
    held: Vec<ConnectionId>,
    /// Links that are not read until the log has caught up.
    held_links: Vec<ConnectionId>,
    /// Since when clients are not read because the log or another shard is too far behind.
    holding_since: Option<Millis>,
    failure: Option<ShardError>,
    /// Bounds what is logged about clients.
    warnings: Arc<LogGate>,
    audit: Audit,
    allowances: Allowances,
    asking: Asking,
}

impl World {
    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        find(&mut self.connections, id)
    }

    /// Makes durable what is left once all clients are gone.
    fn close_log(&mut self) -> Result<(), LogError> {
        self.upkeep = None;
        if let Some(group) = self.shard.take_group() {
            self.commit.submit(group)?;
        }
        self.commit.close()
    }
}

fn find(connections: &mut [Option<Box<Connection>>], id: ConnectionId) -> Option<&mut Connection> {
    connections.get_mut(id.index())?.as_deref_mut().filter(|connection| connection.id == id)
}

struct ShardLoop {
    /// For tasks that begin while a connection is read.
    itself: Weak<ShardLoop>,
    world: RefCell<World>,
    clock: Clock,
    limits: Arc<Limits>,
    counters: Arc<EdgeCounters>,
    report: Arc<ShardReport>,
    /// The time of this turn.
    now: Cell<Millis>,
    /// Whether the flusher will run in this turn.
    flush_wanted: Cell<bool>,
    flusher: RefCell<Option<Waker>>,
    /// Bytes read since outboxes were written.
    unanswered: Cell<u64>,
    /// Bytes of this turn that are not yet in `counters`.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Tasks of connections that have not ended.
    alive: Cell<usize>,
    /// Whether the other shards do not know yet what this one's sessions want of them.
    linking: Cell<bool>,
    /// Whether it says farewell.
    stopping: Cell<bool>,
    /// Told when `linking` is over, when `alive` becomes 0, when the last fold is over, when the log or a link failed, and when a task panicked.
    changed: Notify,
    /// Whether one of the tasks did. The runtime keeps that to itself, and the world may be half changed.
    panicked: Cell<bool>,
}

/// Held by each task of a shard: a panic of one is the end of all.
struct PanicWatch(Rc<ShardLoop>);

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.set(true);
            self.0.changed.notify_one();
        }
    }
}

/// The task of one connection: reads until there is a reason to close. There is one for each connection, so it is no larger than it
/// must be: closing, which needs timers, is another task.
struct Reader {
    watch: PanicWatch,
    id: ConnectionId,
}

impl Future for Reader {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let shard_loop = &self.watch.0;
        let Poll::Ready(end) = shard_loop.poll_connection(self.id, context) else { return Poll::Pending };
        shard_loop.note_link_end(self.id, &end);
        if shard_loop.forget_at_once(self.id, &end) {
            shard_loop.left();
        } else {
            spawn_local(shard_loop.clone().end(self.id, end));
        }
        Poll::Ready(())
    }
}

impl ShardLoop {
    async fn run(
        self: Rc<Self>,
        mut ears: Ears,
        ready: oneshot::Sender<()>,
        links: Vec<(u32, std::net::TcpStream)>,
    ) -> Result<(), ShardError> {
        spawn_local(self.clone().flush_forever());
        self.link(links)?;
        let mut ready = Some(ready);
        let timeout = loop {
            if let Some(ready) = ready.take_if(|_| !self.linking.get()) {
                // Whoever started the shard may have lost interest, which is noticed below.
                let _ = ready.send(());
            }
            let holds = self.world.borrow().holding_since.is_some();
            tokio::select! {
                // In this order: whoever goes first does so while many wait.
                biased;
                // Dropped without a word: at once.
                told = &mut ears.stop => break told.unwrap_or_default(),
                Some((number, notice)) = ears.notices.recv() => {
                    let now = self.begin_turn();
                    self.world.borrow_mut().shard.notice(now, number, notice);
                }
                () = self.changed.notified() => {
                    if self.panicked.get() {
                        return Err(ShardError::Panicked);
                    }
                    if let Some(failure) = self.world.borrow_mut().failure.take() {
                        return Err(failure);
                    }
                }
                Some(asked) = ears.asks.reads.recv() => self.ask(asked),
                // What makes records waits with the clients while the log is behind.
                Some(asked) = ears.asks.writes.recv(), if !holds => self.ask(asked),
                Some(arrival) = ears.first.recv(), if !holds => self.admit(*arrival),
                Some(arrival) = ears.arrivals.recv(), if !holds => self.admit(*arrival),
            }
        };
        drop(ears);
        self.stopping.set(true);
        self.world.borrow_mut().shard.shutdown(self.begin_turn());
        let deadline = tokio::time::Instant::now() + timeout;
        // Whoever takes longer is cut off.
        let _ = tokio::time::timeout_at(deadline, self.until_all_left()).await;
        // What is folded is not replayed at the next start. If it takes too long, it is.
        let _ = tokio::time::timeout_at(deadline, self.until_folded()).await;
        if self.panicked.get() {
            return Err(ShardError::Panicked);
        }
        self.world.borrow_mut().failure.take().map_or(Ok(()), Err)
    }

    async fn until_all_left(&self) {
        while self.alive.get() > 0 && self.world.borrow().failure.is_none() && !self.panicked.get() {
            self.changed.notified().await;
        }
    }

    async fn until_folded(&self) {
        if let Some(upkeep) = &mut self.world.borrow_mut().upkeep {
            upkeep.fold_last();
        }
        self.begin_turn();
        while !self.is_folded() {
            self.changed.notified().await;
        }
    }

    fn is_folded(&self) -> bool {
        let world = self.world.borrow();
        self.panicked.get() || world.failure.is_some() || world.upkeep.as_ref().is_none_or(Upkeep::is_over)
    }

    /// Notes that there is work for the flusher; returns the time of the turn. The first call of a turn reads the clock.
    fn begin_turn(&self) -> Millis {
        if !self.flush_wanted.replace(true) {
            self.now.set(self.clock.now());
            if let Some(flusher) = self.flusher.borrow().as_ref() {
                flusher.wake_by_ref();
            }
        }
        self.now.get()
    }

    fn ask(&self, asked: Asked) {
        let now = self.begin_turn();
        let world = &mut *self.world.borrow_mut();
        world.asking.begin(&mut world.shard, now, asked);
    }

    /// Makes a client that was let in a connection of the shard.
    fn admit(self: &Rc<Self>, arrival: Arrival) {
        let admission = admission(&self.world.borrow().audit, &arrival);
        let stream = match TcpStream::from_std(arrival.socket) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(target: "causeway::listener", peer = %arrival.peer, %error, "cannot take a connection over");
                return;
            }
        };
        let now = self.begin_turn();
        let world = &mut *self.world.borrow_mut();
        let version = arrival.request.version;
        let principal = arrival.request.identity.principal.clone();
        let id = world.shard.open(now, *arrival.request);
        world.allowances.begin(id, &principal, now.0);
        if let Some(admission) = admission.filter(|_| world.shard.is_open(id)) {
            world.audit.record(admission);
        }
        let mut connection = Box::new(Connection::new(
            id,
            version,
            stream,
            arrival.layer,
            arrival.peer,
            arrival.exchange,
            Some(arrival.permit),
        ));
        if !arrival.unread.is_empty() {
            let mut reading = Reading {
                begin_turn: &|| now,
                packet_bytes_max: self.limits.packet_bytes_max,
                budget: TurnBudget::begin(),
                shard: &mut world.shard,
                scratch: &mut world.scratch,
            };
            connection.feed_unread(&mut reading, arrival.unread);
        }
        self.install(world, connection);
    }

    /// Gives a connection its place and its task.
    fn install(self: &Rc<Self>, world: &mut World, connection: Box<Connection>) {
        let id = connection.id;
        if world.connections.len() <= id.index() {
            world.connections.resize_with(id.index() + 1, || None);
        }
        world.connections[id.index()] = Some(connection);
        self.alive.set(self.alive.get() + 1);
        spawn_local(Reader { watch: PanicWatch(self.clone()), id });
    }

    /// Closes a connection that has nothing more to read: a task of its own.
    async fn end(self: Rc<Self>, id: ConnectionId, end: End) {
        let _watch = PanicWatch(self.clone());
        self.close(id, end).await;
        self.left();
    }

    /// Without a link to another shard nothing can go on. Where the other end is gone, its shard says why.
    fn note_link_end(&self, id: ConnectionId, end: &End) {
        let world = &mut *self.world.borrow_mut();
        if *end == End::Asked && world.shard.is_peer(id) && !self.stopping.get() {
            world.failure.get_or_insert(ShardError::Link);
            self.changed.notify_one();
        }
    }

    /// A connection is gone.
    fn left(&self) {
        self.alive.set(self.alive.get() - 1);
        if self.alive.get() == 0 {
            self.changed.notify_one();
        }
    }

    fn poll_connection(&self, id: ConnectionId, context: &mut Context<'_>) -> Poll<End> {
        let world = &mut *self.world.borrow_mut();
        let Some(connection) = find(&mut world.connections, id) else {
            return Poll::Ready(End::Lost("unknown to its shard".to_owned()));
        };
        if !connection.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            connection.waker = Some(context.waker().clone());
        }
        if let Some(end) = &connection.end {
            return Poll::Ready(End::clone(end));
        }
        if connection.blocked && connection.stream.poll_write_ready(context).is_ready() {
            world.writable.push(id);
            self.begin_turn();
        }
        if world.shard.is_open(id) && !connection.may_read(&world.shard) {
            // The flusher wakes this task when the client took something, or the log caught up.
            connection.paused = true;
            return Poll::Pending;
        }
        let is_link = world.shard.is_peer(id);
        let waits = world.commit.is_behind(self.received.get())
            || (!is_link && (world.holding_since.is_some() || world.shard.peers_are_behind()));
        if waits {
            if !std::mem::replace(&mut connection.held, true) {
                let held = if is_link { &mut world.held_links } else { &mut world.held };
                held.push(id);
            }
            // The flusher lets go of it.
            let now = self.begin_turn();
            world.holding_since.get_or_insert(now);
            return Poll::Pending;
        }
        if self.unanswered.get() > UNANSWERED_BYTES_MAX {
            // Many publishers to one subscriber: its socket is to take some before its outbox is over its bound.
            self.write_dirty(world, self.begin_turn());
        }
        if world.allowances.concerns(id) {
            return self.read_within_rate(world, id, context);
        }
        self.read(world, id, context, TurnBudget::begin())
    }

    /// One turn of reading.
    fn read(&self, world: &mut World, id: ConnectionId, context: &mut Context<'_>, budget: TurnBudget) -> Poll<End> {
        let is_link = world.shard.is_peer(id);
        let Some(connection) = find(&mut world.connections, id) else {
            return Poll::Ready(End::Lost("unknown to its shard".to_owned()));
        };
        // What another shard passes on, it has checked; on a link it is a little larger than it came.
        let mut reading = Reading {
            begin_turn: &|| self.begin_turn(),
            packet_bytes_max: if is_link { u32::MAX } else { self.limits.packet_bytes_max },
            budget,
            shard: &mut world.shard,
            scratch: &mut world.scratch,
        };
        if connection.has_backlog()
            && let Err(end) = connection.feed_backlog(&mut reading)
        {
            return Poll::Ready(end);
        }
        let mut total = 0;
        while total < READ_BYTES_PER_TURN && !connection.has_backlog() && !reading.budget.is_spent() {
            match connection.poll_read(context, &mut reading) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Ready(Ok(bytes)) => {
                    self.received.set(self.received.get() + bytes as u64);
                    self.unanswered.set(self.unanswered.get() + bytes as u64);
                    total += bytes;
                }
            }
            if !connection.unsent.is_empty() && !connection.blocked {
                world.writable.push(id);
            }
        }
        after_next_io(context);
        Poll::Pending
    }
}

/// What is recorded once a client is let in. None where it is not worth a line.
fn admission(audit: &Audit, arrival: &Arrival) -> Option<AuditEvent> {
    let identity = &arrival.request.identity;
    if !audit.wants_connect(&identity.principal) {
        return None;
    }
    let (who, client, peer) = (identity.principal.to_string(), arrival.request.client_id.clone(), Some(arrival.peer));
    let by = identity.credential.as_deref().unwrap_or_default();
    Some(AuditEvent { who, client, peer, ..AuditEvent::new(What::Connect, Decision::Allow, by) })
}

#[cfg(test)]
mod tests;
