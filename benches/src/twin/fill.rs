//! Makes a shadow for each of very many vehicles.
//!
//! Owns that each vehicle reports once. That all are there is found out by a query.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use super::documents;
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
    seconds: f64,
    per_second: f64,
}

/// Makes them.
///
/// # Errors
/// When the broker cannot be reached or refuses one.
pub(super) async fn run(options: &Options) -> Result<()> {
    let (vehicles, step) = (options.vehicles, u32::from(options.windows.connections));
    let began = Instant::now();
    let done = publish_all(options.target, options.windows, |index| {
        let mut numbers = (u32::from(index)..vehicles).step_by(step as usize);
        move |draft: &mut Draft| {
            let Some(number) = numbers.next() else { return false };
            write_update(draft, number, 0);
            true
        }
    })
    .await?;
    ensure!(done.refused == 0, "{} reports were refused", done.refused);
    let seconds = began.elapsed().as_secs_f64();
    let figures = Figures { vehicles: done.acknowledged, seconds, per_second: done.acknowledged as f64 / seconds };
    options.format.print("shadows made", &figures)
}

/// A vehicle's report of this number, as a message.
pub(super) fn write_update(draft: &mut Draft, vehicle: u32, report: u32) {
    draft.topic.clear();
    draft.topic.push_str("vehicles/");
    draft.topic.push_str(&documents::vin(vehicle));
    draft.topic.push_str("/shadow/update");
    documents::update(&mut draft.payload, vehicle, report);
}
