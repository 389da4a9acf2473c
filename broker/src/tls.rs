//! Certificates and the rules of TLS of one listener.
//!
//! Owns the reading of PEM files, the rustls configuration made from them, and its replacement while the broker runs. It
//! never sees a connection: those take the configuration of the moment they begin (see [`crate::transport`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::config::{ClientCertificate, Tls, TlsVersion};

/// Why a listener has no usable certificates. Each names the file to look at.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TlsError {
    #[error("cannot read {}: {source}", .file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{} holds no certificate in PEM form", .file.display())]
    NoCertificate { file: PathBuf },
    #[error("{} holds no private key in PEM form", .file.display())]
    NoKey { file: PathBuf },
    #[error("{} is not valid PEM: {why}", .file.display())]
    Pem { file: PathBuf, why: String },
    #[error("the certificate of {} does not go with the key of {}: {source}", .certificate.display(), .key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{} holds an authority that cannot be used: {why}", .file.display())]
    Authority { file: PathBuf, why: String },
    #[error("client certificates are asked for, but client_ca_file is not set")]
    NoAuthority,
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The TLS configuration of a listener, replaced as a whole by [`ListenerTls::reload`].
pub(crate) struct ListenerTls {
    settings: Tls,
    websocket: bool,
    current: ArcSwap<ServerConfig>,
}

impl ListenerTls {
    /// Reads the files of `settings`. `websocket` decides which protocols are negotiated by ALPN.
    ///
    /// # Errors
    /// Where a file is missing or wrong.
    pub(crate) fn load(settings: Tls, websocket: bool) -> Result<ListenerTls, TlsError> {
        let current = ArcSwap::from_pointee(server_config(&settings, websocket)?);
        Ok(ListenerTls { settings, websocket, current })
    }

    /// Reads the files again. New connections use what they hold now; open ones are left alone.
    ///
    /// # Errors
    /// Where a file is missing or wrong: what was in force stays in force.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(&self.settings, self.websocket)?));
        Ok(())
    }

    /// What a new connection uses.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn server_config(settings: &Tls, websocket: bool) -> Result<ServerConfig, TlsError> {
    let certificates = read_certificates(&settings.certificate_file)?;
    let key = read_key(&settings.key_file)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions(settings.min_version))?;
    let verifier = client_verifier(settings)?;
    let asks_for_certificates = verifier.is_some();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|source| TlsError::Pair {
        certificate: settings.certificate_file.clone(),
        key: settings.key_file.clone(),
        source,
    })?;
    config.alpn_protocols = match websocket {
        true => vec![b"http/1.1".to_vec(), b"mqtt".to_vec()],
        false => vec![b"mqtt".to_vec()],
    };
    if asks_for_certificates {
        // A resumed session is not verified again: after a reload with fewer authorities, it would still get in.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = ring::Ticketer::new()?;
        config.send_tls13_tickets = 1;
    }
    Ok(config)
}

static SINCE_TLS12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
static SINCE_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match min {
        TlsVersion::V1_2 => SINCE_TLS12,
        TlsVersion::V1_3 => SINCE_TLS13,
    }
}

fn client_verifier(settings: &Tls) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    if settings.client_certificate == ClientCertificate::None {
        return Ok(None);
    }
    let file = settings.client_ca_file.as_deref().ok_or(TlsError::NoAuthority)?;
    let wrong = |why: String| TlsError::Authority { file: file.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(file)? {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match settings.client_certificate {
        ClientCertificate::Optional => builder.allow_unauthenticated(),
        ClientCertificate::Required | ClientCertificate::None => builder,
    };
    Ok(Some(builder.build().map_err(|error| wrong(error.to_string()))?))
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { file: file.to_owned(), why: error.to_string() })?;
    match certificates.is_empty() {
        true => Err(TlsError::NoCertificate { file: file.to_owned() }),
        false => Ok(certificates),
    }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { file: file.to_owned() },
        error => TlsError::Pem { file: file.to_owned(), why: error.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(tls.reload().is_err());
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
