//! Who a client is: what it showed, turned into a principal, and whether that principal may come in.
//!
//! Owns the mapping from certificates to identities, the names of credentials, and the question to the fleet's registry. It verifies no
//! signature: what gets here has been verified, by TLS above all.

use std::time::{SystemTime, UNIX_EPOCH};

pub mod certificate;
mod names;
mod standings;

pub use certificate::{credential_of, identify};
pub use names::{check_name, check_vin};
pub use standings::{Open, Standings, settle};

/// Milliseconds since 1970, as the system has them: what proves an identity ends by the clocks of others.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
