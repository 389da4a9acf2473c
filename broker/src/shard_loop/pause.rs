//! After the whole process stood still (a suspended virtual machine, SIGSTOP, a starved processor), or did not read while the
//! disk or another shard was far behind.
//!
//! Owns noticing it, and when all that clients sent meanwhile has been read. Until then nobody is judged by the clock:
//! what would be late is our reading, not their keep alive.

use causeway_core::{ConnectionId, Millis};
use rustix::io::ioctl_fionread;

use super::connection::Connection;
use super::{World, find};

/// A timer this late means that somebody stood still.
const LATE_MILLISECONDS: u64 = 200;
/// Then we go on, whatever is unread: no wait is without end.
const CATCH_UP_MILLISECONDS_MAX: u64 = 10_000;

/// Whether what was due at `due` should have been done long ago.
pub(super) fn happened(due: Option<Millis>, now: Millis) -> bool {
    due.is_some_and(|due| now.0.saturating_sub(due.0) > LATE_MILLISECONDS)
}

/// The connections that have something to say.
pub(super) struct CatchUp {
    unheard: Vec<ConnectionId>,
    ends: Millis,
}

impl CatchUp {
    /// Looks at all sockets, for clients that were not heard since `since`. Whoever took nothing meanwhile had no chance to: that
    /// begins anew, too.
    pub(super) fn begin(world: &mut World, since: Option<Millis>, now: Millis) -> CatchUp {
        let mut unheard = Vec::new();
        for connection in world.connections.iter_mut().flatten() {
            if connection.stalled_since.is_some() {
                connection.stalled_since = Some(now);
            }
            connection.unheard = is_read(connection) && ioctl_fionread(&connection.stream).is_ok_and(|bytes| bytes > 0);
            if connection.unheard {
                unheard.push(connection.id);
            }
        }
        let milliseconds = since.map_or(0, |since| now.0.saturating_sub(since.0));
        tracing::warn!(target: "causeway::server", milliseconds, connections = unheard.len(),
            "the shard stood still, or waited for the disk or another shard: clients are heard before they are judged by the clock");
        CatchUp { unheard, ends: Millis(now.0 + CATCH_UP_MILLISECONDS_MAX) }
    }

    /// Whether all of them have been read since, as far as they are read at all.
    pub(super) fn is_done(&mut self, world: &mut World, now: Millis) -> bool {
        let waits = |connection: &mut Connection| connection.unheard && is_read(connection);
        self.unheard.retain(|id| find(&mut world.connections, *id).is_some_and(waits));
        self.unheard.is_empty() || now >= self.ends
    }
}

/// Whether its task reads: not where the client must first take what waits for it, nor where it is about to go.
fn is_read(connection: &Connection) -> bool {
    !connection.paused && !connection.held && connection.end.is_none()
}
