//! The PROXY protocol: a header in front of a connection that tells who really connects.
//!
//! Owns when a header is complete, too long or wrong, in versions 1 (text) and 2 (binary). Who may send one is the
//! front door's business.

use std::net::SocketAddr;

use ppp::{v1, v2};

use crate::config::ProxyProtocol;

/// The specification's bound on a text header.
const V1_BYTES_MAX: usize = 107;
const V1_PREFIX: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and length.
const V2_HEAD_BYTES: usize = 16;
/// Addresses take at most 216 bytes; the rest is room for the extensions that load balancers add.
const V2_BODY_BYTES_MAX: usize = 2048;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// The beginning of a header.
    Incomplete,
    /// A header of `bytes` bytes. `source` is who connects, if the proxy says so: health checks speak for themselves.
    Complete {
        /// Where what is behind it begins.
        bytes: usize,
        /// The client's address.
        source: Option<SocketAddr>,
    },
}

/// Why the first bytes of a connection are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    /// They begin like none that this listener accepts.
    #[error("no PROXY protocol header")]
    Absent,
    /// They announce, or already are, more than we read.
    #[error("PROXY protocol header too long")]
    TooLong,
    /// They begin like one and go on otherwise.
    #[error("invalid PROXY protocol header: {0}")]
    Invalid(String),
}

/// Looks at the first bytes of a connection.
///
/// # Errors
/// As soon as the bytes cannot become a header of an `accepted` version.
pub(crate) fn parse(bytes: &[u8], accepted: ProxyProtocol) -> Result<Header, ProxyError> {
    let (v1, v2) = match accepted {
        ProxyProtocol::Off => return Ok(Header::Complete { bytes: 0, source: None }),
        ProxyProtocol::V1 => (true, false),
        ProxyProtocol::V2 => (false, true),
        ProxyProtocol::Any => (true, true),
    };
    if v1 && begins_like(bytes, V1_PREFIX) {
        parse_v1(bytes)
    } else if v2 && begins_like(bytes, V2_SIGNATURE) {
        parse_v2(bytes)
    } else {
        Err(ProxyError::Absent)
    }
}

/// Whether `bytes` and `prefix` agree as far as both go.
fn begins_like(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

fn parse_v1(bytes: &[u8]) -> Result<Header, ProxyError> {
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < V1_BYTES_MAX {
            true => Ok(Header::Incomplete),
            false => Err(ProxyError::TooLong),
        };
    };
    let line = &line[..end + 2];
    let header = v1::Header::try_from(line).map_err(|error| ProxyError::Invalid(error.to_string()))?;
    let source = match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(a) => Some(SocketAddr::from((a.source_address, a.source_port))),
        v1::Addresses::Tcp6(a) => Some(SocketAddr::from((a.source_address, a.source_port))),
    };
    Ok(Header::Complete { bytes: line.len(), source })
}

fn parse_v2(bytes: &[u8]) -> Result<Header, ProxyError> {
    if bytes.len() < V2_HEAD_BYTES {
        return Ok(Header::Incomplete);
    }
    let body_bytes = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if body_bytes > V2_BODY_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(header_bytes) = bytes.get(..V2_HEAD_BYTES + body_bytes) else {
        return Ok(Header::Incomplete);
    };
    let header = v2::Header::try_from(header_bytes).map_err(|error| ProxyError::Invalid(error.to_string()))?;
    let source = match (header.command, header.addresses) {
        (v2::Command::Local, _) => None,
        (v2::Command::Proxy, v2::Addresses::IPv4(a)) => Some(SocketAddr::from((a.source_address, a.source_port))),
        (v2::Command::Proxy, v2::Addresses::IPv6(a)) => Some(SocketAddr::from((a.source_address, a.source_port))),
        (v2::Command::Proxy, _) => None,
    };
    Ok(Header::Complete { bytes: header_bytes.len(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 51234 1883\r\n";

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = V2_SIGNATURE.to_vec();
        header.extend([0x20 | command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    fn v2_ipv4() -> Vec<u8> {
        v2(1, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0xC8, 0x22, 0x07, 0x5B])
    }

    fn check_byte_by_byte(header: &[u8], source: Option<&str>) {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end], ProxyProtocol::Any), Ok(Header::Incomplete), "{end} bytes");
        }
        let mut with_more = header.to_vec();
        with_more.extend(b"\x10\x0c");
        let source = source.map(|text| text.parse().unwrap());
        let complete = Ok(Header::Complete { bytes: header.len(), source });
        assert_eq!(parse(header, ProxyProtocol::Any), complete);
        assert_eq!(parse(&with_more, ProxyProtocol::Any), complete);
    }

    #[test]
    fn text_headers() {
        check_byte_by_byte(V1, Some("192.0.2.7:51234"));
        check_byte_by_byte(b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 1883\r\n", Some("[2001:db8::7]:51234"));
        check_byte_by_byte(b"PROXY UNKNOWN\r\n", None);
    }

    #[test]
    fn binary_headers() {
        check_byte_by_byte(&v2_ipv4(), Some("192.0.2.7:51234"));
        check_byte_by_byte(&v2(0, 0, &[]), None);
        let mut body = vec![0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        body.extend([0; 16]);
        body.extend([0xC8, 0x22, 0x07, 0x5B]);
        body.extend([0x04, 0x00, 0x01, 0x00]);
        check_byte_by_byte(&v2(1, 0x21, &body), Some("[2001:db8::7]:51234"));
    }

    #[test]
    fn what_is_no_header_is_known_at_once() {
        assert_eq!(parse(b"\x10", ProxyProtocol::Any), Err(ProxyError::Absent));
        assert_eq!(parse(b"PROXX", ProxyProtocol::Any), Err(ProxyError::Absent));
        assert_eq!(parse(V1, ProxyProtocol::V2), Err(ProxyError::Absent));
        assert_eq!(parse(&v2_ipv4(), ProxyProtocol::V1), Err(ProxyError::Absent));
        assert!(matches!(parse(b"PROXY NONSENSE\r\n", ProxyProtocol::Any), Err(ProxyError::Invalid(_))));
        assert!(matches!(parse(b"PROXY \xFF\xFE\r\n", ProxyProtocol::Any), Err(ProxyError::Invalid(_))));
    }

    #[test]
    fn headers_are_bounded() {
        let mut endless = b"PROXY ".to_vec();
        endless.resize(V1_BYTES_MAX, b'x');
        assert_eq!(parse(&endless, ProxyProtocol::Any), Err(ProxyError::TooLong));
        let mut announced = v2(1, 0x11, &[]);
        announced[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        assert_eq!(parse(&announced, ProxyProtocol::Any), Err(ProxyError::TooLong));
    }

    #[test]
    fn without_the_protocol_nothing_is_consumed() {
        assert_eq!(parse(b"\x10", ProxyProtocol::Off), Ok(Header::Complete { bytes: 0, source: None }));
    }
}
