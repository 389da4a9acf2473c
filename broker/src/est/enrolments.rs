//! What enrolment asks of whoever knows the vehicles.
//!
//! Owns the questions. The answers come from the registry: see [`super::Registered`].

use causeway_fleet::Vin;

/// Why the answer is no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It may not, as told here.
    No(String),
    /// It is not known whether it may: something failed.
    Failed(String),
}

/// Whoever knows the vehicles, their tokens and what was issued to them. Calls may wait for the disk; times are milliseconds since 1970.
pub trait Enrolments: Send + Sync + 'static {
    /// The vehicle that a token is for, where the token is good now. It stays good.
    ///
    /// # Errors
    /// It is unknown, used or expired.
    fn check_token(&self, token: &str, now_ms: u64) -> Result<Vin, Denied>;

    /// Uses a token up, durably: of two who try at the same time, one succeeds. Returns the vehicle that it is for.
    ///
    /// # Errors
    /// As [`check_token`](Enrolments::check_token).
    fn redeem(&self, token: &str, now_ms: u64) -> Result<Vin, Denied>;

    /// Whether a claim certificate may have a first certificate made for this vehicle.
    ///
    /// # Errors
    /// Why not.
    fn vehicle_may_enrol(&self, vin: &Vin) -> Result<(), Denied>;

    /// Whether this vehicle may get a new certificate for this credential (`x509:SERIAL@ISSUER`), which it has shown.
    ///
    /// # Errors
    /// Why not.
    fn vehicle_may_renew(&self, vin: &Vin, credential: &str) -> Result<(), Denied>;

    /// Notes what was issued, durably, before the vehicle gets it.
    ///
    /// # Errors
    /// It is not wanted any more: the vehicle must not get it.
    fn issued(&self, vin: &Vin, credential: &str, not_after_ms: u64, now_ms: u64) -> Result<(), Denied>;
}
