//! Sessions and subscriptions, as far as they can be known from outside.
//!
//! Owns what connecting, subscribing, leaving and a crash make of them.

use std::collections::{BTreeMap, BTreeSet};

use causeway_protocol::{QoS, ReasonCode};

use super::{AnswerDue, Conn, OwedToGroup, Session, Several, Stay};
use crate::fleet::follows;
use crate::message::is_shared;
use crate::oracle::Rule;
use crate::oracle::input::{Asked, Wanted};
use crate::oracle::state::{ClientIndex, LinkId, Sub};

impl Several {
    pub(super) fn open(&mut self, now: u64, link: LinkId, asked: Asked) {
        self.turn += 1;
        let client = asked.client;
        if let Some(session) = &mut self.sessions[client]
            && let Some(old) = session.link
        {
            self.tally.takeovers += 1;
            if asked.clean {
                session.expiry_seconds = 0;
            }
            self.detach(now, old, true);
        }
        let session_present = match &self.sessions[client] {
            _ if asked.clean => Some(false),
            None => (!self.has_crashed).then_some(false),
            Some(session) => session.is_surely_there(now).then_some(true),
        };
        if asked.clean {
            self.end_session(client);
        }
        if self.sessions[client].is_none() {
            self.sessions[client] = Some(self.new_session());
        }
        let conn = Conn {
            client,
            version: asked.version,
            is_open: true,
            session_present: Some(session_present),
            has_left: false,
            acks: Default::default(),
            answers: Default::default(),
            will: asked.will,
            silence_max: u64::from(asked.keep_alive_seconds) * 1500,
            last_received: now,
        };
        self.conns.insert(link, conn);
        if let Some(session) = &mut self.sessions[client] {
            session.link = Some(link);
            session.expiry_least = session.expiry_least.min(asked.expiry_seconds);
            session.expiry_seconds = asked.expiry_seconds;
        }
    }

    fn new_session(&mut self) -> Session {
        self.epoch += 1;
        Session {
            epoch: self.epoch,
            link: None,
            expiry_seconds: 0,
            expiry_least: u32::MAX,
            left_at: None,
            is_sure: false,
            may_be_new: false,
            stays: Vec::new(),
            is_unknown: false,
            received: BTreeMap::new(),
            sent: BTreeSet::new(),
            newest: BTreeMap::new(),
            newest_before: BTreeMap::new(),
        }
    }

