//! Looking for vehicles by their shadows, page after page, while somebody else publishes.
//!
//! Owns that just what must be found is found, each vehicle once. Whoever publishes has a thread of its own, so that
//! it waits for the broker only, and not for this process to read pages.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::documents;
use super::http::{Http, encoded};
use super::session::{Session, forget, keep_for_absent};
use crate::latency::Latencies;
use crate::process;
use crate::report::Format;
use crate::wire::Connect;

const ABSENT: &str = "twin-beside-absent";
const BESIDE_TOPIC: &str = "beside/query";

/// What to look for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// The address of its administration listener
    #[arg(long)]
    admin: SocketAddr,
    /// The broker's process, for its processor time
    #[arg(long)]
    pid: u32,
    /// Vehicles; each has reported once
    #[arg(long, default_value_t = 100_000)]
    vehicles: u32,
    /// Rows of a page
    #[arg(long, default_value_t = 1_000)]
    limit: u32,
    /// How often to go through all pages
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// How long to publish with no query beside
    #[arg(long, default_value_t = 2.0)]
    quiet_seconds: f64,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Deserialize)]
struct Page {
    vehicles: Vec<Row>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Row {
    vin: String,
}

#[derive(Debug, Serialize)]
struct Figures {
    expected: u64,
    /// Rows, of each time.
    found: u64,
    /// Rows that came twice or were missing.
    wrong: u64,
    pages: usize,
    page_ms_p50: f64,
    page_ms_p99: f64,
    page_ms_max: f64,
    seconds: f64,
    rows_per_second: f64,
    broker_cpu_us_per_row: f64,
    publish_quiet_ms_p50: f64,
    publish_quiet_ms_p99: f64,
    publish_beside_ms_p50: f64,
    publish_beside_ms_p99: f64,
}

/// Measures and prints.
///
/// # Errors
/// When the broker cannot be reached, or answers wrongly.
pub(super) async fn run(options: &Options) -> Result<()> {
    let mut quiet = publish_until(options.target, &AtomicBool::new(false), Some(options.quiet_seconds)).await?;
    let is_over = AtomicBool::new(false);
    let (mut beside, (mut pages, found, wrong, seconds, cpu_seconds)) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(publish_until(options.target, &is_over, None))
        });
        let looking = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let looked = runtime.block_on(look(options));
            is_over.store(true, Ordering::Relaxed);
            looked
        });
        let looked = looking.join().map_err(|_| anyhow::anyhow!("the query panicked"))??;
        let beside = publishing.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))??;
        anyhow::Ok((beside, looked))
    })?;
    let rows = (found * u64::from(options.times)) as f64;
    let figures = Figures {
        expected: documents::low_charges(options.vehicles),
        found,
        wrong,
        pages: pages.count(),
        page_ms_p50: pages.percentile_ms(50),
        page_ms_p99: pages.percentile_ms(99),
        page_ms_max: pages.percentile_ms(100),
        seconds: seconds / f64::from(options.times),
        rows_per_second: rows / seconds,
        broker_cpu_us_per_row: cpu_seconds * 1e6 / rows.max(1.0),
        publish_quiet_ms_p50: quiet.percentile_ms(50),
        publish_quiet_ms_p99: quiet.percentile_ms(99),
        publish_beside_ms_p50: beside.percentile_ms(50),
        publish_beside_ms_p99: beside.percentile_ms(99),
    };
    options.format.print("query", &figures)
}

/// Goes through all pages as often as is wanted: how long each took, rows of one time, wrong ones of all, seconds, and the broker's processor time.
async fn look(options: &Options) -> Result<(Latencies, u64, u64, f64, f64)> {
    let condition = encoded(&format!("reported.battery.soc < {}", documents::LOW_CHARGE));
    let expected = documents::low_charges(options.vehicles);
    let mut http = Http::new(options.admin);
    let (mut pages, mut count, mut wrong) = (Latencies::default(), 0, 0);
    let cpu_before = process::cpu_seconds(options.pid)?;
    let (mut seconds, mut cpu_seconds) = (0.0, 0.0);
    for _ in 0..options.times {
        let (mut found, mut rows, mut after) = (HashSet::new(), 0u64, None::<String>);
        loop {
            let mut path = format!("/v1/vehicles?where={condition}&limit={}", options.limit);
            if let Some(after) = &after {
                path.push_str(&format!("&cursor={}", encoded(after)));
            }
            let began = Instant::now();
            let answer = http.ask("GET", &path, b"").await?;
            pages.add(began.elapsed());
            seconds += began.elapsed().as_secs_f64();
            let page: Page = serde_json::from_slice(answer).context("not a page")?;
            rows += page.vehicles.len() as u64;
            found.extend(page.vehicles.into_iter().map(|row| row.vin));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let distinct = found.len() as u64;
        (count, wrong) = (rows, wrong + (rows - distinct) + expected.abs_diff(distinct));
    }
    cpu_seconds += process::cpu_seconds(options.pid)? - cpu_before;
    Ok((pages, count, wrong, seconds, cpu_seconds))
}

/// Publishes messages that must be kept, one at a time, until told to stop or for so long; how long each waited for its acknowledgement.
async fn publish_until(target: SocketAddr, is_over: &AtomicBool, seconds: Option<f64>) -> Result<Latencies> {
    keep_for_absent(target, ABSENT, BESIDE_TOPIC).await?;
    let connect = Connect { client_id: "twin-beside", ..Connect::default() };
    let mut session = Session::open(target, &connect).await?;
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let mut latencies = Latencies::default();
    while !is_over.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
        let began = Instant::now();
        let id = session.publish(BESIDE_TOPIC, ("", b""), &[7; 256]);
        session.acknowledged(id).await?;
        latencies.add(began.elapsed());
    }
    session.disconnect().await?;
    forget(target, ABSENT).await?;
    ensure!(latencies.count() > 0, "nothing was published beside");
    Ok(latencies)
}
