//! Whether somebody who has proven who it is may come in.
//!
//! Owns the question to whoever knows the fleet, and what a client is told that may not. It keeps no answer: each CONNECT asks again.

use causeway_core::Verdict;
use causeway_fleet::{Groups, Identity, Vin};
use causeway_protocol::ReasonCode;

/// Who knows the fleet.
pub trait Standings: Send + Sync {
    /// The groups of a vehicle that may connect. Must not wait.
    ///
    /// # Errors
    /// Why it may not, for the client and the log.
    fn vehicle(&self, vin: &Vin) -> Result<Groups, String>;

    /// Whether what proved an identity (see [`Identity::credential`]) was revoked. Must not wait.
    fn is_revoked(&self, credential: &str) -> bool;
}

/// Nobody is known, and all who prove a name are welcome.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open;

impl Standings for Open {
    fn vehicle(&self, _: &Vin) -> Result<Groups, String> {
        Ok(Groups::default())
    }

    fn is_revoked(&self, _: &str) -> bool {
        false
    }
}

/// A verdict, when it has been asked whether who is allowed may come in: with the groups of a vehicle.
pub fn settle(standings: &dyn Standings, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Allow { identity, data } => match admitted(standings, identity) {
            Ok(identity) => Verdict::Allow { identity, data },
            Err(why) => Verdict::Deny { reason: ReasonCode::NotAuthorized, why },
        },
        verdict => verdict,
    }
}

fn admitted(standings: &dyn Standings, mut identity: Identity) -> Result<Identity, String> {
    if let Some(credential) = identity.credential.as_ref().filter(|credential| standings.is_revoked(credential)) {
        return Err(format!("the credential {credential} is revoked"));
    }
    if let Some(vin) = identity.principal.vin() {
        identity.groups = standings.vehicle(vin)?;
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use causeway_fleet::Principal;

    use super::*;

    const VIN: &str = "1M8GDM9AXKP042788";

    struct Fleet;

    impl Standings for Fleet {
        fn vehicle(&self, vin: &Vin) -> Result<Groups, String> {
            match vin.as_str() {
                VIN => Ok(Groups::new(["eu"]).unwrap()),
                _ => Err("suspended".to_owned()),
            }
        }

        fn is_revoked(&self, credential: &str) -> bool {
            credential == "password:eve"
        }
    }

    fn settled(principal: Principal, credential: &str) -> Verdict {
        let identity = Identity { credential: Some(Arc::from(credential)), ..principal.into() };
        settle(&Fleet, Verdict::Allow { identity, data: Vec::new() })
    }

    #[test]
    fn the_fleet_is_asked() {
        let vehicle = |vin: &str| Principal::Vehicle(vin.parse().unwrap());
        let Verdict::Allow { identity, .. } = settled(vehicle(VIN), "x") else { panic!("refused") };
        assert!(identity.groups.contains("eu"));
        assert!(matches!(settled(Principal::service("a"), "password:a"), Verdict::Allow { .. }));
        for refused in [settled(vehicle("WVWZZZ1JZ3W386752"), "x"), settled(Principal::service("eve"), "password:eve")]
        {
            assert!(matches!(refused, Verdict::Deny { reason: ReasonCode::NotAuthorized, .. }));
        }
    }
}
