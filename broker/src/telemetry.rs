//! Log lines, to standard error.
//!
//! Owns how they look and which are written. What is worth a line is decided where it happens.

use std::io::{self, IsTerminal, Write, stderr};

use anyhow::{Context, anyhow};
use tracing::level_filters::LevelFilter;

use crate::config::{Log, LogFormat, LogLevel};

/// Starts logging for the whole process.
///
/// # Errors
/// It was started before.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let lines = tracing_subscriber::fmt()
        .with_max_level(filter(log.level))
        .with_writer(|| Lenient(stderr()))
        // It would say so on standard error, too.
        .log_internal_errors(false)
        .with_ansi(log.format == LogFormat::Human && stderr().is_terminal());
    let started = match log.format {
        LogFormat::Human => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!(error)).context("cannot start logging")
}

/// Lines that cannot be written are dropped: a full disk behind the log, or a reader that is gone, must not stop the broker.
struct Lenient<W>(W);

impl<W: Write> Write for Lenient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().or(Ok(()))
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
