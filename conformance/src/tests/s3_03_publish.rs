//! Owns the tests of section 3.3: PUBLISH. Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.3",
    title: "PUBLISH",
    tests: {},
    unobservable: {},
};
