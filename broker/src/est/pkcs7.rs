//! Certificates in the envelope that EST answers with: PKCS #7 without content and without signatures (RFC 5652, 5.1; RFC 7030, 4.1.3).
//!
//! Owns its bytes. It never looks into a certificate.

use base64::prelude::{BASE64_STANDARD, Engine};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, constructed.
const CONTEXT_0: u8 = 0xa0;
/// The version of a SignedData that holds certificates only: 1.
const VERSION: &[u8] = &[0x02, 0x01, 0x01];
/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// Characters of a line of Base64: as PEM has them.
const LINE: usize = 64;

/// A certs-only SignedData with these certificates in DER form, as Base64.
pub(super) fn certificates_only(certificates: &[&[u8]]) -> String {
    let signed_data = element(
        SEQUENCE,
        &[
            VERSION,
            &element(SET, &[]),
            &element(SEQUENCE, &[DATA]),
            &element(CONTEXT_0, certificates),
            &element(SET, &[]),
        ],
    );
    let content = element(CONTEXT_0, &[&signed_data]);
    lines(&BASE64_STANDARD.encode(element(SEQUENCE, &[SIGNED_DATA, &content])))
}

/// One element of DER: tag, length, and what is in it.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match content.len() {
        length @ 0..0x80 => element.push(length as u8),
        length => {
            let bytes = length.to_be_bytes();
            let significant = &bytes[bytes.iter().position(|&byte| byte != 0).unwrap_or_default()..];
            element.push(0x80 | significant.len() as u8);
            element.extend(significant);
        }
    }
    element.extend(content);
    element
}

fn lines(base64: &str) -> String {
    let mut lines = String::with_capacity(base64.len() + base64.len() / LINE + 1);
    for line in base64.as_bytes().chunks(LINE) {
        lines.extend(line.iter().map(|&byte| char::from(byte)));
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(element(SET, &[]), [0x31, 0]);
        assert_eq!(element(SET, &[&[7; 127]])[..2], [0x31, 127]);
        assert_eq!(element(SET, &[&[7; 128]])[..3], [0x31, 0x81, 128]);
        assert_eq!(element(SET, &[&[7; 256], &[7]])[..4], [0x31, 0x82, 1, 1]);
        assert_eq!(element(SET, &[&[7; 65536]])[..5], [0x31, 0x83, 1, 0, 0]);
    }

    #[test]
    fn the_envelope_is_what_openssl_makes() {
        let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.crt"), certificate.pem()).unwrap();
        let arguments = ["crl2pkcs7", "-nocrl", "-certfile", "a.crt", "-outform", "DER"];
        // Nothing to compare with where it is not installed.
        let Ok(output) = std::process::Command::new("openssl").args(arguments).current_dir(folder.path()).output()
        else {
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: String = certificates_only(&[certificate.der()]).lines().collect();
        assert_eq!(BASE64_STANDARD.decode(said).unwrap(), output.stdout);
    }
}
