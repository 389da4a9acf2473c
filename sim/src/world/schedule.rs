//! What happens next.
//!
//! Owns the choices of chance: which link moves, who acts, when the log is written and when it is synced.

use std::sync::Arc;

use causeway_core::Limits;
use causeway_protocol::ProtocolVersion;
use causeway_storage::fault::{Failure, Random};

use super::core::Core;
use super::faults::Death;
use super::{BROKER_SLOT, Over, World};
use crate::Options;
use crate::broker::{Broker, Keeping};
use crate::client::Client;
use crate::fleet::{GROUP_SETS, VINS};
use crate::oracle::state::LinkId;
use crate::oracle::{Judge, Oracle, Rule, Several};
use crate::trace::Trace;

impl<B: Broker> World<B> {
    pub(crate) fn new(options: &Options, limits: Arc<Limits>, brokers: Vec<B>) -> World<B> {
        let mut random = Random::new(options.seed.wrapping_mul(2).wrapping_add(1));
        let count = 3 + random.below(6) as usize;
        let mut clients: Vec<Client> = Vec::new();
        let shards = brokers.len();
        for index in 0..count + shards {
            let version = if random.chance(65) { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
            let mut client = Client::new(index, version);
            client.is_persistent = random.chance(75);
            client.is_careful = random.chance(88);
            let asked = 1 + random.below(6) as u16;
            let is_v5 = version == ProtocolVersion::V5;
            client.receive_maximum = if is_v5 { asked.min(limits.inflight_max) } else { limits.inflight_max };
            client.alias_maximum = random.below(4) as u16;
            client.keep_alive_seconds = if random.chance(25) { 60 } else { 0 };
            if index >= count {
                // One on each shard looks at what is retained when all is over, and does nothing before.
                client.is_persistent = false;
                client.is_careful = true;
                client.version = ProtocolVersion::V5;
            }
            clients.push(client);
        }
        let mut fleet = Random::new(options.seed ^ 0x44);
        let has_vehicles = fleet.chance(50);
        for client in clients.iter_mut().take(count).filter(|_| has_vehicles) {
            if fleet.chance(55) {
                client.be_of(fleet.below(VINS.len() as u64) as usize);
            }
        }
        let grouped = vec![[fleet.below(GROUP_SETS), fleet.below(GROUP_SETS)]];
        let cores: Vec<Core<B>> = brokers.into_iter().map(|broker| Core::new(broker, random.next())).collect();
        let is_folding = crate::keeping(options) != Keeping::Memory;
        let mut drops_oldest = vec![false; clients.len()];
        if random.chance(35) {
            drops_oldest.iter_mut().for_each(|drops| *drops = random.chance(60));
        }
        let oracle: Box<dyn Judge> = if shards == 1 {
            let mut oracle = Oracle::new(Limits::clone(&limits), is_folding, clients.len(), options.tolerated);
            oracle.drops_oldest = drops_oldest;
            Box::new(oracle)
        } else {
            let careful = clients.iter().map(|client| client.is_careful).collect();
            Box::new(Several::new(shards, careful, drops_oldest, options.tolerated))
        };
        World {
            cores,
            oracle,
            trace: Trace::default(),
            step: 0,
            random,
            limits,
            now: 1_000_000_000,
            clients,
            links: Default::default(),
            by_connection: Default::default(),
            wires: Vec::new(),
            is_listening: false,
            next_link: 0,
            has_vehicles,
            grouped,
            slow: 0,
            was_full: false,
            is_damaging: options.damage,
            is_healed: false,
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.trace.digest()
    }

    /// Plays the whole run.
    pub(crate) fn run(&mut self, steps: u32) -> Result<(), Over> {
        self.start(Death::Killed)?;
        let damage_at = steps / 2 + self.random.below(u64::from(steps / 2) + 1) as u32;
        while self.step < steps {
            self.step += 1;
            if self.is_damaging && self.step == damage_at {
                self.damage()?;
            }
            self.do_something()?;
            self.check()?;
        }
        self.finish()
    }

    fn any_client(&mut self) -> usize {
        self.random.below((self.clients.len() - self.cores.len()) as u64) as usize
    }

    fn any_link(&mut self) -> Option<LinkId> {
        if self.links.is_empty() {
            return None;
        }
        let at = self.random.below(self.links.len() as u64) as usize;
        self.links.keys().nth(at).copied()
    }

    /// One shard is always the first, and takes no choice.
    pub(super) fn any_core(&mut self) -> usize {
        let count = self.cores.len() as u64;
        if count == 1 { 0 } else { self.random.below(count) as usize }
    }

    fn do_something(&mut self) -> Result<(), Over> {
        if self.cores.len() > 1 {
            self.carry_overdue(0)?;
            // Until clients may come there is little else to do, and each shard has its disk to write.
            let (wires, disks) = if self.is_listening { (40, 20) } else { (60, 80) };
            if self.random.chance(wires) {
                self.play_wire()?;
            }
            if self.random.chance(disks) {
                self.play_disk()?;
            }
        }
        match self.random.below(1000) {
            0..300 => {
                let index = self.any_client();
                self.act(index);
                Ok(())
            }
            300..306 => self.regroup(),
            306..540 => self.with_link(|world, id| {
                let bytes = world.how_many();
                world.carry_up(id, bytes)
            }),
            540..780 => self.with_link(|world, id| {
                let bytes = world.how_many();
                world.carry_down(id, bytes)
            }),
            780..835 => self.on_any_core(Self::append),
            835..880 => self.on_any_core(Self::sync),
            880..915 => self.on_any_core(Self::tell),
            915..940 => self.on_any_core(Self::fold),
            940..960 => self.on_any_core(|world, core| world.fetch(core).map(drop)),
            960..975 => self.pass_time(),
            975..982 => self.with_link(|world, id| {
                let (up, down) = world.links.get(&id).map_or((0, 0), |link| (link.up.len(), link.down.len()));
                let (up, down) = (world.random.below(up as u64 + 1), world.random.below(down as u64 + 1));
                world.note("cut link", [u64::from(id), up, down]);
                world.links.get_mut(&id).into_iter().for_each(|link| link.cut(up as usize, down as usize));
                Ok(())
            }),
            982..992 => self.with_link(|world, id| {
                let bytes = world.random.below(200) as usize;
                world.at(BROKER_SLOT)?;
                world.drain(id, bytes);
                world.observe()
            }),
            992..996 => {
                self.plan_failure();
                Ok(())
            }
            996..998 => {
                let death = if self.random.chance(60) { Death::PowerCut } else { Death::Killed };
                self.crash(death)
            }
            _ => Ok(()),
        }
    }

    fn play_disk(&mut self) -> Result<(), Over> {
        match self.random.below(4) {
            0 | 1 => self.on_any_core(Self::append),
            2 => self.on_any_core(Self::sync),
            _ => self.on_any_core(Self::tell),
        }
    }

    fn on_any_core(&mut self, act: impl FnOnce(&mut Self, usize) -> Result<(), Over>) -> Result<(), Over> {
        let core = self.any_core();
        act(self, core)
    }

    fn with_link(&mut self, act: impl FnOnce(&mut Self, LinkId) -> Result<(), Over>) -> Result<(), Over> {
        match self.any_link() {
            Some(id) => act(self, id),
            None => Ok(()),
        }
    }

    /// Mostly all that is there, sometimes a few bytes.
    pub(super) fn how_many(&mut self) -> usize {
        if self.random.chance(75) { usize::MAX } else { self.random.below(60) as usize }
    }

    /// Bytes of a client reach the broker; once the link is cut and empty, the broker learns that it is gone.
    pub(super) fn carry_up(&mut self, id: LinkId, bytes_max: usize) -> Result<(), Over> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if link.broker_left {
            return Ok(());
        }
        if link.up.is_empty() && link.arrived.is_empty() && link.is_cut {
            return self.close(id);
        }
        if link.is_closing {
            self.drain(id, usize::MAX);
            self.observe()?;
            return self.close(id);
        }
        let bytes = bytes_max.min(link.up.len());
        let rest = link.up.split_off(bytes);
        let bytes = std::mem::replace(&mut link.up, rest);
        link.arrived.extend_from_slice(&bytes);
        let is_stuck = bytes.is_empty() && link.is_cut;
        self.read(id)?;
        // What is left of a cut link is no packet, or nobody wants it.
        let is_left = self.links.get(&id).is_some_and(|link| link.up.is_empty() && !link.broker_left);
        if is_stuck && is_left { self.close(id) } else { Ok(()) }
    }

    /// Bytes of the broker reach a client.
    pub(super) fn carry_down(&mut self, id: LinkId, bytes_max: usize) -> Result<(), Over> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if link.client_left {
            return Ok(());
        }
        let bytes = bytes_max.min(link.down.len());
        let rest = link.down.split_off(bytes);
        let bytes = std::mem::replace(&mut link.down, rest);
        link.received.extend_from_slice(&bytes);
        let is_over = link.is_cut && link.down.is_empty();
        let index = link.client;
        self.receive(id)?;
        if is_over && self.links.get(&id).is_some_and(|link| !link.client_left) {
            self.leave_link(index, id, usize::MAX);
        }
        Ok(())
    }

