//! What the administration listener answers, over loopback.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use causeway_core::{Counters, Gauges};

use super::*;
use crate::config::{Listener, Storage};

struct Fixed {
    shards: Vec<ObservedShard>,
    authenticator: Authenticator,
    readiness: Mutex<Result<(), String>>,
    backups: Arc<Backups>,
    registry: Option<Arc<Registry>>,
}

impl Source for Fixed {
    fn shards(&self) -> &[ObservedShard] {
        &self.shards
    }

    fn edge(&self) -> EdgeCounters {
        EdgeCounters::sum(self.shards.iter().map(|shard| shard.edge.as_ref()))
    }

    fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    fn listeners(&self) -> Vec<ListenerState> {
        vec![ListenerState { name: "mqtt".to_owned(), connections_open: 5, handshakes_pending: 2 }]
    }

    fn audit(&self) -> Arc<AuditCounts> {
        Arc::default()
    }

    fn backups(&self) -> Arc<Backups> {
        self.backups.clone()
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.registry.clone()
    }

    fn asks(&self) -> Option<Asks> {
        None
    }

    fn jobs(&self) -> Option<Jobs> {
        None
    }

    fn search(&self) -> Option<Search> {
        None
    }

    fn audit_log(&self) -> Audit {
        Audit::default()
    }

    fn readiness(&self) -> Result<(), String> {
        self.readiness.lock().unwrap().clone()
    }
}

fn source() -> Arc<Fixed> {
    source_of(1)
}

/// One of several shards, each of which says the same.
fn source_of(shards: u32) -> Arc<Fixed> {
    let counters = Counters {
        connections_opened: 7,
        publish_received: [1, 2, 3],
        publish_refused_queue_full: 4,
        shadow_updates: 3,
        commands_ended: [5, 6, 0, 0, 0, 0, 0],
        replies_forged: 8,
        ..Counters::default()
    };
    let gauges = Gauges { queued_bytes: 99, commands_pending: 2, ..Gauges::default() };
    let shards = (0..shards).map(ObservedShard::new).inspect(|shard| {
        shard.edge.bytes_received.add(1234);
        shard.report.renew(counters, gauges, Duration::from_secs(1));
    });
    let authenticator = Authenticator::load(&Config::default()).unwrap();
    Arc::new(Fixed {
        shards: shards.collect(),
        authenticator,
        readiness: Mutex::new(Ok(())),
        backups: Arc::default(),
        registry: None,
    })
}

async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

async fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    (status, response)
}

#[tokio::test]
async fn metrics_and_health_are_served_until_shutdown() {
    let source = source();
    let config = Arc::new(Config { listener: vec![Listener::default()], ..Config::default() });
    let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async { drop(stopped.await) };
    let serving = tokio::spawn(server.serve(config, source.clone(), shutdown));

    assert_eq!(fetch(address, "/live").await.0, 200);
    assert_eq!(fetch(address, "/ready").await.0, 200);
    source.shards[0].log.set_full(true);
    let (status, body) = fetch(address, "/ready").await;
    assert_eq!(status, 200, "clients can still be served");
    assert!(body.contains("ready, but degraded: the disk is full"), "{body}");
    source.shards[0].log.set_full(false);
    *source.readiness.lock().unwrap() = Err("stopping".to_owned());
    let (status, body) = fetch(address, "/ready").await;
    assert_eq!(status, 503);
    assert!(body.ends_with("not ready: stopping\n"), "{body}");
    assert_eq!(fetch(address, "/live").await.0, 200);
    assert_eq!(fetch(address, "/").await.0, 404);
    let body = "{\"to\":\"/nowhere/at/all\"}";
    let head = "POST /v1/backup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    let (status, body) = ask(address, &format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(status, 503);
    assert!(body.contains("this broker keeps nothing on disk"), "{body}");

    let (status, body) = fetch(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("text/plain; version=0.0.4"), "{body}");
    assert!(body.contains("causeway_connections_opened_total 7"), "{body}");

    stop.send(()).unwrap();
    serving.await.unwrap();
}

