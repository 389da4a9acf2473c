//! What happens next.
//!
//! Owns the choices of chance: who asks for what, who comes and goes, when logs are written and synced, and when the broker dies.

use causeway_fleet::shadow::{Format, write};
use serde_json::{Map, Value, json};

use super::Outcome;
use super::client::{Client, Post, Role};
use super::ledger::{Request, What};
use super::world::{NAMED, World, speaks_aws};
use crate::broker::Broker;

/// Rounds after which everything must have come to rest.
const ROUNDS_MAX: usize = 10_000;

impl<B: Broker> World<B> {
    /// Plays the whole run.
    pub(super) fn run(&mut self, steps: u32) -> Outcome<()> {
        self.cores.start(self.now)?;
        self.gather_all()?;
        while self.step < steps {
            self.step += 1;
            self.do_something()?;
        }
        self.quiet()
    }

    fn do_something(&mut self) -> Outcome<()> {
        let seconds = self.random.below(12).saturating_sub(9);
        self.advance(seconds);
        match self.random.below(1000) {
            0..140 => self.ask(),
            140..220 => self.act(),
            220..400 => self.deliver_any(),
            400..600 => self.send_any(),
            600..660 => self.come_or_go(),
            660..760 => self.append_any(),
            760..860 => self.sync_any(),
            860..920 => self.carry_any(),
            920..945 => self.fold_any(),
            945..965 => self.fetch_any(),
            965..980 => {
                let seconds = self.random.below(20);
                self.advance(seconds);
                Ok(())
            }
            980..992 => self.crash(),
            _ => self.quiet(),
        }
    }

    fn advance(&mut self, seconds: u64) {
        let until = self.now + seconds * 1000;
        self.cores.advance(self.now, until);
        self.now = until;
    }

    fn any_client(&mut self) -> usize {
        self.random.below(self.clients.len() as u64) as usize
    }

    fn any_core(&mut self) -> usize {
        self.random.below(self.cores.count() as u64) as usize
    }

    fn any_shadow(&mut self) -> usize {
        self.random.below(self.books.len() as u64) as usize
    }

    /// A backend asks for something.
    fn ask(&mut self) -> Outcome<()> {
        let backends: Vec<usize> =
            (0..self.clients.len()).filter(|&at| self.clients[at].role == Role::Backend).collect();
        let at = backends[self.random.below(backends.len() as u64) as usize];
        let shadow = self.any_shadow();
        match self.random.below(100) {
            0..72 => self.post_update(at, shadow),
            72..86 => self.post_get(at, shadow),
            86..92 => {
                let mut payload = json!({"clientToken": self.token()});
                if self.random.chance(50) {
                    payload["version"] = json!(self.known[shadow]);
                }
                self.post(at, shadow, "delete", What::Delete, &payload, false);
            }
            92..95 => {
                let payload = json!({"state": {"desired": {"a": [null]}}, "clientToken": self.token()});
                self.post(at, shadow, "update", What::Broken, &payload, false);
            }
            _ => {
                let document = json!({"state": null, "clientToken": self.token()});
                self.post(at, shadow, "update", What::Update(document.clone()), &document, true);
            }
        }
        Ok(())
    }

    /// By which the next request is known.
    fn token(&self) -> String {
        format!("t{}", self.requests.len())
    }

    fn post_update(&mut self, at: usize, shadow: usize) {
        let mut document = json!({"state": {}, "clientToken": self.token()});
        if self.random.chance(85) {
            document["state"]["desired"] = self.patch(2);
            if self.random.chance(35) {
                document["ttl"] = json!(1 + self.random.below(20));
            }
        }
        if self.random.chance(15) {
            document["state"]["reported"] = self.patch(1);
        }
        let is_certain = !self.random.chance(15);
        if !is_certain {
            document["version"] = json!(self.known[shadow]);
        }
        self.post(at, shadow, "update", What::Update(document.clone()), &document, is_certain);
    }

    /// Asks for a shadow.
    fn post_get(&mut self, at: usize, shadow: usize) {
        let payload = json!({"clientToken": self.token()});
        self.post(at, shadow, "get", What::Get, &payload, false);
    }

    /// Some leaves, some of which go.
    fn patch(&mut self, depth: u32) -> Value {
        let mut map = Map::new();
        for key in ["a", "b", "c"] {
            if self.random.chance(45) {
                let value = match self.random.below(12) {
                    0 | 1 => Value::Null,
                    2..5 if depth > 0 => self.patch(depth - 1),
                    5 => json!([1, {"x": self.random.below(2)}]),
                    6 => json!([]),
                    7 => json!("on"),
                    8 => json!(self.random.below(2) == 0),
                    _ => json!(self.random.below(3)),
                };
                map.insert(key.to_owned(), value);
            }
        }
        Value::Object(map)
    }

