//! What the shard counts, as plain numbers: the edge exports them.

use std::ops::AddAssign;

use causeway_fleet::command::Outcome;

/// A bound of [`crate::Limits`] that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of Limits say it")]
pub enum Bound {
    PacketBytes,
    ReceiveMaximum,
    TopicAliasMaximum,
    TopicLevels,
    ClientIdBytes,
    SessionQueueMessages,
    SessionQueueBytes,
    SubscriptionsPerSession,
    Sessions,
    Connections,
    RetainedMessages,
    RetainedBytes,
    RetainedBacklog,
    OutboxBytes,
    ShadowVehicles,
    CommandPayloadBytes,
    CommandsPerVehicle,
    CommandsPerRequester,
    Commands,
    CommandsPendingBytes,
    CommandOutcomesBytes,
    FreeSpace,
}

impl Bound {
    /// All of them, in the order of [`Counters::bounds_reached`].
    pub const ALL: [Bound; 22] = [
        Bound::PacketBytes,
        Bound::ReceiveMaximum,
        Bound::TopicAliasMaximum,
        Bound::TopicLevels,
        Bound::ClientIdBytes,
        Bound::SessionQueueMessages,
        Bound::SessionQueueBytes,
        Bound::SubscriptionsPerSession,
        Bound::Sessions,
        Bound::Connections,
        Bound::RetainedMessages,
        Bound::RetainedBytes,
        Bound::RetainedBacklog,
        Bound::OutboxBytes,
        Bound::ShadowVehicles,
        Bound::CommandPayloadBytes,
        Bound::CommandsPerVehicle,
        Bound::CommandsPerRequester,
        Bound::Commands,
        Bound::CommandsPendingBytes,
        Bound::CommandOutcomesBytes,
        Bound::FreeSpace,
    ];

    /// The field of [`crate::Limits`], or of the edge's, which is also the key in a configuration file.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::PacketBytes => "packet_bytes_max",
            Bound::ReceiveMaximum => "receive_maximum",
            Bound::TopicAliasMaximum => "topic_alias_maximum",
            Bound::TopicLevels => "topic_levels_max",
            Bound::ClientIdBytes => "client_id_bytes_max",
            Bound::SessionQueueMessages => "session_queue_messages_max",
            Bound::SessionQueueBytes => "session_queue_bytes_max",
            Bound::SubscriptionsPerSession => "subscriptions_per_session_max",
            Bound::Sessions => "sessions_max",
            Bound::Connections => "connections_max",
            Bound::RetainedMessages => "retained_messages_max",
            Bound::RetainedBytes => "retained_bytes_max",
            Bound::RetainedBacklog => "retained_backlog_max",
            Bound::OutboxBytes => "outbox_bytes_max",
            Bound::ShadowVehicles => "vehicles_max",
            Bound::CommandPayloadBytes => "commands.payload_bytes_max",
            Bound::CommandsPerVehicle => "commands.pending_per_vehicle_max",
            Bound::CommandsPerRequester => "commands.pending_per_requester_max",
            Bound::Commands => "commands.pending_max",
            Bound::CommandsPendingBytes => "commands.pending_bytes_max",
            Bound::CommandOutcomesBytes => "commands.outcomes_bytes_max",
            Bound::FreeSpace => "free_space_floor_bytes",
        }
    }
}

