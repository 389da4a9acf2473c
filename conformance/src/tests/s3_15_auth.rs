//! Owns the tests of section 3.15: AUTH (3.15) and enhanced authentication (4.12). Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.15",
    title: "AUTH (3.15) and enhanced authentication (4.12)",
    tests: {},
    unobservable: {},
};
