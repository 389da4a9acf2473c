//! Many persistent sessions, each made by its own CONNECT and SUBSCRIBE, and then away.
//!
//! Owns their names and the making. It waits for every SUBACK, as a client does.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use causeway_core::{ConnectionId, Millis};
use causeway_protocol::{Packet, QoS, SubscriptionOptions};

use super::Host;

/// A session expiry interval that never ends.
pub(crate) const FOREVER: u32 = u32::MAX;

/// Clients that connect at the same time, and share a sync.
const TOGETHER: u64 = 2_000;

/// The client identifier of a session.
pub(crate) fn client_id(index: u64) -> String {
    format!("vehicle-{index:07}")
}

/// The system's time, as the daemon tells it to the core.
pub(crate) fn now() -> Millis {
    Millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
}

/// Makes sessions number 0 to `sessions`, each subscribed with QoS 1 to what `filter` says for its number.
///
/// # Errors
/// When the disk fails, or the core refuses one.
pub(crate) fn make(host: &mut Host, sessions: u64, filter: &dyn Fn(u64) -> String) -> Result<()> {
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    for first in (0..sessions).step_by(TOGETHER as usize) {
        let mut clients: Vec<ConnectionId> = Vec::new();
        for index in first..sessions.min(first + TOGETHER) {
            let client = host.connect(&client_id(index), false, FOREVER)?;
            host.subscribe(client, &filter(index), options)?;
            clients.push(client);
        }
        host.sync()?;
        for client in clients {
            let mut granted = 0;
            host.hear(client, |packet| {
                if let Packet::SubAck(suback) = packet {
                    granted += suback.reasons.iter().filter(|reason| **reason as u8 == 1).count();
                }
            })?;
            ensure!(granted == 1, "a subscription is not granted");
            host.disconnect(client)?;
        }
    }
    host.sync()
}
