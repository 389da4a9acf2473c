//! The broker's core on its storage, within this process, as the daemon joins them: a packet goes in through the codec, its
//! records to the log, and what the core says comes out through the codec.
//!
//! Owns that joint for the proofs that need millions of sessions, or a disk that fails on command. It has no thread and reads no clock:
//! who uses it says when to sync, to fold, and what time it is.

use std::io::IoSlice;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use causeway_core::{
    Change, CheckpointEnd, ConnectionId, Effect, Handshake, HandshakePolicy, Limits, Lsn, Millis, Overflow, Principal,
    Shard, Step, Verdict,
};
use causeway_protocol::{
    Connect, ConnectProperties, Packet, ProtocolVersion, Subscribe, SubscriptionOptions, decode, encode, frame,
};
use causeway_storage::{BodyReader, Fold, FoldMark, Log as _, SegmentedLog, ShardStore, StateStore, plan_relocation};

pub(crate) mod fleet;
pub(crate) mod memory;

/// Nobody attacks it, and the same in every run is good.
const HASH_SEED: u64 = 42;

/// Entries of a fold that are taken at once.
const SLICE: usize = 4096;

/// What all clients here speak.
const VERSION: ProtocolVersion = ProtocolVersion::V5;

/// The broker without its edges.
#[derive(Debug)]
pub(crate) struct Host {
    /// The core.
    pub(crate) shard: Shard,
    /// Its log.
    pub(crate) log: SegmentedLog,
    /// What the core is told about the time.
    pub(crate) now: Millis,
    /// Bodies that were read from the disk.
    pub(crate) bodies_read: u64,
    state: Arc<dyn StateStore>,
    bodies: BodyReader,
    limits: Arc<Limits>,
}

impl Host {
    /// Starts on what the disk holds: restores the folded state, replays the log behind it, ends the connections of the run before.
    ///
    /// # Errors
    /// When the disk cannot be read, or what it holds makes no sense.
    pub(crate) fn start(store: ShardStore, limits: Arc<Limits>, now: Millis) -> Result<Self> {
        let mut shard = Shard::new(now, Arc::clone(&limits), "bench", HASH_SEED);
        shard.read_bodies_from_log();
        let ShardStore { log, state, bodies, mark } = store;
        let mut replay_from = log.first().unwrap_or(1);
        if let Some(FoldMark { applied, through }) = mark {
            let mut outcome = Ok(());
            state.entries(&mut |key, value| {
                outcome = shard.restore(key, value);
                if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            outcome.context("an entry of the folded state makes no sense")?;
            shard.restored(Lsn(applied), Lsn(through));
            replay_from = applied + 1;
        }
        log.recover(replay_from, |record| {
            let applied = shard.replay(Lsn(record.lsn), record.bytes);
            applied.with_context(|| format!("record {} makes no sense", record.lsn))
        })?;
        shard.recovered(now);
        shard.bodies_moved(Lsn(log.first().unwrap_or(1)));
        shard.tick(now);
        Ok(Self { shard, log, now, bodies_read: 0, state, bodies, limits })
    }

    /// Connects through the codec and the handshake. The CONNACK waits to be heard.
    ///
    /// # Errors
    /// When the client is not let in.
    pub(crate) fn connect(&mut self, client_id: &str, is_clean: bool, expiry_seconds: u32) -> Result<ConnectionId> {
        let properties =
            ConnectProperties { session_expiry_interval_seconds: Some(expiry_seconds), ..ConnectProperties::default() };
        let connect = Connect {
            version: VERSION,
            clean_start: is_clean,
            keep_alive_seconds: 0,
            client_id,
            will: None,
            username: None,
            password: None,
            properties,
        };
        let policy = HandshakePolicy {
            anonymous_allowed: true,
            password_allowed: true,
            methods: Vec::new(),
            vehicle_ids_reserved: false,
            overflow: Overflow::RefuseNew,
        };
        let mut handshake = Handshake::new(Arc::clone(&self.limits), policy, "assigned".to_owned());
        let step = through_codec(&Packet::Connect(Box::new(connect)), |packet| handshake.handle(packet))?;
        let step = match step {
            Step::Verify(_) => {
                handshake.verdict(Verdict::Allow { identity: Principal::Anonymous.into(), data: Vec::new() })
            }
            step => step,
        };
        let Step::Accept(request) = step else { bail!("{client_id} is not let in: {step:?}") };
        Ok(self.shard.open(self.now, *request))
    }

    /// Hands a packet over.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(crate) fn send(&mut self, client: ConnectionId, packet: &Packet<'_>) -> Result<()> {
        let (shard, now) = (&mut self.shard, self.now);
        through_codec(packet, |packet| shard.handle(now, client, packet))
    }

    /// Asks for one subscription. The SUBACK waits to be heard, after a sync.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub(crate) fn subscribe(&mut self, client: ConnectionId, filter: &str, options: SubscriptionOptions) -> Result<()> {
        let subscribe = Subscribe {
            packet_id: packet_id(1)?,
            subscription_identifier: None,
            user_properties: Vec::new(),
            filters: vec![(filter, options)],
        };
        self.send(client, &Packet::Subscribe(subscribe))
    }

