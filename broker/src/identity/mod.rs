//! Who a client is: what it showed, turned into a principal, and whether that principal may come in.
//!
//! Owns the mapping from certificates to identities, the names of credentials, and the question to the fleet's registry. It verifies no
//! signature: what gets here has been verified, by TLS above all.

pub mod certificate;
mod names;
mod standings;

pub use certificate::{credential_of, identify};
pub use names::{check_name, check_vin};
pub use standings::{Open, Standings, settle};
