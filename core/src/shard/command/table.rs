//! Which commands there are, pending and over.
//!
//! Owns the commands of the vehicles that live on the shard, how many are pending of each vehicle and for each requester, how many bytes they take,
//! and how long what became of them is known. It never publishes or records anything.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use causeway_fleet::command::{CommandId, CommandIds, Outcome};
use causeway_fleet::{Principal, Vin};
use foldhash::fast::FixedState;
use smallvec::SmallVec;

use crate::message::Message;
use crate::record::RefusedRecord;
use crate::{AskId, Lsn, Millis};

/// What a command takes beside its texts and its message, about.
pub(super) const COMMAND_BYTES: usize = 256;

/// Where the outcome of a command goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// None where nobody is told by a message.
    pub(crate) response_topic: Option<Box<str>>,
    pub(crate) correlation_data: Option<Box<[u8]>>,
}

impl Address {
    pub(super) fn bytes(&self) -> usize {
        self.response_topic.as_ref().map_or(0, |topic| topic.len())
            + self.correlation_data.as_ref().map_or(0, |data| data.len())
    }
}

/// One command.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    /// The last record it is made of.
    pub(crate) as_of: Lsn,
    pub(crate) vin: Vin,
    pub(crate) name: Box<str>,
    pub(crate) by: Principal,
    pub(crate) requested_at: Millis,
    pub(crate) deadline: Millis,
    pub(crate) address: Address,
    pub(crate) key: Option<Box<str>>,
    /// With a key: what tells a retry from another request.
    pub(crate) fingerprint: u64,
    /// By which a reply may name it.
    pub(crate) request_id: Option<Box<str>>,
    pub(crate) state: State,
}

/// How far it is.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// The vehicle does not have it: it is away, or not subscribed to it. The message waits here.
    Waiting(Arc<Message>),
    /// Its message was queued for the vehicle.
    Sent,
    /// It is over.
    Ended(Ended),
}

/// What became of it.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) at: Millis,
    /// As the requester was told, or would have been.
    pub(crate) message: Arc<Message>,
}

impl Command {
    /// One that never began.
    pub(super) fn refused((as_of, now): (Lsn, Millis), refused: &RefusedRecord<'_>, message: Arc<Message>) -> Command {
        let RefusedRecord { terms, vin, name, fingerprint, outcome, .. } = refused;
        Command {
            as_of,
            vin: *vin,
            name: (*name).into(),
            by: terms.by.clone(),
            requested_at: now,
            deadline: now,
            address: terms.address.into(),
            key: terms.key.map(Into::into),
            fingerprint: *fingerprint,
            request_id: None,
            state: State::Ended(Ended { outcome: *outcome, at: now, message }),
        }
    }

    /// What it counts against limits in bytes.
    pub(super) fn bytes(&self) -> usize {
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let message = match &self.state {
            State::Waiting(message) => message.bytes(),
            State::Sent => 0,
            State::Ended(ended) => ended.message.bytes(),
        };
        COMMAND_BYTES + self.name.len() + self.address.bytes() + length(&self.key) + length(&self.request_id) + message
    }

    /// Whether a retry would be another command if this one were forgotten. Of one for which there was no room, that is no harm, and it must not
    /// take any.
    fn is_held(&self) -> bool {
        let had_no_room = matches!(&self.state, State::Ended(ended) if ended.outcome == Outcome::QueueFull);
        self.key.is_some() && !had_no_room
    }

    pub(super) fn is_pending(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }

    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_))
    }

    /// Under which it is found by its key.
    fn by_key(&self) -> Option<(Principal, Vin, Box<str>)> {
        Some((self.by.clone(), self.vin, self.key.clone()?))
    }
}

/// Those of one vehicle that are pending, oldest first.
#[derive(Debug, Default)]
struct OfVehicle {
    pending: SmallVec<[CommandId; 4]>,
    waiting: usize,
}

/// How many commands there are that are pending, or that are over, and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    /// Of those that must be known for as long as is promised.
    pub(crate) held_bytes: usize,
}

