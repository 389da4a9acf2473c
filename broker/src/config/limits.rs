//! The `[limits]` section.
//!
//! Owns the configured form of [`causeway_core::Limits`]: defaults, ranges and documentation. It enforces nothing.

use causeway_core::Limits;
use causeway_protocol::QoS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much of everything there may be. Reaching a limit is counted, and answered to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Bytes of one packet from a client, announced as Maximum Packet Size. A longer one: DISCONNECT 0x95 (packet too
    /// large).
    #[schemars(range(min = 64, max = 268_435_460))]
    pub packet_bytes_max: u32,
    /// Messages of QoS 1 and 2 that a client may have unacknowledged towards the broker, announced as Receive Maximum.
    /// More: DISCONNECT 0x93 (receive maximum exceeded). MQTT 3.x knows no such limit.
    #[schemars(range(min = 1, max = 65_535))]
    pub receive_maximum: u16,
    /// Messages of QoS 1 and 2 that the broker has unacknowledged towards one client, even if the client offers a
    /// larger Receive Maximum. More wait in the session's queue.
    #[schemars(range(min = 1, max = 65_535))]
    pub inflight_max: u16,
    /// Topic aliases a client may use towards the broker, announced as Topic Alias Maximum. A higher one: DISCONNECT
    /// 0x94 (topic alias invalid). 0 allows none.
    pub topic_alias_maximum: u16,
    /// Topic aliases the broker uses towards a client, even if its Topic Alias Maximum is larger. 0 uses none.
    pub topic_alias_outbound_max: u16,
    /// Levels (parts between slashes) of a topic name or filter. More: PUBLISH is answered with DISCONNECT 0x90 (topic
    /// name invalid), SUBSCRIBE with SUBACK 0x8F (topic filter invalid), a will with CONNACK 0x90.
    #[schemars(range(min = 1, max = 32_768))]
    pub topic_levels_max: usize,
    /// Bytes of a client identifier. A longer one: CONNACK 0x85 (client identifier not valid; 2 in MQTT 3.x).
    #[schemars(range(min = 23, max = 65_535))]
    pub client_id_bytes_max: usize,
    /// The longest keep alive in seconds. A client of MQTT 5 that asks for more, or for none, is told this one. 0
    /// leaves it to the clients.
    pub keep_alive_seconds_max: u16,
    /// The longest time in seconds that a session outlives its connection. A client of MQTT 5 that asks for more is
    /// told this one. 4294967295: for ever.
    #[schemars(range(max = 4_294_967_295u32))]
    pub session_expiry_seconds_max: u32,
    /// Seconds that a session of an MQTT 3.x client with clean session 0 outlives its connection (MQTT 3.x cannot say).
    /// 4294967295: for ever.
    #[schemars(range(max = 4_294_967_295u32))]
    pub session_expiry_v3_seconds: u32,
    /// Messages waiting for one session, and for one shared subscription. When it is full, the publisher gets PUBACK or
    /// PUBREC 0x97 (quota exceeded); one of MQTT 3.x is disconnected without an acknowledgement, so that it keeps the
    /// message.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub session_queue_messages_max: usize,
    /// Bytes of the messages waiting for one session, and for one shared subscription. When it is full, as above.
    #[schemars(range(min = 1024, max = 1_099_511_627_776u64))]
    pub session_queue_bytes_max: usize,
    /// Subscriptions of one session. More: SUBACK 0x97 (quota exceeded; 0x80 in MQTT 3.x).
    #[schemars(range(min = 1, max = 10_000_000))]
    pub subscriptions_per_session_max: usize,
    /// Sessions, connected or not. A client that needs one more: CONNACK 0x97 (quota exceeded; 3 in MQTT 3.x). Divided among
    /// shards: each has an equal part, for the clients whose home it is, so that one can be full a little before all are.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub sessions_max: usize,
    /// Connections open at the same time, over all listeners. One more: CONNACK 0x97 (quota exceeded; 3 in MQTT 3.x). Divided
    /// among shards.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_max: usize,
    /// Retained messages. A new topic more: PUBACK or PUBREC 0x97 (quota exceeded); a publisher of MQTT 3.x is
    /// disconnected. Each shard keeps all of them.
    #[schemars(range(max = 1_000_000_000))]
    pub retained_messages_max: usize,
    /// Bytes of all retained messages. More: PUBACK or PUBREC 0x97 (quota exceeded); a publisher of MQTT 3.x is
    /// disconnected. Each shard keeps all of them.
    #[schemars(range(max = 1_099_511_627_776u64))]
    pub retained_bytes_max: usize,
    /// Retained messages waiting to be sent to one session because it subscribed. A filter that would bring more: SUBACK
    /// 0x97 (quota exceeded; 0x80 in MQTT 3.x). Over all sessions of a shard, four times as many may wait.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub retained_backlog_max: usize,
    /// Bytes waiting in memory to be written to one connection. Above it, messages of QoS 0 for that slow client are
    /// dropped and counted, and those of QoS 1 and 2 wait in its session's queue.
    #[schemars(range(min = 4096, max = 1_073_741_824))]
    pub outbox_bytes_max: usize,
    /// Bytes of message bodies kept in memory where they can also be read from the disk. Without a data directory, the bodies of all
    /// queued messages are in memory. Divided among shards.
    #[schemars(range(min = 65_536, max = 1_099_511_627_776u64))]
    pub body_cache_bytes: usize,
    /// Topic filters of messages that go before all others that wait for the same session, such as "vehicles/+/cmd/#". Messages of one
    /// topic keep their order.
    #[schemars(length(max = 64), example = &["vehicles/+/cmd/#"])]
    pub urgent_topics: Vec<String>,
    /// The highest quality of service, 0, 1 or 2, announced as Maximum QoS. A PUBLISH above it: DISCONNECT 0x9B (QoS
    /// not supported). Subscriptions are granted no more.
    #[schemars(range(min = 0, max = 2))]
    pub maximum_qos: u8,
    /// Whether messages can be retained. If not, PUBLISH with retain: DISCONNECT 0x9A (retain not supported).
    pub retain_available: bool,
    /// Whether subscriptions to $share/... are possible. If not: SUBACK 0x9E (shared subscriptions not supported).
    pub shared_subscriptions: bool,
    /// Whether subscriptions with + and # are possible. If not: SUBACK 0xA2 (wildcard subscriptions not supported).
    pub wildcard_subscriptions: bool,
    /// Whether subscriptions can carry an identifier. If not: DISCONNECT 0xA1 (subscription identifiers not supported).
    pub subscription_identifiers: bool,
    /// Topic told to clients that ask for Response Information; {client_id} is replaced. Empty: none is told.
    #[schemars(length(max = 1024))]
    pub response_information: String,
    /// Seconds between two publications of the topics below $SYS/. 0 publishes none.
    #[schemars(range(min = 0, max = 86_400))]
    pub sys_interval_seconds: u32,
    /// For vehicles.
    pub vehicle: ClassLimits,
    /// For services, which are users and certificates of the backend.
    pub service: ClassLimits,
    /// For operators.
    pub operator: ClassLimits,
    /// For clients without credentials.
    pub anonymous: ClassLimits,
}

