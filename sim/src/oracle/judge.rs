//! What a world asks of whoever judges it.
//!
//! Owns the interface, and that the oracle of one shard fits it.

use causeway_core::{Counters, Gauges};
use causeway_protocol::{Packet, Publish, QoS};

use super::input::{Asked, Wanted};
use super::state::{ClientIndex, LinkId};
use super::{Oracle, Rule, Tally, Violation};
use crate::message::{MessageId, Registry};

/// Hears every packet that clients and shards exchange, when a shard handles it or emits it.
pub(crate) trait Judge {
    fn registry(&self) -> &Registry;
    fn registry_mut(&mut self) -> &mut Registry;
    fn tally(&mut self) -> &mut Tally;
    fn breach(&mut self, rule: Rule, detail: String);
    fn violations(&self) -> &[Violation];
    fn is_tainted(&self) -> bool;
    fn drops_oldest(&self, client: ClientIndex) -> bool;

    /// What the client subscribed to itself, and which session it has.
    fn filters_of(&self, client: ClientIndex) -> Vec<usize>;
    fn epoch_of(&self, client: ClientIndex) -> u64;
    fn is_open(&self, link: LinkId) -> bool;

    fn begin(&mut self, last: u64, dropped: u64);
    fn set_durable(&mut self, through: u64);
    fn would_collide(&self, now: u64) -> bool;
    fn restarted(&mut self, now: u64, through: u64, last: u64, dropped: u64);
    fn tick(&mut self, now: u64, silent: &[LinkId]);

    fn open(&mut self, now: u64, link: LinkId, asked: Asked);
    fn heard(&mut self, now: u64, link: LinkId) -> Option<ClientIndex>;
    fn publish(&mut self, now: u64, link: LinkId, message: MessageId, packet_id: u16, refused: bool);
    fn puback(&mut self, now: u64, link: LinkId, packet_id: u16);
    fn pubrec(&mut self, link: LinkId, packet_id: u16);
    fn pubrel(&mut self, link: LinkId, packet_id: u16);
    fn pubcomp(&mut self, now: u64, link: LinkId, packet_id: u16);
    fn subscribe(&mut self, now: u64, link: LinkId, packet_id: u16, wanted: &[Wanted]);
    fn unsubscribe(&mut self, link: LinkId, packet_id: u16, filters: &[usize]);
    /// The client's vehicle is in these groups now.
    fn regroup(&mut self, now: u64, client: ClientIndex, groups: u64);
    fn disconnect(&mut self, now: u64, link: LinkId, expiry_seconds: Option<u32>, with_will: bool);
    fn closed(&mut self, now: u64, link: LinkId);