#[test]
fn every_number_has_a_name_a_type_and_help() {
    let config = Config { listener: vec![Listener::default()], ..Config::default() };
    let text = exposition::text(&config, source().as_ref()).unwrap();
    for line in [
        "# TYPE causeway_publish_received_total counter",
        "causeway_publish_received_total{qos=\"2\"} 3",
        "causeway_publish_refused_total{reason=\"session_queue_max\"} 4",
        "# TYPE causeway_queued_bytes gauge",
        "causeway_queued_bytes 99",
        "causeway_received_bytes_total 1234",
        "causeway_limit{limit=\"packet_bytes_max\"} 1048576",
        "causeway_limit{limit=\"maximum_qos\"} 2",
        "causeway_listener_connections{listener=\"mqtt\"} 5",
        "causeway_listener_limit{limit=\"connections_max\",listener=\"mqtt\"} 1000000",
        "causeway_logins_total{method=\"scram\",outcome=\"refused\"} 0",
        "causeway_verifications_pending 0",
        "causeway_shadow_updates_total 3",
        "causeway_commands_pending 2",
        "causeway_commands_ended_total{outcome=\"timed-out\"} 6",
        "causeway_replies_dropped_total{reason=\"forged\"} 8",
        "# TYPE process_cpu_seconds_total counter",
    ] {
        assert!(text.lines().any(|said| said == line), "no line {line}\n{text}");
    }
    for line in text.lines().filter(|line| line.starts_with("# HELP")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(name.starts_with("causeway_") || name.starts_with("process_"), "{line}");
        assert!(line.ends_with('.'), "{line}");
    }
}

#[test]
fn shards_are_told_together_and_apart() {
    let storage = Storage { data_directory: Some("data".into()), ..Storage::default() };
    let config = Config { listener: vec![Listener::default()], storage, ..Config::default() };
    let source = source_of(2);
    source.shards[1].log.unsynced_bytes.set(17);
    source.shards[0].log.free_bytes.set(500);
    source.shards[1].log.free_bytes.set(400);
    source.shards[1].log.synced(Duration::from_millis(1), 3, 100);
    let text = exposition::text(&config, source.as_ref()).unwrap();
    for line in [
        "causeway_connections_opened_total 14",
        "causeway_publish_received_total{qos=\"2\"} 6",
        "causeway_queued_bytes 198",
        "causeway_received_bytes_total 2468",
        "causeway_shard_queued_bytes{shard=\"0\"} 99",
        "causeway_shard_publish_received_total{shard=\"1\"} 6",
        "causeway_log_unsynced_bytes{shard=\"0\"} 0",
        "causeway_log_unsynced_bytes{shard=\"1\"} 17",
        "causeway_log_commit_records_sum{shard=\"0\"} 0",
        "causeway_log_commit_records_sum{shard=\"1\"} 3",
        "causeway_fold_timestamp_seconds{shard=\"1\"} 0",
        "causeway_disk_free_bytes 400",
    ] {
        assert!(text.lines().any(|said| said == line), "no line {line}\n{text}");
    }
    let age = "causeway_shard_report_age_seconds{shard=\"1\"} ";
    let age = text.lines().find_map(|line| line.strip_prefix(age)).unwrap().parse::<f64>().unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    assert_eq!(degraded(&source.shards), None);
    source.shards[1].log.refusing.set(1);
    assert!(degraded(&source.shards).unwrap().ends_with("are refused (shard 1)"));
    source.shards.iter().for_each(|shard| shard.log.set_full(true));
    assert!(degraded(&source.shards).unwrap().ends_with("is acknowledged (shards 0, 1)"));
}

#[tokio::test]
async fn slow_requests_keep_nobody_out() {
    let config = Arc::new(Config { listener: vec![Listener::default()], ..Config::default() });
    let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_addr();
    let serving = tokio::spawn(server.serve(config, source(), std::future::pending()));
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(fetch(address, "/live").await.0, 200);
    // The oldest had to go.
    assert_eq!(slow[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
    serving.abort();
}

#[tokio::test]
async fn a_backup_may_take_longer_than_other_requests() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage { data_directory: Some(folder.path().join("data")), ..Storage::default() };
    let config = Arc::new(Config { listener: vec![Listener::default()], storage, ..Config::default() });
    let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, source) = (server.local_addr(), source());
    let serving = tokio::spawn(server.serve(config, source.clone(), std::future::pending()));
    // Nobody copies.
    std::fs::create_dir(folder.path().join("data")).unwrap();
    source.backups.open(&folder.path().join("data"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = serde_json::json!({ "to": folder.path().join("to") }).to_string();
    let head = "POST /v1/backup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    // Others are cut off after five seconds.
    assert!(tokio::time::timeout(Duration::from_secs(6), stream.read_u8()).await.is_err());
    source.backups.close();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("starting or stopping"), "{answer}");
    serving.abort();
}
