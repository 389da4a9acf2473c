//! Certificates and the rules of TLS of one listener.
//!
//! Owns the rustls configuration made from files, and its replacement while the broker runs. It never sees a connection: those take the
//! rules of the moment they begin (see [`crate::transport`]), and are judged by those of the moment of their CONNECT.
//!
//! Sessions can be resumed, those with client certificates, too: a ticket holds the certificates, and [`TlsRules::check`] verifies them
//! again at CONNECT, with what is trusted and revoked by then.

mod clients;
mod files;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};

use crate::config::{ClientCertificate, Tls, TlsVersion};
use crate::identity::credential_in;
use crate::transport::PeerCertificates;
use crate::watched::Watched;
use clients::Clients;
use files::{read_certificates, read_key};

pub use files::TlsError;

/// What is in force for new connections of a listener, and for those whose CONNECT comes now.
pub(crate) struct TlsRules {
    /// For rustls.
    pub(crate) config: Arc<ServerConfig>,
    /// Where clients are asked for certificates.
    clients: Option<Clients>,
}

/// The rules of a listener, replaced as a whole by [`ListenerTls::reload`].
pub(crate) struct ListenerTls {
    settings: Tls,
    websocket: bool,
    /// The same over all reloads: a new certificate of the server is no reason for all clients to begin anew. Each listener has its own:
    /// what began where no certificate is asked for must not go on where one is.
    tickets: Arc<dyn ProducesTickets>,
    current: ArcSwap<TlsRules>,
    /// Held while they are read.
    files: Mutex<Watched>,
}

impl ListenerTls {
    /// Reads the files of `settings`. `websocket` decides which protocols are negotiated by ALPN.
    ///
    /// # Errors
    /// Where a file is missing or wrong.
    pub(crate) fn load(settings: Tls, websocket: bool) -> Result<ListenerTls, TlsError> {
        let files = Mutex::new(Watched::new(files_of(&settings)));
        let tickets = ring::Ticketer::new()?;
        let current = ArcSwap::from_pointee(TlsRules::read(&settings, websocket, tickets.clone())?);
        Ok(ListenerTls { settings, websocket, tickets, current, files })
    }

    /// Reads the files again. New connections use what they hold now; open ones are left alone. Returns the names of those credentials
    /// that were not revoked before and are now.
    ///
    /// # Errors
    /// Where a file is missing or wrong: what was in force stays in force.
    pub(crate) fn reload(&self) -> Result<HashSet<Arc<str>>, TlsError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.look();
        let next = Arc::new(TlsRules::read(&self.settings, self.websocket, self.tickets.clone())?);
        let before = self.current.swap(next.clone());
        let revoked = next.revoked().filter(|credential| !before.is_revoked(credential));
        Ok(revoked.cloned().collect())
    }

    /// Whether nobody comes in without a certificate.
    pub(crate) fn requires_certificates(&self) -> bool {
        self.settings.client_certificate == ClientCertificate::Required
    }

    /// Whether a file is another than when it was read last. Asks the system.
    pub(crate) fn files_changed(&self) -> bool {
        // Whoever reads them has them as they are.
        self.files.try_lock().is_ok_and(|files| files.changed())
    }

    /// Whether a chain of certificates that a client has shown, the client's first, is good by what the files hold now: the session may be resumed,
    /// and the connection old. Reads files where they have changed.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn check_now(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        if self.files_changed()
            && let Err(error) = self.reload()
        {
            tracing::error!(target: "causeway::server", %error, "certificates are wrong, the old ones stay");
        }
        let own = chain.first().ok_or("there is no certificate")?;
        let current = self.current();
        let clients = current.clients.as_ref().ok_or("clients are not asked for certificates any more")?;
        clients.check(chain, &credential_in(own)?, false)
    }

    /// What a new connection uses.
    pub(crate) fn current(&self) -> Arc<TlsRules> {
        self.current.load_full()
    }
}

impl TlsRules {
    fn read(settings: &Tls, websocket: bool, tickets: Arc<dyn ProducesTickets>) -> Result<TlsRules, TlsError> {
        let clients = Clients::read(settings)?;
        let config = Arc::new(server_config(settings, websocket, tickets, clients.as_ref())?);
        Ok(TlsRules { config, clients })
    }