/// Events since the shard started; they only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections accepted with CONNACK 0x00.
    pub connections_opened: u64,
    /// CONNECTs the shard refused because of a bound (`sessions_max`, `connections_max`) or a foreign session.
    pub connections_refused: u64,
    /// Connections ended by the broker with a reason code of 0x80 or above.
    pub disconnects_sent: u64,
    /// Connections ended because the peer broke the protocol.
    pub protocol_errors: u64,
    /// Connections ended because keep alive ran out.
    pub keep_alive_timeouts: u64,
    /// Connections replaced by a newer one with the same client identifier.
    pub takeovers: u64,
    /// PUBLISH packets received, by QoS.
    pub publish_received: [u64; 3],
    /// PUBLISH packets put into outboxes, by QoS; retransmissions included.
    pub publish_sent: [u64; 3],
    /// Payload bytes received in PUBLISH packets.
    pub payload_bytes_received: u64,
    /// Payload bytes put into outboxes.
    pub payload_bytes_sent: u64,
    /// Records appended to the log.
    pub records_appended: u64,
    /// PUBLISH refused because a session's or a shared subscription's queue was full (0x97).
    pub publish_refused_queue_full: u64,
    /// PUBLISH refused because the store of retained messages was full (0x97).
    pub publish_refused_retained_full: u64,
    /// PUBLISH refused because the disk is nearly full (0x97).
    pub publish_refused_disk_full: u64,
    /// Queued messages dropped for newer ones, where that is the listener's policy.
    pub dropped_oldest: u64,
    /// Messages that the log could not give back.
    pub bodies_lost: u64,
    /// PUBLISH refused as not authorised (0x87).
    pub publish_refused_unauthorized: u64,
    /// SUBSCRIBE filters refused, whatever the reason.
    pub subscriptions_refused: u64,
    /// QoS 0 messages dropped because the client's outbox was full.
    pub dropped_slow_consumer: u64,
    /// Messages dropped because the client's Maximum Packet Size is smaller.
    pub dropped_packet_too_large: u64,
    /// Messages not sent to clients who may not receive them.
    pub dropped_unauthorized: u64,
    /// Messages that expired before delivery.
    pub dropped_expired: u64,
    /// Queued messages that ended with their session.
    pub dropped_session_ended: u64,
    /// Will messages (or `$SYS` values) a full queue could not take.
    pub dropped_queue_full: u64,
    /// How often each bound was reached, in the order of [`Bound::ALL`].
    pub bounds_reached: [u64; Bound::ALL.len()],
    /// QoS 1 and 2 messages that the subscriber refused.
    pub refused_by_subscriber: u64,
    /// Wills published.
    pub wills_published: u64,
    /// Sessions that expired.
    pub sessions_expired: u64,
    /// Changes of shadows, by whomever.
    pub shadow_updates: u64,
    /// What was asked of a shadow and refused.
    pub shadow_rejections: u64,
    /// How often a client was not listened to for a while because it changed shadows faster than those are folded.
    pub shadow_waits: u64,
    /// Deltas put into outboxes of vehicles because they came back, or subscribed.
    pub shadow_deltas_again: u64,
    /// Commands requested, those that were refused and those that came again included.
    pub commands_requested: u64,
    /// Requests that were known by their idempotency key.
    pub commands_retried: u64,
    /// Commands that are over, in the order of [`Outcome::ALL`].
    pub commands_ended: [u64; Outcome::ALL.len()],
    /// Replies to commands that were over without one; dropped.
    pub replies_late: u64,
    /// Replies to commands that had one; dropped.
    pub replies_duplicate: u64,
    /// Replies to commands that the vehicle was not asked; dropped.
    pub replies_forged: u64,
    /// Outcomes that were larger than a client accepts, which was told that instead.
    pub outcomes_too_large: u64,
}

