//! What requests say in headers and queries, and what they mean.
//!
//! Owns how long, since when, which version and which format.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::api::Problem;

/// Time in a query: a number with `ms`, `s`, `m`, `h` or `d` behind it, or of seconds.
///
/// # Errors
/// What it should be.
pub(super) fn duration(key: &str, text: &str) -> Result<Duration, Problem> {
    let wrong = || Problem::new(400, format!("{key} has to be a time such as 5s, 500ms or 2m, not {text:?}"));
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(wrong()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

/// A moment in a query, in milliseconds since 1970: so many of them, or as RFC 3339 has it.
///
/// # Errors
/// What it should be.
pub(super) fn moment_ms(key: &str, text: &str) -> Result<u64, Problem> {
    let wrong = || {
        Problem::new(
            400,
            format!(
                "{key} has to be a moment such as 2026-11-22T05:00:00Z, or in milliseconds since 1970, not {text:?}"
            ),
        )
    };
    if text.bytes().all(|it| it.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    // In a query, a plus sign is a space.
    let moment = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())
}

/// The tag of a version.
pub(super) fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

/// The version that has to be there for a change to be made: `If-Match`, or 0 where there is to be none yet, `If-None-Match: *`.
///
/// # Errors
/// They are something else: no tag of ours, or several. A condition that was not looked at would not be one.
pub(super) fn condition(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let all = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?").trim()).collect::<Vec<_>>();
    let wrong =
        |name, is, not: &[&str]| Err(Problem::new(400, format!("{name} has to be {is}, not {}", not.join(", "))));
    let (tags, others) = (all(header::IF_MATCH), all(header::IF_NONE_MATCH));
    match (&tags[..], &others[..]) {
        ([], []) => Ok(None),
        ([], ["*"]) => Ok(Some(0)),
        ([tag], []) => match tag.trim_matches('"').parse().ok().filter(|version| etag(*version) == *tag) {
            Some(version) => Ok(Some(version)),
            None => wrong("If-Match", "the ETag of a version, such as \"17\"", &tags),
        },
        (tags, []) => wrong("If-Match", "the ETag of one version, such as \"17\"", tags),
        (_, others) => wrong("If-None-Match", "* and alone where something is changed", others),
    }
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
    fn times_have_units() {
        for (text, milliseconds) in [("5s", 5000), ("5", 5000), ("250ms", 250), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(duration("wait", text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for wrong in ["", "s", "-1s", "1w", "1.5s", "99999999999999999999s", "999999999999999999d"] {
            assert!(duration("wait", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_numbers_or_dates() {
        for (text, milliseconds) in [
            ("1800000000000", 1_800_000_000_000),
            ("1970-01-01T00:00:01Z", 1000),
            ("1970-01-01T01:00:00.5 01:00", 500),
            ("1970-01-01T01:00:00+01:00", 0),
        ] {
            assert_eq!(moment_ms("from", text).unwrap(), milliseconds, "{text}");
        }
        for wrong in ["", "yesterday", "1969-12-31T00:00:00Z", "2026-11-22", "99999999999999999999"] {
            assert!(moment_ms("from", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tags_are_versions() {
        assert_eq!(condition(&HeaderMap::new()).unwrap(), None);
        assert_eq!(condition(&with(header::IF_MATCH, &etag(17))).unwrap(), Some(17));
        assert_eq!(condition(&with(header::IF_NONE_MATCH, "*")).unwrap(), Some(0), "only where there is none");
        for wrong in ["17", "\"x\"", "*", "W/\"17\"", "\"1\", \"2\"", "\"+1\"", "\"01\"", "\"\"", ""] {
            assert!(condition(&with(header::IF_MATCH, wrong)).is_err(), "{wrong}");
        }
        assert!(condition(&with(header::IF_NONE_MATCH, "\"1\"")).is_err());
        let mut several = with(header::IF_MATCH, "\"1\"");
        several.append(header::IF_MATCH, "\"2\"".parse().unwrap());
        assert!(condition(&several).is_err());
        several.remove(header::IF_MATCH);
        several.extend(with(header::IF_MATCH, "\"1\""));
        several.extend(with(header::IF_NONE_MATCH, "*"));
        assert!(condition(&several).is_err());
        for fits in ["\"17\"", "*", "W/\"17\"", "\"1\", \"17\""] {
            assert!(has(&with(header::IF_NONE_MATCH, fits), 17), "{fits}");
        }
        assert!(!has(&with(header::IF_NONE_MATCH, "\"1\""), 17) && !has(&HeaderMap::new(), 17));
    }
}
