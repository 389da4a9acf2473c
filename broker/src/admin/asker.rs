//! Who is at the other end of a connection of the administration listener.
//!
//! Owns what a client certificate means here: only an operator's counts. It decides nothing (see [`super::access`]).

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use causeway_fleet::Principal;

use super::bounded::Bounded;
use crate::config::IdentitySettings;
use crate::https::{HttpsListener, Peer};
use crate::identity::identify;
use crate::patience::Patience;
use crate::registry::{Registry, Subject, now_ms};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) patience: Patience,
    /// Over TLS.
    peer: Option<Peer>,
}

impl Connected<IncomingStream<'_, Bounded>> for Asker {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Asker {
        Asker { patience: Patience::connect_info(stream), peer: None }
    }
}

impl Connected<IncomingStream<'_, HttpsListener>> for Asker {
    fn connect_info(stream: IncomingStream<'_, HttpsListener>) -> Asker {
        let peer = Peer::connect_info(stream);
        Asker { patience: peer.patience.clone(), peer: Some(peer) }
    }
}

impl Asker {
    /// The operator, as a principal prints, where the certificate is one's and still good.
    pub(super) fn operator(&self, settings: &IdentitySettings, registry: Option<&Registry>) -> Option<String> {
        let peer = self.peer.as_ref()?;
        let identity = identify(peer.certificate.as_ref()?, settings).ok()?;
        let Principal::Operator(name) = &identity.principal else { return None };
        // A connection may be older than what ended its certificate, and a TLS session goes on without another look at it.
        if let Err(why) = peer.check_now() {
            tracing::warn!(target: "causeway::admin", %name, why, "an operator's certificate is not good any more");
            return None;
        }
        let has_ended = identity.valid_until_ms.is_some_and(|end| end <= now_ms());
        let is_out = |registry: &Registry| {
            let is_revoked = identity.credential.as_ref().is_some_and(|credential| registry.is_revoked(credential));
            is_revoked || registry.is_banned(&Subject::Operator(name.to_string()), now_ms()).is_some()
        };
        (!has_ended && !registry.is_some_and(is_out)).then(|| identity.principal.to_string())
    }
}
