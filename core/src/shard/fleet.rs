//! The vehicles that live here, as a fleet to be asked about.
//!
//! Owns that each row follows its shadow. What is found, and in which order, is [`crate::rows`]'s.

use causeway_fleet::Vin;
use causeway_fleet::query::Scalar;
use causeway_fleet::shadow::Shadow;

use super::Shard;
use crate::rows::FleetPage;
use crate::{FleetAsk, FleetWhich};

impl Shard {
    /// A vehicle's classic shadow is this now.
    pub(super) fn index_shadow(&mut self, vin: &Vin, shadow: &Shadow) {
        match shadow.exists() {
            true => self.rows.set(*vin, shadow.version(), |path| Scalar::of(&shadow.value_at(path)?)),
            false => self.rows.remove(vin),
        }
    }

    pub(super) fn ask_fleet(&self, ask: &FleetAsk) -> FleetPage {
        match &ask.which {
            FleetWhich::All { order, after } => self.rows.ask(&ask.query, *order, after.as_ref(), ask.limit),
            FleetWhich::Among(vins) => self.rows.ask_about(&ask.query, vins),
        }
    }
}
