//! What happens next.
//!
//! Owns the choices of chance: who comes and goes, when logs are written and synced, and when the broker dies.

use std::sync::Arc;

use causeway_core::{Overflow, Principal};
use causeway_protocol::{Disconnect, Packet, QoS};

use super::consumer::{Consumer, Habit};
use super::packets::{Dial, request, subscribe};
use super::vehicle::{Client, Open, WillState, principal, vin};
use super::world::{Peer, World};
use crate::broker::Broker;
use crate::part::Outcome;

/// Rounds after which everything must have come to rest.
const ROUNDS_MAX: usize = 10_000;

impl<B: Broker> World<B> {
    pub(super) fn populate(&mut self) {
        for vehicle in 0..self.vehicles {
            for suffix in ["", "/hmi", "/ota"].into_iter().take(1 + self.random.below(3) as usize) {
                let client_id = format!("{}{suffix}", vin(vehicle));
                self.clients.push(Client { vehicle, client_id, connection: None, left: Vec::new() });
            }
        }
        for number in 0..2 + self.random.below(4) {
            let habit = if number % 2 == 0 { Habit::Always } else { Habit::Away };
            self.add_consumer(habit);
        }
        self.add_consumer(Habit::Wills);
    }

    fn add_consumer(&mut self, habit: Habit) {
        let qos = match (habit, self.random.below(4)) {
            (Habit::Wills, _) => QoS::AtLeastOnce,
            (_, 0) => QoS::AtMostOnce,
            (_, 1) => QoS::ExactlyOnce,
            _ => QoS::AtLeastOnce,
        };
        let home = self.random.below(self.cores.len() as u64) as usize;
        let overflow = if self.random.chance(25) { Overflow::DropOldest } else { Overflow::RefuseNew };
        let name = format!("consumer-{}-{habit:?}", self.tally.late_consumers as usize + self.consumers.len());
        self.consumers.push(Consumer::new(name, home, habit, qos, overflow));
    }

    /// Plays the whole run.
    pub(super) fn run(&mut self, steps: u32) -> Outcome<()> {
        self.start()?;
        while self.step < steps {
            self.step += 1;
            self.do_something()?;
            self.drain(false)?;
        }
        self.quiet()
    }

    fn do_something(&mut self) -> Outcome<()> {
        let little = self.random.below(20);
        self.advance(self.now + little)?;
        match self.random.below(1000) {
            0..420 => self.act(),
            420..540 => self.consume(),
            540..690 => self.append_any(),
            690..840 => self.sync_any(),
            840..900 => self.carry_any(),
            900..930 => self.fold_any(),
            930..960 => self.fetch_any(),
            960..980 => {
                let much = self.random.below(15_000);
                self.advance(self.now + much)
            }
            980..990 => self.crash(),
            _ => self.quiet(),
        }
    }

    fn any_core(&mut self) -> usize {
        self.random.below(self.cores.len() as u64) as usize
    }

    /// Time passes, with all that is due.
    fn advance(&mut self, until: u64) -> Outcome<()> {
        for core in 0..self.cores.len() {
            while let Some(due) = self.shard(core).next_deadline().filter(|due| due.0 <= until) {
                // Shards are not ordered among each other, but none ever sees time go back.
                let now = causeway_core::Millis(due.0.max(self.now));
                self.shard(core).tick(now);
            }
        }
        self.now = until;
        Ok(())
    }

