//! Which client certificates are good.
//!
//! Owns the authorities that are trusted and the certificates that are revoked, as of one reading of their files, and that a certificate
//! is verified again where an earlier session is resumed. Who a certificate is for is decided elsewhere.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::crypto::ring as provider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::TlsError;
use super::files::{read_certificates, read_revocation_lists};
use crate::config::{ClientCertificate, CrlUnknown, Tls};
use crate::identity::credential_of;

/// So many certificates are remembered as verified; others are verified each time. Each is 32 bytes and a bit.
const VERIFIED_MAX: usize = 100_000;
/// After that, all are verified again: an authority between may have ended.
const VERIFIED_FOR: Duration = Duration::from_secs(3600);

/// The rules for client certificates of a listener.
pub(super) struct Clients {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// What the revocation lists have, as names of credentials.
    revoked: HashSet<Arc<str>>,
    /// What was verified by these rules: in a storm of clients that resume, each is verified once.
    verified: Mutex<Verified>,
}

struct Verified {
    since: Instant,
    chains: HashSet<[u8; 32]>,
}

impl Clients {
    /// `None` where clients are not asked.
    pub(super) fn read(settings: &Tls) -> Result<Option<Clients>, TlsError> {
        if settings.client_certificate == ClientCertificate::None {
            return Ok(None);
        }
        let file = settings.client_ca_file.as_deref().ok_or(TlsError::NoAuthority)?;
        let wrong = |why: String| TlsError::Authority { file: file.to_owned(), why };
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(file)? {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        let (lists, revoked) = revocations(settings)?;
        let provider = Arc::new(provider::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(lists);
        if settings.crl_unknown == CrlUnknown::Allow {
            builder = builder.allow_unknown_revocation_status();
        }
        if settings.client_certificate == ClientCertificate::Optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|error| wrong(error.to_string()))?;
        let verified = Mutex::new(Verified { since: Instant::now(), chains: HashSet::new() });
        Ok(Some(Clients { verifier, revoked, verified }))
    }

    /// Whether a chain of certificates, the client's first, is good now; `verified` where the handshake of a moment ago has found so.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn check(
        &self,
        chain: &[CertificateDer<'static>],
        credential: &str,
        verified: bool,
    ) -> Result<(), String> {
        if self.is_revoked(credential) {
            return Err("the certificate is revoked".to_owned());
        }
        let Some((own, between)) = chain.split_first() else {
            return Err("there is no certificate".to_owned());
        };
        let digest = digest(chain);
        if verified || self.knows(&digest) {
            self.remember(digest);
            return Ok(());
        }
        match self.verifier.verify_client_cert(own, between, UnixTime::now()) {
            Ok(_) => {
                self.remember(digest);
                Ok(())
            }
            Err(error) => Err(format!("the certificate is not good any more: {error}")),
        }
    }

    pub(super) fn is_revoked(&self, credential: &str) -> bool {
        self.revoked.contains(credential)
    }

    pub(super) fn revoked(&self) -> impl Iterator<Item = &Arc<str>> {
        self.revoked.iter()
    }

    fn knows(&self, digest: &[u8; 32]) -> bool {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.since.elapsed() > VERIFIED_FOR {
            *verified = Verified { since: Instant::now(), chains: HashSet::new() };
        }
        verified.chains.contains(digest)
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.chains.len() < VERIFIED_MAX {
            verified.chains.insert(digest);
        }
    }
}

fn digest(chain: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for certificate in chain {
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

type Revocations = (Vec<CertificateRevocationListDer<'static>>, HashSet<Arc<str>>);

/// The lists of `crl_file`, for rustls, and what is on any of them: where there are two of one authority, rustls looks at one.
fn revocations(settings: &Tls) -> Result<Revocations, TlsError> {
    let Some(file) = settings.crl_file.as_deref() else {
        return Ok(Revocations::default());
    };
    let lists = read_revocation_lists(file)?;
    let mut revoked = HashSet::new();
    for der in &lists {
        let wrong = |why: String| TlsError::RevocationList { file: file.to_owned(), why };
        let (_, list) = CertificateRevocationList::from_der(der).map_err(|error| wrong(error.to_string()))?;
        let issuer = list.issuer().as_raw();
        revoked.extend(list.iter_revoked_certificates().map(|one| credential_of(one.raw_serial(), issuer)));
        if list.next_update().is_some_and(|next| next.timestamp() < UnixTime::now().as_secs() as i64) {
            tracing::warn!(target: "causeway::server", file = %file.display(), issuer = %list.issuer(),
                "a revocation list is past its next update: it stays in force, and is to be replaced");
        }
    }
    Ok((lists, revoked))
}
