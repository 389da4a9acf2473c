//! Owns the tests of section 3.8: SUBSCRIBE and SUBACK (3.8, 3.9). Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.8",
    title: "SUBSCRIBE and SUBACK (3.8, 3.9)",
    tests: {},
    unobservable: {},
};
