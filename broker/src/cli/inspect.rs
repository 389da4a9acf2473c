//! `causewayd inspect`: what a data directory or a backup holds.
//!
//! Owns what is printed about it, and the order of looking. It changes nothing in the folder; what the state is, the shard itself says.

use std::collections::BTreeMap;
use std::io::{self, Write, stderr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use causeway_core::inspect::{
    EntryView, Inspection, LaneView, SessionView, Totals, WillView, check_entry, check_record, message,
};
use causeway_core::{Lsn, Millis, RecordError};
use causeway_storage::disk::{FileLock, LockError, lock_shared};
use causeway_storage::inspect::{Damage, Decoder, Verified, open_read_only, verify};
use causeway_storage::{BodyReader, Found, RecoverError, RunId, ShardStore, free_bytes, shard_folder};
use clap::Args;
use serde::Serialize;

use crate::data_directory::LOCK_NAME;
use crate::registry::{REGISTRY_FILE, Registry, State};

/// So many of the largest queues are shown.
const LARGEST_MAX: usize = 10;
/// Long work says how far it is, this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(after_help = "\
Works on the data directory of a broker that is stopped, and on a backup. Changes nothing in it.

With --verify, everything is read and every checksum checked: damage is named by file and byte, and the command fails.

Examples:
  causewayd inspect /var/lib/causeway
  causewayd inspect /var/lib/causeway --client vehicle-17 --limit 50
  causewayd inspect /backup/monday --verify
  causewayd inspect /var/lib/causeway --json")]
pub(super) struct Options {
    /// The data directory or backup
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Show the session of this client
    #[arg(long, value_name = "ID")]
    client: Option<String>,
    /// With --client: so many messages of each queue
    #[arg(long, value_name = "N", default_value_t = 10, requires = "client")]
    limit: usize,
    /// Read all of it and check every checksum
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything there is to say. Its fields are the keys of the JSON.
#[derive(Debug, Serialize)]
struct Report {
    folder: PathBuf,
    free_bytes: Option<u64>,
    /// What is wrong with the shards as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
    /// Missing where there is none, or it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<RegistryReport>,
    shards: Vec<ShardReport>,
}

#[derive(Debug, Serialize)]
struct RegistryReport {
    file_bytes: u64,
    /// By their state.
    vehicles: BTreeMap<&'static str, u64>,
    groups: u64,
    bans: u64,
}

#[derive(Debug, Serialize)]
struct ShardReport {
    shard: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<VerifiedReport>,
    /// Missing where it is damaged.
    #[serde(flatten)]
    contents: Option<Contents>,
}

#[derive(Debug, Serialize)]
struct VerifiedReport {
    records: u64,
    record_bytes: u64,
    entries: u64,
    bodies: u64,
    body_bytes: u64,
    damage: Vec<DamageReport>,
}

#[derive(Debug, Serialize)]
struct DamageReport {
    file: String,
    offset: Option<u64>,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Contents {
    log: LogContents,
    state: StateContents,
    sessions: SessionsReport,
    shared_subscriptions: Vec<SharedReport>,
    retained: RetainedReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<ClientReport>,
}

#[derive(Debug, Serialize)]
struct LogContents {
    segments: Vec<SegmentReport>,
    /// The oldest record and the one that comes next.
    first: Option<u64>,
    next: Option<u64>,
    bytes: u64,
    /// What the next start will clean away, as a crash leaves it.
    torn_end: Option<DamageReport>,
}

#[derive(Debug, Serialize)]
struct SegmentReport {
    file: String,
    first: u64,
    next: u64,
    records: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct StateContents {
    file_bytes: u64,
    applied: Option<u64>,
    through: Option<u64>,
    entries: BTreeMap<&'static str, u64>,
    bodies: u64,
    body_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct SessionsReport {
    count: u64,
    attached: u64,
    queued_messages: u64,
    queued_bytes: u64,
    largest_queues: Vec<QueueReport>,
}

#[derive(Debug, Serialize)]
struct QueueReport {
    client: String,
    messages: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct SharedReport {
    share_name: String,
    filter: String,
    messages: usize,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct RetainedReport {
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct ClientReport {
    client: String,
    principal: String,
    attached: bool,
    /// None for ever.
    expiry_seconds: Option<u32>,
    expires_at_seconds: Option<u64>,
    subscriptions: Vec<FilterReport>,
    urgent: LaneReport,
    bulk: LaneReport,
    /// QoS 2 messages of the client's own that it has not released.
    received: usize,
    retained_due: usize,
    will: Option<WillReport>,
}

#[derive(Debug, Serialize)]
struct FilterReport {
    filter: String,
    qos: u8,
}

#[derive(Debug, Serialize)]
struct LaneReport {
    messages: usize,
    bytes: u64,
    /// Those that were sent, or may have been, and not acknowledged.
    in_flight: usize,
    /// QoS 2 messages of which only the PUBREL is left.
    releases: usize,
    first: Vec<MessageReport>,
}

#[derive(Debug, Serialize)]
struct MessageReport {
    lsn: u64,
    /// None where the message is nowhere any more.
    topic: Option<String>,
    bytes: u32,
    qos: u8,
    retain: bool,
    expires_at_seconds: Option<u32>,
    in_flight: bool,
}

#[derive(Debug, Serialize)]
struct WillReport {
    topic: String,
    payload_bytes: usize,
    qos: u8,
    retain: bool,
    delay_seconds: u32,
    due_seconds: Option<u64>,
}

pub(super) fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let (data, _lock) = open(&options.folder)?;
    let mut report = Report {
        folder: options.folder.clone(),
        free_bytes: free_bytes(&options.folder).ok(),
        damage: data.check().err().map(|wrong| wrong.to_string()),
        registry: None,
        shards: Vec::with_capacity(data.folders.len()),
    };
    match check_registry(&options.folder) {
        Ok(registry) => report.registry = registry.map(|registry| registry_report(&options.folder, &registry)),
        Err(Damage { detail, .. }) => {
            report.damage = Some(report.damage.map_or(detail.clone(), |other| format!("{other}; {detail}")));
        }
    }
    let (mut damaged, mut found) = (report.damage.is_some(), false);
    for &shard in &data.folders {
        let (path, run) = (shard_folder(&options.folder, shard), data.run(shard));
        let verified = match options.verify {
            true => Some(check(&path, shard, run).with_context(|| path.display().to_string())?),
            false => None,
        };
        let is_damaged = verified.as_ref().is_some_and(|verified| !verified.damage.is_empty());
        let contents = match is_damaged {
            true => None,
            false => {
                let client = options.client.as_deref().map(|client| (client, options.limit));
                Some(look(&path, shard, run, client).with_context(|| path.display().to_string())?)
            }
        };
        damaged |= is_damaged;
        found |= contents.as_ref().is_some_and(|contents| contents.client.is_some());
        report.shards.push(ShardReport { shard, verified: verified.map(verified_report), contents });
    }
    match options.json {
        true => writeln!(out, "{:#}", serde_json::to_value(&report)?)?,
        false => print(&report, out)?,
    }
    out.flush()?;
    if let Some(client) = options.client.as_deref().filter(|_| !found && !damaged) {
        bail!("no session of the client {client:?} in {}", options.folder.display());
    }
    Ok(if damaged { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The shards of a data directory or backup, which no broker may write to while the lock is held. Whether they are all that there
/// should be has to be [checked](Found::check).
pub(super) fn open(folder: &Path) -> anyhow::Result<(Found, FileLock)> {
    let shown = folder.display();
    let found = Found::in_folder(folder)?;
    if found.shards().is_none() {
        bail!("{shown} is neither a data directory nor a backup: there is no shard-0 in it");
    }
    let lock = lock_shared(&folder.join(LOCK_NAME)).map_err(|error| match error {
        LockError::Held { holder, .. } => {
            anyhow::anyhow!("{shown} is in use by {holder}: stop that one first")
        }
        LockError::Io(error) => anyhow::Error::new(error),
    })?;
    Ok((found, lock))
}

/// Reads and checks all of a shard.
pub(super) fn check(path: &Path, shard: u32, run: Option<RunId>) -> anyhow::Result<Verified> {
    let mut decoder = Decode(Progress::new(format!("checking {}", path.display())));
    Ok(verify(path, shard, run, &mut decoder)?)
}

/// Reads and checks the registry, if there is one.
///
/// # Errors
/// It is damaged.
pub(super) fn check_registry(folder: &Path) -> Result<Option<Registry>, Damage> {
    let file = folder.join(REGISTRY_FILE).display().to_string();
    Registry::look(folder).map_err(|error| Damage { file, offset: None, detail: error.to_string() })
}

fn registry_report(folder: &Path, registry: &Registry) -> RegistryReport {
    let counts = registry.counts();
    RegistryReport {
        file_bytes: std::fs::metadata(folder.join(REGISTRY_FILE)).map_or(0, |metadata| metadata.len()),
        vehicles: State::ALL.iter().map(|state| state.as_str()).zip(counts.vehicles).collect(),
        groups: counts.groups,
        bans: counts.bans,
    }
}

/// One line for each damage.
pub(super) fn print_damage(verified: &Verified, out: &mut dyn Write) -> io::Result<()> {
    for damage in &verified.damage {
        print_one_damage(&damage.file, damage.offset, &damage.detail, out)?;
    }
    Ok(())
}

fn print_one_damage(file: &str, offset: Option<u64>, detail: &str, out: &mut dyn Write) -> io::Result<()> {
    match offset {
        Some(offset) => writeln!(out, "damage: {file} at byte {offset}: {detail}"),
        None => writeln!(out, "damage: {file}: {detail}"),
    }
}

struct Decode(Progress);

impl Decoder for Decode {
    fn record(&mut self, _lsn: u64, bytes: &[u8]) -> Result<(), String> {
        self.0.add(bytes.len() as u64);
        check_record(bytes).map_err(|error| error.to_string())
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        self.0.add((key.len() + value.len()) as u64);
        check_entry(key, value).map(drop).map_err(|error| error.to_string())
    }
}

/// Says on standard error how far long work is.
pub(super) struct Progress {
    what: String,
    bytes: u64,
    next_line: Instant,
}

impl Progress {
    pub(super) fn new(what: String) -> Progress {
        Progress { what, bytes: 0, next_line: Instant::now() + PROGRESS_INTERVAL }
    }

    pub(super) fn add(&mut self, bytes: u64) {
        // The clock is looked at about once for each MiB.
        let before = self.bytes >> 20;
        self.bytes += bytes;
        if self.bytes >> 20 != before && Instant::now() >= self.next_line {
            self.next_line = Instant::now() + PROGRESS_INTERVAL;
            // The work matters more than the line about it.
            let _ = writeln!(stderr(), "{}: {}", self.what, size(self.bytes));
        }
    }
}

fn verified_report(verified: Verified) -> VerifiedReport {
    let Verified { records, record_bytes, entries, bodies, body_bytes, damage } = verified;
    let damage = damage.into_iter().map(|it| DamageReport { file: it.file, offset: it.offset, detail: it.detail });
    VerifiedReport { records, record_bytes, entries, bodies, body_bytes, damage: damage.collect() }
}

/// Reads a shard as a start of the broker would.
fn look(path: &Path, shard: u32, run: Option<RunId>, client: Option<(&str, usize)>) -> anyhow::Result<Contents> {
    let store = open_read_only(path, shard, run)?;
    let log = log_contents(&store);
    let mut inspection = Inspection::new(now());
    let state = restore(path, &store, &mut inspection)?;
    replay(path, &store, &mut inspection)?;
    let mut sessions = SessionsReport::default();
    let mut wanted = None;
    let totals = inspection.finish(&mut |session| {
        count(&mut sessions, &session);
        if client.is_some_and(|(id, _)| id == session.client_id) {
            wanted = Some(session);
        }
    })?;
    let client = match (wanted, client) {
        (Some(session), Some((_, limit))) => Some(client_report(session, &store.bodies, limit)?),
        _ => None,
    };
    let Totals { shared, retained_messages, retained_bytes } = totals;
    let shared = shared.into_iter().map(|it| SharedReport {
        share_name: it.share_name,
        filter: it.filter,
        messages: it.messages,
        bytes: it.bytes,
    });
    Ok(Contents {
        log,
        state,
        sessions,
        shared_subscriptions: shared.collect(),
        retained: RetainedReport { messages: retained_messages, bytes: retained_bytes },
        client,
    })
}

fn now() -> Millis {
    Millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
}

fn log_contents(store: &ShardStore) -> LogContents {
    let stats = store.log.stats();
    let segments = stats.segments.iter().map(|segment| SegmentReport {
        file: format!("{:020}.log", segment.first),
        first: segment.first,
        next: segment.next,
        records: segment.next - segment.first,
        bytes: segment.bytes,
    });
    let torn_end = store.log.repair().map(|repair| DamageReport {
        file: repair.file.clone(),
        offset: Some(repair.offset),
        detail: format!("the end is torn, as a crash leaves it; the next start cleans {} bytes away", repair.bytes),
    });
    LogContents {
        segments: segments.collect(),
        first: stats.first,
        next: stats.next,
        bytes: stats.bytes_on_disk,
        torn_end,
    }
}

fn restore(path: &Path, store: &ShardStore, inspection: &mut Inspection) -> anyhow::Result<StateContents> {
    let mut progress = Progress::new(format!("reading the folded state of {}", path.display()));
    let (mut entries, mut outcome) = (BTreeMap::new(), Ok(()));
    store.state.entries(&mut |key, value| {
        progress.add((key.len() + value.len()) as u64);
        match inspection.restore(key, value) {
            Ok(kind) => {
                *entries.entry(kind.name()).or_insert(0) += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                outcome = Err(anyhow::Error::new(error).context(format!("entry {}", key.escape_ascii())));
                ControlFlow::Break(())
            }
        }
    })?;
    outcome?;
    let (mut bodies, mut body_bytes) = (0, 0);
    store.state.bodies(&mut |_, bytes| {
        bodies += 1;
        body_bytes += bytes;
        ControlFlow::Continue(())
    })?;
    if let Some(mark) = store.mark {
        inspection.restored(Lsn(mark.applied), Lsn(mark.through));
    }
    Ok(StateContents {
        // One that is not there yet exists in memory only.
        file_bytes: std::fs::metadata(path.join("state.redb")).map_or(0, |metadata| metadata.len()),
        applied: store.mark.map(|mark| mark.applied),
        through: store.mark.map(|mark| mark.through),
        entries,
        bodies,
        body_bytes,
    })
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Log(#[from] RecoverError),
    #[error("record {0} cannot be replayed: {1}")]
    Record(u64, RecordError),
}

fn replay(path: &Path, store: &ShardStore, inspection: &mut Inspection) -> anyhow::Result<()> {
    let mut progress = Progress::new(format!("replaying the log of {}", path.display()));
    let from = store.mark.map_or(1, |mark| mark.applied + 1);
    store.log.recover(from, |record| {
        progress.add(record.bytes.len() as u64);
        inspection.replay(Lsn(record.lsn), record.bytes).map_err(|error| ReplayError::Record(record.lsn, error))
    })?;
    Ok(())
}

fn count(sessions: &mut SessionsReport, session: &SessionView) {
    let (messages, bytes) = (session.messages(), session.bytes());
    sessions.count += 1;
    sessions.attached += u64::from(session.attached);
    sessions.queued_messages += messages as u64;
    sessions.queued_bytes += bytes;
    if messages == 0 {
        return;
    }
    let largest = &mut sessions.largest_queues;
    let at = largest.partition_point(|other| (other.bytes, other.messages) >= (bytes, messages));
    if at < LARGEST_MAX {
        largest.insert(at, QueueReport { client: session.client_id.clone(), messages, bytes });
        largest.truncate(LARGEST_MAX);
    }
}

fn client_report(session: SessionView, bodies: &BodyReader, limit: usize) -> anyhow::Result<ClientReport> {
    let subscriptions = session.subscriptions.into_iter().map(|it| FilterReport { filter: it.filter, qos: it.qos });
    Ok(ClientReport {
        client: session.client_id,
        principal: session.principal,
        attached: session.attached,
        expiry_seconds: Some(session.expiry_seconds).filter(|seconds| *seconds != u32::MAX),
        expires_at_seconds: session.expires_at.map(|at| at.0 / 1000),
        subscriptions: subscriptions.collect(),
        urgent: lane_report(&session.urgent, bodies, limit)?,
        bulk: lane_report(&session.bulk, bodies, limit)?,
        received: session.received,
        retained_due: session.retained_due,
        will: session.will.map(will_report),
    })
}

fn lane_report(lane: &LaneView, bodies: &BodyReader, limit: usize) -> anyhow::Result<LaneReport> {
    Ok(LaneReport {
        messages: lane.entries.len(),
        bytes: lane.bytes(),
        in_flight: lane.entries.iter().filter(|entry| entry.may_be_sent).count(),
        releases: lane.releases,
        first: lane.entries.iter().take(limit).map(|entry| message_report(entry, bodies)).collect::<Result<_, _>>()?,
    })
}

fn message_report(entry: &EntryView, bodies: &BodyReader) -> anyhow::Result<MessageReport> {
    let body = bodies.read(entry.lsn.0)?;
    let body = body.map(|body| message(&body)).transpose().with_context(|| format!("record {}", entry.lsn.0))?;
    Ok(MessageReport {
        lsn: entry.lsn.0,
        topic: body.flatten().map(|message| message.topic),
        bytes: entry.bytes,
        qos: entry.qos,
        retain: entry.retain,
        expires_at_seconds: entry.expires_at_seconds,
        in_flight: entry.may_be_sent,
    })
}

fn will_report(will: WillView) -> WillReport {
    let WillView { topic, payload_bytes, qos, retain, delay_seconds, due } = will;
    WillReport { topic, payload_bytes, qos, retain, delay_seconds, due_seconds: due.map(|due| due.0 / 1000) }
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let free = report.free_bytes.map_or_else(String::new, |free| format!(", {} free on its disk", size(free)));
    writeln!(out, "{}{free}", report.folder.display())?;
    if let Some(damage) = &report.damage {
        writeln!(out, "damage: {damage}")?;
    }
    if let Some(RegistryReport { file_bytes, vehicles, groups, bans }) = &report.registry {
        let vehicles: Vec<_> = vehicles.iter().map(|(state, count)| format!("{count} {state}")).collect();
        writeln!(out, "\nregistry ({})", size(*file_bytes))?;
        writeln!(out, "  vehicles: {}; {groups} groups, {bans} bans", vehicles.join(", "))?;
    }
    for shard in &report.shards {
        writeln!(out, "\nshard {}", shard.shard)?;
        if let Some(verified) = &shard.verified {
            print_verified(verified, out)?;
        }
        if let Some(contents) = &shard.contents {
            print_contents(contents, out)?;
        }
    }
    Ok(())
}

fn print_verified(verified: &VerifiedReport, out: &mut dyn Write) -> io::Result<()> {
    let VerifiedReport { records, record_bytes, entries, bodies, body_bytes, damage } = verified;
    writeln!(
        out,
        "  checked: {records} records ({}), {entries} entries, {bodies} bodies ({})",
        size(*record_bytes),
        size(*body_bytes)
    )?;
    match damage.is_empty() {
        true => writeln!(out, "  all of it is intact"),
        false => damage.iter().try_for_each(|it| print_one_damage(&it.file, it.offset, &it.detail, out)),
    }
}

fn print_contents(contents: &Contents, out: &mut dyn Write) -> io::Result<()> {
    let Contents { log, state, sessions, shared_subscriptions, retained, client } = contents;
    print_log(log, out)?;
    print_state(state, out)?;
    writeln!(
        out,
        "  sessions: {}, of which {} had a connection; {} queued messages ({})",
        sessions.count,
        sessions.attached,
        sessions.queued_messages,
        size(sessions.queued_bytes)
    )?;
    for queue in &sessions.largest_queues {
        writeln!(out, "    {:>10} messages  {:>10}  {}", queue.messages, size(queue.bytes), shown(&queue.client))?;
    }
    if !shared_subscriptions.is_empty() {
        writeln!(out, "  shared subscriptions: {}", shared_subscriptions.len())?;
        for shared in shared_subscriptions.iter().filter(|shared| shared.messages > 0).take(LARGEST_MAX) {
            let name = format!("$share/{}/{}", shared.share_name, shared.filter);
            writeln!(out, "    {:>10} messages  {:>10}  {}", shared.messages, size(shared.bytes), shown(&name))?;
        }
    }
    writeln!(out, "  retained messages: {} ({})", retained.messages, size(retained.bytes))?;
    client.as_ref().map_or(Ok(()), |client| print_client(client, out))
}

fn print_log(log: &LogContents, out: &mut dyn Write) -> io::Result<()> {
    let records: u64 = log.segments.iter().map(|segment| segment.records).sum();
    writeln!(out, "  log: {} segments, {records} records, {}", log.segments.len(), size(log.bytes))?;
    for segment in &log.segments {
        let SegmentReport { file, first, next, records, bytes } = segment;
        writeln!(out, "    {file}  records {first} to {next} (exclusive): {records}  {}", size(*bytes))?;
    }
    if let Some(torn) = &log.torn_end {
        writeln!(out, "    {} from byte {}: {}", torn.file, torn.offset.unwrap_or(0), torn.detail)?;
    }
    Ok(())
}

fn print_state(state: &StateContents, out: &mut dyn Write) -> io::Result<()> {
    let (Some(applied), Some(through)) = (state.applied, state.through) else {
        return writeln!(out, "  folded state: none yet");
    };
    let (bytes, body_bytes) = (size(state.file_bytes), size(state.body_bytes));
    writeln!(out, "  folded state: {bytes}, stands for records up to {applied} (shows some up to {through})")?;
    for (kind, count) in &state.entries {
        writeln!(out, "    {count:>10} {kind}")?;
    }
    writeln!(out, "    {:>10} messages kept out of the log ({body_bytes})", state.bodies)
}

fn print_client(client: &ClientReport, out: &mut dyn Write) -> io::Result<()> {
    let principal = shown(&client.principal);
    let connection = match (client.attached, client.expires_at_seconds) {
        (true, _) => "had a connection".to_owned(),
        (false, Some(at)) => format!("had no connection, ends {}", when(at)),
        (false, None) => "had no connection".to_owned(),
    };
    writeln!(out, "\n  client {} ({principal}): {connection}", shown(&client.client))?;
    match client.expiry_seconds {
        Some(seconds) => writeln!(out, "    outlives its connection by {seconds} s")?,
        None => writeln!(out, "    outlives its connection for ever")?,
    }
    writeln!(out, "    subscriptions: {}", client.subscriptions.len())?;
    for subscription in &client.subscriptions {
        writeln!(out, "      {} (QoS {})", shown(&subscription.filter), subscription.qos)?;
    }
    print_lane("urgent", &client.urgent, out)?;
    print_lane("bulk", &client.bulk, out)?;
    if client.retained_due > 0 {
        writeln!(out, "    retained messages due: {}", client.retained_due)?;
    }
    if client.received > 0 {
        writeln!(out, "    QoS 2 identifiers it has not released: {}", client.received)?;
    }
    if let Some(will) = &client.will {
        let due = will.due_seconds.map_or_else(String::new, |due| format!(", due {}", when(due)));
        let WillReport { topic, payload_bytes, qos, delay_seconds, .. } = will;
        writeln!(out, "    will: {} ({payload_bytes} bytes, QoS {qos}, delay {delay_seconds} s{due})", shown(topic))?;
    }
    Ok(())
}

fn print_lane(name: &str, lane: &LaneReport, out: &mut dyn Write) -> io::Result<()> {
    let LaneReport { messages, bytes, in_flight, releases, first } = lane;
    writeln!(out, "    {name} queue: {messages} messages ({}), {in_flight} of them perhaps sent", size(*bytes))?;
    if *releases > 0 {
        writeln!(out, "      {releases} QoS 2 messages of which only PUBREL is left")?;
    }
    for message in first {
        let topic = message.topic.as_deref().map_or_else(|| "(the message is missing)".to_owned(), shown);
        let expiry = message.expires_at_seconds.map(|at| format!(", expires {}", when(u64::from(at))));
        let MessageReport { lsn, bytes, qos, in_flight, .. } = message;
        let sent = if *in_flight { ", perhaps sent" } else { "" };
        writeln!(out, "      {lsn:>12}  {topic}  {bytes} bytes, QoS {qos}{}{sent}", expiry.unwrap_or_default())?;
    }
    let more = messages - first.len();
    if more > 0 { writeln!(out, "      and {more} more") } else { Ok(()) }
}

/// Names come from clients: nothing of them reaches the terminal as a command.
fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Seconds since 1970, as seen from now.
fn when(at_seconds: u64) -> String {
    let now = now().0 / 1000;
    match at_seconds.checked_sub(now) {
        Some(left) => format!("in {left} s"),
        None => format!("{} s ago", now - at_seconds),
    }
}

/// Bytes, in the largest unit that says enough.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}
