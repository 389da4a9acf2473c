//! The broker's own word: `$SYS` topics, the names that Mosquitto made common.
//!
//! Owns which figures are published and when. They are retained, never recorded.

use causeway_protocol::QoS;

use super::Shard;
use super::deliver::Origin;
use super::timers::Timer;
use crate::Millis;
use crate::message::Publication;

impl Shard {
    pub(super) fn start_sys(&mut self, now: Millis) {
        if self.limits.sys_interval_seconds > 0 {
            self.timers.set(now, Timer::Sys);
        }
    }

    pub(super) fn on_sys(&mut self, now: Millis) {
        let uptime_seconds = now.0.saturating_sub(self.started.0) / 1000;
        self.publish_sys("version", &self.sys_version.clone(), now);
        self.publish_sys("uptime", &format!("{uptime_seconds} seconds"), now);
        let (gauges, counters) = (self.survey(), self.counters);
        let figures = [
            ("clients/connected", gauges.connections),
            ("clients/disconnected", gauges.sessions - gauges.connections.min(gauges.sessions)),
            ("clients/total", gauges.sessions),
            ("subscriptions/count", gauges.subscriptions),
            ("retained messages/count", gauges.retained_messages),
            ("store/messages/count", gauges.queued_messages + gauges.inflight_messages),
            ("store/messages/bytes", gauges.queued_bytes),
            ("messages/received", counters.publish_received.iter().sum()),
            ("messages/sent", counters.publish_sent.iter().sum()),
            ("publish/messages/dropped", counters.dropped_slow_consumer + counters.dropped_packet_too_large),
            ("publish/bytes/received", counters.payload_bytes_received),
            ("publish/bytes/sent", counters.payload_bytes_sent),
        ];
        for (name, figure) in figures {
            self.publish_sys(name, &figure.to_string(), now);
        }
        self.timers.set(now.plus_seconds(self.limits.sys_interval_seconds), Timer::Sys);
    }

    /// Tells what happened, to whoever listens now.
    pub(super) fn tell_sys(&mut self, name: &str, text: &str, now: Millis) {
        let topic = format!("$SYS/broker/{name}");
        let mut publication = Publication::plain(&topic, text.as_bytes(), QoS::AtMostOnce);
        publication.provenance = self.own_origin(now);
        self.route_own(now, &mut publication, Origin::Broker);
    }

    fn publish_sys(&mut self, name: &str, text: &str, now: Millis) {
        let topic = format!("$SYS/broker/{name}");
        let mut publication = Publication::plain(&topic, text.as_bytes(), QoS::AtMostOnce);
        publication.retain = true;
        publication.provenance = self.own_origin(now);
        self.route_own(now, &mut publication, Origin::Broker);
    }
}
