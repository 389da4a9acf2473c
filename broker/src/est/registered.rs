//! Enrolment as the registry allows it.
//!
//! Owns which states of a vehicle let it enrol and renew. It keeps nothing: the registry does.

use std::sync::Arc;

use causeway_fleet::{Principal, Vin};

use super::enrolments::{Denied, Enrolments};
use crate::registry::{Registry, RegistryError, State};

/// The registry, as enrolment asks it.
pub struct Registered {
    registry: Arc<Registry>,
    known_vehicles_only: bool,
}

impl Registered {
    /// Asks `registry`. Of vehicles that are not in it, none gets a certificate, or all do that come with a proof.
    pub fn new(registry: Arc<Registry>, known_vehicles_only: bool) -> Registered {
        Registered { registry, known_vehicles_only }
    }

    fn unknown(&self, vin: &Vin) -> Result<(), Denied> {
        match self.known_vehicles_only {
            true => Err(Denied::No(format!("{vin} is not in the registry"))),
            false => Ok(()),
        }
    }
}

impl Enrolments for Registered {
    fn check_token(&self, token: &str, now_ms: u64) -> Result<Vin, Denied> {
        Ok(self.registry.check_token(token, now_ms)?)
    }

    fn redeem(&self, token: &str, now_ms: u64) -> Result<Vin, Denied> {
        Ok(self.registry.redeem_token(token, now_ms)?)
    }

    fn vehicle_may_enrol(&self, vin: &Vin) -> Result<(), Denied> {
        match self.registry.standing(vin).map(|standing| standing.state) {
            Some(State::Provisioned) => Ok(()),
            // A factory's certificate must not be good for taking over vehicles that are on the road.
            Some(State::Active) => {
                Err(Denied::No(format!("{vin} is active: another certificate takes a token, or the one that it has")))
            }
            Some(state) => Err(Denied::No(format!("{vin} is {state}"))),
            None => self.unknown(vin),
        }
    }

    fn vehicle_may_renew(&self, vin: &Vin, credential: &str) -> Result<(), Denied> {
        if self.registry.is_revoked(credential) {
            return Err(Denied::No(format!("the credential {credential} is revoked")));
        }
        match self.registry.standing(vin).map(|standing| standing.state) {
            Some(State::Provisioned | State::Active) => Ok(()),
            Some(state) => Err(Denied::No(format!("{vin} is {state}"))),
            None => self.unknown(vin),
        }
    }

    fn issued(&self, vin: &Vin, credential: &str, not_after_ms: u64, now_ms: u64) -> Result<(), Denied> {
        Ok(self.registry.issued(credential, &Principal::Vehicle(*vin), Some(not_after_ms), now_ms)?)
    }
}

impl From<RegistryError> for Denied {
    fn from(error: RegistryError) -> Denied {
        match error {
            RegistryError::Invalid(_)
            | RegistryError::Unknown(_)
            | RegistryError::Conflict(_)
            | RegistryError::Refused(_)
            | RegistryError::Limit(_) => Denied::No(error.to_string()),
            RegistryError::Damaged { .. } | RegistryError::Missing(_) | RegistryError::Storage(_) => {
                Denied::Failed(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use causeway_fleet::Groups;

    use super::*;
    use crate::registry::NewVehicle;

    const VIN: &str = "1M8GDM9AXKP042788";
    const CREDENTIAL: &str = "x509:5f@0011223344556677";
    const HOUR_MS: u64 = 3_600_000;

    fn registered(state: Option<State>, known_vehicles_only: bool) -> (Registered, Vin) {
        let registry = Arc::new(Registry::in_memory().unwrap());
        let vin = VIN.parse().unwrap();
        if let Some(state) = state {
            let begin = if state == State::Retired { State::Active } else { state };
            let new = NewVehicle { vin, state: begin, groups: Groups::default(), note: String::new() };
            registry.add(&[new], false, 1).unwrap();
            registry.set_state(&[vin], state, 2).unwrap();
        }
        (Registered::new(registry, known_vehicles_only), vin)
    }

    #[test]
    fn states_decide() {
        let table: String =
            [None, Some(State::Provisioned), Some(State::Active), Some(State::Suspended), Some(State::Retired)]
                .into_iter()
                .flat_map(|state| [true, false].map(|known_only| (state, known_only)))
                .map(|(state, known_only)| {
                    let (registered, vin) = registered(state, known_only);
                    let shown = state.map_or("unknown", State::as_str);
                    let yes = |answer: Result<(), Denied>| if answer.is_ok() { "yes" } else { "no" };
                    let (enrol, renew) =
                        (registered.vehicle_may_enrol(&vin), registered.vehicle_may_renew(&vin, CREDENTIAL));
                    format!("{shown} known_only={known_only}: enrols {}, renews {}\n", yes(enrol), yes(renew))
                })
                .collect();
        let expected = "\
unknown known_only=true: enrols no, renews no
unknown known_only=false: enrols yes, renews yes
provisioned known_only=true: enrols yes, renews yes
provisioned known_only=false: enrols yes, renews yes
active known_only=true: enrols no, renews yes
active known_only=false: enrols no, renews yes
suspended known_only=true: enrols no, renews no
suspended known_only=false: enrols no, renews no
retired known_only=true: enrols no, renews no
retired known_only=false: enrols no, renews no
";
        assert_eq!(table, expected);
    }

    #[test]
    fn what_is_issued_makes_the_vehicle_active_and_can_be_revoked() {
        let (registered, vin) = registered(Some(State::Provisioned), true);
        let token = registered.registry.issue_token(&vin, HOUR_MS, 10).unwrap().token;
        assert_eq!(registered.check_token(&token, 11), Ok(vin));
        assert_eq!(registered.redeem(&token, 11), Ok(vin));
        assert!(matches!(registered.redeem(&token, 12), Err(Denied::No(_))));
        registered.issued(&vin, CREDENTIAL, HOUR_MS, 12).unwrap();
        assert_eq!(registered.registry.standing(&vin).unwrap().state, State::Active);
        registered.vehicle_may_renew(&vin, CREDENTIAL).unwrap();
        registered.registry.revoke(&[CREDENTIAL], "lost", 13).unwrap();
        assert!(matches!(registered.vehicle_may_renew(&vin, CREDENTIAL), Err(Denied::No(_))));
    }
}
