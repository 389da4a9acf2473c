//! Owns the tests of section 3.12: PINGREQ and PINGRESP (3.12, 3.13). Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "3.12",
    title: "PINGREQ and PINGRESP (3.12, 3.13)",
    tests: {},
    unobservable: {},
};
