//! What is answered where something does not go: problem details (RFC 9457).
//!
//! Owns the status of each kind of error.

use serde_json::{Map, Value, json};

use super::Answer;
use crate::registry::RegistryError;

/// Why something does not go.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    status: u16,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    pub(crate) fn new(status: u16, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), more: Map::new() }
    }

    /// With one more member, which says for programs what is wrong.
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Problem {
        self.more.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn into_answer(self) -> Answer {
        let title = title(self.status);
        let mut body = json!({ "title": title, "status": self.status, "detail": self.detail });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.more);
        }
        Answer { status: self.status, body: Some(body) }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.detail)
    }
}

fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Problem {
        let status = match &error {
            RegistryError::Invalid(_) | RegistryError::Limit(_) => 422,
            RegistryError::Unknown(_) => 404,
            RegistryError::Refused(_) => 403,
            RegistryError::Conflict(_) => 409,
            RegistryError::Storage(error) if error.is_full() => 507,
            RegistryError::Storage(_) | RegistryError::Damaged { .. } | RegistryError::Missing(_) => 500,
        };
        Problem::new(status, error.to_string())
    }
}
