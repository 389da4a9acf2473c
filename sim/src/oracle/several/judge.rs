//! The oracle of several shards as the world sees it.
//!
//! Owns no rule.

use causeway_core::{Counters, Gauges};
use causeway_protocol::{Packet, Publish, QoS};

use super::Several;
use crate::message::{MessageId, Registry};
use crate::oracle::input::{Asked, Wanted};
use crate::oracle::state::{ClientIndex, LinkId};
use crate::oracle::{Judge, Rule, Tally, Violation};

#[rustfmt::skip]
impl Judge for Several {
    fn registry(&self) -> &Registry { &self.registry }
    fn registry_mut(&mut self) -> &mut Registry { &mut self.registry }
    fn tally(&mut self) -> &mut Tally { &mut self.tally }
    fn breach(&mut self, rule: Rule, detail: String) { self.breach(rule, detail); }
    fn violations(&self) -> &[Violation] { &self.violations }
    fn is_tainted(&self) -> bool { false }
    fn drops_oldest(&self, client: ClientIndex) -> bool { self.drops_oldest[client] }

    fn filters_of(&self, client: ClientIndex) -> Vec<usize> {
        let stays = self.sessions[client].iter().flat_map(|session| &session.stays);
        stays.filter(|stay| stay.ended.is_none() && !stay.sub.follows).map(|stay| stay.filter).collect()
    }
    fn epoch_of(&self, client: ClientIndex) -> u64 {
        self.sessions[client].as_ref().map_or(0, |session| session.epoch)
    }
    fn is_open(&self, link: LinkId) -> bool { self.conns.get(&link).is_some_and(|conn| conn.is_open) }

    // Each shard has records of its own: what must be durable is seen after a crash.
    fn begin(&mut self, _: u64, _: u64) {}
    fn set_durable(&mut self, _: u64) {}
    fn would_collide(&self, _: u64) -> bool { false }
    fn restarted(&mut self, now: u64, _: u64, _: u64, _: u64) { self.restarted(now); }
    fn tick(&mut self, now: u64, silent: &[LinkId]) { self.tick(now, silent); }

    fn open(&mut self, now: u64, link: LinkId, asked: Asked) { self.open(now, link, asked); }
    fn heard(&mut self, now: u64, link: LinkId) -> Option<ClientIndex> { self.heard(now, link) }
    fn publish(&mut self, now: u64, link: LinkId, message: MessageId, packet_id: u16, refused: bool) {
        self.publish(now, link, message, packet_id, refused);
    }
    fn puback(&mut self, _: u64, _: LinkId, _: u16) {}
    fn pubrec(&mut self, _: LinkId, _: u16) {}
    fn pubrel(&mut self, link: LinkId, packet_id: u16) { self.pubrel(link, packet_id); }
    fn pubcomp(&mut self, _: u64, _: LinkId, _: u16) {}
    fn subscribe(&mut self, _: u64, link: LinkId, packet_id: u16, wanted: &[Wanted]) { self.subscribe(link, packet_id, wanted); }
    fn unsubscribe(&mut self, link: LinkId, packet_id: u16, filters: &[usize]) { self.unsubscribe(link, packet_id, filters); }
    fn regroup(&mut self, _: u64, client: ClientIndex, groups: u64) { self.regroup(client, groups); }
    fn disconnect(&mut self, now: u64, link: LinkId, expiry_seconds: Option<u32>, with_will: bool) {
        self.disconnect(now, link, expiry_seconds, with_will);
    }
    fn closed(&mut self, now: u64, link: LinkId) { self.closed(now, link); }

    fn emitted(&mut self, now: u64, link: LinkId, packet: &Packet<'_>, topic: &str) { self.emitted(now, link, packet, topic); }
    fn left(&mut self, link: LinkId) { self.left(link); }
    fn end_input(&mut self, dropped: bool, _: &Counters, _: Option<Gauges>) {
        if dropped { self.forgive_qos_0(|_| true); }
    }
    fn taken(&mut self, client: (ClientIndex, u64), publish: &Publish<'_>, topic: &str, is_new: bool) {
        self.taken(client, publish, topic, is_new);
    }

    fn settled(&mut self, now: u64, gauges: &[Gauges]) { self.settled(now, gauges); }
    fn retained(&self, _: u64) -> Vec<(MessageId, QoS)> { Vec::new() }
    fn judge_found(&mut self, times: (u64, u64), _: Vec<(MessageId, QoS)>, seen: Vec<Vec<(MessageId, QoS)>>) {
        self.judge_found(times, seen);
    }
    fn may_keep_shared(&self) -> bool { false }
}
