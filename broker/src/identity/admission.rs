//! Whether somebody who has proven who it is may come in.
//!
//! Owns the questions to the registry, and what a client is told that may not. It keeps no answer: each CONNECT asks again.

use std::sync::Arc;

use causeway_core::Verdict;
use causeway_fleet::{Groups, Identity, Vin};
use causeway_protocol::ReasonCode;

use crate::config::UnknownVehicles;
use crate::registry::{Registry, RegistryError, Standing, now_ms};

/// Asks the registry. Clones ask the same.
#[derive(Clone)]
pub struct Admission {
    registry: Arc<Registry>,
    unknown: UnknownVehicles,
}

impl Admission {
    /// Asks `registry`; `unknown` is what becomes of vehicles that it does not know.
    pub fn new(registry: Arc<Registry>, unknown: UnknownVehicles) -> Admission {
        Admission { registry, unknown }
    }

    /// A verdict, when it has been asked whether who is allowed may come in: with the groups of a vehicle. Waits for the disk only where
    /// an unknown vehicle becomes known by connecting.
    pub async fn settle(&self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Allow { identity, data } => match self.admit(identity).await {
                Ok(identity) => Verdict::Allow { identity, data },
                Err((reason, why)) => Verdict::Deny { reason, why },
            },
            verdict => verdict,
        }
    }

    /// Whether what somebody was proven with still proves anything. Never waits.
    ///
    /// # Errors
    /// It is revoked.
    pub(crate) fn check_credential(&self, identity: &Identity) -> Result<(), String> {
        match identity.credential.as_ref().filter(|credential| self.registry.is_revoked(credential)) {
            Some(credential) => Err(format!("the credential {credential} is revoked")),
            None => Ok(()),
        }
    }

    async fn admit(&self, mut identity: Identity) -> Result<Identity, (ReasonCode, String)> {
        let not_authorized = |why: String| (ReasonCode::NotAuthorized, why);
        self.check_credential(&identity).map_err(not_authorized)?;
        if let Some(vin) = identity.principal.vin().copied() {
            let standing = match self.registry.standing(&vin) {
                Some(standing) => Some(standing),
                None => self.unknown(vin).await.map_err(|error| (ReasonCode::ServerUnavailable, error))?,
            };
            identity.groups = match standing {
                Some(standing) if standing.may_connect() => standing.groups,
                Some(standing) => return Err(not_authorized(format!("vehicle {vin} is {}", standing.state))),
                None if self.unknown == UnknownVehicles::Allow => Groups::default(),
                None => return Err(not_authorized(format!("vehicle {vin} is not in the registry"))),
            };
        }
        Ok(identity)
    }

    async fn unknown(&self, vin: Vin) -> Result<Option<Standing>, String> {
        if self.unknown != UnknownVehicles::Register {
            return Ok(None);
        }
        let registry = self.registry.clone();
        let registered = tokio::task::spawn_blocking(move || registry.register(&vin, now_ms())).await;
        let told = |error: RegistryError| error.to_string();
        registered.map_err(|error| error.to_string())?.map(Some).map_err(told)
    }
}

#[cfg(test)]
mod tests {
    use causeway_fleet::Principal;

    use super::*;
    use crate::registry::State;

    const VIN: &str = "1M8GDM9AXKP042788";
    const OTHER: &str = "WVWZZZ1JZ3W386752";

    fn vin(text: &str) -> Vin {
        text.parse().unwrap()
    }

    async fn settled(admission: &Admission, principal: Principal) -> Result<Identity, (ReasonCode, String)> {
        let identity = Identity { credential: Some(Arc::from("x509:01@aa")), ..principal.into() };
        match admission.settle(Verdict::Allow { identity, data: Vec::new() }).await {
            Verdict::Allow { identity, .. } => Ok(identity),
            Verdict::Deny { reason, why } => Err((reason, why)),
            Verdict::Continue { .. } => panic!("goes on"),
        }
    }

    #[tokio::test]
    async fn the_registry_is_asked() {
        let registry = Arc::new(Registry::in_memory().unwrap());
        registry.register(&vin(VIN), 1).unwrap();
        registry.put_group("eu", "", 1).unwrap();
        registry.set_members("eu", &[vin(VIN)], true, 1).unwrap();
        let admission = Admission::new(registry.clone(), UnknownVehicles::Refuse);
        let vehicle = || Principal::Vehicle(vin(VIN));
        assert!(settled(&admission, vehicle()).await.unwrap().groups.contains("eu"));
        assert!(settled(&admission, Principal::service("a")).await.is_ok());

        registry.set_state(&[vin(VIN)], State::Suspended, 2).unwrap();
        let (reason, why) = settled(&admission, vehicle()).await.unwrap_err();
        assert_eq!((reason, why.as_str()), (ReasonCode::NotAuthorized, "vehicle 1M8GDM9AXKP042788 is suspended"));

        registry.revoke(&["x509:01@aa"], "stolen", 3).unwrap();
        assert!(settled(&admission, Principal::service("a")).await.unwrap_err().1.contains("revoked"));
    }

    #[tokio::test]
    async fn unknown_vehicles_are_a_matter_of_configuration() {
        let registry = Arc::new(Registry::in_memory().unwrap());
        let with = |unknown| Admission::new(registry.clone(), unknown);
        let vehicle = || Principal::Vehicle(vin(OTHER));
        let (reason, why) = settled(&with(UnknownVehicles::Refuse), vehicle()).await.unwrap_err();
        assert_eq!(
            (reason, why.as_str()),
            (ReasonCode::NotAuthorized, "vehicle WVWZZZ1JZ3W386752 is not in the registry")
        );
        assert!(settled(&with(UnknownVehicles::Allow), vehicle()).await.is_ok());
        assert!(registry.standing(&vin(OTHER)).is_none());
        assert!(settled(&with(UnknownVehicles::Register), vehicle()).await.is_ok());
        assert!(settled(&with(UnknownVehicles::Refuse), vehicle()).await.is_ok(), "it is known now");
    }
}
