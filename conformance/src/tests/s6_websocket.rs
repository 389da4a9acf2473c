//! Owns the tests of section 6: MQTT over WebSocket. Never tests what another section owns.

use crate::registry::{Section, section};

/// The section.
pub const SECTION: Section = section! {
    prefix: "6",
    title: "MQTT over WebSocket",
    tests: {},
    unobservable: {},
};
