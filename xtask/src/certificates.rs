//! Certificates for tests.
//!
//! Owns a throw-away authority and a server certificate for the loopback
//! address. They never serve anything but a test on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Files of PEM text, as a broker and its clients want them.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    /// The authority clients trust.
    pub(crate) authority: PathBuf,
    /// The server's certificate, for 127.0.0.1 and localhost.
    pub(crate) server: PathBuf,
    /// The server's private key.
    pub(crate) server_key: PathBuf,
}

impl Certificates {
    /// Makes a new authority and server certificate in `folder`.
    ///
    /// # Errors
    /// When a key cannot be made or a file cannot be written.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "Causeway test authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Recent Python refuses a chain without it.
        server.use_authority_key_identifier_extension = true;
        server.distinguished_name.push(DnType::CommonName, "localhost");
        let server_key = KeyPair::generate()?;
        let server = server.signed_by(&server_key, &authority)?;

        Ok(Self {
            authority: write(folder, "authority.pem", &authority.pem())?,
            server: write(folder, "server.pem", &server.pem())?,
            server_key: write(folder, "server.key", &server_key.serialize_pem())?,
        })
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