impl AddAssign<&Counters> for Counters {
    /// What several shards counted, together.
    fn add_assign(&mut self, other: &Counters) {
        // Taken apart, so that none can be forgotten.
        let Counters {
            connections_opened,
            connections_refused,
            disconnects_sent,
            protocol_errors,
            keep_alive_timeouts,
            takeovers,
            publish_received,
            publish_sent,
            payload_bytes_received,
            payload_bytes_sent,
            records_appended,
            publish_refused_queue_full,
            publish_refused_retained_full,
            publish_refused_disk_full,
            dropped_oldest,
            bodies_lost,
            publish_refused_unauthorized,
            subscriptions_refused,
            dropped_slow_consumer,
            dropped_packet_too_large,
            dropped_unauthorized,
            dropped_expired,
            dropped_session_ended,
            dropped_queue_full,
            bounds_reached,
            refused_by_subscriber,
            wills_published,
            sessions_expired,
            shadow_updates,
            shadow_rejections,
            shadow_waits,
            shadow_deltas_again,
            commands_requested,
            commands_retried,
            commands_ended,
            replies_late,
            replies_duplicate,
            replies_forged,
            outcomes_too_large,
        } = other;
        self.connections_opened += connections_opened;
        self.connections_refused += connections_refused;
        self.disconnects_sent += disconnects_sent;
        self.protocol_errors += protocol_errors;
        self.keep_alive_timeouts += keep_alive_timeouts;
        self.takeovers += takeovers;
        add_each(&mut self.publish_received, publish_received);
        add_each(&mut self.publish_sent, publish_sent);
        self.payload_bytes_received += payload_bytes_received;
        self.payload_bytes_sent += payload_bytes_sent;
        self.records_appended += records_appended;
        self.publish_refused_queue_full += publish_refused_queue_full;
        self.publish_refused_retained_full += publish_refused_retained_full;
        self.publish_refused_disk_full += publish_refused_disk_full;
        self.dropped_oldest += dropped_oldest;
        self.bodies_lost += bodies_lost;
        self.publish_refused_unauthorized += publish_refused_unauthorized;
        self.subscriptions_refused += subscriptions_refused;
        self.dropped_slow_consumer += dropped_slow_consumer;
        self.dropped_packet_too_large += dropped_packet_too_large;
        self.dropped_unauthorized += dropped_unauthorized;
        self.dropped_expired += dropped_expired;
        self.dropped_session_ended += dropped_session_ended;
        self.dropped_queue_full += dropped_queue_full;
        add_each(&mut self.bounds_reached, bounds_reached);
        self.refused_by_subscriber += refused_by_subscriber;
        self.wills_published += wills_published;
        self.sessions_expired += sessions_expired;
        self.shadow_updates += shadow_updates;
        self.shadow_rejections += shadow_rejections;
        self.shadow_waits += shadow_waits;
        self.shadow_deltas_again += shadow_deltas_again;
        self.commands_requested += commands_requested;
        self.commands_retried += commands_retried;
        add_each(&mut self.commands_ended, commands_ended);
        self.replies_late += replies_late;
        self.replies_duplicate += replies_duplicate;
        self.replies_forged += replies_forged;
        self.outcomes_too_large += outcomes_too_large;
    }
}

fn add_each<const N: usize>(to: &mut [u64; N], more: &[u64; N]) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
}

impl Counters {
    pub(crate) fn reached(&mut self, bound: Bound) {
        self.bounds_reached[bound as usize] += 1;
    }
}

/// What there is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Gauges {
    pub connections: u64,
    pub sessions: u64,
    pub subscriptions: u64,
    pub retained_messages: u64,
    pub retained_bytes: u64,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub inflight_messages: u64,
    pub body_bytes: u64,
    /// Vehicles with any shadow, deleted ones whose versions are remembered included.
    pub shadow_vehicles: u64,
    pub commands_pending: u64,
    pub commands_pending_bytes: u64,
    pub command_outcomes: u64,
    pub command_outcomes_bytes: u64,
}

impl AddAssign<&Gauges> for Gauges {
    /// What there is on several shards, together.
    fn add_assign(&mut self, other: &Gauges) {
        let Gauges {
            connections,
            sessions,
            subscriptions,
            retained_messages,
            retained_bytes,
            queued_messages,
            queued_bytes,
            inflight_messages,
            body_bytes,
            shadow_vehicles,
            commands_pending,
            commands_pending_bytes,
            command_outcomes,
            command_outcomes_bytes,
        } = other;
        self.connections += connections;
        self.sessions += sessions;
        self.subscriptions += subscriptions;
        // Each shard has all of them; one may be a little behind.
        self.retained_messages = self.retained_messages.max(*retained_messages);
        self.retained_bytes = self.retained_bytes.max(*retained_bytes);
        self.queued_messages += queued_messages;
        self.queued_bytes += queued_bytes;
        self.inflight_messages += inflight_messages;
        self.body_bytes += body_bytes;
        self.shadow_vehicles += shadow_vehicles;
        self.commands_pending += commands_pending;
        self.commands_pending_bytes += commands_pending_bytes;
        self.command_outcomes += command_outcomes;
        self.command_outcomes_bytes += command_outcomes_bytes;
    }
}
