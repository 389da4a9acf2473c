//! What each packet of a client means.
//!
//! Owns the transitions of the model that clients bring about. Those of time are in `time`.

use std::collections::BTreeMap;

use causeway_protocol::{ProtocolVersion, QoS, ReasonCode, RetainHandling};

use super::route::{Match, Matches, Room};
use super::state::{ClientIndex, Due, FlightKind, Holder, LinkId, Op, Session, Sub, WillModel};
use super::{AckDue, AckKind, AnswerDue, Conn, Finished, Oracle, Rule, is_expired};
use crate::fleet::follows;
use crate::message::{MessageId, is_shared};

/// What a CONNECT asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) client: ClientIndex,
    pub(crate) version: ProtocolVersion,
    pub(crate) clean: bool,
    pub(crate) expiry_seconds: u32,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) will: Option<WillModel>,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) filter: usize,
    pub(crate) sub: Sub,
    pub(crate) handling: RetainHandling,
}

impl Oracle {
    pub(crate) fn open(&mut self, now: u64, link: LinkId, asked: Asked) {
        let client = asked.client;
        if let Some(session) = &mut self.live.sessions[client]
            && let Some(old) = session.link
        {
            self.tally.takeovers += 1;
            if asked.clean {
                session.expiry_seconds = 0;
            }
            self.detach(now, old, true);
        }
        let resumed = self.live.sessions[client].is_some();
        if resumed && asked.clean {
            self.end_session(now, client);
        }
        if self.live.sessions[client].is_none() {
            self.epoch += 1;
            self.live.sessions[client] = Some(Session::new(self.epoch));
        }
        let conn = Conn {
            client,
            version: asked.version,
            open: true,
            connack: Some(resumed && !asked.clean),
            // Whatever is recorded now is about this session, or the one before.
            connack_lsn: if self.last > self.last_before { self.last } else { 0 },
            acks: Default::default(),
            answers: Default::default(),
            strays: 0,
            last_ids: [0; 2],
            will: asked.will,
            expiry_at_connect: asked.expiry_seconds,
            silence_max: u64::from(asked.keep_alive_seconds) * 1500,
            last_received: now,
        };
        self.conns.insert(link, conn);
        let Some(session) = &mut self.live.sessions[client] else { return };
        session.link = Some(link);
        let (epoch, recorded) = (session.epoch, session.recorded || asked.expiry_seconds > 0);
        let op = Op::Attach { client, epoch, expiry_seconds: asked.expiry_seconds, will: asked.will };
        self.change(op, recorded);
    }

    /// Bytes came from the client. Returns it, if the connection is open.
    pub(crate) fn heard(&mut self, now: u64, link: LinkId) -> Option<ClientIndex> {
        let conn = self.conns.get_mut(&link).filter(|conn| conn.open)?;
        conn.last_received = now;
        Some(conn.client)
    }

    fn session_of(&mut self, link: LinkId) -> Option<(ClientIndex, &mut Session)> {
        let client = self.conns.get(&link).filter(|conn| conn.open)?.client;
        self.live.sessions[client].as_mut().map(|session| (client, session))
    }

    fn owe(&mut self, link: LinkId, kind: AckKind, packet_id: u16, reason: ReasonCode, lsn: u64) {
        if let Some(conn) = self.conns.get_mut(&link).filter(|conn| conn.open) {
            conn.acks.push_back(AckDue { kind, packet_id, reason, lsn, any_reason: false });
        }
    }

    /// The acknowledgement owed last may have any reason.
    fn owe_unclear(&mut self, link: LinkId) {
        if let Some(due) = self.conns.get_mut(&link).and_then(|conn| conn.acks.back_mut()) {
            due.any_reason = true;
        }
    }

