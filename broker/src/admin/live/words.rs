//! What requests say in headers and queries, and what they mean.
//!
//! Owns which version and which format.

use axum::http::{HeaderMap, HeaderName, header};

use super::super::api::Problem;

/// The tag of a version.
pub(super) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The version that has to be there for a change to be made: `If-Match`.
///
/// # Errors
/// It is no tag of ours, or there are several.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(tag) = text(headers, header::IF_MATCH) else { return Ok(None) };
    let version = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).and_then(|tag| tag.parse().ok());
    let wrong = || Problem::new(400, format!("If-Match has to be the ETag of a version, such as \"17\", not {tag}"));
    version.map(Some).ok_or_else(wrong)
}

/// Whether whoever asks has this version already: `If-None-Match`.
pub(super) fn has(headers: &HeaderMap, version: u64) -> bool {
    let own = etag(version);
    let is_own = |tag: &str| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == own;
    text(headers, header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(is_own))
}

/// The media type that a header names first, without parameters, in small letters.
pub(super) fn media_type(headers: &HeaderMap, name: HeaderName) -> String {
    let value = text(headers, name).unwrap_or_default();
    value.split([';', ',']).next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A header's value.
pub(super) fn text(headers: &HeaderMap, name: impl axum::http::header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn tags_are_versions() {
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(if_match(&with(header::IF_MATCH, &etag(17))).unwrap(), Some(17));
        for wrong in ["17", "\"x\"", "*", "W/\"17\"", "\"1\", \"2\""] {
            assert!(if_match(&with(header::IF_MATCH, wrong)).is_err(), "{wrong}");
        }
        for fits in ["\"17\"", "*", "W/\"17\"", "\"1\", \"17\""] {
            assert!(has(&with(header::IF_NONE_MATCH, fits), 17), "{fits}");
        }
        assert!(!has(&with(header::IF_NONE_MATCH, "\"1\""), 17) && !has(&HeaderMap::new(), 17));
    }
}
