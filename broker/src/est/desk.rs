//! Who gets a certificate.
//!
//! Owns the decision, in this order: the proof, the request, whether both are of the same vehicle, and only then the one-time token. It knows no
//! HTTP, and reads no clock. Every call may wait for the disk.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_fleet::Vin;
use rustls::pki_types::CertificateDer;

use super::enrolments::{Denied, Enrolments};
use super::pace::Pace;
use crate::pki::{Authority, Entry, Index, Issued, PkiError, Request, RequestError, State, Subject};

/// What a vehicle has to show.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// A one-time token, and the user that it came with.
    Token { user: Option<String>, token: String },
    /// A client certificate of the authority, as the TLS handshake verified it.
    Certificate(CertificateDer<'static>),
}

/// What was made.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) vin: Vin,
    pub(super) issued: Issued,
    /// By what right, for the log.
    pub(super) by: String,
}

/// Why nothing was made. The text is for the log and for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The request makes no sense.
    Request(String),
    /// The proof is of no use.
    Proof(String),
    /// The proof is good, but not for this.
    Forbidden(String),
    /// Something failed here. The text is for the log only.
    Failed(String),
}

impl Refused {
    pub(super) fn why(&self) -> &str {
        match self {
            Refused::Request(why) | Refused::Proof(why) | Refused::Forbidden(why) | Refused::Failed(why) => why,
        }
    }
}

pub(super) struct Desk {
    authority: Authority,
    /// What it issued, as far as it was read.
    index: Mutex<Index>,
    enrolments: Arc<dyn Enrolments>,
    validity_days: u32,
    pace: Mutex<Pace>,
}

impl Desk {
    pub(super) fn new(
        authority: Authority,
        enrolments: Arc<dyn Enrolments>,
        validity_days: u32,
    ) -> Result<Desk, PkiError> {
        let index = Mutex::new(authority.index()?);
        Ok(Desk { authority, index, enrolments, validity_days, pace: Mutex::default() })
    }

    /// Whom those who enrol here are to trust.
    pub(super) fn authority(&self) -> &CertificateDer<'static> {
        self.authority.certificate()
    }

    /// The first certificate of a vehicle, or of its new unit.
    pub(super) fn enrol(&self, proof: &Proof, request: &[u8], now: i64) -> Result<Granted, Refused> {
        match proof {
            Proof::Token { user, token } => self.enrol_with_token(user.as_deref(), token, request, now),
            Proof::Certificate(certificate) => self.enrol_with_claim(certificate, request, now),
        }
    }

    fn enrol_with_token(&self, user: Option<&str>, token: &str, request: &[u8], now: i64) -> Result<Granted, Refused> {
        let now_ms = milliseconds(now);
        let of_no_use = |denied| match denied {
            Denied::No(why) => Refused::Proof(why),
            Denied::Failed(why) => Refused::Failed(why),
        };
        let vin = self.enrolments.check_token(token, now_ms).map_err(of_no_use)?;
        if user.is_some_and(|user| user != vin.as_str()) {
            return Err(Refused::Proof("the token is not of the vehicle that is the user".to_owned()));
        }
        let request = Request::from_text(request)?;
        if request.common_name() != vin.as_str() {
            return Err(other_name(&request, &vin));
        }
        // From here on, the token is used, whatever comes.
        self.enrolments.redeem(token, now_ms).map_err(of_no_use)?;
        self.issue(vin, &request, "token".to_owned(), now)
    }

    fn enrol_with_claim(&self, certificate: &CertificateDer<'_>, request: &[u8], now: i64) -> Result<Granted, Refused> {
        let holder = self.holder(certificate, now)?;
        if !holder.subject.starts_with("claim:") {
            let why =
                format!("the certificate of {} enrols nobody: a claim certificate or a token does", holder.subject);
            return Err(Refused::Forbidden(why));
        }
        let request = Request::from_text(request)?;
        let vin = request.common_name().parse().map_err(|wrong| {
            Refused::Forbidden(format!("the request is for {:?}, which is no vehicle: {wrong}", request.common_name()))
        })?;
        self.enrolments.vehicle_may_enrol(&vin)?;
        self.issue(vin, &request, holder.subject, now)
    }

    /// The next certificate of a vehicle that has one.
    pub(super) fn renew(&self, proof: &Proof, request: &[u8], now: i64) -> Result<Granted, Refused> {
        let Proof::Certificate(certificate) = proof else {
            return Err(Refused::Proof("only the vehicle's own certificate gets it another one".to_owned()));
        };
        let holder = self.holder(certificate, now)?;
        let vin: Option<Vin> = holder.subject.strip_prefix("vehicle:").and_then(|vin| vin.parse().ok());
        let Some(vin) = vin else {
            return Err(Refused::Forbidden(format!("the certificate of {} is no vehicle's", holder.subject)));
        };
        let request = Request::from_text(request)?;
        if request.common_name() != vin.as_str() {
            return Err(other_name(&request, &vin));
        }
        self.enrolments.vehicle_may_renew(&vin, &self.authority.credential(&holder.serial))?;
        self.issue(vin, &request, format!("certificate {}", holder.serial), now)
    }

    /// Whose certificate it is, by what the authority wrote down when it issued it: it is as good today as the index says now.
    fn holder(&self, certificate: &CertificateDer<'_>, now: i64) -> Result<Entry, Refused> {
        let unknown = || Refused::Proof("the certificate is none that this authority issued".to_owned());
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| unknown())?;
        let serial: String = parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        self.authority.refresh(&mut index)?;
        let entry = index.get(&serial).ok_or_else(unknown)?.clone();
        match entry.state(now) {
            State::Valid => Ok(entry),
            State::Expired => Err(Refused::Proof(format!("the certificate {serial} of {} expired", entry.subject))),
            State::Revoked(_) => {
                Err(Refused::Proof(format!("the certificate {serial} of {} is revoked", entry.subject)))
            }
        }
    }

    fn issue(&self, vin: Vin, request: &Request, by: String, now: i64) -> Result<Granted, Refused> {
        if !self.pace.lock().unwrap_or_else(PoisonError::into_inner).may_issue(vin, now) {
            return Err(Refused::Forbidden(format!("{vin} had {} certificates within an hour", Pace::MAX)));
        }
        let issued = self.authority.issue(&Subject::Vehicle(vin), request.key(), self.validity_days, now)?;
        let credential = self.authority.credential(&issued.serial);
        self.enrolments.issued(&vin, &credential, milliseconds(issued.not_after), milliseconds(now))?;
        Ok(Granted { vin, issued, by })
    }
}

fn other_name(request: &Request, vin: &Vin) -> Refused {
    Refused::Forbidden(format!("the request is for {:?}, not for {vin}", request.common_name()))
}

fn milliseconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1000)
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Refused {
        Refused::Request(error.to_string())
    }
}

impl From<PkiError> for Refused {
    fn from(error: PkiError) -> Refused {
        Refused::Failed(error.to_string())
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Refused {
        match denied {
            Denied::No(why) => Refused::Forbidden(why),
            Denied::Failed(why) => Refused::Failed(why),
        }
    }
}