    /// Whether a client's certificate, which may have been verified by other rules or long ago, is good by these.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn check(
        &self,
        began_with: &TlsRules,
        shown: &PeerCertificates<'_>,
        credential: &str,
    ) -> Result<(), String> {
        let clients = self.clients.as_ref().ok_or("clients are not asked for certificates any more")?;
        let verified_by_these = !shown.resumed && std::ptr::eq(self, began_with);
        clients.check(shown.chain, credential, verified_by_these)
    }

    fn is_revoked(&self, credential: &str) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.is_revoked(credential))
    }

    fn revoked(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clients.iter().flat_map(Clients::revoked)
    }
}

fn files_of(settings: &Tls) -> Vec<PathBuf> {
    let asked = settings.client_certificate != ClientCertificate::None;
    let of_clients = [&settings.client_ca_file, &settings.crl_file].into_iter().flatten().filter(|_| asked);
    [&settings.certificate_file, &settings.key_file].into_iter().chain(of_clients).cloned().collect()
}

fn server_config(
    settings: &Tls,
    websocket: bool,
    tickets: Arc<dyn ProducesTickets>,
    clients: Option<&Clients>,
) -> Result<ServerConfig, TlsError> {
    let certificates = read_certificates(&settings.certificate_file)?;
    let key = read_key(&settings.key_file)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions(settings.min_version))?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients.verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|source| TlsError::Pair {
        certificate: settings.certificate_file.clone(),
        key: settings.key_file.clone(),
        source,
    })?;
    config.alpn_protocols = match websocket {
        true => vec![b"http/1.1".to_vec(), b"mqtt".to_vec()],
        false => vec![b"mqtt".to_vec(), AWS_IOT.to_vec()],
    };
    // Clients keep what is needed to resume; nothing is kept here.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// What clients of AWS IoT ask for at port 443, where they insist on an answer.
const AWS_IOT: &[u8] = b"x-amzn-mqtt-ca";

static SINCE_TLS12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
static SINCE_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        TlsVersion::V1_2 => SINCE_TLS12,
        TlsVersion::V1_3 => SINCE_TLS13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CrlUnknown;

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Files {
            Files { folder: tempfile::tempdir().unwrap() }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn settings(&self, certificate: &str, key: &str) -> Tls {
            Tls {
                certificate_file: self.write("server.pem", certificate),
                key_file: self.write("server.key", key),
                client_ca_file: None,
                client_certificate: ClientCertificate::None,
                crl_file: None,
                crl_unknown: CrlUnknown::Refuse,
                min_version: TlsVersion::V1_2,
            }
        }
    }

    fn pair() -> (String, String) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    fn failure(settings: Tls) -> String {
        match ListenerTls::load(settings, false) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_reload_replaces_the_configuration_or_keeps_it() {
        let files = Files::new();
        let (certificate, key) = pair();
        let settings = files.settings(&certificate, &key);
        let tls = ListenerTls::load(settings.clone(), false).unwrap();
        let before = tls.current();

        files.write("server.key", "not a key");
        assert!(tls.files_changed());
        assert!(tls.reload().is_err());
        assert!(!tls.files_changed(), "a wrong file is looked at once");
        assert!(Arc::ptr_eq(&before, &tls.current()));

        files.settings(&certificate, &key);
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &tls.current()));
    }

    #[test]
    fn errors_name_the_file() {
        let files = Files::new();
        let (certificate, key) = pair();
        let (_, other_key) = pair();

        assert!(failure(files.settings("", &key)).contains("server.pem holds no certificate"));
        assert!(failure(files.settings(&certificate, "")).contains("server.key holds no private key"));
        let text = failure(files.settings(&certificate, &other_key));
        assert!(text.contains("server.pem does not go with"), "{text}");

        let mut settings = files.settings(&certificate, &key);
        settings.key_file = files.folder.path().join("missing.key");
        assert!(failure(settings).contains("missing.key: No such file"));

        let mut settings = files.settings(&certificate, &key);
        settings.client_certificate = ClientCertificate::Required;
        assert!(failure(settings).contains("client_ca_file"));
    }
}
