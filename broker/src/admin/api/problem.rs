//! What is answered where something does not go: problem details (RFC 9457).
//!
//! Owns the status of each kind of error.

use serde_json::json;

use super::Answer;
use crate::registry::RegistryError;

/// Why something does not go.
#[derive(Debug)]
pub(crate) struct Problem {
    status: u16,
    detail: String,
}

impl Problem {
    pub(crate) fn new(status: u16, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into() }
    }

    pub(crate) fn into_answer(self) -> Answer {
        let title = title(self.status);
        let body = json!({ "title": title, "status": self.status, "detail": self.detail });
        Answer { status: self.status, body: Some(body) }
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
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        501 => "Not Implemented",
        503 => "Service Unavailable",
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