impl Load {
    fn add(&mut self, command: &Command) {
        let bytes = command.bytes();
        self.count += 1;
        self.bytes += bytes;
        self.held_bytes += if command.is_held() { bytes } else { 0 };
    }

    fn take(&mut self, command: &Command) {
        let bytes = command.bytes();
        self.count -= 1;
        self.bytes -= bytes;
        self.held_bytes -= if command.is_held() { bytes } else { 0 };
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Commands {
    /// In an order that does not depend on a table's.
    by_id: BTreeMap<CommandId, Command>,
    of_vehicle: HashMap<Vin, OfVehicle, FixedState>,
    of_requester: HashMap<Principal, usize, FixedState>,
    by_key: HashMap<(Principal, Vin, Box<str>), CommandId, FixedState>,
    /// Those that are over, oldest first: what may be forgotten where there is no room, and what may not.
    spare: BTreeSet<(Millis, CommandId)>,
    held: BTreeSet<(Millis, CommandId)>,
    pending: Load,
    kept: Load,
    /// Who waits for an outcome, beside those who are sent it.
    pub(super) waiters: BTreeMap<CommandId, SmallVec<[AskId; 1]>>,
    pub(super) ids: CommandIds,
    /// When the oldest outcome is forgotten, if a timer is set for that.
    pub(super) forget_at: Option<Millis>,
}

impl Commands {
    pub(crate) fn new(hash_seed: u64) -> Commands {
        let hasher = FixedState::with_seed(hash_seed);
        Commands {
            by_id: BTreeMap::new(),
            of_vehicle: HashMap::with_hasher(hasher.clone()),
            of_requester: HashMap::with_hasher(hasher.clone()),
            by_key: HashMap::with_hasher(hasher),
            spare: BTreeSet::new(),
            held: BTreeSet::new(),
            pending: Load::default(),
            kept: Load::default(),
            waiters: BTreeMap::new(),
            ids: CommandIds::default(),
            forget_at: None,
        }
    }

    pub(crate) fn get(&self, id: CommandId) -> Option<&Command> {
        self.by_id.get(&id)
    }

    pub(crate) fn all_ids(&self) -> impl DoubleEndedIterator<Item = CommandId> {
        self.by_id.keys().copied()
    }

    /// Those that are pending, and those that are over.
    pub(crate) fn loads(&self) -> (Load, Load) {
        (self.pending, self.kept)
    }

    /// How many bytes more would be kept, if the outcome of this command went elsewhere.
    pub(super) fn growth(&self, id: CommandId, address: &Address) -> usize {
        let before = match self.get(id).map(|command| (&command.state, &command.address)) {
            Some((State::Ended(Ended { message, .. }), _)) => {
                message.topic.len() + message.forwarded().correlation_data().map_or(0, <[u8]>::len)
            }
            Some((State::Waiting(_) | State::Sent, address)) => address.bytes(),
            None => 0,
        };
        address.bytes().saturating_sub(before)
    }

    pub(super) fn pending_for(&self, by: &Principal) -> usize {
        self.of_requester.get(by).copied().unwrap_or(0)
    }

    /// Those of a vehicle, oldest first.
    pub(super) fn pending_of(&self, vin: &Vin) -> &[CommandId] {
        self.of_vehicle.get(vin).map_or(&[], |of| &of.pending)
    }

    /// Whether a command waits for a vehicle.
    #[inline]
    pub(super) fn any_waits_for(&self, vin: &Vin) -> bool {
        !self.of_vehicle.is_empty() && self.of_vehicle.get(vin).is_some_and(|of| of.waiting > 0)
    }

    /// Whether the vehicle is not to have it any more.
    pub(in crate::shard) fn is_over(&self, id: CommandId) -> bool {
        self.get(id).is_none_or(|command| !command.is_pending())
    }

    /// The command that somebody requested of a vehicle with this key.
    pub(super) fn with_key(&self, by: &Principal, vin: &Vin, key: &str) -> Option<CommandId> {
        if self.by_key.is_empty() {
            return None;
        }
        self.by_key.get(&(by.clone(), *vin, key.into())).copied()
    }

    /// Those that a vehicle has and whose requests have a `request_id`, oldest first.
    fn with_request_ids(&self, vin: &Vin) -> impl Iterator<Item = (CommandId, &Command, &str)> {
        let commands = self.pending_of(vin).iter().filter_map(|id| Some((*id, self.get(*id)?)));
        let sent = commands.filter(|(_, command)| !command.is_waiting());
        sent.filter_map(|(id, command)| Some((id, command, command.request_id.as_deref()?)))
    }

    /// Whether a vehicle may answer by a `request_id`.
    pub(super) fn any_has_request_id(&self, vin: &Vin) -> bool {
        self.with_request_ids(vin).next().is_some()
    }

    /// The oldest one that a vehicle has and whose request has this `request_id`. None where several requesters chose the same: nobody is to
    /// get what was meant for another.
    pub(super) fn with_request_id(&self, vin: &Vin, request_id: &str) -> Option<CommandId> {
        let mut named = self.with_request_ids(vin).filter(|(.., own)| *own == request_id);
        let (id, first, _) = named.next()?;
        named.all(|(_, other, _)| other.by == first.by).then_some(id)
    }

    /// Puts in a command, in any state.
    pub(super) fn insert(&mut self, id: CommandId, command: Command) {
        self.ids.given(id);
        if let Some(key) = command.by_key() {
            // An older one is replayed behind a fold that has the later one.
            let named = self.by_key.entry(key).or_insert(id);
            *named = id.max(*named);
        }
        if command.is_pending() {
            let of = self.of_vehicle.entry(command.vin).or_default();
            // They come in their order, in a log as in a folded state; but what is folded may come before what is replayed.
            let place = of.pending.partition_point(|other| *other < id);
            of.pending.insert(place, id);
            of.waiting += usize::from(command.is_waiting());
            *self.of_requester.entry(command.by.clone()).or_insert(0) += 1;
            self.pending.add(&command);
        }
        if let State::Ended(ended) = &command.state {
            let kept = if command.is_held() { &mut self.held } else { &mut self.spare };
            kept.insert((ended.at, id));
            self.kept.add(&command);
        }
        self.by_id.insert(id, command);
    }

    /// Changes a command that is there, and what is counted. It stays pending, or over.
    fn change(&mut self, id: CommandId, change: impl FnOnce(&mut Command)) {
        let Some(command) = self.by_id.get_mut(&id) else { return };
        let load = if command.is_pending() { &mut self.pending } else { &mut self.kept };
        load.take(command);
        change(command);
        load.add(command);
    }

    /// It was sent, as the record at `as_of` says.
    pub(super) fn sent(&mut self, id: CommandId, as_of: Lsn) {
        let mut waited_for = None;
        self.change(id, |command| {
            command.as_of = as_of;
            if let State::Waiting(_) = command.state {
                (command.state, waited_for) = (State::Sent, Some(command.vin));
            }
        });
        let of = waited_for.and_then(|vin| self.of_vehicle.get_mut(&vin));
        of.into_iter().for_each(|of| of.waiting -= 1);
    }

    /// It was requested again, as the record at `as_of` says.
    pub(super) fn readdress(&mut self, id: CommandId, as_of: Lsn, address: Address) {
        self.change(id, |command| (command.as_of, command.address) = (as_of, address));
    }

    /// It is over, as the record at `as_of` says. Of one that was over already, its requester was told again.
    pub(super) fn end(&mut self, id: CommandId, as_of: Lsn, ended: Ended) {
        if !self.get(id).is_some_and(Command::is_pending) {
            self.change(id, |command| {
                command.as_of = as_of;
                if let State::Ended(before) = &mut command.state {
                    before.message = ended.message;
                }
            });
            return;
        }
        let Some(command) = self.by_id.get_mut(&id) else { return };
        command.as_of = as_of;
        let was_waiting = command.is_waiting();
        self.pending.take(command);
        let kept = if command.is_held() { &mut self.held } else { &mut self.spare };
        kept.insert((ended.at, id));
        command.state = State::Ended(ended);
        self.kept.add(command);
        let (vin, by) = (command.vin, command.by.clone());
        if let Some(of) = self.of_vehicle.get_mut(&vin) {
            of.waiting -= usize::from(was_waiting);
            of.pending.retain(|pending| *pending != id);
            if of.pending.is_empty() {
                self.of_vehicle.remove(&vin);
            }
        }
        if let Some(count) = self.of_requester.get_mut(&by) {
            *count -= 1;
            if *count == 0 {
                self.of_requester.remove(&by);
            }
        }
    }

    /// Takes out the oldest outcome, if it was told no later than `until`.
    pub(super) fn forget_oldest(&mut self, until: Option<Millis>) -> Option<CommandId> {
        let is_due = |(at, id): &(Millis, CommandId)| until.is_some_and(|until| *at <= until).then_some(*id);
        let id = self.spare.first().and_then(is_due).or_else(|| self.held.first().and_then(is_due))?;
        self.forget(id)
    }

    /// Takes out the oldest outcome that may be forgotten before its time, if all of them take more than so many bytes.
    pub(super) fn forget_spare(&mut self, bytes_max: usize) -> Option<CommandId> {
        let &(_, id) = self.spare.first().filter(|_| self.kept.bytes > bytes_max)?;
        self.forget(id)
    }

    /// Takes out one that is over.
    fn forget(&mut self, id: CommandId) -> Option<CommandId> {
        let command = self.by_id.remove(&id)?;
        if let State::Ended(ended) = &command.state {
            let kept = if command.is_held() { &mut self.held } else { &mut self.spare };
            kept.remove(&(ended.at, id));
            self.kept.take(&command);
        }
        // A later command may have the key.
        if let Some(key) = command.by_key()
            && self.by_key.get(&key) == Some(&id)
        {
            self.by_key.remove(&key);
        }
        Some(id)
    }

    /// When the oldest outcome was told.
    pub(super) fn oldest_ended(&self) -> Option<Millis> {
        self.spare.first().into_iter().chain(self.held.first()).map(|(at, _)| *at).min()
    }

    /// What must hold at any time.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let pending = self.by_id.iter().filter(|(_, command)| command.is_pending());
        let mut of_vehicle: HashMap<Vin, (Vec<CommandId>, usize)> = HashMap::new();
        let mut of_requester: HashMap<Principal, usize> = HashMap::new();
        for (id, command) in pending {
            let of = of_vehicle.entry(command.vin).or_default();
            of.0.push(*id);
            of.1 += usize::from(command.is_waiting());
            *of_requester.entry(command.by.clone()).or_insert(0) += 1;
        }
        assert_eq!(self.pending.count, of_requester.values().sum::<usize>());
        assert_eq!(of_vehicle.len(), self.of_vehicle.len());
        for (vin, (pending, waiting)) in of_vehicle {
            let of = &self.of_vehicle[&vin];
            assert_eq!((of.pending.as_slice(), of.waiting), (pending.as_slice(), waiting));
        }
        assert_eq!(of_requester.len(), self.of_requester.len());
        assert!(of_requester.iter().all(|(by, count)| self.of_requester.get(by) == Some(count)));
        let (mut pending, mut kept, mut spare, mut held) = (Load::default(), Load::default(), 0, 0);
        for command in self.by_id.values() {
            let load = if command.is_pending() { &mut pending } else { &mut kept };
            load.add(command);
            (spare, held) = match (command.is_pending(), command.is_held()) {
                (true, _) => (spare, held),
                (false, true) => (spare, held + 1),
                (false, false) => (spare + 1, held),
            };
        }
        assert_eq!((self.pending, self.kept), (pending, kept));
        assert_eq!((self.spare.len(), self.held.len()), (spare, held));
        assert!(self.by_key.values().all(|id| self.by_id.contains_key(id)));
        assert!(self.waiters.keys().all(|id| !self.is_over(*id)), "somebody waits for what is over");
    }
}
