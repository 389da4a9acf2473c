//! Makes a shadow for each of very many vehicles.
//!
//! Owns that each vehicle's report becomes a shadow, and reports again for those of which it did not.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::documents;
use super::reads;
use super::window::{Draft, Windows, publish_all};
use crate::report::Format;

/// What to make.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The broker's address
    #[arg(long)]
    target: SocketAddr,
    /// Vehicles
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    vehicles: u32,
    #[command(flatten)]
    windows: Windows,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Figures {
    vehicles: u64,
    /// Reports that were acknowledged, but rejected, and made again.
    rejected: usize,
    seconds: f64,
    per_second: f64,
}

/// Makes them.
///
/// # Errors
/// When the broker cannot be reached or refuses one.
pub(super) async fn run(options: &Options) -> Result<()> {
    let began = Instant::now();
    let mut missing: Rc<Vec<u32>> = Rc::new((0..options.vehicles).collect());
    let mut rejected = 0;
    while !missing.is_empty() {
        report(options, &missing).await?;
        // An acknowledged request may have been rejected, where the broker has more to write than it can: a shadow that is not there is made again.
        let before = missing.len();
        missing = Rc::new(reads::without_shadow(options.target, &missing).await?);
        rejected += missing.len();
        ensure!(missing.len() < before, "not one of {before} reports made a shadow");
    }
    let seconds = began.elapsed().as_secs_f64();
    let vehicles = u64::from(options.vehicles);
    let figures = Figures { vehicles, rejected, seconds, per_second: vehicles as f64 / seconds };
    options.format.print("shadows made", &figures)
}

/// These vehicles report once.
async fn report(options: &Options, numbers: &Rc<Vec<u32>>) -> Result<()> {
    let step = usize::from(options.windows.connections);
    let done = publish_all(options.target, options.windows, |index| {
        let (numbers, mut at) = (Rc::clone(numbers), usize::from(index));
        move |draft: &mut Draft| {
            let Some(number) = numbers.get(at) else { return false };
            write_update(draft, *number, 0);
            at += step;
            true
        }
    })
    .await?;
    ensure!(done.refused == 0, "{} reports were refused", done.refused);
    Ok(())
}

/// A vehicle's report of this number, as a message.
pub(super) fn write_update(draft: &mut Draft, vehicle: u32, report: u32) {
    draft.topic.clear();
    draft.topic.push_str("vehicles/");
    draft.topic.push_str(&documents::vin(vehicle));
    draft.topic.push_str("/shadow/update");
    documents::update(&mut draft.payload, vehicle, report);
}
