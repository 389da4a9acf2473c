//! Why a request is refused.
//!
//! Owns codes and words, which are those of the AWS IoT Device Shadow service where it has any.

use thiserror::Error;

/// Why a request is refused: what `rejected` says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Rejection {
    /// As of HTTP: 400, 401, 403, 404, 409, 413, 415, 429, 500.
    pub code: u16,
    /// For people.
    pub message: String,
}

impl Rejection {
    /// Any code and words.
    pub fn new(code: u16, message: impl Into<String>) -> Rejection {
        Rejection { code, message: message.into() }
    }

    /// 400: the request makes no sense.
    pub fn bad(message: impl Into<String>) -> Rejection {
        Rejection::new(400, message)
    }

    /// 401: nobody is known to be asking.
    pub fn unauthorized() -> Rejection {
        Rejection::new(401, "Unauthorized")
    }

    /// 403: whoever asks may not.
    pub fn forbidden() -> Rejection {
        Rejection::new(403, "Forbidden")
    }

    /// 404: there is no such shadow. The empty name is that of the vehicle's own.
    pub fn not_found(name: &str) -> Rejection {
        match name {
            "" => Rejection::new(404, "No shadow exists"),
            name => Rejection::new(404, format!("No shadow exists with name: {name}")),
        }
    }

    /// 409: the request is about another version.
    pub fn conflict() -> Rejection {
        Rejection::new(409, "Version conflict")
    }

    /// 413: the request, or the state it makes, is too large.
    pub fn too_large() -> Rejection {
        Rejection::new(413, "The payload exceeds the maximum size allowed")
    }

    /// 413: the state that the request makes is of too many pieces.
    pub fn too_many_leaves(leaves_max: usize) -> Rejection {
        let message =
            format!("The shadow would have too many leaves, elements of arrays included; maximum is {leaves_max}");
        Rejection::new(413, message)
    }

    /// 415: JSON that is not UTF-8.
    pub fn encoding() -> Rejection {
        Rejection::new(415, "Unsupported documented encoding; supported encoding is UTF-8")
    }

    /// 429: too much at once.
    pub fn too_many() -> Rejection {
        Rejection::new(429, "Too many requests")
    }

    /// 500: not the request's fault.
    pub fn internal() -> Rejection {
        Rejection::new(500, "Internal service failure")
    }
}