    /// A PUBLISH; `packet_id` is zero at QoS 0.
    pub(crate) fn publish(&mut self, now: u64, link: LinkId, message: MessageId, packet_id: u16, refused: bool) {
        let last = self.last;
        let Some((client, session)) = self.session_of(link) else { return };
        let epoch = session.epoch;
        let published = self.registry.get(message).clone();
        let kind = if published.qos == QoS::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck };
        if let Some((_, session)) = self.session_of(link)
            && published.qos == QoS::ExactlyOnce
            && session.received.contains(&packet_id)
        {
            self.owe(link, kind, packet_id, ReasonCode::Success, last);
            return;
        }
        let matches = self.collect(published.topic, Some(client));
        let owed = self.is_owed(published.qos, published.retain, &matches);
        if let Some((_, session)) = self.session_of(link)
            && published.qos == QoS::ExactlyOnce
            && session.maybe_received.remove(&packet_id)
            && !refused
            && (!owed || last == self.last_before)
        {
            // The broker knows it from before the crash, when nobody was owed it, or, where nobody is owed it now either,
            // takes it once more.
            if !owed {
                let sessions = matches.sessions.into_iter().map(|one| Match { optional: true, ..one }).collect();
                let groups = matches.groups.into_iter().map(|(group, _)| (group, true)).collect();
                self.registry.accepted(message, epoch);
                let received = Some((client, epoch, packet_id));
                self.hand_out(now, message, false, Matches { sessions, groups }, received);
            } else if let Some((_, session)) = self.session_of(link) {
                session.received.insert(packet_id);
            }
            self.owe(link, kind, packet_id, ReasonCode::Success, 0);
            return self.owe_unclear(link);
        }
        self.tally.publishes += 1;
        match (self.room_for(message, &matches, now), refused) {
            (Room::Yes, true) | (Room::No, false) => self.wrong_room(client, message, refused),
            _ => {}
        }
        if refused {
            self.tally.refused += 1;
            if published.qos == QoS::AtMostOnce {
                return;
            }
            match self.conns.get(&link).map(|conn| conn.version) {
                Some(ProtocolVersion::V5) => self.owe(link, kind, packet_id, ReasonCode::QuotaExceeded, 0),
                _ => self.detach(now, link, true),
            }
            return;
        }
        let is_matched = !matches.sessions.is_empty() || !matches.groups.is_empty();
        let received = (published.qos == QoS::ExactlyOnce).then_some((client, epoch, packet_id));
        self.registry.accepted(message, epoch);
        let lsn = self.hand_out(now, message, published.retain, matches, received);
        if published.qos > QoS::AtMostOnce {
            let reason = if is_matched { ReasonCode::Success } else { ReasonCode::NoMatchingSubscribers };
            self.owe(link, kind, packet_id, reason, lsn);
        }
    }

    pub(crate) fn puback(&mut self, now: u64, link: LinkId, packet_id: u16) {
        let Some((client, session)) = self.session_of(link) else { return };
        let at = session.flights.iter().position(|flight| flight.packet_id == packet_id);
        let Some(at) = at.filter(|at| session.flights[*at].qos == QoS::AtLeastOnce) else { return };
        self.finish(now, client, at);
    }

    pub(crate) fn pubrec(&mut self, link: LinkId, packet_id: u16) {
        let last = self.last;
        let Some((client, session)) = self.session_of(link) else { return };
        let epoch = session.epoch;
        let at = session.flights.iter().position(|flight| flight.packet_id == packet_id);
        let Some(at) = at else {
            self.conns.get_mut(&link).into_iter().for_each(|conn| conn.strays += 1);
            return;
        };
        let flight = &mut session.flights[at];
        if flight.qos != QoS::ExactlyOnce {
            // The group may have it back since the connection was lost: then the broker knows of none, and says so.
            let may_be_gone = matches!(flight.kind, FlightKind::Group(..)) && flight.link != link;
            self.conns.get_mut(&link).into_iter().for_each(|conn| conn.strays += u32::from(may_be_gone));
            return;
        }
        let first = !std::mem::replace(&mut flight.released, true);
        if first {
            flight.received_lsn = last;
        }
        let flight = *flight;
        let mut lsn = flight.received_lsn;
        match flight.kind {
            FlightKind::Own(entry) if first => {
                let recorded = session.recorded;
                self.change(Op::Received { client, epoch, entry }, recorded);
                lsn = if recorded { lsn } else { 0 };
                if let Some(flight) = self.live.session(client, epoch).and_then(|session| session.flights.get_mut(at)) {
                    flight.received_lsn = lsn;
                }
            }
            FlightKind::Own(_) => {}
            FlightKind::Group(group, entry) => {
                lsn = 0;
                self.finish_in_group(group, entry);
            }
            FlightKind::Retained(due) => {
                lsn = 0;
                self.finish_due(client, epoch, due);
            }
        }
        if !matches!(flight.kind, FlightKind::Own(_))
            && let Some(flight) = self.live.session(client, epoch).and_then(|session| session.flights.get_mut(at))
        {
            flight.received_lsn = 0;
        }
        self.owe(link, AckKind::PubRel, packet_id, ReasonCode::Success, lsn);
    }

    pub(crate) fn pubcomp(&mut self, now: u64, link: LinkId, packet_id: u16) {
        let Some((client, session)) = self.session_of(link) else { return };
        let at = session.flights.iter().position(|flight| flight.packet_id == packet_id);
        if let Some(at) = at.filter(|at| session.flights[*at].released) {
            self.finish(now, client, at);
        }
    }

    pub(crate) fn pubrel(&mut self, link: LinkId, packet_id: u16) {
        let last = self.last;
        let Some((client, session)) = self.session_of(link) else { return };
        let (epoch, recorded) = (session.epoch, session.recorded);
        if session.received.contains(&packet_id) {
            let lsn = if recorded { last } else { 0 };
            self.change(Op::Released { client, epoch, packet_id, lsn }, recorded);
            self.owe(link, AckKind::PubComp, packet_id, ReasonCode::Success, lsn);
        } else {
            // Whatever made it free must be durable before the client may rely on it.
            let lsn = session.freed.get(&packet_id).copied().unwrap_or(0);
            let is_unclear = session.maybe_received.remove(&packet_id);
            self.owe(link, AckKind::PubComp, packet_id, ReasonCode::PacketIdentifierNotFound, lsn);
            if is_unclear {
                self.owe_unclear(link);
            }
        }
    }

    /// The exchange is over.
    fn finish(&mut self, now: u64, client: ClientIndex, at: usize) {
        let Some(session) = &mut self.live.sessions[client] else { return };
        let flight = session.flights.remove(at);
        let epoch = session.epoch;
        match flight.kind {
            FlightKind::Own(entry) => {
                session.forget_entry(entry);
                if let Some(entry) = self.base.session(client, epoch).and_then(|session| session.entry(entry)) {
                    entry.optional = true;
                    let entry = entry.id;
                    self.finished.push_back(Finished { client, epoch, entry, at: now, lsn: None });
                }
            }
            FlightKind::Group(group, entry) => self.finish_in_group(group, entry),
            FlightKind::Retained(due) => self.finish_due(client, epoch, due),
        }
    }

    pub(super) fn finish_in_group(&mut self, group: usize, entry: u64) {
        if let Some(entry) = self.live.group_entry(group, entry) {
            entry.holder = Holder::Done;
        }
        if let Some(entry) = self.base.group_entry(group, entry) {
            entry.optional = true;
        }
    }

    pub(super) fn finish_due(&mut self, client: ClientIndex, epoch: u64, due: u64) {
        if let Some(session) = self.live.session(client, epoch) {
            session.backlog.retain(|one| one.id != due);
        }
        if let Some(session) = self.base.session(client, epoch) {
            session.backlog.iter_mut().filter(|one| one.id == due).for_each(|one| one.optional = true);
        }
        // A subscription that is not durable yet may survive all the same.
        for (_, op) in &mut self.pending {
            if let Op::Subscribe { backlog, .. } = op {
                backlog.iter_mut().filter(|one| one.id == due).for_each(|one| one.optional = true);
            }
        }
    }

    pub(crate) fn subscribe(&mut self, now: u64, link: LinkId, packet_id: u16, wanted: &[Wanted]) {
        let (last, max) = (self.last, self.limits.subscriptions_per_session_max);
        let mut reasons = Vec::new();
        let mut lsn = 0;
        // What follows from a subscription fares as that does.
        let mut existed = false;
        for one in wanted {
            let Some((client, session)) = self.session_of(link) else { return };
            if !one.sub.follows {
                existed = session.subs.contains_key(&one.filter);
                if !existed && session.subs.values().filter(|sub| !sub.follows).count() >= max {
                    reasons.push(ReasonCode::QuotaExceeded);
                }
            }
            if reasons.last() == Some(&ReasonCode::QuotaExceeded) {
                continue;
            }
            let (epoch, recorded) = (session.epoch, session.recorded);
            let sends_retained = !is_shared(one.filter)
                && match one.handling {
                    RetainHandling::Always => true,
                    RetainHandling::IfNew => !existed,
                    RetainHandling::Never => false,
                };
            let backlog = if sends_retained { self.due(now, one) } else { Vec::new() };
            let op = Op::Subscribe { client, epoch, filter: one.filter, sub: one.sub, backlog };
            self.change(op, recorded);
            lsn = if recorded { last } else { 0 };
            if !one.sub.follows {
                reasons.push(match one.sub.qos {
                    QoS::AtMostOnce => ReasonCode::Success,
                    QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
                    QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
                });
            }
        }
        if let Some(conn) = self.conns.get_mut(&link) {
            conn.answers.push_back(AnswerDue { packet_id, reasons: Some(reasons), lsn });
        }
    }

    /// The client's vehicle is in these groups now, whether it is connected or not.
    pub(crate) fn regroup(&mut self, now: u64, client: ClientIndex, groups: u64) {
        let Some(session) = &self.live.sessions[client] else { return };
        let (epoch, recorded) = (session.epoch, session.recorded);
        let (has, made): (Vec<_>, Vec<_>) = session.subs.clone().into_iter().partition(|(_, sub)| sub.follows);
        let follows = |(own, sub): &(usize, Sub)| {
            let sub = Sub { follows: true, ..*sub };
            follows(*own, groups).into_iter().map(move |filter| (filter, sub))
        };
        let wanted: BTreeMap<usize, Sub> = made.iter().flat_map(follows).collect();
        for (filter, _) in has.iter().filter(|(filter, _)| !wanted.contains_key(filter)) {
            self.tally.left_groups += 1;
            self.change(Op::Unsubscribe { client, epoch, filter: *filter }, recorded);
        }
        for (filter, sub) in wanted {
            if has.iter().any(|(known, _)| *known == filter) {
                continue;
            }
            self.tally.joined_groups += 1;
            let handling = RetainHandling::Always;
            let backlog = if sub.unretained { Vec::new() } else { self.due(now, &Wanted { filter, sub, handling }) };
            self.change(Op::Subscribe { client, epoch, filter, sub, backlog }, recorded);
        }
    }

    /// The retained messages that a subscription brings.
    fn due(&mut self, now: u64, wanted: &Wanted) -> Vec<Due> {
        let registry = &self.registry;
        let matching = self
            .live
            .retained
            .iter()
            .filter(|(topic, kept)| registry.matches(wanted.filter, **topic) && !is_expired(kept.expires_at, now));
        let mut due: Vec<Due> = matching
            .map(|(_, kept)| Due {
                id: 0,
                message: kept.message,
                expires_at: kept.expires_at,
                stored: kept.stored,
                lsn: kept.lsn,
                qos: registry.get(kept.message).qos.min(wanted.sub.qos),
                identifier: wanted.sub.identifier,
                flying: false,
                optional: false,
            })
            .collect();
        for one in &mut due {
            one.id = self.fresh_id();
        }
        due
    }

    pub(crate) fn unsubscribe(&mut self, link: LinkId, packet_id: u16, filters: &[usize]) {
        let last = self.last;
        let mut lsn = 0;
        for &filter in filters {
            let Some((client, session)) = self.session_of(link) else { return };
            if !session.subs.contains_key(&filter) {
                continue;
            }
            let (epoch, recorded) = (session.epoch, session.recorded);
            self.change(Op::Unsubscribe { client, epoch, filter }, recorded);
            lsn = if recorded { last } else { 0 };
        }
        if let Some(conn) = self.conns.get_mut(&link) {
            conn.answers.push_back(AnswerDue { packet_id, reasons: None, lsn });
        }
    }

    pub(crate) fn disconnect(&mut self, now: u64, link: LinkId, expiry_seconds: Option<u32>, with_will: bool) {
        let Some((_, session)) = self.session_of(link) else { return };
        if let Some(expiry_seconds) = expiry_seconds {
            session.expiry_seconds = expiry_seconds;
        }
        let at_connect = self.conns.get(&link).map_or(0, |conn| conn.expiry_at_connect);
        if expiry_seconds.is_some_and(|expiry| expiry > 0) && at_connect == 0 {
            self.breach(Rule::Connection, "the simulation asked for what is forbidden");
        }
        self.detach(now, link, with_will);
    }

    /// The broker was told that the link is gone.
    pub(crate) fn closed(&mut self, now: u64, link: LinkId) {
        self.detach(now, link, true);
        self.conns.remove(&link);
    }

    /// Takes the session from its connection.
    pub(super) fn detach(&mut self, now: u64, link: LinkId, with_will: bool) {
        let Some(conn) = self.conns.get_mut(&link).filter(|conn| conn.open) else { return };
        conn.open = false;
        conn.acks.clear();
        conn.answers.clear();
        let (client, will) = (conn.client, conn.will.take().filter(|_| with_will));
        if let Some(session) = &mut self.live.sessions[client] {
            session.link = None;
        }
        self.lose_connection(now, client, will);
    }

    pub(super) fn lose_connection(&mut self, now: u64, client: ClientIndex, will: Option<WillModel>) {
        let Some(session) = &self.live.sessions[client] else { return };
        let (epoch, expiry_seconds, recorded) = (session.epoch, session.expiry_seconds, session.recorded);
        let mut delayed = None;
        if let Some(will) = will {
            if will.delay_seconds == 0 || expiry_seconds == 0 {
                self.publish_will(now, client, will.message);
            } else {
                delayed = Some((will, now + u64::from(will.delay_seconds) * 1000));
            }
        }
        if expiry_seconds == 0 {
            self.end_session(now, client);
            return;
        }
        let expires_at = (expiry_seconds != u32::MAX).then(|| now + u64::from(expiry_seconds) * 1000);
        self.change(Op::Detach { client, epoch, expires_at, delayed }, recorded);
        self.live.free_group_entries(client);
        let last = self.last;
        for done in self.finished.iter_mut().filter(|done| done.client == client && done.lsn.is_none()) {
            done.lsn = Some(last);
        }
    }

    pub(super) fn end_session(&mut self, now: u64, client: ClientIndex) {
        let Some(session) = &mut self.live.sessions[client] else { return };
        let (epoch, recorded, delayed) = (session.epoch, session.recorded, session.delayed.take());
        if let Some((will, _)) = delayed {
            self.publish_will(now, client, will.message);
            self.change(Op::WillPublished { client, epoch }, recorded);
        }
        let flights = self.live.sessions[client].iter().flat_map(|session| &session.flights);
        let with_it = flights.filter(|flight| flight.qos == QoS::ExactlyOnce).map(|flight| flight.kind);
        for kind in with_it.collect::<Vec<_>>() {
            // It ends with its member, and that may be durable soon.
            if let FlightKind::Group(group, entry) = kind
                && let Some(entry) = self.base.group_entry(group, entry)
            {
                entry.optional = true;
            }
        }
        self.change(Op::End { client, epoch }, recorded);
    }
}
