//! Certificates, revocation lists and keys of tokens that change while the broker runs.
//!
//! Owns when they are read again, and that whoever is connected with a certificate that is revoked by then is closed. Open connections are
//! left alone otherwise.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{Notices, ServerError};
use crate::auth::Authenticator;
use crate::listener::Listener;
use crate::tls::{ListenerTls, TlsError};

/// How often the system is asked whether a file has changed: what is revoked is to be closed within a second.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Those of all listeners with TLS. Clones are the same.
#[derive(Clone)]
pub(super) struct Certificates {
    listeners: Arc<[Arc<Listener>]>,
    authenticator: Authenticator,
    notices: Notices,
}

impl Certificates {
    pub(super) fn new(listeners: &[Arc<Listener>], authenticator: Authenticator, notices: Notices) -> Certificates {
        let with_tls = listeners.iter().filter(|listener| listener.tls.is_some()).cloned();
        Certificates { listeners: with_tls.collect(), authenticator, notices }
    }

    /// Reads all again. Where they are wrong, the old ones stay, and the errors say which.
    pub(super) async fn reload(&self) -> Vec<ServerError> {
        let mut errors = Vec::new();
        for listener in self.listeners.iter() {
            errors.extend(self.reload_one(listener).await.err());
        }
        errors
    }

    /// Reads again what has changed, for ever.
    pub(super) async fn watch(self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.listeners.is_empty() || self.authenticator.has_tokens() {
            looks.tick().await;
            if self.authenticator.keys_changed() {
                reload_keys(&self.authenticator);
            }
            for listener in self.changed().await {
                let name = &listener.settings.name;
                match self.reload_one(&listener).await {
                    Ok(()) => {
                        tracing::info!(target: "causeway::server", listener = name, "certificates have changed and were read again");
                    }
                    Err(error) => {
                        tracing::error!(target: "causeway::server", listener = name, %error, "certificates are wrong, the old ones stay");
                    }
                }
            }
        }
    }

    async fn changed(&self) -> Vec<Arc<Listener>> {
        let listeners = self.listeners.clone();
        let changed = |listener: &&Arc<Listener>| listener.tls.as_ref().is_some_and(ListenerTls::files_changed);
        // A file may be on a disk that is slow to answer.
        tokio::task::spawn_blocking(move || listeners.iter().filter(changed).cloned().collect())
            .await
            .unwrap_or_default()
    }

    async fn reload_one(&self, listener: &Arc<Listener>) -> Result<(), ServerError> {
        let wrong =
            |source: TlsError| ServerError::Tls { listener: listener.settings.name.clone(), source: Box::new(source) };
        let reloading = listener.clone();
        // A list of a million certificates takes a while.
        let read =
            tokio::task::spawn_blocking(move || reloading.tls.as_ref().map_or(Ok(HashSet::new()), ListenerTls::reload));
        // It fails only where the process ends.
        let revoked = read.await.unwrap_or_else(|_| Ok(HashSet::new())).map_err(wrong)?;
        if !revoked.is_empty() {
            tracing::info!(target: "causeway::server", certificates = revoked.len(), "certificates were revoked");
        }
        self.notices.revoke(revoked, "the certificate is revoked").await;
        Ok(())
    }
}

/// Reads the keys of tokens again, where there are any. A file of keys is small.
pub(crate) fn reload_keys(authenticator: &Authenticator) {
    match authenticator.reload_keys() {
        Ok(None) => {}
        Ok(Some(keys)) => tracing::info!(target: "causeway::server", keys, "read the keys of tokens again"),
        Err(error) => {
            tracing::error!(target: "causeway::server", %error, "the keys of tokens are wrong, the old ones stay")
        }
    }
}