    /// The client says goodbye and closes.
    ///
    /// # Errors
    /// When the packet cannot be encoded.
    pub(crate) fn disconnect(&mut self, client: ConnectionId) -> Result<()> {
        self.send(client, &Packet::Disconnect(causeway_protocol::Disconnect::default()))?;
        self.hang_up(client);
        Ok(())
    }

    /// The connection ends.
    pub(crate) fn hang_up(&mut self, client: ConnectionId) {
        self.shard.closed(self.now, client, "closed");
        self.drain_effects();
    }

    /// All a client has got since it was last asked, each packet once.
    ///
    /// # Errors
    /// When the core says what no client understands, or a body cannot be read.
    pub(crate) fn hear(&mut self, client: ConnectionId, mut each: impl FnMut(&Packet<'_>)) -> Result<()> {
        // Who has something to hear is known here, and not asked for.
        while self.shard.poll_dirty().is_some() {}
        loop {
            self.fetch()?;
            let Some(mut outbox) = self.shard.outbox(client) else { return Ok(()) };
            let mut bytes = Vec::new();
            while !outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); 8];
                let used = outbox.chunks(&mut slices);
                let begin = bytes.len();
                slices[..used].iter().for_each(|slice| bytes.extend_from_slice(slice));
                let taken = bytes.len() - begin;
                outbox.advance(taken);
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let head = frame(rest, u32::MAX)?.context("the core writes whole packets")?;
                let (packet, behind) = rest.split_at(head.total_bytes());
                each(&decode(&head, &packet[head.header_bytes..], VERSION)?);
                rest = behind;
            }
            self.shard.flushed(self.now, client);
        }
    }

    /// Appends what gathered, without making it durable.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn append(&mut self) -> Result<()> {
        while let Some(group) = self.shard.take_group() {
            self.log.append(group.first().0, &mut group.iter())?;
        }
        Ok(())
    }

    /// Makes all that gathered durable, and lets go what waited for it.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.append()?;
        let durable = self.log.sync()?;
        self.shard.persisted(self.now, Lsn(durable));
        self.drain_effects();
        Ok(())
    }

    /// Folds what changed. The number of entries written; none where nothing changed.
    ///
    /// # Errors
    /// When the disk fails; the state is then as it was.
    pub(crate) fn checkpoint(&mut self) -> Result<u64> {
        if !self.shard.begin_checkpoint() {
            return Ok(0);
        }
        let outcome = self.fold_changes();
        self.shard.checkpoint_ended(outcome.is_ok());
        outcome
    }

    /// Moves what lives out of the log's old end and gives that up, where the log takes more than `factor` times what lives and
    /// `slack` bytes more. Says whether there was something to give up.
    ///
    /// # Errors
    /// When the disk fails; nothing is lost then.
    pub(crate) fn relocate(&mut self, factor: f64, slack: u64) -> Result<bool> {
        let Some(mark) = self.state.mark()? else { return Ok(false) };
        let stats = self.log.stats();
        let Some(first) = stats.first else { return Ok(false) };
        let live_bytes = |from: u64, to: u64| self.shard.live_bytes(Lsn(from), Lsn(to));
        let relocated_bytes = live_bytes(0, first);
        let Some(wanted) = plan_relocation(&stats, &live_bytes, relocated_bytes, factor, slack) else {
            return Ok(false);
        };
        // A start replays behind the mark: what is there stays.
        let keep_from = wanted.min(mark.applied + 1);
        let mut fold = self.state.fold()?;
        for lsn in self.shard.live_in(Lsn(first), Lsn(keep_from)) {
            let body = self.bodies.read(lsn.0)?.with_context(|| format!("the body of record {} is gone", lsn.0))?;
            fold.put_body(lsn.0, &body)?;
        }
        fold.commit(mark)?;
        self.shard.bodies_moved(Lsn(keep_from));
        self.log.truncate_before(keep_from)?;
        Ok(true)
    }

    /// Bytes of the folded state on the disk.
    ///
    /// # Errors
    /// When the disk does not say.
    pub(crate) fn state_bytes(&self) -> Result<u64> {
        Ok(self.state.bytes_on_disk()?)
    }

    fn fold_changes(&mut self) -> Result<u64> {
        let mut fold = self.state.fold()?;
        let (mut changes, mut written) = (Vec::new(), 0);
        let CheckpointEnd { applied, through } = loop {
            let end = self.shard.poll_checkpoint(SLICE, &mut changes);
            written += changes.len() as u64;
            for change in changes.drain(..) {
                apply(fold.as_mut(), &change)?;
            }
            if let Some(end) = end {
                break end;
            }
        };
        // Nothing of the fold may be known to the disk before the records it is made of.
        self.sync()?;
        fold.commit(FoldMark { applied: applied.0, through: through.0 })?;
        Ok(written)
    }

    /// Answers what the core asked of the disk.
    fn fetch(&mut self) -> Result<()> {
        while let Some(lsn) = self.shard.poll_fetch() {
            let record = self.bodies.read(lsn.0)?;
            ensure!(record.is_some(), "the body of record {} is owed, and gone", lsn.0);
            self.bodies_read += 1;
            self.shard.fetched(self.now, lsn, record.as_deref());
        }
        Ok(())
    }

    /// Closes what the core wants closed. Lines for a log have no reader here.
    fn drain_effects(&mut self) {
        while let Some(effect) = self.shard.poll_effect() {
            if let Effect::Close { connection } = effect {
                self.shard.closed(self.now, connection, "closed");
            }
        }
    }
}

fn apply(fold: &mut dyn Fold, change: &Change) -> Result<()> {
    match change {
        Change::Put { key, value } => fold.put(key, value)?,
        Change::Remove { key } => fold.remove(key)?,
        Change::RemoveRange { from, to, entries_max } => drop(fold.remove_range(from, to, *entries_max)?),
        Change::RemoveBody(lsn) => fold.remove_body(lsn.0)?,
    }
    Ok(())
}

/// Encodes a packet, and has `take` see it decoded, as the broker's edge does.
fn through_codec<T>(packet: &Packet<'_>, take: impl FnOnce(&Packet<'_>) -> T) -> Result<T> {
    let mut bytes = BytesMut::new();
    encode(packet, VERSION, &mut bytes)?;
    let head = frame(&bytes, u32::MAX)?.context("a whole packet was encoded")?;
    Ok(take(&decode(&head, &bytes[head.header_bytes..], VERSION)?))
}

/// A packet identifier.
///
/// # Errors
/// Zero is none.
pub(crate) fn packet_id(id: u16) -> Result<causeway_protocol::PacketId> {
    causeway_protocol::PacketId::new(id).context("0 is no packet identifier")
}