    fn emitted(&mut self, now: u64, link: LinkId, packet: &Packet<'_>, topic: &str);
    fn left(&mut self, link: LinkId);
    fn end_input(&mut self, dropped: bool, counters: &Counters, gauges: Option<Gauges>);
    /// A client got a message, in the session of this epoch; `is_new`: it did not know it by its packet identifier.
    fn taken(&mut self, client: (ClientIndex, u64), publish: &Publish<'_>, topic: &str, is_new: bool);

    /// All is over; figures of each shard.
    fn settled(&mut self, now: u64, gauges: &[Gauges]);
    fn retained(&self, now: u64) -> Vec<(MessageId, QoS)>;
    /// What clients that asked for everything retained found, one on each shard: between these times, and what one had to find at
    /// the first.
    fn judge_found(&mut self, times: (u64, u64), expected: Vec<(MessageId, QoS)>, seen: Vec<Vec<(MessageId, QoS)>>);
    fn may_keep_shared(&self) -> bool;
}

#[rustfmt::skip]
impl Judge for Oracle {
    fn registry(&self) -> &Registry { &self.registry }
    fn registry_mut(&mut self) -> &mut Registry { &mut self.registry }
    fn tally(&mut self) -> &mut Tally { &mut self.tally }
    fn breach(&mut self, rule: Rule, detail: String) { self.breach(rule, detail); }
    fn violations(&self) -> &[Violation] { &self.violations }
    fn is_tainted(&self) -> bool { self.is_tainted }
    fn drops_oldest(&self, client: ClientIndex) -> bool { self.drops_oldest[client] }

    fn filters_of(&self, client: ClientIndex) -> Vec<usize> {
        let subs = self.live.sessions[client].iter().flat_map(|session| &session.subs);
        subs.filter(|(_, sub)| !sub.follows).map(|(filter, _)| *filter).collect()
    }
    fn epoch_of(&self, client: ClientIndex) -> u64 {
        self.live.sessions[client].as_ref().map_or(0, |session| session.epoch)
    }
    fn is_open(&self, link: LinkId) -> bool { self.is_open(link) }

    fn begin(&mut self, last: u64, dropped: u64) { self.begin(last, dropped); }
    fn set_durable(&mut self, through: u64) { self.set_durable(through); }
    fn would_collide(&self, now: u64) -> bool { self.would_collide(now) }
    fn restarted(&mut self, now: u64, through: u64, last: u64, dropped: u64) { self.restarted(now, through, last, dropped); }
    fn tick(&mut self, now: u64, silent: &[LinkId]) { self.tick(now, silent); }

    fn open(&mut self, now: u64, link: LinkId, asked: Asked) { self.open(now, link, asked); }
    fn heard(&mut self, now: u64, link: LinkId) -> Option<ClientIndex> { self.heard(now, link) }
    fn publish(&mut self, now: u64, link: LinkId, message: MessageId, packet_id: u16, refused: bool) {
        self.publish(now, link, message, packet_id, refused);
    }
    fn puback(&mut self, now: u64, link: LinkId, packet_id: u16) { self.puback(now, link, packet_id); }
    fn pubrec(&mut self, link: LinkId, packet_id: u16) { self.pubrec(link, packet_id); }
    fn pubrel(&mut self, link: LinkId, packet_id: u16) { self.pubrel(link, packet_id); }
    fn pubcomp(&mut self, now: u64, link: LinkId, packet_id: u16) { self.pubcomp(now, link, packet_id); }
    fn subscribe(&mut self, now: u64, link: LinkId, packet_id: u16, wanted: &[Wanted]) {
        self.subscribe(now, link, packet_id, wanted);
    }
    fn unsubscribe(&mut self, link: LinkId, packet_id: u16, filters: &[usize]) { self.unsubscribe(link, packet_id, filters); }
    fn regroup(&mut self, now: u64, client: ClientIndex, groups: u64) { self.regroup(now, client, groups); }
    fn disconnect(&mut self, now: u64, link: LinkId, expiry_seconds: Option<u32>, with_will: bool) {
        self.disconnect(now, link, expiry_seconds, with_will);
    }
    fn closed(&mut self, now: u64, link: LinkId) { self.closed(now, link); }

    fn emitted(&mut self, now: u64, link: LinkId, packet: &Packet<'_>, topic: &str) { self.emitted(now, link, packet, topic); }
    fn left(&mut self, link: LinkId) { self.left(link); }
    fn end_input(&mut self, dropped: bool, counters: &Counters, gauges: Option<Gauges>) {
        self.end_input(dropped, counters, gauges);
    }
    // Its model ends where bytes leave a shard.
    fn taken(&mut self, _: (ClientIndex, u64), _: &Publish<'_>, _: &str, _: bool) {}

    fn settled(&mut self, now: u64, gauges: &[Gauges]) { gauges.iter().for_each(|gauges| self.settled(now, *gauges)); }
    fn retained(&self, now: u64) -> Vec<(MessageId, QoS)> { self.retained(now) }
    fn judge_found(&mut self, times: (u64, u64), expected: Vec<(MessageId, QoS)>, seen: Vec<Vec<(MessageId, QoS)>>) {
        seen.into_iter().for_each(|seen| self.judge_found(times.1, expected.clone(), seen));
    }
    fn may_keep_shared(&self) -> bool { self.live.lost_with_member > 0 }
}
