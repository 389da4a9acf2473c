//! What becomes known of a change of a shadow beside MQTT.
//!
//! Owns the entry of the history that a change makes, and the news for whoever follows shadows through the rest of the broker.

use std::sync::Arc;

use causeway_fleet::Principal;
use causeway_fleet::shadow::{Format, Transition, Value, write};

use super::shadow::Whose;
use super::{Release, Shard};
use crate::{Effect, Lsn, Millis, TwinEvent};

impl Shard {
    /// Whether anybody listens to [`Effect::Twin`].
    pub fn tell_twins(&mut self, has_listener: bool) {
        self.tells_twins = has_listener;
    }

    /// A shadow changed, now or in an earlier run.
    pub(super) fn note_transition(
        &mut self,
        (now, at): (Millis, Lsn),
        (vin, name): Whose<'_>,
        by: &Principal,
        transition: &Transition,
    ) {
        let (is_told, is_kept) = (self.tells_twins && self.replaying.is_none(), self.keeps_history());
        if !is_told && !is_kept {
            return;
        }
        let version = transition.version;
        let entry: Arc<[u8]> = Arc::from(write(&entry_of(now, by, transition), Format::Json));
        if is_kept {
            self.note_history(&vin, name.unwrap_or_default(), version, now, &entry);
        }
        if !is_told {
            return;
        }
        let event = TwinEvent { vin, name: name.map(Into::into), version, at: now, entry };
        self.when_durable(now, at, Release::Told(Box::new(Effect::Twin(Box::new(event)))));
    }
}

/// What the history says of a change.
fn entry_of(now: Millis, by: &Principal, transition: &Transition) -> Value {
    let mut entry = transition.history.clone();
    if let Value::Object(fields) = &mut entry {
        let by = match by {
            Principal::Shard(_) => "broker".to_owned(),
            named => named.to_string(),
        };
        fields.insert("version".to_owned(), transition.version.into());
        fields.insert("at".to_owned(), now.rfc3339().as_str().into());
        fields.insert("by".to_owned(), by.into());
    }
    entry
}
