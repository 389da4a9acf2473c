//! Owns the tests of section v311: where MQTT 3.1.1 and 3.1 differ from MQTT 5. Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "v311",
    title: "where MQTT 3.1.1 and 3.1 differ from MQTT 5",
    tests: {},
    unobservable: {},
};
