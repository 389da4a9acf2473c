//! The paths of RFC 7030, and what is answered on each.
//!
//! Owns HTTP: content types, credentials in headers, status codes, how much is taken and how often. It decides nothing about vehicles.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::prelude::{BASE64_STANDARD, Engine};
use causeway_fleet::Principal;
use tokio::sync::Semaphore;

use super::desk::{Desk, Granted, Proof, Refused};
use super::pkcs7::certificates_only;
use super::throttle::Throttle;
use crate::audit::{Audit, AuditEvent, Decision, What};
use crate::https::Peer;
use crate::pki::{self, REQUEST_BYTES_MAX, stamp};

const CERTIFICATES_ONLY: &str = "application/pkcs7-mime; smime-type=certs-only";
const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");
/// Requests that are decided at the same time: each waits for the disk, and for a signature or two.
const DECIDED_AT_ONCE_MAX: usize = 4;

/// The desk, and the queue before it.
#[derive(Clone)]
pub(super) struct Office {
    desk: Arc<Desk>,
    throttle: Arc<Mutex<Throttle>>,
    places: Arc<Semaphore>,
    audit: Audit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Enrol,
    Renew,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ask::Enrol => "simpleenroll",
            Ask::Renew => "simplereenroll",
        })
    }
}

type Body = Result<Bytes, BytesRejection>;

impl Office {
    pub(super) fn new(desk: Desk, audit: Audit) -> Office {
        Office {
            desk: Arc::new(desk),
            throttle: Arc::default(),
            places: Arc::new(Semaphore::new(DECIDED_AT_ONCE_MAX)),
            audit,
        }
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/.well-known/est/cacerts", get(authorities))
            // Nothing is asked of a request beside its name and its key.
            .route("/.well-known/est/csrattrs", get(async || StatusCode::NO_CONTENT))
            .route("/.well-known/est/simpleenroll", post(enrol))
            .route("/.well-known/est/simplereenroll", post(renew))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(self)
    }

    fn record(&self, peer: &Peer, event: AuditEvent) {
        self.audit.record(AuditEvent { peer: Some(peer.address), ..event });
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, ask: Ask, peer: Peer, headers: HeaderMap, body: Body) -> Response {
        let wait = self.throttle().wait_seconds(peer.address.ip(), pki::now());
        if wait > 0 {
            let wait = wait.to_string();
            return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, wait)], "refused too often\n")
                .into_response();
        }
        let decided = match read(&headers, body, &peer) {
            Ok((proof, body)) => self.decide(ask, proof, body).await,
            Err(refused) => Err(refused),
        };
        match decided {
            Ok(granted) => {
                let Granted { vin, issued, by } = granted;
                tracing::info!(target: "causeway::enrolment", peer = %peer.address, %vin, serial = issued.serial, by,
                    until = stamp(issued.not_after), "{ask}: issued a certificate");
                let detail =
                    format!("{ask}: issued certificate {} until {} by {by}", issued.serial, stamp(issued.not_after));
                let who = Principal::Vehicle(vin).to_string();
                self.record(&peer, AuditEvent { who, ..AuditEvent::new(What::Enrol, Decision::Allow, detail) });
                certificates(&issued.certificate)
            }
            Err(refused) => {
                self.throttle().failed(peer.address.ip(), pki::now());
                let decision = if matches!(refused, Refused::Failed(_)) { Decision::Fail } else { Decision::Deny };
                let detail = format!("{ask}: {}", refused.why());
                self.record(&peer, AuditEvent::new(What::Enrol, decision, detail));
                refuse(ask, &peer, refused)
            }
        }
    }

    /// On a thread that may wait.
    async fn decide(&self, ask: Ask, proof: Proof, body: Bytes) -> Result<Granted, Refused> {
        let failed = |why: String| Refused::Failed(why);
        let place = self.places.clone().acquire_owned().await.map_err(|error| failed(error.to_string()))?;
        let desk = self.desk.clone();
        let decided = tokio::task::spawn_blocking(move || {
            let _place = place;
            match ask {
                Ask::Enrol => desk.enrol(&proof, &body, pki::now()),
                Ask::Renew => desk.renew(&proof, &body, pki::now()),
            }
        });
        decided.await.map_err(|error| failed(error.to_string()))?
    }
}

async fn authorities(State(office): State<Office>) -> Response {
    certificates(office.desk.authority())
}

async fn enrol(State(office): State<Office>, peer: ConnectInfo<Peer>, headers: HeaderMap, body: Body) -> Response {
    office.answer(Ask::Enrol, peer.0, headers, body).await
}

async fn renew(State(office): State<Office>, peer: ConnectInfo<Peer>, headers: HeaderMap, body: Body) -> Response {
    office.answer(Ask::Renew, peer.0, headers, body).await
}

fn certificates(certificate: &[u8]) -> Response {
    let headers = [(header::CONTENT_TYPE, CERTIFICATES_ONLY), (TRANSFER_ENCODING, "base64")];
    (headers, certificates_only(&[certificate])).into_response()
}

/// The proof and the request, as far as headers tell.
fn read(headers: &HeaderMap, body: Body, peer: &Peer) -> Result<(Proof, Bytes), Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let proof = match (text(header::AUTHORIZATION), &peer.certificate) {
        (Some(credentials), _) => token(credentials)?,
        (None, Some(certificate)) => Proof::Certificate(certificate.clone()),
        (None, None) => return Err(Refused::Proof("neither a token nor a client certificate was shown".to_owned())),
    };
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/pkcs10") {
        return Err(Refused::Request(format!("the content type has to be application/pkcs10, not {kind:?}")));
    }
    let body = body.map_err(|wrong| match wrong.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Refused::Request(format!("a request has at most {} KiB", REQUEST_BYTES_MAX / 1024))
        }
        _ => Refused::Request(wrong.body_text()),
    })?;
    Ok((proof, body))
}

/// HTTP Basic with the VIN as user and the token as password, or the token as Bearer.
fn token(credentials: &str) -> Result<Proof, Refused> {
    let wrong = || Refused::Proof("the Authorization header is neither Basic nor Bearer".to_owned());
    let (scheme, value) = credentials.split_once(' ').ok_or_else(wrong)?;
    let value = value.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Ok(Proof::Token { user: None, token: value.to_owned() }),
        "basic" => {
            let text = BASE64_STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(wrong)?;
            let (user, token) = text.split_once(':').ok_or_else(wrong)?;
            Ok(Proof::Token { user: Some(user.to_owned()), token: token.to_owned() })
        }
        _ => Err(wrong()),
    }
}

fn refuse(ask: Ask, peer: &Peer, refused: Refused) -> Response {
    let peer = peer.address;
    let (status, why) = match refused {
        Refused::Failed(why) => {
            tracing::error!(target: "causeway::enrolment", %peer, why, "{ask}: failed");
            let said = "the broker cannot do that now; its log says why\n";
            return (StatusCode::INTERNAL_SERVER_ERROR, said).into_response();
        }
        Refused::Request(why) => (StatusCode::BAD_REQUEST, why),
        Refused::Proof(why) => (StatusCode::UNAUTHORIZED, why),
        Refused::Forbidden(why) => (StatusCode::FORBIDDEN, why),
    };
    tracing::warn!(target: "causeway::enrolment", %peer, status = status.as_u16(), why, "{ask}: refused");
    let said = format!("{why}\n");
    match status {
        StatusCode::UNAUTHORIZED => {
            (status, [(header::WWW_AUTHENTICATE, "Basic realm=\"enrolment\"")], said).into_response()
        }
        _ => (status, said).into_response(),
    }
}
