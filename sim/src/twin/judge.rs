//! Who is right.
//!
//! Owns the comparison of all that was told with the naive model, which is fed with the requests in the order of their versions. It looks at
//! nothing but what clients were sent.

use serde_json::{Value, json};

use super::Outcome;
use super::client::Role;
use super::ledger::{Book, Request, Told, What, number};
use super::model::{Dropped, Model};
use super::world::World;
use crate::broker::Broker;

impl<B: Broker> World<B> {
    /// Everything came to rest: everybody must have been told the same, and the truth.
    pub(super) fn judge(&mut self) -> Outcome<()> {
        let watchers: Vec<usize> =
            (0..self.clients.len()).filter(|&at| self.clients[at].role == Role::Watcher).collect();
        for (shadow, book) in self.books.iter_mut().enumerate() {
            let before = book.states.len();
            judge_book(book, &mut self.requests, &watchers).map_err(|why| format!("shadow {shadow}: {why}"))?;
            self.tally.versions += (book.states.len() - before) as u64;
        }
        self.judge_requests()?;
        self.judge_newest_deltas()
    }

    /// What was acknowledged was done, and what was to be done once was done once.
    fn judge_requests(&mut self) -> Outcome<()> {
        for (number, request) in self.requests.iter().enumerate().skip(self.judged) {
            let is_once = request.qos == 0 || (request.qos == 2 && request.is_lasting);
            let made = request.made.len();
            if made > 1 && is_once || made > 0 && matches!(request.what, What::Broken | What::Get) {
                return Err(format!("request {number} was done {made} times: {request:?}"));
            }
            if request.is_certain && request.is_acknowledged && made == 0 {
                return Err(format!("request {number} is acknowledged, and was not done: {request:?}"));
            }
        }
        self.judged = self.requests.len();
        Ok(())
    }

