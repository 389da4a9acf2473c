//! The policy of a running broker.
//!
//! Owns when its file is read again, and that a wrong one changes nothing. What it decides is not its business.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_core::Notice;
use causeway_fleet::policy::Policy;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::Notices;
use crate::audit::{Audit, AuditEvent, Decision, What};
use crate::config::{PolicyError, Problem, read_policy};

/// How often it is seen whether the file changed. What changed is read once it stays the same for as long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells one state of a file from another: device and number, size, and time of change with nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// Keeps the policy in force what its file says.
pub(super) struct PolicyKeeper {
    file: PathBuf,
    audit: Audit,
    /// What was read last, wrong or not.
    read: Mutex<Option<Stamp>>,
}

impl PolicyKeeper {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or is wrong.
    pub(super) fn start(file: PathBuf, audit: &Audit) -> Result<(PolicyKeeper, Policy), PolicyError> {
        let stamp = stamp(&file);
        let (policy, warnings) = read_policy(&file)?;
        warn(&warnings);
        tracing::info!(target: "causeway::policy", file = %file.display(), "a policy is in force");
        let keeper = PolicyKeeper { file, audit: audit.clone(), read: Mutex::new(stamp) };
        keeper.record(Decision::Note, "in force");
        Ok((keeper, policy))
    }

    /// Reads the file again and tells the shards. A wrong one changes nothing.
    pub(super) async fn reload(&self, notices: &Notices) {
        let mut read = self.read.lock().await;
        *read = stamp(&self.file);
        let file = self.file.clone();
        // Rules are compared with each other: that may take a moment.
        let loaded = tokio::task::spawn_blocking(move || read_policy(&file)).await;
        match loaded {
            Ok(Ok((policy, warnings))) => {
                warn(&warnings);
                notices.tell(Notice::Policy(Arc::new(policy))).await;
                tracing::info!(target: "causeway::policy", file = %self.file.display(), "another policy is in force");
                self.record(Decision::Note, "another one is in force");
            }
            Ok(Err(PolicyError::Wrong(problems))) => {
                self.record(Decision::Fail, "wrong, and not in force");
                for problem in &problems {
                    tracing::error!(target: "causeway::policy", "{}{}", problem.place, problem.message);
                }
                tracing::error!(target: "causeway::policy", "the policy is wrong: the old one stays in force");
            }
            Ok(Err(error @ PolicyError::Io { .. })) => {
                self.record(Decision::Fail, &error.to_string());
                tracing::error!(target: "causeway::policy", %error, "the policy cannot be read: the old one stays in force");
            }
            Err(error) => {
                tracing::error!(target: "causeway::policy", %error, "the policy was not read: the old one stays in force");
            }
        }
    }

    fn record(&self, decision: Decision, what: &str) {
        self.audit.record(AuditEvent::new(What::Policy, decision, format!("{}: {what}", self.file.display())));
    }

    /// Reads the file again whenever it has changed. Never ends by itself.
    pub(super) async fn watch(self: Arc<PolicyKeeper>, notices: Notices) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = stamp(&self.file);
        loop {
            ticks.tick().await;
            let now = stamp(&self.file);
            // Half of a file that is being written is not what was meant.
            let is_settled = now.is_some() && now == before;
            if is_settled && now != *self.read.lock().await {
                self.reload(&notices).await;
            }
            before = now;
        }
    }
}

fn stamp(file: &std::path::Path) -> Option<Stamp> {
    let of = fs::metadata(file).ok()?;
    Some((of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec()))
}

fn warn(warnings: &[Problem]) {
    for warning in warnings {
        tracing::warn!(target: "causeway::policy", "{}{}", warning.place, warning.message);
    }
}
