//! Owns the tests of section 3.14: DISCONNECT. Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.14",
    title: "DISCONNECT",
    tests: {},
    unobservable: {},
};