    /// Each vehicle knows what is wanted of it, or knew more.
    fn judge_newest_deltas(&mut self) -> Outcome<()> {
        for (shadow, book) in self.books.iter().enumerate() {
            let model = book.now();
            let Some(wanted) = model.delta(self.now) else { continue };
            for at in self.clients_of(shadow) {
                self.tally.beliefs += 1;
                let newest = book.newest.get(&at);
                let knows =
                    newest.is_some_and(|delta| delta.sequence == model.sequence && covers(&delta.state, &wanted));
                if !knows {
                    let (name, sequence) = (&self.clients[at].name, model.sequence);
                    return Err(format!(
                        "{name} does not know delta {sequence} of shadow {shadow}, {wanted}, but {newest:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Vehicles that were away were sent one delta of each shadow of which something is wanted.
    pub(super) fn judge_returned(&mut self, returned: &[usize]) -> Outcome<()> {
        for (shadow, book) in self.books.iter().enumerate() {
            let wanted = u32::from(book.now().delta(self.now).is_some());
            for at in self.clients_of(shadow).into_iter().filter(|at| returned.contains(at)) {
                let sent = book.since_connected.get(&at).copied().unwrap_or(0);
                let client = &self.clients[at];
                // Who subscribes anew may be told with each subscription.
                if sent != wanted && (client.is_persistent || sent < wanted || wanted == 0) {
                    return Err(format!(
                        "{} is back, and was sent {sent} deltas of shadow {shadow}, not {wanted}",
                        client.name
                    ));
                }
                self.tally.coalesced += u64::from(wanted);
            }
        }
        Ok(())
    }

    /// The answers to `get` that were asked for since `from` say what is so.
    pub(super) fn judge_gets(&mut self, from: usize) -> Outcome<()> {
        for (at, request) in self.requests.iter().enumerate().skip(from) {
            let exists = self.books[request.shadow].now().exists;
            if request.answers != 1 {
                return Err(format!("get {at} of shadow {} was answered {} times", request.shadow, request.answers));
            }
            if exists == self.not_found.contains(&at) {
                return Err(format!("get {at} finds shadow {} though it is not so: {exists}", request.shadow));
            }
        }
        for (shadow, book) in self.books.iter_mut().enumerate() {
            let version = book.now().version;
            for document in &book.documents {
                self.tally.beliefs += 1;
                if number(document, "version")? != version {
                    return Err(format!("shadow {shadow} is of version {version}, and not {document}"));
                }
            }
            judge_answers(book)?;
        }
        Ok(())
    }
}

/// All of one shadow.
fn judge_book(book: &mut Book, requests: &mut [Request], watchers: &[usize]) -> Outcome<()> {
    let newest = book.told.keys().next_back().copied().unwrap_or(0);
    for watcher in watchers {
        let seen = book.seen.entry(*watcher).or_default();
        if let Some(missing) = (1..=newest).find(|version| !seen.contains(version)) {
            return Err(format!("watcher {watcher} was not told of version {missing} of {newest}"));
        }
    }
    if book.states.is_empty() {
        book.states.push(Model::default());
    }
    for version in book.states.len() as u64..=newest {
        let (model, made_by) = explained(&book.now(), &book.told[&version], requests)?;
        book.states.push(model);
        if let Some(request) = made_by.and_then(|number| requests.get_mut(number)) {
            request.made.push(version);
        }
    }
    for (version, state) in std::mem::take(&mut book.expired) {
        if book.told.get(&version).and_then(|told| told.expired.as_ref()) != Some(&state) {
            return Err(format!("{state} did not expire with version {version}"));
        }
    }
    for (version, token) in std::mem::take(&mut book.accepted) {
        if book.told.get(&version).is_none_or(|told| told.token != Some(token)) {
            return Err(format!("request {token} is told that it made version {version}"));
        }
    }
    judge_answers(book)
}

/// Deltas, and answers to `get`, each as of its version and time.
fn judge_answers(book: &mut Book) -> Outcome<()> {
    for delta in std::mem::take(&mut book.deltas) {
        let model = state_at(book, delta.version)?;
        if model.sequence != delta.sequence || model.delta(delta.at_ms).as_ref() != Some(&delta.state) {
            let (sequence, wanted) = (model.sequence, model.delta(delta.at_ms));
            return Err(format!("{delta:?} was sent, and not {sequence}: {wanted:?}"));
        }
    }
    for mut document in std::mem::take(&mut book.documents) {
        if let Some(fields) = document.as_object_mut() {
            fields.remove("clientToken");
        }
        let now_ms = number(&document, "timestamp")? * 1000;
        let expected = state_at(book, number(&document, "version")?)?.document(now_ms);
        if document != expected {
            return Err(format!("{document} was told, and not {expected}"));
        }
    }
    Ok(())
}

fn state_at(book: &Book, version: u64) -> Outcome<&Model> {
    book.states.get(version as usize).ok_or_else(|| format!("nobody was told of version {version}"))
}

/// The model after a change, by whichever of the requests made it.
fn explained(before: &Model, told: &Told, requests: &[Request]) -> Outcome<(Model, Option<usize>)> {
    if told.previous != before.content() {
        return Err(format!("before {} was {}, and not {}", told.current, before.content(), told.previous));
    }
    let reported = told.current["state"]["reported"]["n"].as_u64().map(|number| number as usize);
    let causes = match told.token {
        Some(token) => vec![Some(token)],
        // A change without a token: something expired, or the vehicle reported its state.
        None => vec![None, reported],
    };
    let dropped = Dropped { released: told.released.clone(), expired: told.expired.clone() };
    let mut wrong = Vec::new();
    for cause in causes {
        let mut model = before.clone();
        let what = cause.and_then(|number| requests.get(number)).map(|request| &request.what);
        let expected = match what {
            None => model.expire(told.at_ms),
            Some(What::Update(document) | What::Report(document)) => model.update(told.at_ms, document),
            Some(What::Delete) => model.delete(),
            Some(other) => return Err(format!("{other:?} changed something: {}", told.current)),
        };
        if model.content() == told.current && expected == dropped && (what.is_some() || dropped.expired.is_some()) {
            return Ok((model, cause));
        }
        wrong.push(format!("{what:?} makes {}, {expected:?}", model.content()));
    }
    Err(format!("{} and {dropped:?} is told, but of {}: {}", told.current, before.content(), wrong.join("; ")))
}

/// Whether one state has all leaves of another.
fn covers(all: &Value, some: &Value) -> bool {
    match (all, some) {
        (Value::Object(all), Value::Object(some)) => {
            some.iter().all(|(key, some)| all.get(key).is_some_and(|all| covers(all, some)))
        }
        _ => all == some,
    }
}

/// What `get` says of a shadow that is not there.
pub(super) fn is_not_found(answer: &Value) -> bool {
    answer["code"] == json!(404)
}
