//! Who a client is: what it showed, turned into a principal, and whether that principal may come in.
//!
//! Owns the mapping from certificates to identities, the names of credentials, and the questions to the fleet's registry. It verifies no
//! signature: what gets here has been verified, by TLS above all.

mod admission;
pub mod certificate;
mod names;

pub use admission::Admission;
pub use certificate::{credential_in, credential_of, identify};
pub use names::{check_name, check_vin};
