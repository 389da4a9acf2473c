//! The metrics, in the text format of Prometheus.
//!
//! Owns names, units and help. The numbers are kept elsewhere: each scrape copies them. What clients do is told for the whole broker; what
//! belongs to a log, or says whether shards bear the same load, is told for each shard, with the label `shard`.

use std::sync::atomic::Ordering;

use causeway_core::{Bound, Counters, Gauges};
use causeway_fleet::command::Outcome;
use prometheus::{CounterVec, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use super::{Source, process};
use crate::audit::AuditCounts;
use crate::config::Config;
use crate::jobs::JobCounts;
use crate::server::{EdgeCounters, LogReport, ObservedShard};

/// Metrics of one number: name, help, and where the number is.
type Table<T> = [(&'static str, &'static str, fn(&T) -> u64)];

const SHARD_COUNTERS: &Table<Counters> = &[
    ("causeway_connections_opened_total", "Connections accepted with CONNACK 0x00.", |c| c.connections_opened),
    (
        "causeway_connections_refused_total",
        "Connections refused after authentication: sessions_max or connections_max was reached, or the session is another user's.",
        |c| c.connections_refused,
    ),
    ("causeway_disconnects_sent_total", "Connections ended by the broker with a reason code of 0x80 or above.", |c| {
        c.disconnects_sent
    }),
    ("causeway_protocol_errors_total", "Connections ended because the client broke the protocol.", |c| {
        c.protocol_errors
    }),
    ("causeway_keep_alive_timeouts_total", "Connections ended because nothing came in time.", |c| {
        c.keep_alive_timeouts
    }),
    ("causeway_takeovers_total", "Connections replaced by a newer one of the same client identifier.", |c| c.takeovers),
    ("causeway_payload_received_bytes_total", "Payload of PUBLISH packets received.", |c| c.payload_bytes_received),
    ("causeway_payload_sent_bytes_total", "Payload of PUBLISH packets sent.", |c| c.payload_bytes_sent),
    ("causeway_log_records_total", "Records appended to the log.", |c| c.records_appended),
    (
        "causeway_subscriptions_refused_total",
        "Topic filters of SUBSCRIBE refused, for whatever reason: subscriptions_per_session_max, topic_levels_max and \
         retained_backlog_max among them.",
        |c| c.subscriptions_refused,
    ),
    ("causeway_refused_by_subscriber_total", "Messages that the subscriber refused.", |c| c.refused_by_subscriber),
    ("causeway_wills_published_total", "Will messages published.", |c| c.wills_published),
    ("causeway_sessions_expired_total", "Sessions that expired.", |c| c.sessions_expired),
    ("causeway_shadow_updates_total", "Changes of shadows: what was merged, deleted or expired.", |c| c.shadow_updates),
    ("causeway_shadow_rejected_total", "What was asked of a shadow, and rejected.", |c| c.shadow_rejections),
    (
        "causeway_shadow_waits_total",
        "How often a client was not listened to for a while because it changed shadows faster than they are folded.",
        |c| c.shadow_waits,
    ),
    (
        "causeway_shadow_deltas_again_total",
        "Deltas that vehicles were sent because they came back, or subscribed.",
        |c| c.shadow_deltas_again,
    ),
    (
        "causeway_commands_requested_total",
        "Requests of commands, those that were refused or came again included.",
        |c| c.commands_requested,
    ),
    ("causeway_commands_retried_total", "Requests of commands that were known by their idempotency key.", |c| {
        c.commands_retried
    }),
    (
        "causeway_outcomes_too_large_total",
        "Outcomes of commands that were larger than a client accepts, which was told that in their place.",
        |c| c.outcomes_too_large,
    ),
];

/// `causeway_replies_dropped_total`, by reason.
const REPLIES_DROPPED: &Labelled<Counters> =
    &[("late", |c| c.replies_late), ("duplicate", |c| c.replies_duplicate), ("forged", |c| c.replies_forged)];

/// Label and number of each.
type Labelled<T> = [(&'static str, fn(&T) -> u64)];

/// `causeway_publish_refused_total`, by reason.
const PUBLISH_REFUSED: &Labelled<Counters> = &[
    ("session_queue_max", |c| c.publish_refused_queue_full),
    ("retained_max", |c| c.publish_refused_retained_full),
    ("free_space_floor", |c| c.publish_refused_disk_full),
    ("not_authorized", |c| c.publish_refused_unauthorized),
];

/// `causeway_messages_dropped_total`, by reason.
const MESSAGES_DROPPED: &Labelled<Counters> = &[
    ("outbox_bytes_max", |c| c.dropped_slow_consumer),
    ("packet_too_large", |c| c.dropped_packet_too_large),
    ("not_authorized", |c| c.dropped_unauthorized),
    ("expired", |c| c.dropped_expired),
    ("session_ended", |c| c.dropped_session_ended),
    ("session_queue_max", |c| c.dropped_queue_full),
    ("drop_oldest", |c| c.dropped_oldest),
    ("body_lost", |c| c.bodies_lost),
];

const QOS: &[&str] = &["0", "1", "2"];

const SHARD_GAUGES: &Table<Gauges> = &[
    ("causeway_connections", "Connections that have sent CONNECT.", |g| g.connections),
    ("causeway_sessions", "Sessions, connected or not.", |g| g.sessions),
    ("causeway_subscriptions", "Subscriptions of all sessions.", |g| g.subscriptions),
    ("causeway_retained_messages", "Retained messages; each shard keeps all of them.", |g| g.retained_messages),
    ("causeway_retained_bytes", "Retained messages, in bytes; each shard keeps all of them.", |g| g.retained_bytes),
    ("causeway_queued_messages", "Messages waiting for sessions.", |g| g.queued_messages),
    ("causeway_queued_bytes", "Messages waiting for sessions, in bytes.", |g| g.queued_bytes),
    ("causeway_body_cache_bytes", "Bodies of messages in memory, in bytes.", |g| g.body_bytes),
    (
        "causeway_shadow_vehicles",
        "Vehicles with a shadow, those whose shadows were deleted in the last two days included.",
        |g| g.shadow_vehicles,
    ),
    ("causeway_inflight_messages", "Messages sent and not yet acknowledged.", |g| g.inflight_messages),
    ("causeway_commands_pending", "Commands that are not over.", |g| g.commands_pending),
    ("causeway_commands_pending_bytes", "Commands that are not over, in bytes.", |g| g.commands_pending_bytes),
    ("causeway_command_outcomes", "Commands that are over, and of which it is known what became of them.", |g| {
        g.command_outcomes
    }),
    (
        "causeway_command_outcomes_bytes",
        "Commands that are over, and of which it is known what became of them, in bytes.",
        |g| g.command_outcomes_bytes,
    ),
];

const EDGE_COUNTERS: &Table<EdgeCounters> = &[
    ("causeway_sockets_accepted_total", "Sockets accepted by the listeners.", |e| e.accepted.get()),
    ("causeway_accept_errors_total", "Accepts that failed, mostly for want of file descriptors.", |e| {
        e.accept_errors.get()
    }),
    (
        "causeway_sockets_refused_total",
        "Sockets closed at once because connections_max of their listener was reached.",
        |e| e.refused_limit.get(),
    ),
    (
        "causeway_handshakes_refused_total",
        "Sockets refused before CONNACK 0x00: wrong credentials, no CONNECT, no PROXY header and the like.",
        |e| e.refused_handshake.get(),
    ),
    (
        "causeway_handshake_timeouts_total",
        "Sockets whose CONNECT was not complete within connect_timeout_seconds.",
        |e| e.handshake_timeouts.get(),
    ),
    (
        "causeway_handshake_bytes_refused_total",
        "Sockets refused because all handshakes together held too many bytes.",
        |e| e.refused_handshake_bytes.get(),
    ),
    ("causeway_tls_failures_total", "TLS handshakes or sessions that failed.", |e| e.tls_failures.get()),
    ("causeway_websocket_failures_total", "WebSocket upgrades or sessions that failed.", |e| {
        e.websocket_failures.get()
    }),
    ("causeway_write_stalls_total", "Connections closed because they took nothing for too long.", |e| {
        e.write_stalls.get()
    }),
    (
        "causeway_connect_rate_refused_total",
        "Sockets refused because connects_per_second or own_connects_per_minute of a class was reached.",
        |e| e.refused_rate.get(),
    ),
    ("causeway_banned_refused_total", "Sockets refused because of a ban.", |e| e.refused_banned.get()),
    ("causeway_flapping_bans_total", "Bans because somebody connected too often.", |e| e.flapping_bans.get()),
    (
        "causeway_reads_paused_total",
        "Times that a client was not read for a while because it sent more than its rate.",
        |e| e.reads_paused.get(),
    ),
    ("causeway_received_bytes_total", "Bytes read from sockets.", |e| e.bytes_received.get()),
    ("causeway_sent_bytes_total", "Bytes written to sockets.", |e| e.bytes_sent.get()),
];

const AUDIT_COUNTERS: &Table<AuditCounts> = &[
    ("causeway_audit_lines_total", "Lines of the audit log that are on the disk.", |a| a.lines.load(Ordering::Relaxed)),
    (
        "causeway_audit_lost_total",
        "Events that are not in the audit log: its queue was full, or the disk failed. The log says so, too.",
        |a| a.lost.load(Ordering::Relaxed),
    ),
    ("causeway_audit_write_failures_total", "Writes to the audit log that failed.", |a| {
        a.failures.load(Ordering::Relaxed)
    }),
];

/// How the load of the broker is spread over its shards.
const LOAD_GAUGES: &Table<(Counters, Gauges)> = &[
    ("causeway_shard_connections", "Connections of the shard that have sent CONNECT.", |(_, g)| g.connections),
    ("causeway_shard_sessions", "Sessions of the shard, connected or not.", |(_, g)| g.sessions),
    ("causeway_shard_queued_messages", "Messages waiting for sessions of the shard.", |(_, g)| g.queued_messages),
    ("causeway_shard_queued_bytes", "Messages waiting for sessions of the shard, in bytes.", |(_, g)| g.queued_bytes),
];

/// Likewise.
const LOAD_COUNTERS: &Table<(Counters, Gauges)> = &[
    ("causeway_shard_publish_received_total", "PUBLISH packets that the shard received.", |(c, _)| {
        c.publish_received.iter().sum()
    }),
    (
        "causeway_shard_publish_sent_total",
        "PUBLISH packets that the shard sent, those sent again included.",
        |(c, _)| c.publish_sent.iter().sum(),
    ),
    ("causeway_shard_log_records_total", "Records that the shard appended to its log.", |(c, _)| c.records_appended),
];

const LOG_GAUGES: &Table<LogReport> = &[
    ("causeway_log_bytes", "Bytes set aside on the disk for the log.", |l| l.bytes.get()),
    ("causeway_log_segments", "Segments of the log.", |l| l.segments.get()),
    ("causeway_log_unsynced_bytes", "Bytes of records that are not durable yet.", |l| l.unsynced_bytes.get()),
    ("causeway_log_full", "Whether records wait because the disk has no room for them.", |l| l.is_full().into()),
    (
        "causeway_storage_low",
        "Whether new messages of QoS 1 and 2 are refused because the disk has too little room.",
        |l| l.refusing.get(),
    ),
    ("causeway_state_bytes", "Bytes of the file of the folded state.", |l| l.state_bytes.get()),
    (
        "causeway_fold_timestamp_seconds",
        "When a fold last became durable, in seconds since 1970; 0 before the first. Without changes there is none.",
        |l| l.folded_at_seconds.get(),
    ),
];

const LOG_COUNTERS: &Table<LogReport> = &[
    ("causeway_log_synced_bytes_total", "Bytes of records that became durable.", |l| l.synced_bytes.get()),
    ("causeway_log_full_total", "How often the disk was found to have no room for records.", |l| l.full_events.get()),
    ("causeway_folds_total", "Folds of the state that became durable.", |l| l.folds.get()),
    ("causeway_folds_failed_total", "Folds of the state that failed, and are tried again.", |l| l.fold_failures.get()),
    ("causeway_fold_bytes_total", "Bytes that folds of the state wrote.", |l| l.fold_bytes.get()),
    ("causeway_bodies_fetched_total", "Messages that were read back from the disk.", |l| l.bodies_fetched.get()),
    ("causeway_body_read_failures_total", "Reads of messages that failed and are tried again.", |l| {
        l.read_failures.get()
    }),
    ("causeway_bodies_unreadable_total", "Messages that could not be read back from the disk.", |l| l.unreadable.get()),
];

/// All metrics.
///
/// # Errors
/// A bug: two metrics of one name.
pub(super) fn text(config: &Config, source: &dyn Source) -> prometheus::Result<String> {
    let page = Page(Registry::new());
    let (shards, edge) = (source.shards(), source.edge());
    let (counters, gauges) = ObservedShard::sum(shards);
    page.build()?;
    page.limits(config)?;
    page.counters(SHARD_COUNTERS, &counters)?;
    page.by_reason("causeway_publish_refused_total", "PUBLISH packets refused.", PUBLISH_REFUSED, &counters)?;
    page.by_reason(
        "causeway_messages_dropped_total",
        "Messages that a session did not get.",
        MESSAGES_DROPPED,
        &counters,
    )?;
    page.by_reason(
        "causeway_replies_dropped_total",
        "Replies of vehicles to commands that were over, or that they were not asked.",
        REPLIES_DROPPED,
        &counters,
    )?;
    page.outcomes(&counters)?;
    page.bounds(&counters, &edge)?;
    page.by_qos("causeway_publish_received_total", "PUBLISH packets received.", counters.publish_received)?;
    page.by_qos(
        "causeway_publish_sent_total",
        "PUBLISH packets sent, those sent again included.",
        counters.publish_sent,
    )?;
    page.gauges(SHARD_GAUGES, &gauges)?;
    page.load(shards)?;
    page.counters(EDGE_COUNTERS, &edge)?;
    if config.storage.data_directory.is_some() {
        page.logs(shards)?;
    }
    page.logins(source)?;
    if config.audit.directory.is_some() {
        page.counters(AUDIT_COUNTERS, &source.audit())?;
    }
    page.listeners(config, source)?;
    if let Some(jobs) = source.jobs() {
        page.jobs(&jobs.counts())?;
    }
    page.process()?;
    TextEncoder::new().encode_to_string(&page.0.gather())
}

struct Page(Registry);

impl Page {
    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        let family = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counters<T>(&self, table: &Table<T>, numbers: &T) -> prometheus::Result<()> {
        for (name, help, number) in table {
            self.counter(name, help, &[])?.with_label_values::<&str>(&[]).inc_by(number(numbers));
        }
        Ok(())
    }

    fn gauges<T>(&self, table: &Table<T>, numbers: &T) -> prometheus::Result<()> {
        for (name, help, number) in table {
            self.gauge(name, help, &[])?.with_label_values::<&str>(&[]).set(signed(number(numbers)));
        }
        Ok(())
    }

    fn by_reason<T>(&self, name: &str, help: &str, table: &Labelled<T>, numbers: &T) -> prometheus::Result<()> {
        let family = self.counter(name, help, &["reason"])?;
        for (reason, number) in table {
            family.with_label_values(&[reason]).inc_by(number(numbers));
        }
        Ok(())
    }

    fn bounds(&self, counters: &Counters, edge: &EdgeCounters) -> prometheus::Result<()> {
        let help = "How often a limit was reached, and answered as docs/configuration.md says.";
        let family = self.counter("causeway_limit_reached_total", help, &["limit"])?;
        let counts = counters.bounds_reached.into_iter().zip(&edge.bounds_reached);
        for (bound, (shard, edge)) in Bound::ALL.iter().zip(counts) {
            family.with_label_values(&[bound.name()]).inc_by(shard + edge.get());
        }
        Ok(())
    }

    fn outcomes(&self, counters: &Counters) -> prometheus::Result<()> {
        let family =
            self.counter("causeway_commands_ended_total", "Commands that are over, by outcome.", &["outcome"])?;
        for (outcome, number) in Outcome::ALL.iter().zip(counters.commands_ended) {
            family.with_label_values(&[outcome.word()]).inc_by(number);
        }
        Ok(())
    }

    fn jobs(&self, counts: &JobCounts) -> prometheus::Result<()> {
        let states = self.gauge("causeway_jobs", "Jobs that are known, by state.", &["state"])?;
        for (state, number) in &counts.by_state {
            states.with_label_values(&[state]).set(signed(*number));
        }
        let held_up = "Jobs that do not get on, though nobody has paused them: GET /v1/jobs says why.";
        self.gauge("causeway_jobs_held_up", held_up, &[])?.with_label_values::<&str>(&[]).set(signed(counts.held_up));
        let left = self.gauge(
            "causeway_job_vehicles_left",
            "Vehicles that have no result yet, of jobs that are not over.",
            &[],
        )?;
        left.with_label_values::<&str>(&[]).set(signed(counts.vehicles_left));
        let results = self.counter(
            "causeway_job_results_total",
            "Results of jobs, one for each vehicle, by outcome.",
            &["outcome"],
        )?;
        for (outcome, number) in &counts.results {
            results.with_label_values(&[outcome]).inc_by(*number);
        }
        Ok(())
    }

    fn by_qos(&self, name: &str, help: &str, numbers: [u64; 3]) -> prometheus::Result<()> {
        let family = self.counter(name, help, &["qos"])?;
        for (qos, number) in QOS.iter().zip(numbers) {
            family.with_label_values(&[qos]).inc_by(number);
        }
        Ok(())
    }

    fn build(&self) -> prometheus::Result<()> {
        let family = self.gauge("causeway_build_info", "The version, as a label.", &["version"])?;
        family.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(())
    }

    /// Every numeric limit, under its name in the configuration: no list of them here could fall behind.
    fn limits(&self, config: &Config) -> prometheus::Result<()> {
        let family = self.gauge("causeway_limit", "Limits as configured.", &["limit"])?;
        let limits = serde_json::to_value(&config.limits).unwrap_or_default();
        for (name, value) in limits.as_object().into_iter().flatten() {
            if let Some(value) = value.as_u64() {
                family.with_label_values(&[name]).set(signed(value));
            }
        }
        let commands = serde_json::to_value(&config.commands).unwrap_or_default();
        for (name, value) in commands.as_object().into_iter().flatten() {
            if let Some(value) = value.as_u64() {
                family.with_label_values(&[format!("commands.{name}")]).set(signed(value));
            }
        }
        let pending = config.authentication.verifications_pending_max;
        family.with_label_values(&["verifications_pending_max"]).set(signed(pending as u64));
        Ok(())
    }

    fn load(&self, shards: &[ObservedShard]) -> prometheus::Result<()> {
        let latest: Vec<_> = shards.iter().map(|shard| shard.report.latest()).collect();
        self.gauges_by_shard(LOAD_GAUGES, latest.iter())?;
        self.counters_by_shard(LOAD_COUNTERS, latest.iter())?;
        let help = "How long ago the shard last reported. It does so each second, unless it is stuck.";
        let age = GaugeVec::new(Opts::new("causeway_shard_report_age_seconds", help), &["shard"])?;
        for (number, shard) in shards.iter().enumerate() {
            age.with_label_values(&[number.to_string()]).set(shard.report.age().as_secs_f64());
        }
        self.0.register(Box::new(age))
    }

    fn logs(&self, shards: &[ObservedShard]) -> prometheus::Result<()> {
        let reports = shards.iter().map(|shard| shard.log.as_ref());
        self.gauges_by_shard(LOG_GAUGES, reports.clone())?;
        self.counters_by_shard(LOG_COUNTERS, reports.clone())?;
        for histogram in reports.clone().filter_map(LogReport::histograms).flatten() {
            self.0.register(Box::new(histogram.clone()))?;
        }
        // All shards are on one disk, and look at it at different moments.
        let free = reports.map(|report| report.free_bytes.get()).min().unwrap_or(0);
        let family = self.gauge("causeway_disk_free_bytes", "Bytes of the disk that are free.", &[])?;
        family.with_label_values::<&str>(&[]).set(signed(free));
        Ok(())
    }

    fn gauges_by_shard<'a, T: 'a>(
        &self,
        table: &Table<T>,
        shards: impl Iterator<Item = &'a T> + Clone,
    ) -> prometheus::Result<()> {
        for (name, help, number) in table {
            let family = self.gauge(name, help, &["shard"])?;
            for (shard, numbers) in shards.clone().enumerate() {
                family.with_label_values(&[shard.to_string()]).set(signed(number(numbers)));
            }
        }
        Ok(())
    }

    fn counters_by_shard<'a, T: 'a>(
        &self,
        table: &Table<T>,
        shards: impl Iterator<Item = &'a T> + Clone,
    ) -> prometheus::Result<()> {
        for (name, help, number) in table {
            let family = self.counter(name, help, &["shard"])?;
            for (shard, numbers) in shards.clone().enumerate() {
                family.with_label_values(&[shard.to_string()]).inc_by(number(numbers));
            }
        }
        Ok(())
    }

    fn logins(&self, source: &dyn Source) -> prometheus::Result<()> {
        let counts = source.authenticator().counts();
        let help = "Verifications of credentials; busy is verifications_pending_max reached, late verification_timeout_seconds.";
        let family = self.counter("causeway_logins_total", help, &["method", "outcome"])?;
        for (method, outcome, count) in [
            ("password", "accepted", counts.password_accepted),
            ("password", "refused", counts.password_refused),
            ("password", "busy", counts.password_busy),
            ("password", "late", counts.password_late),
            ("scram", "accepted", counts.scram_accepted),
            ("scram", "refused", counts.scram_refused),
            ("jwt", "accepted", counts.token_accepted),
            ("jwt", "refused", counts.token_refused),
        ] {
            family.with_label_values(&[method, outcome]).inc_by(count);
        }
        let help = "Passwords being verified or waiting for it.";
        let pending = self.gauge("causeway_verifications_pending", help, &[])?;
        pending.with_label_values::<&str>(&[]).set(signed(counts.pending));
        Ok(())
    }

    fn listeners(&self, config: &Config, source: &dyn Source) -> prometheus::Result<()> {
        let label = &["listener"];
        let open = self.gauge("causeway_listener_connections", "Connections open, handshakes included.", label)?;
        let pending =
            self.gauge("causeway_listener_handshakes_pending", "Connections without a complete CONNECT.", label)?;
        let limit =
            self.gauge("causeway_listener_limit", "Limits of listeners as configured.", &["listener", "limit"])?;
        for state in source.listeners() {
            open.with_label_values(&[&state.name]).set(signed(state.connections_open));
            pending.with_label_values(&[&state.name]).set(signed(state.handshakes_pending));
        }
        for listener in &config.listener {
            let name = listener.name.as_str();
            limit.with_label_values(&[name, "connections_max"]).set(signed(listener.connections_max as u64));
            limit
                .with_label_values(&[name, "handshakes_pending_max"])
                .set(signed(listener.handshakes_pending_max as u64));
        }
        Ok(())
    }

    /// Under the names that all programs use for these.
    fn process(&self) -> prometheus::Result<()> {
        let process = process::read();
        for (name, help, number) in [
            ("process_resident_memory_bytes", "Memory in use.", process.resident_bytes),
            ("process_virtual_memory_bytes", "Address space in use.", process.virtual_bytes),
            ("process_open_fds", "File descriptors open.", process.open_fds),
            ("process_max_fds", "File descriptors that may be open.", process.max_fds),
            ("process_threads", "Threads.", process.threads),
        ] {
            if let Some(number) = number {
                self.gauge(name, help, &[])?.with_label_values::<&str>(&[]).set(signed(number));
            }
        }
        if let Some(seconds) = process.cpu_seconds {
            let opts = Opts::new("process_cpu_seconds_total", "Processor time used, in user and system mode.");
            let family = CounterVec::new(opts, &[])?;
            family.with_label_values::<&str>(&[]).inc_by(seconds);
            self.0.register(Box::new(family))?;
        }
        Ok(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
