//! A client of a vehicle, as the simulation knows it.
//!
//! Owns what its connections may leave behind: which of its wills may be published, and which never.

use causeway_core::{ConnectionId, Principal, Vin};

/// One of a vehicle's clients.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) vehicle: usize,
    pub(super) client_id: String,
    pub(super) connection: Option<Open>,
    /// Wills whose connection is over and that wait for their delay, as far as the client knows.
    pub(super) left: Vec<Left>,
}

/// A connection of it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: ConnectionId,
    /// CONNACK is there.
    pub(super) is_answered: bool,
    pub(super) is_clean: bool,
    /// The number of its will, and the will's delay.
    pub(super) will: Option<(u32, u32)>,
}

/// A will that its connection left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) will: u32,
    /// Not before.
    pub(super) due: u64,
}

/// What is known about a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WillState {
    /// Its connection is open, or lost and not long enough.
    Waits,
    /// It may be published.
    Free,
    /// Its client went in peace, or was back in time with its session.
    Forestalled,
}

/// The number of a vehicle is part of its VIN.
pub(super) fn vin(number: usize) -> Vin {
    let text = format!("WVWZZZ1JZ3W{number:06}");
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a VIN"))
}

pub(super) fn principal(number: usize) -> Principal {
    Principal::Vehicle(vin(number))
}
