//! A vehicle as the registry knows it.
//!
//! Owns the states, and which may follow on which.

use std::fmt;
use std::str::FromStr;

use causeway_fleet::{Groups, Vin};
use serde::{Deserialize, Serialize};

use super::codec::{Read, Reader, Writer};

/// What a vehicle may do here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Known, and waits for its credential: it may enrol, which makes it active. It may not connect yet.
    Provisioned,
    /// May connect.
    Active,
    /// May not connect until it is made active again.
    Suspended,
    /// May never connect again.
    Retired,
}

impl State {
    /// All of them.
    pub const ALL: [State; 4] = [State::Provisioned, State::Active, State::Suspended, State::Retired];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Provisioned => "provisioned",
            State::Active => "active",
            State::Suspended => "suspended",
            State::Retired => "retired",
        }
    }

    /// Whether a vehicle in this state may be brought into that one. To stay as it is is no change, and always fine.
    pub fn may_become(self, next: State) -> bool {
        match (self, next) {
            (State::Provisioned, State::Active | State::Suspended | State::Retired)
            | (State::Active, State::Suspended | State::Retired)
            | (State::Suspended, State::Active | State::Retired) => true,
            (from, to) => from == to,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            State::Provisioned => 0,
            State::Active => 1,
            State::Suspended => 2,
            State::Retired => 3,
        }
    }

    fn from_byte(byte: u8) -> Read<State> {
        State::ALL.get(usize::from(byte)).copied().ok_or("it has a state that is none")
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<State, String> {
        let found = State::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no state: there are provisioned, active, suspended and retired"))
    }
}

/// What the front door needs to know of a vehicle. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Its groups.
    pub groups: Groups,
}

impl Standing {
    /// Whether it may connect.
    pub fn may_connect(&self) -> bool {
        self.state == State::Active
    }
}

/// All that is kept of a vehicle. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vehicle {
    /// Its identification number.
    pub vin: Vin,
    /// What it may do.
    pub state: State,
    /// What it belongs to.
    pub groups: Groups,
    /// What its operators want to remember.
    pub note: String,
    /// When it was added.
    pub made_ms: u64,
    /// When any of this was changed last.
    pub changed_ms: u64,
}

impl Vehicle {
    /// What the front door needs to know of it.
    pub fn standing(&self) -> Standing {
        Standing { state: self.state, groups: self.groups.clone() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let times = Writer::new().byte(self.state.to_byte()).number(self.made_ms).number(self.changed_ms);
        times.texts(self.groups.iter()).text(&self.note).done()
    }

    pub(super) fn decode(vin: Vin, value: &[u8]) -> Read<Vehicle> {
        let mut reader = Reader::new(value)?;
        let state = State::from_byte(reader.byte()?)?;
        let (made_ms, changed_ms) = (reader.number()?, reader.number()?);
        let groups = Groups::new(reader.texts()?).map_err(|_| "it has a group whose name is none")?;
        let note = reader.text()?.to_owned();
        reader.end()?;
        Ok(Vehicle { vin, state, groups, note, made_ms, changed_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_what_may_follow() {
        let table: String = State::ALL
            .iter()
            .map(|from| {
                let after: Vec<_> =
                    State::ALL.iter().filter(|to| from.may_become(**to)).map(|to| to.as_str()).collect();
                format!("{from} -> {}\n", after.join(" "))
            })
            .collect();
        let expected = "\
provisioned -> provisioned active suspended retired
active -> active suspended retired
suspended -> active suspended retired
retired -> retired
";
        assert_eq!(table, expected);
    }

    #[test]
    fn a_vehicle_survives_its_bytes_and_any_damage_is_an_error() {
        let vin = "1M8GDM9AXKP042788".parse().unwrap();
        let groups = Groups::new(["eu", "ring-1"]).unwrap();
        let vehicle = Vehicle {
            vin,
            state: State::Suspended,
            groups,
            note: "Zoë's".to_owned(),
            made_ms: 7,
            changed_ms: u64::MAX,
        };
        let bytes = vehicle.encode();
        assert_eq!(Vehicle::decode(vin, &bytes), Ok(vehicle));
        for length in 0..bytes.len() {
            assert!(Vehicle::decode(vin, &bytes[..length]).is_err(), "{length}");
        }
        assert!(Vehicle::decode(vin, &[bytes.as_slice(), b"x"].concat()).is_err());
        assert_eq!(Vehicle::decode(vin, b"\x02"), Err("it was written by a newer version of Causeway"));
        assert_eq!(Vehicle::decode(vin, b"\x01\x04"), Err("it has a state that is none"));
    }
}