    /// Makes it a message of a client, by chance in this form or that.
    fn post(&mut self, at: usize, shadow: usize, verb: &str, what: What, payload: &Value, is_certain: bool) {
        let qos = [0, 1, 1, 2][self.random.below(4) as usize];
        let is_cbor = self.random.chance(20);
        let (client, vin) = (&self.clients[at], self.vins[shadow / 2]);
        let by_aws = match client.role {
            Role::Vehicle(vehicle) => speaks_aws(vehicle),
            _ => verb != "get" && self.random.chance(30),
        };
        let mount = match client.role {
            _ if by_aws => format!("$aws/things/{vin}/"),
            Role::Vehicle(_) => String::new(),
            _ => format!("vehicles/{vin}/"),
        };
        let name = if shadow % 2 == 1 { format!("name/{NAMED}/") } else { String::new() };
        let response_topic = (client.role == Role::Backend && verb == "get" && self.random.chance(30))
            .then(|| format!("answers/{}", client.name));
        let user_property = match &what {
            What::Report(document) => document["delta"].as_u64().map(|sequence| ("delta", sequence.to_string())),
            _ => None,
        };
        let request = Request {
            shadow,
            what,
            qos,
            is_certain,
            is_lasting: client.is_persistent,
            is_acknowledged: false,
            made: Vec::new(),
            answers: 0,
        };
        let payload = write(payload, if is_cbor { Format::Cbor } else { Format::Json });
        let number = self.requests.len();
        self.tally.requests += 1;
        let topic = format!("{mount}shadow/{name}{verb}");
        let post = Post { topic, payload, qos, is_cbor, response_topic, user_property, request: number };
        self.note("posts", [at as u64, shadow as u64, number as u64]);
        self.clients[at].posts.push_back(post);
        self.requests.push(request);
    }

    /// A vehicle does what is wanted of it, or something else, and says so.
    fn act(&mut self) -> Outcome<()> {
        let shadow = self.any_shadow();
        let Some(at) = self.clients_of(shadow).first().copied() else { return Ok(()) };
        if self.random.chance(15) {
            self.post_get(at, shadow);
            return Ok(());
        }
        let mut reported = if self.random.chance(40) { self.patch(2) } else { json!({}) };
        let mut handled = None;
        if let Some((sequence, state)) = self.to_do[shadow].take().filter(|_| self.random.chance(80)) {
            // What it did, unless its user did otherwise meanwhile.
            if self.random.chance(70) {
                let mut did = state;
                merge(&mut did, &reported, self.random.chance(50));
                reported = did;
            }
            handled = self.random.chance(60).then_some(sequence);
            self.handled[shadow] = sequence;
        }
        let mut document = json!({"state": {"reported": reported}});
        if let Some(sequence) = handled {
            document["delta"] = json!(sequence);
        }
        if speaks_aws(shadow / 2) || self.random.chance(30) {
            document["clientToken"] = json!(self.token());
            self.post(at, shadow, "update", What::Update(document.clone()), &document, true);
        } else {
            document["state"]["reported"]["n"] = json!(self.requests.len());
            let payload = document["state"]["reported"].clone();
            self.post(at, shadow, "state", What::Report(document), &payload, true);
        }
        Ok(())
    }

    fn deliver_any(&mut self) -> Outcome<()> {
        let at = self.any_client();
        self.deliver(at).map(drop)
    }

    fn send_any(&mut self) -> Outcome<()> {
        let (at, packets) = (self.any_client(), 1 + self.random.below(4) as usize);
        self.send(at, packets);
        Ok(())
    }

    fn come_or_go(&mut self) -> Outcome<()> {
        let at = self.any_client();
        match self.clients[at].connection {
            None => self.dial(at),
            Some(_) if self.random.chance(25) => self.dial(at),
            Some(_) => {
                let in_peace = self.random.chance(30);
                self.hang_up(at, in_peace);
                Ok(())
            }
        }
    }

