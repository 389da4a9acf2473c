//! Every bound of the shard, with its default. Each is answered with a reason code when it is reached and counted in
//! [`crate::Counters`]; none is ever applied silently.

use causeway_fleet::query::Fields;
use causeway_protocol::QoS;

/// What becomes of a message that a full queue can't take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is refused, so that its publisher knows (0x97).
    #[default]
    RefuseNew,
    /// The oldest messages of the queue are dropped to make room, counted and told on `$SYS/broker/overflow/{client}`.
    DropOldest,
}

/// The bounds and capabilities of a broker. `Default` is what `causewayd` starts with.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Largest packet accepted from a client, fixed header included; announced in CONNACK.
    pub packet_bytes_max: u32,
    /// QoS 1 and 2 messages a client may have unacknowledged towards the broker; announced as Receive Maximum.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages the broker keeps unacknowledged towards one client, whatever larger Receive Maximum the
    /// client offers.
    pub inflight_max: u16,
    /// Topic aliases a client may use towards the broker; announced.
    pub topic_alias_maximum: u16,
    /// Topic aliases the broker uses towards one client, whatever larger maximum the client offers.
    pub topic_alias_outbound_max: u16,
    /// Levels in a topic name or filter.
    pub topic_levels_max: usize,
    /// Length of a client identifier in bytes.
    pub client_id_bytes_max: usize,
    /// Longest keep alive; a 5.0 client that asks for more (or none) is told this one. 0 leaves it to the client.
    pub keep_alive_seconds_max: u16,
    /// Longest session expiry interval; `u32::MAX` means no bound.
    pub session_expiry_seconds_max: u32,
    /// Session expiry interval of 3.x clients that connect with clean session 0.
    pub session_expiry_v3_seconds: u32,
    /// Messages queued for one session (and for one shared subscription).
    pub session_queue_messages_max: usize,
    /// Bytes queued for one session (and for one shared subscription).
    pub session_queue_bytes_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: usize,
    /// Sessions, connected or not.
    pub sessions_max: usize,
    /// Connections that have sent CONNECT.
    pub connections_max: usize,
    /// Retained messages.
    pub retained_messages_max: usize,
    /// Bytes of retained messages.
    pub retained_bytes_max: usize,
    /// Retained messages that wait to be sent to one session because it subscribed; a filter that would bring more is
    /// refused. Over all sessions, four times as many may wait.
    pub retained_backlog_max: usize,
    /// Bytes waiting to be written to one client. Above it QoS 0 messages for that client are dropped and counted, and
    /// QoS 1 and 2 messages wait in its queue.
    pub outbox_bytes_max: usize,
    /// Bytes of message bodies kept in memory where they can also be read from the log.
    pub body_cache_bytes: usize,
    /// Topic filters of messages that go before others that wait for the same session, such as `vehicles/+/cmd/#`.
    pub urgent_topics: Vec<String>,
    /// Highest QoS on offer; announced.
    pub maximum_qos: QoS,
    /// Whether retained messages are on offer; announced.
    pub retain_available: bool,
    /// Whether shared subscriptions are on offer; announced.
    pub shared_subscriptions: bool,
    /// Whether wildcard subscriptions are on offer; announced.
    pub wildcard_subscriptions: bool,
    /// Whether subscription identifiers are on offer; announced.
    pub subscription_identifiers: bool,
    /// What a client that requests response information is told; `{client_id}` stands for its identifier.
    pub response_information: Option<String>,
    /// Seconds between publications of `$SYS` topics; 0 turns them off.
    pub sys_interval_seconds: u32,
    /// Whether it is told on `$presence/{vin}` which vehicles are connected.
    pub presence: bool,
    /// Bytes of one shadow's desired and reported state, as JSON without white space.
    pub shadow_state_bytes_max: usize,
    /// Levels of a shadow's state.
    pub shadow_depth_max: usize,
    /// Vehicles of this shard that have shadows.
    pub shadow_vehicles_max: usize,
    /// Leaves of one shadow's desired and reported state, with each element of a list for one.
    pub shadow_leaves_max: usize,
    /// Named shadows of one vehicle.
    pub shadows_named_max: usize,
    /// Seconds until a command without a Message Expiry Interval is over.
    pub command_deadline_seconds: u32,
    /// Seconds until a command is over, whatever was asked for.
    pub command_deadline_seconds_max: u32,
    /// Bytes of a command's payload.
    pub command_payload_bytes_max: usize,
    /// Commands that are pending of one vehicle.
    pub commands_per_vehicle_max: usize,
    /// Commands that are pending for one requester, in this shard.
    pub commands_per_requester_max: usize,
    /// Commands that are pending in this shard.
    pub commands_max: usize,
    /// Bytes of the commands that are pending in this shard: those that wait for their vehicle with their message.
    pub commands_bytes_max: usize,
    /// Bytes of the commands in this shard that are over, with what their requesters were told. Those with an idempotency key are not forgotten
    /// before their time: where they leave no room, requests with one are refused.
    pub command_outcomes_bytes_max: usize,
    /// Seconds for which it is known what became of a command.
    pub command_outcomes_kept_seconds: u32,
    /// Whether services and operators are told of each message who published it.
    pub stamps_origin: bool,
    /// Fields of classic shadows by which vehicles are found.
    pub shadow_index: Fields,
    /// Days for which it is kept what became of shadows; 0 keeps nothing of it.
    pub shadow_history_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            packet_bytes_max: 1 << 20,
            receive_maximum: 1024,
            inflight_max: 1024,
            topic_alias_maximum: 64,
            topic_alias_outbound_max: 64,
            topic_levels_max: 64,
            client_id_bytes_max: 256,
            keep_alive_seconds_max: 0,
            session_expiry_seconds_max: u32::MAX,
            session_expiry_v3_seconds: 7 * 24 * 3600,
            session_queue_messages_max: 10_000,
            session_queue_bytes_max: 64 << 20,
            subscriptions_per_session_max: 1000,
            sessions_max: 1_000_000,
            connections_max: 1_000_000,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            retained_backlog_max: 1_000_000,
            outbox_bytes_max: 1 << 20,
            body_cache_bytes: 64 << 20,
            urgent_topics: Vec::new(),
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            shared_subscriptions: true,
            wildcard_subscriptions: true,
            subscription_identifiers: true,
            response_information: Some("response/{client_id}".to_owned()),
            sys_interval_seconds: 10,
            presence: true,
            shadow_state_bytes_max: 8192,
            shadow_depth_max: 8,
            shadow_vehicles_max: 1_000_000,
            shadow_leaves_max: 1024,
            shadows_named_max: 16,
            command_deadline_seconds: 30,
            command_deadline_seconds_max: 604_800,
            command_payload_bytes_max: 64 << 10,
            commands_per_vehicle_max: 64,
            commands_per_requester_max: 10_000,
            commands_max: 100_000,
            commands_bytes_max: 128 << 20,
            command_outcomes_bytes_max: 256 << 20,
            command_outcomes_kept_seconds: 3600,
            stamps_origin: true,
            shadow_index: Fields::default(),
            shadow_history_days: 30,
        }
    }
}
