//! The rules of topic names and topic filters (MQTT 5.0 section 4.7 and 4.8.2).
//!
//! Owns syntax and matching of one filter against one name. It never indexes.

/// Why a topic name is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TopicError {
    #[error("topic name is empty")]
    Empty,
    #[error("topic name is longer than 65,535 bytes")]
    TooLong,
    #[error("topic name contains a wildcard")]
    Wildcard,
    #[error("topic name contains the character U+0000")]
    Nul,
    #[error("topic has {levels} levels, more than the maximum of {levels_max}")]
    TooManyLevels { levels: usize, levels_max: usize },
}

/// Why a topic filter is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FilterError {
    #[error("topic filter is empty")]
    Empty,
    #[error("topic filter is longer than 65,535 bytes")]
    TooLong,
    #[error("'#' must stand alone in the last level")]
    MisplacedMultiLevel,
    #[error("'+' must stand alone in its level")]
    MisplacedSingleLevel,
    #[error("topic filter contains the character U+0000")]
    Nul,
    #[error("topic filter has {levels} levels, more than the maximum of {levels_max}")]
    TooManyLevels { levels: usize, levels_max: usize },
    #[error("shared subscription needs $share/{{name}}/{{filter}}")]
    SharedIncomplete,
    #[error("share name contains '+' or '#'")]
    ShareNameWildcard,
}

/// A shared subscription taken apart: `$share/{share_name}/{filter}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SharedFilter<'a> {
    pub share_name: &'a str,
    pub filter: &'a str,
}

/// What every shared subscription starts with.
const SHARE_PREFIX: &str = "$share/";

/// Checks a topic name of at most `levels_max` levels (parts between slashes).
///
/// # Errors
/// The first rule it breaks.
pub fn check_topic_name(name: &str, levels_max: usize) -> Result<(), TopicError> {
    //= [MQTT-4.7.3-1] at least one character
    if name.is_empty() {
        return Err(TopicError::Empty);
    }
    //= [MQTT-4.7.3-3] at most 65,535 bytes
    if name.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong);
    }
    match name.bytes().find(|byte| matches!(byte, 0 | b'+' | b'#')) {
        //= [MQTT-4.7.3-2] no U+0000
        Some(0) => Err(TopicError::Nul),
        //= [MQTT-4.7.0-1] wildcards are for filters
        Some(_) => Err(TopicError::Wildcard),
        None => check_topic_levels(name, levels_max),
    }
}

/// Checks a topic name that came out of [`crate::decode`], and so can break only one rule more.
///
/// # Errors
/// [`TopicError::TooManyLevels`].
#[inline]
pub fn check_topic_levels(name: &str, levels_max: usize) -> Result<(), TopicError> {
    let levels = 1 + count_slashes(name.as_bytes());
    if levels > levels_max { Err(TopicError::TooManyLevels { levels, levels_max }) } else { Ok(()) }
}

/// Eight bytes at a time: names are too short for what the compiler makes of a loop over bytes.
#[inline]
fn count_slashes(bytes: &[u8]) -> usize {
    const LOW_BITS: u64 = 0x7F7F_7F7F_7F7F_7F7F;
    let (words, rest) = bytes.as_chunks::<8>();
    let in_words = words.iter().map(|word| {
        // A byte is zero now where it was a slash; its highest bit is then the only one of the word that is set in the end.
        let word = u64::from_le_bytes(*word) ^ u64::from_le_bytes([b'/'; 8]);
        (!(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS)).count_ones() as usize
    });
    in_words.sum::<usize>() + rest.iter().filter(|byte| **byte == b'/').count()
}

/// Checks a topic filter of at most `levels_max` levels. Of a shared subscription, the levels of the filter inside
/// count.
///
/// # Errors
/// The first rule it breaks.
pub fn check_topic_filter(filter: &str, levels_max: usize) -> Result<(), FilterError> {
    //= [MQTT-4.7.3-1] at least one character
    if filter.is_empty() {
        return Err(FilterError::Empty);
    }
    //= [MQTT-4.7.3-3] at most 65,535 bytes
    if filter.len() > usize::from(u16::MAX) {
        return Err(FilterError::TooLong);
    }
    //= [MQTT-4.7.3-2] no U+0000
    if filter.as_bytes().contains(&0) {
        return Err(FilterError::Nul);
    }
    let plain = parse_shared(filter)?.map_or(filter, |shared| shared.filter);
    check_levels(plain.as_bytes(), levels_max)
}

/// Looks at each level once, as bytes: a character of several bytes holds none of the bytes that matter.
fn check_levels(filter: &[u8], levels_max: usize) -> Result<(), FilterError> {
    let mut levels = 0;
    let mut is_multi_level_behind = false;
    for level in filter.split(|&byte| byte == b'/') {
        levels += 1;
        //= [MQTT-4.7.1-1] '#' is the last level, and all of it
        if is_multi_level_behind || level.len() > 1 && level.contains(&b'#') {
            return Err(FilterError::MisplacedMultiLevel);
        }
        //= [MQTT-4.7.1-2] '+' is all of its level
        if level.len() > 1 && level.contains(&b'+') {
            return Err(FilterError::MisplacedSingleLevel);
        }
        is_multi_level_behind = level == b"#";
    }
    if levels > levels_max { Err(FilterError::TooManyLevels { levels, levels_max }) } else { Ok(()) }
}

/// Takes a shared subscription apart; `Ok(None)` for any other filter. The filter inside is not checked.
///
/// # Errors
/// It starts like a shared subscription and is none.
pub fn parse_shared(filter: &str) -> Result<Option<SharedFilter<'_>>, FilterError> {
    let Some(rest) = filter.strip_prefix(SHARE_PREFIX) else {
        return Ok(None);
    };
    //= [MQTT-4.8.2-2] a slash and a filter follow the name
    let (share_name, filter) = rest.split_once('/').ok_or(FilterError::SharedIncomplete)?;
    //= [MQTT-4.8.2-1] the name has a character
    if share_name.is_empty() || filter.is_empty() {
        return Err(FilterError::SharedIncomplete);
    }
    //= [MQTT-4.8.2-2] but neither '+' nor '#'
    if share_name.contains(['+', '#']) {
        return Err(FilterError::ShareNameWildcard);
    }
    Ok(Some(SharedFilter { share_name, filter }))
}

/// Whether a valid filter matches a valid topic name. A shared subscription is compared by its inner filter, which is
/// for the caller to take out.
//= [MQTT-4.7.3-4] byte by byte: nothing is normalised
pub fn filter_matches(filter: &str, name: &str) -> bool {
    let (filter, name) = (filter.as_bytes(), name.as_bytes());
    //= [MQTT-4.7.2-1] a leading wildcard does not match topics of the server's own
    if name.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let is_slash = |byte: &u8| *byte == b'/';
    let mut names = name.split(is_slash);
    for level in filter.split(is_slash) {
        match level {
            // It matches the level above, too: "a/#" matches "a".
            b"#" => return true,
            b"+" if names.next().is_some() => {}
            _ if level != b"+" && names.next() == Some(level) => {}
            _ => return false,
        }
    }
    names.next().is_none()
}