/// What one class of principals is held to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClassLimits {
    /// Connects per second of all of the class together. More: CONNACK 0x9F (connection rate exceeded; 3 in MQTT 3.x). 0 sets no limit.
    #[schemars(range(max = 1_000_000))]
    pub connects_per_second: u32,
    /// Connects per minute of one of them: of one vehicle or operator, of one client identifier of services and of clients without
    /// credentials. More: CONNACK 0x9F. 0 sets no limit.
    #[schemars(range(max = 60_000))]
    pub own_connects_per_minute: u32,
    /// Messages per second that a connection may publish. Beyond it the client is not read for a while; nothing is dropped. 0 sets no limit.
    #[schemars(range(max = 10_000_000))]
    pub messages_per_second: u32,
    /// Bytes per second that a connection may send, likewise. 0 sets no limit.
    #[schemars(range(max = 1_099_511_627_776u64))]
    pub bytes_per_second: u64,
    /// Who was quiet may use so many seconds' worth of these rates at once.
    #[schemars(range(min = 1, max = 3600))]
    pub burst_seconds: u32,
    /// With more connects than this within flapping_window_seconds, one of them, counted as for own_connects_per_minute, is banned for a while: CONNACK 0x8A (banned; 5 in MQTT 3.x).
    /// 0: never.
    #[schemars(range(max = 1000))]
    pub flapping_connects: u32,
    /// The time in which connects count as flapping.
    #[schemars(range(min = 1, max = 86_400))]
    pub flapping_window_seconds: u32,
    /// How long who flapped is banned.
    #[schemars(range(min = 1, max = 2_592_000))]
    pub flapping_ban_seconds: u32,
}

impl Default for ClassLimits {
    fn default() -> Self {
        ClassLimits {
            connects_per_second: 0,
            own_connects_per_minute: 0,
            messages_per_second: 0,
            bytes_per_second: 0,
            burst_seconds: 5,
            flapping_connects: 0,
            flapping_window_seconds: 60,
            flapping_ban_seconds: 300,
        }
    }
}

