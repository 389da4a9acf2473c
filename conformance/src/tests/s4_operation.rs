//! Owns the tests of section 4: operational behaviour (4.1 to 4.13, without 4.12). Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "4",
    title: "operational behaviour (4.1 to 4.13, without 4.12)",
    tests: {},
    unobservable: {},
};
