//! Who clients are taken for: what their certificates mean.
//!
//! Owns the keys of `[identity]`. It never reads a certificate.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What client certificates say about who a client is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// Where a vehicle's certificate has its VIN.
    pub certificate_vin: CertificateVin,
    /// Who a client is whose certificate names nobody in a SAN URI, by the common name of its subject, where that is no VIN.
    pub certificate_name: CertificateName,
    /// Whether a VIN is refused whose ninth character is not the check digit that vehicles sold in the United States and Canada have.
    pub vin_check_digit: bool,
}

/// Where a vehicle's certificate has its VIN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateVin {
    /// In a URI of its subject alternative names: urn:vin:{VIN}. A common name that is a VIN is refused.
    SanUri,
    /// In the common name of its subject.
    Cn,
    /// In the URI, or in the common name where there is no such URI.
    #[default]
    SanUriOrCn,
}

/// Who a client is by a common name that is no VIN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateName {
    /// A program of the backend.
    #[default]
    Service,
    /// A person, or a tool of theirs.
    Operator,
    /// Nobody: the client is refused.
    Nobody,
}
