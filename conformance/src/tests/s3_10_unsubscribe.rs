//! Owns the tests of section 3.10: UNSUBSCRIBE and UNSUBACK (3.10, 3.11). Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.10",
    title: "UNSUBSCRIBE and UNSUBACK (3.10, 3.11)",
    tests: {},
    unobservable: {},
};
