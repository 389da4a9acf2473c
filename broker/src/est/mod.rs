//! Enrolment over secure transport (RFC 7030): how a vehicle that made its own key gets a certificate for it, and the next one in time.
//!
//! Owns the HTTPS listener and what it answers. Who gets a certificate is decided in `desk`; the certificates are the business of
//! [`crate::pki`]. Private keys never come here.

mod answers;
mod desk;
mod enrolments;
mod pace;
mod pkcs7;
mod registered;
mod throttle;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

pub use enrolments::{Denied, Enrolments};
pub use registered::Registered;

use crate::audit::Audit;
use crate::config::{ClientCertificate, Enrolment, Tls, TlsVersion};
use crate::https::{Bounds, HttpsListener, Peer};
use crate::pki::{Authority, PkiError};
use crate::tls::{ListenerTls, TlsError};
use answers::Office;
use desk::Desk;

/// A request takes a second or two, even in a slow cell. Behind one address there may be a whole plant.
const BOUNDS: Bounds = Bounds {
    connections_max: 256,
    connections_per_address_max: 64,
    handshake_max: Duration::from_secs(10),
    connection_max: Duration::from_secs(30),
};

/// How often the system is asked whether a certificate of the listener has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why there is no enrolment.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The configuration lacks something.
    #[error("enrolment.bind needs enrolment.{0}, too")]
    Incomplete(&'static str),
    /// The server's certificate cannot be used.
    #[error("enrolment: {0}")]
    Tls(#[from] TlsError),
    /// The authority cannot be used.
    #[error("enrolment.authority_directory: {0}")]
    Authority(#[from] PkiError),
    /// The address is in use or not of this machine.
    #[error("enrolment cannot bind {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The bound listener.
pub struct EnrolmentServer {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<ListenerTls>,
    office: Office,
}

impl EnrolmentServer {
    /// Opens the authority and binds the listener, where the configuration says so.
    ///
    /// # Errors
    /// [`EnrolmentError`].
    pub async fn bind(
        settings: &Enrolment,
        enrolments: Arc<dyn Enrolments>,
        audit: Audit,
    ) -> Result<Option<EnrolmentServer>, EnrolmentError> {
        let Some(address) = settings.bind else { return Ok(None) };
        let (tls, authority) = open(settings)?;
        let desk = Desk::new(authority, enrolments, settings.validity_days)?;
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|source| EnrolmentError::Bind { address, source })?;
        Ok(Some(EnrolmentServer { listener, address, tls: Arc::new(tls), office: Office::new(desk, audit) }))
    }

    /// Where it is bound: the port, if the system chose it.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` resolves. Requests under way are then answered.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let listener = HttpsListener::new(self.listener, self.tls.clone(), BOUNDS);
        let router = self.office.router().into_make_service_with_connect_info::<Peer>();
        let served = tokio::select! {
            served = axum::serve(listener, router).with_graceful_shutdown(shutdown) => served,
            never = watch(self.tls) => match never {},
        };
        if let Err(error) = served {
            tracing::error!(target: "causeway::enrolment", %error, "the enrolment listener failed");
        }
    }
}

/// Reads the certificates again when they have changed: new connections see what the files hold now.
async fn watch(tls: Arc<ListenerTls>) -> Infallible {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let tls = tls.clone();
        // A file may be on a disk that is slow to answer.
        let read = tokio::task::spawn_blocking(move || tls.files_changed().then(|| tls.reload()));
        match read.await {
            Ok(Some(Ok(_))) => {
                tracing::info!(target: "causeway::enrolment", "certificates have changed and were read again");
            }
            Ok(Some(Err(error))) => {
                tracing::error!(target: "causeway::enrolment", %error, "certificates are wrong, the old ones stay");
            }
            // It fails only where the process ends.
            Ok(None) | Err(_) => {}
        }
    }
}

/// What the configuration names, looked at.
///
/// # Errors
/// All but [`EnrolmentError::Bind`].
pub(crate) fn open(settings: &Enrolment) -> Result<(ListenerTls, Authority), EnrolmentError> {
    let folder = settings.authority_directory.as_deref().ok_or(EnrolmentError::Incomplete("authority_directory"))?;
    let authority = Authority::open(folder)?;
    let tls = Tls {
        certificate_file: settings.certificate_file.clone().ok_or(EnrolmentError::Incomplete("certificate_file"))?,
        key_file: settings.key_file.clone().ok_or(EnrolmentError::Incomplete("key_file"))?,
        client_ca_file: Some(Authority::certificate_path(folder)),
        // The authority's index says more, and sooner.
        crl_file: None,
        crl_unknown: Default::default(),
        // Who has none comes with a token.
        client_certificate: ClientCertificate::Optional,
        min_version: TlsVersion::V1_2,
    };
    Ok((ListenerTls::load(tls, true)?, authority))
}

#[cfg(test)]
mod tests;
