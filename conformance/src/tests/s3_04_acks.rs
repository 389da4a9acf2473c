//! Owns the tests of section 3.4: PUBACK, PUBREC, PUBREL, PUBCOMP (3.4 to 3.7). Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.4",
    title: "PUBACK, PUBREC, PUBREL, PUBCOMP (3.4 to 3.7)",
    tests: {},
    unobservable: {},
};
