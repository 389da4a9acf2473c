//! What requests may look like, and what is said about those that do not.

use serde_json::json;

use super::*;

/// What is said about a document.
fn refused(document: &str) -> (u16, String) {
    let (rejection, _) = Request::parse(document.as_bytes(), Format::Json, Section::Whole).unwrap_err();
    (rejection.code, rejection.message)
}

#[test]
fn every_refusal_has_its_words() {
    let cases = [
        (r#"{"state":"#, "Invalid JSON: EOF while parsing a value at line 1 column 9"),
        ("", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", "The document must be an object"),
        ("{}", "Missing required node: state"),
        (r#"{"state":5}"#, "State node must be an object"),
        (r#"{"state":{"desired":5}}"#, "Desired node must be an object"),
        (r#"{"state":{"reported":[]}}"#, "Reported node must be an object"),
        (r#"{"state":{"foo":{}}}"#, "State contains an invalid node: foo"),
        (r#"{"state":{},"foo":1}"#, "The document has an unknown node: foo"),
        (r#"{"state":{"desired":{"a":[1,null]}}}"#, "State contains an invalid node: an array with null in it"),
        (r#"{"state":{"desired":{"a":[{"b":null}]}}}"#, "State contains an invalid node: an array with null in it"),
        (r#"{"state":{},"version":-1}"#, "Invalid version"),
        (r#"{"state":{},"version":"1"}"#, "Invalid version"),
        (r#"{"state":{},"clientToken":5}"#, "Invalid clientToken"),
        (r#"{"state":{},"delta":"x"}"#, "Invalid delta: not a sequence"),
        (r#"{"state":{"desired":{"a":1}},"ttl":{"b":5}}"#, "Invalid ttl: the update does not set b"),
        (r#"{"state":{"desired":{"a":null}},"ttl":{"a":5}}"#, "Invalid ttl: the update does not set a"),
        (r#"{"state":{"desired":{"a":1}},"ttl":{"a":{"b":5}}}"#, "Invalid ttl: the update sets no object at a"),
        (r#"{"state":{"reported":{"a":1}},"ttl":{"a":5}}"#, "Invalid ttl: nothing is desired"),
        (r#"{"state":{"reported":{"a":1}},"ttl":5}"#, "Invalid ttl: nothing is desired"),
        (r#"{"state":{"desired":null},"ttl":5}"#, "Invalid ttl: nothing is desired"),
        (r#"{"state":null,"ttl":5}"#, "Invalid ttl: nothing is desired"),
        (r#"{"delta":3,"ttl":5}"#, "Invalid ttl: nothing is desired"),
    ];
    for (document, message) in cases {
        assert_eq!(refused(document), (400, message.to_owned()), "{document}");
    }
    let twice = refused(r#"{"state":{"reported":{"a":1,"a":2}}}"#);
    assert_eq!(twice, (400, r#"Invalid JSON: the key "a" twice at line 1 column 34"#.to_owned()));
    assert_eq!(refused(&format!(r#"{{"state":{{}},"clientToken":"{}"}}"#, "x".repeat(65))).1, "Invalid clientToken");
    let (encoding, _) = Request::parse(b"{\"\xff\":1}", Format::Json, Section::Whole).unwrap_err();
    assert_eq!(encoding.code, 415);
}

#[test]
fn a_time_to_live_is_a_whole_number_of_seconds() {
    let message = "Invalid ttl: not a whole number of seconds from 1 to 316224000";
    for ttl in ["0", "-1", "1.5", "60.0", "316224001", "18446744073709551615", "1e300", "\"60\"", "true", "[60]"] {
        for ttl in [ttl.to_owned(), format!(r#"{{"a":{ttl}}}"#), format!(r#"{{"b":{{"c":{ttl}}}}}"#)] {
            let document = format!(r#"{{"state":{{"desired":{{"a":1,"b":{{"c":2}}}}}},"ttl":{ttl}}}"#);
            assert_eq!(refused(&document), (400, message.to_owned()), "{document}");
        }
    }
    for ttl in ["1", "316224000", "null", r#"{"a":1}"#, "{}"] {
        let document = format!(r#"{{"state":{{"desired":{{"a":1}}}},"ttl":{ttl}}}"#);
        assert!(Request::parse(document.as_bytes(), Format::Json, Section::Whole).is_ok(), "{document}");
    }
}

#[test]
fn a_refusal_knows_the_token() {
    let refused = Request::parse(br#"{"state":5,"clientToken":"mine"}"#, Format::Json, Section::Whole).unwrap_err();
    assert_eq!(refused.1.as_deref(), Some("mine"));
}

#[test]
fn what_a_client_copied_from_an_answer_is_ignored() {
    let asked = request(json!({"state": {"reported": {"a": 1}}, "metadata": {}, "timestamp": 5, "version": null}));
    assert_eq!((asked.expected_version, asked.client_token), (None, None));
}

#[test]
fn a_vehicle_reports_a_bare_object() {
    let asked = Request::parse(br#"{"state":{"x":1},"b":null}"#, Format::Json, Section::Reported).unwrap().handled(4);
    let same = request(json!({"state": {"reported": {"state": {"x": 1}, "b": null}}, "delta": 4}));
    assert_eq!(asked.change, same.change);
    for document in ["null", "5", "[1]"] {
        let refused = Request::parse(document.as_bytes(), Format::Json, Section::Reported).unwrap_err();
        assert_eq!(refused.0.message, "State node must be an object");
    }
}

#[test]
fn get_and_delete_need_no_payload() {
    for payload in ["", "x", "[]", "{}"] {
        assert_eq!(Request::parse_token(payload.as_bytes(), Format::Json), None);
    }
    for payload in ["", "{}", r#"{"version":null}"#] {
        assert_eq!(
            Request::parse_delete(payload.as_bytes(), Format::Json),
            Ok(Request::delete(None, None, Format::Json))
        );
    }
    let said = json!({"clientToken": "t", "version": 3});
    for format in [Format::Json, Format::Cbor] {
        assert_eq!(Request::parse_token(&write(&said, format), format).as_deref(), Some("t"));
        let deletion = Request::delete(Some(3), Some("t".to_owned()), format);
        assert_eq!(Request::parse_delete(&write(&said, format), format), Ok(deletion));
    }
    for (wrong, token) in [("x", None), ("[]", None), (r#"{"version":"3","clientToken":"t"}"#, Some("t"))] {
        let (rejection, said) = Request::parse_delete(wrong.as_bytes(), Format::Json).unwrap_err();
        assert_eq!(
            (rejection.code, said.as_deref()),
            (400, token),
            "nobody knows whether there was a condition: {wrong}"
        );
    }
}

#[test]
fn a_payload_that_no_state_needs_is_not_read() {
    let limits = ShadowLimits::default();
    assert_eq!(limits.check_payload(8192), Ok(()));
    assert_eq!(limits.check_payload(100_000), Err(Rejection::too_large()));
}