    fn append_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        self.cores.append(core).map(drop)
    }

    fn sync_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        if self.random.chance(70) {
            self.cores.append(core)?;
        }
        self.cores.sync(self.now, core)
    }

    fn carry_any(&mut self) -> Outcome<()> {
        if self.cores.wires() == 0 {
            return Ok(());
        }
        let at = self.random.below(self.cores.wires() as u64) as usize;
        let bytes = if self.random.chance(50) { usize::MAX } else { self.random.below(2000) as usize };
        self.cores.carry(self.now, at, bytes).map(drop)
    }

    fn fold_any(&mut self) -> Outcome<()> {
        let core = self.any_core();
        for _ in 0..1 + self.random.below(8) {
            let choice = self.random.next();
            self.cores.fold(core, choice)?;
        }
        Ok(())
    }

    fn fetch_any(&mut self) -> Outcome<()> {
        let (core, choice) = (self.any_core(), self.random.next());
        self.cores.fetch(self.now, core, choice);
        Ok(())
    }

    /// The process is killed, or the power goes; and somebody starts it again.
    fn crash(&mut self) -> Outcome<()> {
        let is_power_cut = self.random.chance(50);
        self.note("crash", [u64::from(is_power_cut), 0, 0]);
        self.tally.kills += u64::from(!is_power_cut);
        self.tally.power_cuts += u64::from(is_power_cut);
        self.cores.stop(is_power_cut.then_some(&mut self.random));
        self.forget_connections();
        self.now += self.random.below(30) * 1000;
        self.cores.start(self.now)
    }

    /// Everything comes to rest, and everybody is judged; then some vehicles go, are wanted, and come back.
    fn quiet(&mut self) -> Outcome<()> {
        self.gather_all()?;
        self.note("quiet", [0, 0, 0]);
        self.tally.quiet_moments += 1;
        self.judge()?;
        self.send_away_and_back()?;
        let from = self.requests.len();
        for shadow in 0..self.books.len() {
            for at in self.clients_of(shadow) {
                self.post_get(at, shadow);
            }
            let backend = self.clients.iter().position(|client| client.role == Role::Backend);
            backend.into_iter().for_each(|at| self.post_get(at, shadow));
        }
        // Asked without fail.
        self.clients.iter_mut().flat_map(|client| &mut client.posts).for_each(|post| post.qos = 1);
        self.gather_all()?;
        self.judge_gets(from)?;
        self.judged = self.requests.len();
        Ok(())
    }

    fn send_away_and_back(&mut self) -> Outcome<()> {
        let vehicles: Vec<usize> = (0..self.clients.len())
            .filter(|&at| matches!(self.clients[at].role, Role::Vehicle(_)) && self.random.chance(50))
            .collect();
        for &at in &vehicles {
            let in_peace = self.random.chance(50);
            self.hang_up(at, in_peace);
        }
        let backend = self.clients.iter().position(|client| client.role == Role::Backend).unwrap_or(0);
        for shadow in 0..self.books.len() {
            for _ in 0..self.random.below(4) {
                self.post_update(backend, shadow);
            }
        }
        self.settle()?;
        let until_ms = self.random.below(4);
        self.advance(until_ms);
        self.settle()?;
        for &at in &vehicles {
            self.dial(at)?;
        }
        self.settle()?;
        self.judge()?;
        self.judge_returned(&vehicles)
    }

    /// Everybody is there, and everything at rest.
    fn gather_all(&mut self) -> Outcome<()> {
        self.settle()?;
        for at in 0..self.clients.len() {
            if self.clients[at].connection.is_none() {
                self.dial(at)?;
            }
        }
        self.settle()?;
        match self.clients.iter().find(|client| !client.is_ready() || !client.is_idle()) {
            Some(Client { name, .. }) => Err(format!("{name} waits for something")),
            None => Ok(()),
        }
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) -> Outcome<()> {
        for _ in 0..ROUNDS_MAX {
            let mut any = !self.cores.is_listening;
            for core in 0..self.cores.count() {
                any |= self.cores.append(core)?;
                self.cores.sync(self.now, core)?;
                let choice = self.random.next();
                while self.cores.fetch(self.now, core, choice) {
                    any = true;
                }
            }
            for wire in 0..self.cores.wires() {
                any |= self.cores.carry(self.now, wire, usize::MAX)?;
            }
            for at in 0..self.clients.len() {
                any |= self.deliver(at)?;
                any |= self.send(at, usize::MAX);
            }
            if !any {
                return Ok(());
            }
        }
        Err(format!("nothing came to rest in {ROUNDS_MAX} rounds"))
    }
}

/// Puts one report over another, or under it.
fn merge(all: &mut Value, more: &Value, over: bool) {
    let (Value::Object(all), Value::Object(more)) = (all, more) else { return };
    for (key, value) in more {
        match all.get_mut(key) {
            Some(inner) if inner.is_object() && value.is_object() => merge(inner, value, over),
            Some(there) if over => *there = value.clone(),
            Some(_) => {}
            None => {
                all.insert(key.clone(), value.clone());
            }
        }
    }
}
