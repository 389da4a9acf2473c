//! Certificates, keys and lists of revoked certificates in PEM files.
//!
//! Owns reading them, and saying which file is wrong.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

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
    #[error("{} holds no certificate revocation list in PEM form", .file.display())]
    NoRevocationList { file: PathBuf },
    #[error("{} is not valid PEM: {why}", .file.display())]
    Pem { file: PathBuf, why: String },
    #[error("the certificate of {} does not go with the key of {}: {source}", .certificate.display(), .key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{} holds an authority that cannot be used: {why}", .file.display())]
    Authority { file: PathBuf, why: String },
    #[error("{} holds a revocation list that cannot be used: {why}", .file.display())]
    RevocationList { file: PathBuf, why: String },
    #[error("client certificates are asked for, but client_ca_file is not set")]
    NoAuthority,
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    all_of(file, || TlsError::NoCertificate { file: file.to_owned() })
}

pub(super) fn read_revocation_lists(file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    all_of(file, || TlsError::NoRevocationList { file: file.to_owned() })
}

pub(super) fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::NoKey { file: file.to_owned() },
        error => TlsError::Pem { file: file.to_owned(), why: error.to_string() },
    })
}

fn all_of<T: PemObject>(file: &Path, none: impl FnOnce() -> TlsError) -> Result<Vec<T>, TlsError> {
    let all: Vec<T> = T::pem_slice_iter(&read(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { file: file.to_owned(), why: error.to_string() })?;
    match all.is_empty() {
        true => Err(none()),
        false => Ok(all),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}
