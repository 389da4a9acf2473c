//! What all shards are told while they run.
//!
//! Owns the order and the numbers of notices: all shards hear all of them, in the same order. It never decides what is told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_core::{Notice, Revocation, Revoked};
use causeway_fleet::Principal;
use causeway_protocol::ReasonCode;
use tokio::sync::{Mutex, mpsc};

use crate::audit::{Audit, AuditEvent, Decision, What};

/// Where shards are told. Clones tell the same shards.
#[derive(Clone)]
pub struct Notices {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held while one is told to all.
    shards: Mutex<Vec<mpsc::Sender<(u64, Notice)>>>,
    told: AtomicU64,
    audit: Audit,
}

impl Notices {
    pub(super) fn new(shards: Vec<mpsc::Sender<(u64, Notice)>>, audit: Audit) -> Notices {
        Notices { shared: Arc::new(Shared { shards: Mutex::new(shards), told: AtomicU64::new(0), audit }) }
    }

    /// Tells all shards. What the notice is about must be known to whoever proves a client from now on: change it before. Waits
    /// where a shard is behind.
    pub async fn tell(&self, notice: Notice) {
        record(&self.shared.audit, &notice);
        let shards = self.shared.shards.lock().await;
        // From here on, who begins to prove a client sees what changed; who began before has a smaller number.
        let number = self.shared.told.fetch_add(1, Ordering::SeqCst) + 1;
        for shard in shards.iter() {
            // One that has ended has no clients.
            let _ = shard.send((number, notice.clone())).await;
        }
    }

    /// Tells all shards that nobody may go on who is connected with one of these credentials.
    pub async fn revoke(&self, credentials: HashSet<Arc<str>>, why: &str) {
        if credentials.is_empty() {
            return;
        }
        let revoked = Revoked::Credentials(Arc::new(credentials));
        let (reason, why) = (ReasonCode::NotAuthorized, Arc::from(why));
        self.tell(Notice::Revoke(Revocation { revoked, reason, why, ends_sessions: false })).await;
    }

    /// The number of the last notice: what is proven from now on is proven with all that it says.
    pub fn told(&self) -> u64 {
        self.shared.told.load(Ordering::SeqCst)
    }
}

/// What it closes, the shards record; who wanted it, whoever was asked.
fn record(audit: &Audit, notice: &Notice) {
    let Notice::Revoke(revocation) = notice else { return };
    let who = match &revocation.revoked {
        Revoked::Vehicle(vin) => Principal::Vehicle(*vin).to_string(),
        Revoked::Principal(principal) => principal.to_string(),
        Revoked::Credentials(_) | Revoked::Whoever(_) => String::new(),
    };
    let detail = match &revocation.revoked {
        Revoked::Credentials(credentials) => format!("{}: {}", revocation.why, some_of(credentials)),
        Revoked::Vehicle(_) | Revoked::Principal(_) | Revoked::Whoever(_) => revocation.why.to_string(),
    };
    let reason = Some(revocation.reason);
    audit.record(AuditEvent { who, reason, ..AuditEvent::new(What::Revoke, Decision::Note, detail) });
}

/// As many as are read in one line. All of them are where they were revoked: on a list, or in the registry.
fn some_of(credentials: &HashSet<Arc<str>>) -> String {
    const NAMED_MAX: usize = 10;
    let mut names: Vec<&str> = credentials.iter().map(|name| &**name).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let named = names.join(" ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_what_was_revoked() {
        let of = |count: usize| (0..count).map(|number| Arc::from(format!("jwt:{number:02}"))).collect();
        assert_eq!(some_of(&of(2)), "jwt:00 jwt:01");
        assert!(some_of(&of(12)).ends_with("jwt:09 and 2 more"));
    }
}