    /// One of the vehicles' clients does something.
    fn act(&mut self) -> Outcome<()> {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let home = self.home(self.clients[at].vehicle);
        let Some(open) = &self.clients[at].connection else { return self.dial(at) };
        let (id, is_answered) = (open.id, open.is_answered);
        match self.random.below(100) {
            0..35 => self.dial(at),
            35..70 => {
                self.note("lost", [at as u64, 0, 0]);
                self.tally.drops += 1;
                self.close(home, id);
                let persists = self.persists(at);
                self.bereave(at, persists);
                Ok(())
            }
            70..90 if is_answered && self.shard(home).wants_input(id) => {
                self.note("leaves", [at as u64, 0, 0]);
                self.tally.drops += 1;
                let now = self.millis();
                self.shard(home).handle(now, id, &Packet::Disconnect(Disconnect::default()));
                let open = self.clients[at].connection.take();
                let will = open.and_then(|open| open.will).map(|(will, _)| will);
                // A crash that comes before the log has it is a network that fails.
                will.into_iter().for_each(|will| self.wills[will as usize] = WillState::Free);
                self.cores[home].withdrawn.extend(will);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Every other client keeps its session; the same always does.
    fn persists(&self, at: usize) -> bool {
        at.is_multiple_of(2)
    }

    fn dial(&mut self, at: usize) -> Outcome<()> {
        if !self.is_listening {
            return Ok(());
        }
        let is_clean = !self.persists(at) || self.random.chance(15);
        let vehicle = self.clients[at].vehicle;
        let home = self.home(vehicle);
        let will = self.random.chance(60).then(|| {
            self.wills.push(WillState::Waits);
            ((self.wills.len() - 1) as u32, self.random.below(4) as u32 * 7)
        });
        let client_id = self.clients[at].client_id.clone();
        let topic = format!("wills/{vehicle}");
        let payload = will.map(|(will, _)| will.to_be_bytes()).unwrap_or_default();
        let dial = Dial {
            client_id: &client_id,
            clean_start: is_clean,
            expiry_seconds: if self.persists(at) { 1_000_000 } else { 0 },
            will: will.map(|(_, delay)| (topic.as_str(), payload.as_slice(), delay)),
        };
        let request = request(&dial, principal(vehicle).into(), &self.limits, Overflow::RefuseNew)?;
        self.note("dials", [at as u64, u64::from(is_clean), will.map_or(0, |(will, _)| u64::from(will))]);
        if self.clients[at].connection.is_some() {
            self.tally.takeovers += 1;
            let persists = self.persists(at);
            self.bereave(at, persists);
        }
        if is_clean {
            self.free_wills(at);
        }
        let now = self.millis();
        let id = self.shard(home).open(now, request);
        self.clients[at].connection = Some(Open { id, is_answered: false, is_clean, will });
        self.connected(home, id, Peer::Client(at));
        Ok(())
    }

    /// CONNACK reached a client.
    pub(super) fn answered(&mut self, at: usize) {
        let Some(open) = &mut self.clients[at].connection else { return };
        open.is_answered = true;
        let is_clean = open.is_clean;
        self.tally.connects += 1;
        if !is_clean {
            self.forestall(at);
        }
    }

    /// A consumer comes or goes.
    fn consume(&mut self) -> Outcome<()> {
        let at = self.random.below(self.consumers.len() as u64) as usize;
        match self.consumers[at].connection {
            None if self.is_listening => self.dial_consumer(at),
            Some(id) if self.consumers[at].habit == Habit::Away && self.random.chance(50) => {
                let home = self.consumers[at].home;
                self.note("consumer goes", [at as u64, 0, 0]);
                self.close(home, id);
                self.consumers[at].cut_off();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn dial_consumer(&mut self, at: usize) -> Outcome<()> {
        let consumer = &self.consumers[at];
        let (home, is_persistent) = (consumer.home, consumer.is_persistent());
        let dial = Dial {
            client_id: &consumer.name,
            clean_start: !is_persistent,
            expiry_seconds: if is_persistent { u32::MAX } else { 0 },
            will: None,
        };
        let who = Principal::Service(Arc::from(consumer.name.as_str()));
        let request = request(&dial, who.into(), &self.limits, consumer.overflow)?;
        let now = self.millis();
        let id = self.shard(home).open(now, request);
        self.consumers[at].connection = Some(id);
        self.connected(home, id, Peer::Consumer(at));
        self.note("consumer comes", [at as u64, home as u64, 0]);
        Ok(())
    }

    /// CONNACK reached a consumer.
    pub(super) fn welcomed(&mut self, _core: usize, at: usize, session_present: bool) {
        let consumer = &mut self.consumers[at];
        consumer.is_subscribed &= session_present;
        if session_present {
            self.tally.resumptions += 1;
        }
        if !consumer.is_subscribed {
            let asks = subscribe(consumer.filter(), consumer.qos);
            consumer.answers.push_back(asks);
        }
    }

    fn append_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        self.append(core).map(drop)
    }

    fn append(&mut self, core: usize) -> Outcome<bool> {
        let appended = self.cores[core].broker.append().map_err(|error| format!("append: {error}"))?;
        self.note("append", [core as u64, appended.unwrap_or(0), 0]);
        Ok(appended.is_some())
    }

    fn sync_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        if self.random.chance(70) {
            self.append(core)?;
        }
        self.sync(core)
    }

    fn sync(&mut self, core: usize) -> Outcome<()> {
        let durable = self.cores[core].broker.sync().map_err(|error| format!("sync: {error}"))?;
        let now = self.millis();
        self.cores[core].broker.tell(now);
        self.note("sync", [core as u64, durable, 0]);
        Ok(())
    }

    fn carry_any(&mut self) -> Outcome<()> {
        if self.wires() == 0 {
            return Ok(());
        }
        let at = self.random.below(self.wires() as u64) as usize;
        let bytes = if self.random.chance(50) { usize::MAX } else { self.random.below(800) as usize };
        self.carry(at, bytes).map(drop)
    }

    fn fold_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        for _ in 0..1 + self.random.below(8) {
            let choice = self.random.next();
            self.cores[core].broker.fold(choice).map_err(|error| format!("fold: {error}"))?;
        }
        Ok(())
    }

    fn fetch_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        self.fetch(core);
        Ok(())
    }

    fn fetch(&mut self, core: usize) -> bool {
        let (now, choice) = (self.millis(), self.random.next());
        self.cores[core].broker.fetch(now, choice)
    }

    /// The process is killed, or the power goes; and somebody starts it again.
    fn crash(&mut self) -> Outcome<()> {
        let is_power_cut = self.random.chance(50);
        self.note("crash", [u64::from(is_power_cut), 0, 0]);
        self.tally.kills += u64::from(!is_power_cut);
        self.tally.power_cuts += u64::from(is_power_cut);
        for core in &mut self.cores {
            core.broker.stop();
            core.withdrawn.clear();
            if is_power_cut {
                core.disk.power_cut(self.random.next());
            }
        }
        self.forget_connections();
        self.now += if self.random.chance(30) { self.random.below(60_000) } else { self.random.below(500) };
        for at in 0..self.clients.len() {
            let persists = self.persists(at);
            self.bereave(at, persists);
        }
        self.consumers.iter_mut().for_each(Consumer::cut_off);
        self.start()
    }

    fn start(&mut self) -> Outcome<()> {
        let now = self.millis();
        for core in &mut self.cores {
            let disk = Arc::new(core.disk.clone());
            core.broker.start(disk, now).map_err(|error| format!("the broker does not start: {error}"))?;
        }
        self.lay_wires();
        for core in 0..self.cores.len() {
            self.shard(core).tick(now);
        }
        Ok(())
    }

    /// Everything comes to rest, and everybody is judged, with some who come only now.
    fn quiet(&mut self) -> Outcome<()> {
        for _ in 0..1 + self.random.below(2) {
            self.add_consumer(Habit::Late);
            self.tally.late_consumers += 1;
        }
        self.settle()?;
        for at in 0..self.consumers.len() {
            if self.consumers[at].connection.is_none() {
                self.dial_consumer(at)?;
            }
        }
        self.settle()?;
        self.note("quiet", [0, 0, 0]);
        self.judge_beliefs()?;
        self.dismiss_late()
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) -> Outcome<()> {
        for _ in 0..ROUNDS_MAX {
            let mut any = !self.is_listening;
            for core in 0..self.cores.len() {
                any |= self.append(core)?;
                self.sync(core)?;
                let withdrawn = std::mem::take(&mut self.cores[core].withdrawn);
                withdrawn.into_iter().for_each(|will| self.wills[will as usize] = WillState::Forestalled);
                while self.fetch(core) {
                    any = true;
                }
            }
            for wire in 0..self.wires() {
                any |= self.carry(wire, usize::MAX)?;
            }
            any |= self.drain(true)?;
            if !any {
                return Ok(());
            }
        }
        Err(format!("nothing came to rest in {ROUNDS_MAX} rounds"))
    }

    /// Those who came to look go again.
    fn dismiss_late(&mut self) -> Outcome<()> {
        while let Some(at) = self.consumers.iter().position(|consumer| consumer.habit == Habit::Late) {
            // They came last, so that no other's place changes.
            let Consumer { home, connection, .. } = self.consumers.remove(at);
            if let Some(connection) = connection {
                self.close(home, connection);
            }
        }
        Ok(())
    }
}