impl Default for LimitSettings {
    /// The shards' own defaults.
    fn default() -> Self {
        let limits = Limits::default();
        LimitSettings {
            packet_bytes_max: limits.packet_bytes_max,
            receive_maximum: limits.receive_maximum,
            inflight_max: limits.inflight_max,
            topic_alias_maximum: limits.topic_alias_maximum,
            topic_alias_outbound_max: limits.topic_alias_outbound_max,
            topic_levels_max: limits.topic_levels_max,
            client_id_bytes_max: limits.client_id_bytes_max,
            keep_alive_seconds_max: limits.keep_alive_seconds_max,
            session_expiry_seconds_max: limits.session_expiry_seconds_max,
            session_expiry_v3_seconds: limits.session_expiry_v3_seconds,
            session_queue_messages_max: limits.session_queue_messages_max,
            session_queue_bytes_max: limits.session_queue_bytes_max,
            subscriptions_per_session_max: limits.subscriptions_per_session_max,
            sessions_max: limits.sessions_max,
            connections_max: limits.connections_max,
            retained_messages_max: limits.retained_messages_max,
            retained_bytes_max: limits.retained_bytes_max,
            retained_backlog_max: limits.retained_backlog_max,
            outbox_bytes_max: limits.outbox_bytes_max,
            body_cache_bytes: limits.body_cache_bytes,
            urgent_topics: limits.urgent_topics,
            maximum_qos: limits.maximum_qos as u8,
            retain_available: limits.retain_available,
            shared_subscriptions: limits.shared_subscriptions,
            wildcard_subscriptions: limits.wildcard_subscriptions,
            subscription_identifiers: limits.subscription_identifiers,
            response_information: limits.response_information.unwrap_or_default(),
            sys_interval_seconds: limits.sys_interval_seconds,
            vehicle: ClassLimits::default(),
            service: ClassLimits::default(),
            operator: ClassLimits::default(),
            anonymous: ClassLimits::default(),
        }
    }
}

/// What one shard of several has of something that is for all of them together. The first ones have what division leaves.
fn share(whole: usize, shard: u32, shards: u32) -> usize {
    let (shard, shards) = (shard as usize, shards as usize);
    whole / shards + usize::from(shard < whole % shards)
}

impl LimitSettings {
    /// What one of so many shards is held to: all that is for the whole broker is divided here, and nowhere else.
    pub fn of_shard(&self, shard: u32, shards: u32) -> Limits {
        let share = |whole| share(whole, shard, shards.max(1));
        Limits {
            sessions_max: share(self.sessions_max),
            connections_max: share(self.connections_max),
            body_cache_bytes: share(self.body_cache_bytes),
            ..self.to_core()
        }
    }

    /// The form that the shards take, undivided.
    pub fn to_core(&self) -> Limits {
        let text = &self.response_information;
        Limits {
            packet_bytes_max: self.packet_bytes_max,
            receive_maximum: self.receive_maximum,
            inflight_max: self.inflight_max,
            topic_alias_maximum: self.topic_alias_maximum,
            topic_alias_outbound_max: self.topic_alias_outbound_max,
            topic_levels_max: self.topic_levels_max,
            client_id_bytes_max: self.client_id_bytes_max,
            keep_alive_seconds_max: self.keep_alive_seconds_max,
            session_expiry_seconds_max: self.session_expiry_seconds_max,
            session_expiry_v3_seconds: self.session_expiry_v3_seconds,
            session_queue_messages_max: self.session_queue_messages_max,
            session_queue_bytes_max: self.session_queue_bytes_max,
            subscriptions_per_session_max: self.subscriptions_per_session_max,
            sessions_max: self.sessions_max,
            connections_max: self.connections_max,
            retained_messages_max: self.retained_messages_max,
            retained_bytes_max: self.retained_bytes_max,
            retained_backlog_max: self.retained_backlog_max,
            outbox_bytes_max: self.outbox_bytes_max,
            body_cache_bytes: self.body_cache_bytes,
            urgent_topics: self.urgent_topics.clone(),
            retain_available: self.retain_available,
            shared_subscriptions: self.shared_subscriptions,
            wildcard_subscriptions: self.wildcard_subscriptions,
            subscription_identifiers: self.subscription_identifiers,
            sys_interval_seconds: self.sys_interval_seconds,
            maximum_qos: match self.maximum_qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            response_information: (!text.is_empty()).then(|| text.clone()),
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_shards() {
        assert_eq!(LimitSettings::default().to_core(), Limits::default());
        assert_eq!(LimitSettings::default().of_shard(0, 1), Limits::default());
    }

    #[test]
    fn shards_have_shares_and_together_the_whole() {
        let settings = LimitSettings { connections_max: 11, retained_messages_max: 2, ..LimitSettings::default() };
        for shards in 1..=5 {
            let limits: Vec<_> = (0..shards).map(|shard| settings.of_shard(shard, shards)).collect();
            let sum = |of: fn(&Limits) -> usize| limits.iter().map(of).sum::<usize>();
            assert_eq!(sum(|it| it.connections_max), 11);
            assert_eq!(sum(|it| it.sessions_max), settings.sessions_max);
            assert!(limits.iter().all(|it| it.retained_messages_max == 2), "each keeps all");
            assert_eq!(sum(|it| it.body_cache_bytes), settings.body_cache_bytes);
            let connections = limits.iter().map(|it| it.connections_max);
            assert!(connections.clone().max().unwrap() - connections.min().unwrap() <= 1);
            assert!(limits.iter().all(|it| it.outbox_bytes_max == settings.outbox_bytes_max), "that is of one session");
        }
    }
}