    /// CONNACK entered the outbox.
    pub(super) fn connected(&mut self, link: LinkId, session_present: bool) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let (client, expected) = (conn.client, conn.session_present.take());
        if expected.is_none_or(|expected| expected.is_some_and(|expected| expected != session_present)) {
            let detail = format!("session present {session_present} on link {link}, {expected:?} expected");
            self.breach(Rule::Connection, detail);
        }
        if let Some(session) = &mut self.sessions[client] {
            session.is_unknown |= session_present && !session.is_sure && session.stays.is_empty();
        }
        if !session_present && expected == Some(None) {
            // The one that may have been there is not.
            let expiry_seconds = self.sessions[client].as_ref().map_or(0, |session| session.expiry_seconds);
            self.end_session(client);
            let session = self.new_session();
            self.sessions[client] = Some(Session { link: Some(link), expiry_seconds, ..session });
        }
    }

    /// Bytes of the connection are on their way: CONNACK among them, or before. The disk knows of the session.
    pub(super) fn left(&mut self, link: LinkId) {
        let Some(conn) = self.conns.get_mut(&link).filter(|conn| conn.is_open && !conn.has_left) else { return };
        conn.has_left = true;
        let client = conn.client;
        self.ended[client] = None;
        if let Some((_, session)) = self.session_of(link) {
            session.is_sure = true;
            session.expiry_least = session.expiry_seconds;
            session.left_at = None;
        }
    }

    pub(super) fn heard(&mut self, now: u64, link: LinkId) -> Option<ClientIndex> {
        let conn = self.conns.get_mut(&link).filter(|conn| conn.is_open)?;
        conn.last_received = now;
        Some(conn.client)
    }

    pub(super) fn tick(&mut self, now: u64, silent: &[LinkId]) {
        for &link in silent {
            let conn = self.conns.get(&link).filter(|conn| conn.is_open);
            if !conn.is_some_and(|conn| conn.silence_max > 0 && conn.last_received + conn.silence_max <= now) {
                self.breach(Rule::Connection, format!("link {link} was closed, and is not silent"));
            }
            self.detach(now, link, true);
        }
    }

    pub(super) fn disconnect(&mut self, now: u64, link: LinkId, expiry_seconds: Option<u32>, with_will: bool) {
        self.turn += 1;
        if let (Some((_, session)), Some(expiry)) = (self.session_of(link), expiry_seconds) {
            session.expiry_seconds = expiry;
            session.expiry_least = session.expiry_least.min(expiry);
        }
        self.detach(now, link, with_will);
    }

    pub(super) fn closed(&mut self, now: u64, link: LinkId) {
        self.turn += 1;
        self.detach(now, link, true);
        self.conns.remove(&link);
    }

    /// Takes the session from its connection.
    pub(super) fn detach(&mut self, now: u64, link: LinkId, with_will: bool) {
        let Some(conn) = self.conns.get_mut(&link).filter(|conn| conn.is_open) else { return };
        conn.is_open = false;
        conn.acks.clear();
        conn.answers.clear();
        let (client, has_left, will) = (conn.client, conn.has_left, conn.will.take());
        match will {
            Some(will) if with_will => self.may_publish_will(client, will.message),
            Some(will) => self.withdrawn.push((client, will.message)),
            None => {}
        }
        self.forgive_qos_0(|owed| owed.client == client);
        let Some(session) = &mut self.sessions[client] else { return };
        session.link = None;
        // The disk may know of the connection before at most.
        session.left_at = session.left_at.filter(|_| !has_left).or(Some(now));
        // Answers that were not sent never come: nobody can tell what others know.
        for stay in session.stays.iter_mut().filter(|stay| !stay.is_gone) {
            stay.is_unsure |= stay.acked.is_none();
        }
        if session.expiry_seconds == 0 {
            self.end_session(client);
        }
    }

    pub(super) fn end_session(&mut self, client: ClientIndex) {
        let Some(session) = self.sessions[client].take() else { return };
        let epoch = session.epoch;
        for owed in self.owed.iter_mut().filter(|owed| (owed.client, owed.epoch) == (client, epoch)) {
            owed.is_optional = true;
        }
        for stay in session.stays.iter().filter(|stay| is_shared(stay.filter)) {
            // What is QoS 2 ends with the member it was given to.
            let (registry, owed) = (&self.registry, self.owed_to_groups.iter_mut());
            let lost = owed.filter(|owed| owed.filter == stay.filter);
            lost.for_each(|owed| owed.is_optional |= registry.get(owed.message).qos == QoS::ExactlyOnce);
        }
        if session.is_sure || self.ended[client].is_none() {
            self.ended[client] = Some(session);
        }
    }

    pub(super) fn subscribe(&mut self, link: LinkId, packet_id: u16, wanted: &[Wanted]) {
        self.turn += 1;
        let turn = self.turn;
        for one in wanted {
            let Some((client, session)) = self.session_of(link) else { return };
            let old = session.stays.iter_mut().filter(|stay| stay.filter == one.filter && stay.ended.is_none());
            old.for_each(|stay| stay.ended = Some(turn));
            let (filter, sub) = (one.filter, one.sub);
            session.stays.push(Stay {
                filter,
                sub,
                asked: turn,
                acked: None,
                ended: None,
                is_gone: false,
                is_unsure: false,
            });
            self.loosen(client, filter, sub.qos == QoS::AtMostOnce);
            if is_shared(filter) && !self.is_reliable(client, sub.qos) {
                self.owed_to_groups
                    .iter_mut()
                    .filter(|owed| owed.filter == filter)
                    .for_each(|owed| owed.is_optional = true);
            }
        }
        let filters = wanted.iter().map(|one| one.filter).collect();
        if let Some(conn) = self.conns.get_mut(&link) {
            conn.answers.push_back(AnswerDue { packet_id, asked: turn, is_subscribe: true, filters });
        }
    }

    pub(super) fn unsubscribe(&mut self, link: LinkId, packet_id: u16, filters: &[usize]) {
        self.turn += 1;
        let turn = self.turn;
        for filter in filters {
            let Some((client, session)) = self.session_of(link) else { return };
            let stays = session.stays.iter_mut().filter(|stay| stay.filter == *filter && stay.ended.is_none());
            stays.for_each(|stay| stay.ended = Some(turn));
            self.loosen(client, *filter, true);
        }
        if let Some(conn) = self.conns.get_mut(&link) {
            conn.answers.push_back(AnswerDue {
                packet_id,
                asked: turn,
                is_subscribe: false,
                filters: filters.to_vec(),
            });
        }
    }

    /// The client's vehicle is in these groups now. Nobody is told when other shards know: what follows from that may come from now on.
    pub(super) fn regroup(&mut self, client: ClientIndex, groups: u64) {
        self.turn += 1;
        let turn = self.turn;
        let Some(session) = &mut self.sessions[client] else { return };
        let here = |stay: &&mut Stay| stay.ended.is_none() && !stay.is_gone;
        let made: Vec<Stay> =
            session.stays.iter_mut().filter(here).filter(|stay| !stay.sub.follows).map(|one| *one).collect();
        let mut wanted: Vec<Stay> = Vec::new();
        for own in made {
            let sub = Sub { follows: true, ..own.sub };
            let follows = follows(own.filter, groups).into_iter();
            wanted.extend(follows.map(|filter| Stay { filter, sub, asked: turn, acked: None, is_unsure: true, ..own }));
        }
        let mut changed = Vec::new();
        for stay in session.stays.iter_mut().filter(here).filter(|stay| stay.sub.follows) {
            if wanted.iter().all(|one| one.filter != stay.filter) {
                stay.ended = Some(turn);
                changed.push(stay.filter);
            }
            wanted.retain(|one| one.filter != stay.filter);
        }
        self.tally.left_groups += changed.len() as u64;
        self.tally.joined_groups += wanted.len() as u64;
        changed.extend(wanted.iter().map(|stay| stay.filter));
        session.stays.extend(wanted);
        changed.into_iter().for_each(|filter| self.loosen(client, filter, true));
    }

    /// A subscription changes: what is on its way from another shard may come as it was wanted before, or as it is now; or not at all,
    /// where that need not be.
    fn loosen(&mut self, client: ClientIndex, filter: usize, may_be_missing: bool) {
        let Several { registry, owed, .. } = self;
        let under_way = owed.iter_mut().filter(|owed| owed.client == client && !owed.is_local);
        for owed in under_way.filter(|owed| registry.matches(filter, registry.get(owed.message).topic)) {
            owed.is_loose = true;
            owed.is_optional |= may_be_missing;
        }
    }

    /// SUBACK or UNSUBACK entered the outbox.
    pub(super) fn answered(&mut self, link: LinkId, packet_id: u16, reasons: Option<&Vec<ReasonCode>>) {
        let turn = self.turn;
        let answers = self.conns.get_mut(&link).map(|conn| &mut conn.answers);
        let due = answers.and_then(|answers| {
            let at = answers.iter().position(|due| due.packet_id == packet_id)?;
            answers.remove(at)
        });
        let Some(due) = due.filter(|due| due.is_subscribe == reasons.is_some()) else {
            self.breach(Rule::WrongAcknowledgement, format!("link {link} got an answer nobody is owed"));
            return;
        };
        let Some((_, session)) = self.session_of(link) else { return };
        let mut wrong = None;
        for (at, filter) in due.filters.iter().enumerate() {
            // What follows from a subscription fares as that does, and has no reason of its own.
            let reason = reasons.and_then(|reasons| reasons.get(at).or(reasons.last())).copied();
            for stay in session.stays.iter_mut().filter(|stay| stay.filter == *filter) {
                stay.is_gone |= stay.ended.is_some_and(|ended| ended <= due.asked);
            }
            let asked = session.stays.iter_mut().find(|stay| (stay.filter, stay.asked) == (*filter, due.asked));
            let Some(stay) = asked else { continue };
            match reason {
                Some(reason) if reason.is_error() => (stay.ended, stay.is_gone) = (Some(stay.asked), true),
                Some(reason) if reason as u8 == stay.sub.qos as u8 => stay.acked = Some(turn),
                other => wrong = Some(format!("link {link}: {other:?} for {stay:?}")),
            }
        }
        if let Some(detail) = wrong {
            self.breach(Rule::WrongAcknowledgement, detail);
        }
    }

    /// All shards were killed and run again.
    pub(super) fn restarted(&mut self, now: u64) {
        self.turn += 1;
        let wills: Vec<_> = self.conns.values_mut().filter_map(|conn| Some((conn.client, conn.will.take()?))).collect();
        let wills = wills.into_iter().map(|(client, will)| (client, will.message));
        let wills: Vec<_> = wills.chain(std::mem::take(&mut self.withdrawn)).collect();
        wills.into_iter().for_each(|(client, will)| self.may_publish_will(client, will));
        self.has_crashed = !self.conns.is_empty() || self.has_crashed;
        let conns = std::mem::take(&mut self.conns);
        for client in 0..self.sessions.len() {
            let ended = self.ended[client].take();
            let has_left = |link: &LinkId| conns.get(link).is_some_and(|conn| conn.has_left);
            let is_over = |session: &Session| {
                session.expiry_seconds == 0 && session.is_sure && session.link.as_ref().is_some_and(has_left)
            };
            if self.sessions[client].as_ref().is_some_and(is_over) {
                self.end_session(client);
                self.ended[client] = None;
            }
            if let Some(before) = ended.filter(|_| self.sessions[client].as_ref().is_none_or(|one| !one.is_sure)) {
                // Its end may not have reached the disk. But if it did, a new one may be there that has none of its subscriptions.
                let mut before = Session { is_sure: false, may_be_new: true, ..before };
                before.stays.iter_mut().for_each(|stay| stay.is_unsure = true);
                self.sessions[client] = Some(before);
            }
            let Some(session) = &mut self.sessions[client] else { continue };
            // Where the disk does not know of the last connection, it knows when the one before ended.
            if session.link.take().is_some() {
                session.left_at = session.left_at.or(Some(now));
            }
            for stay in session.stays.iter_mut().filter(|stay| !stay.is_gone) {
                stay.is_unsure |= stay.acked.is_none() || stay.ended.is_some();
                stay.ended = None;
            }
            // With its last member a group ends, and with the group what waits for it.
            let may_have_ended =
                |owed: &&mut OwedToGroup| session.stays.iter().any(|stay| stay.is_unsure && stay.filter == owed.filter);
            self.owed_to_groups.iter_mut().filter(may_have_ended).for_each(|owed| owed.is_optional = true);
            session.received.values_mut().for_each(|is_unsure| *is_unsure = true);
            if self.drops_oldest[client] {
                for (class, newest) in std::mem::take(&mut session.newest) {
                    let before = session.newest_before.entry(class).or_default();
                    *before = newest.max(*before);
                }
            }
        }
        self.lose_unacknowledged();
    }
}