    fn pass_time(&mut self) -> Result<(), Over> {
        let milliseconds = match self.random.below(10) {
            0..4 => self.random.below(1500),
            4..8 => self.random.below(15_000),
            _ => self.random.below(150_000),
        };
        // What is carried may bring more with it.
        for _ in 0..3 {
            self.carry_overdue(milliseconds)?;
        }
        self.note("time passes", [milliseconds, 0, 0]);
        self.advance(self.now + milliseconds)
    }

    fn plan_failure(&mut self) {
        let failure = match self.random.below(6) {
            0 => Failure::Io,
            1 | 2 => Failure::Full,
            _ => Failure::PowerOff,
        };
        let after = self.random.below(12);
        self.note("a failure is planned", [after, failure as u64, 0]);
        let core = self.any_core();
        self.cores[core].disk.faulty.fail_after(after, failure);
    }

    pub(super) fn append(&mut self, at: usize) -> Result<(), Over> {
        let core = &mut self.cores[at];
        let newest = core.last_record();
        // A group that found no room is offered again as it was.
        let outcome = core.broker.append();
        match outcome {
            Ok(Some(last)) => {
                core.appended.push_back((last, core.disk.newest()));
                core.ends.push(last);
                core.proofs.push_back((last, core.durable));
                self.note("append", [last, at as u64, 0]);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(causeway_storage::LogError::Full { .. }) => {
                core.ends.push(newest);
                self.note("disk full", [newest, at as u64, 0]);
                Ok(())
            }
            Err(error) => {
                core.ends.push(newest);
                self.failed(at, &error)
            }
        }
    }

    pub(super) fn sync(&mut self, at: usize) -> Result<(), Over> {
        match self.cores[at].broker.sync() {
            Ok(through) => {
                self.note("sync", [through, at as u64, 0]);
                for last in self.cores[at].synced() {
                    self.oracle.set_durable(last);
                }
                Ok(())
            }
            Err(error) => self.failed(at, &error),
        }
    }

    pub(super) fn tell(&mut self, at: usize) -> Result<(), Over> {
        self.at(BROKER_SLOT)?;
        let now = self.millis();
        self.cores[at].broker.tell(now);
        self.input(at, |_, _| ());
        self.note("tell", [self.cores[at].durable, at as u64, 0]);
        self.observe()
    }

    /// One body that the shard asked for comes from the disk. Whether there was any.
    pub(super) fn fetch(&mut self, at: usize) -> Result<bool, Over> {
        self.at(BROKER_SLOT)?;
        let (now, choice) = (self.millis(), self.random.next());
        let any = self.cores[at].broker.fetch(now, choice);
        self.input(at, |_, _| ());
        self.note("fetch", [u64::from(any), at as u64, 0]);
        self.observe()?;
        self.lose_power()?;
        Ok(any)
    }

    /// The state is folded a bit further.
    pub(super) fn fold(&mut self, at: usize) -> Result<(), Over> {
        for _ in 0..1 + self.random.below(5) {
            let choice = self.random.next();
            if let Err(error) = self.cores[at].broker.fold(choice) {
                return self.failed(at, &error);
            }
            self.note("fold", [choice % 1000, at as u64, 0]);
        }
        self.lose_power()
    }

    /// All disks are in one machine.
    pub(super) fn has_power(&self) -> bool {
        self.cores.iter().all(|core| core.disk.faulty.is_powered())
    }

    /// The power failed in the midst of something that takes failures.
    fn lose_power(&mut self) -> Result<(), Over> {
        if self.has_power() { Ok(()) } else { self.crash(Death::PowerCut) }
    }

    /// A log takes nothing more: the broker stops, and is started again.
    fn failed(&mut self, at: usize, error: &causeway_storage::LogError) -> Result<(), Over> {
        let is_expected =
            matches!(error, causeway_storage::LogError::Io(_) | causeway_storage::LogError::Poisoned { .. });
        if !is_expected {
            self.oracle.breach(Rule::Recovery, format!("the log of shard {at} refused a group: {error}"));
            return Err(Over);
        }
        let death = if self.has_power() { Death::Killed } else { Death::PowerCut };
        self.crash(death)
    }
}
