//! The two formats, and what of CBOR no document may have.

use serde_json::json;

use super::*;

fn cbor(bytes: &[u8]) -> Result<Value, String> {
    format::read(bytes, Format::Cbor).map_err(|rejection| {
        assert_eq!(rejection.code, 400);
        rejection.message
    })
}

#[test]
fn cbor_says_what_json_says() {
    let cases: [(&[u8], Value); 14] = [
        (&[0x18, 0x64], json!(100)),
        (&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], json!(u64::MAX)),
        (&[0x3b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], json!(i64::MIN)),
        (&[0xf9, 0x3e, 0x00], json!(1.5)),
        (&[0xf9, 0xc4, 0x00], json!(-4.0)),
        (&[0xf9, 0x00, 0x01], json!(5.960464477539063e-8)),
        (&[0xfa, 0x47, 0xc3, 0x50, 0x00], json!(100000.0)),
        (&[0xfb, 0x3f, 0xf1, 0x99, 0x99, 0x99, 0x99, 0x99, 0x9a], json!(1.1)),
        (&[0xf4], json!(false)),
        (&[0xf6], json!(null)),
        (&[0x9f, 0x01, 0x82, 0x02, 0x03, 0xff], json!([1, [2, 3]])),
        (&[0x7f, 0x62, b'a', b'b', 0x61, b'c', 0xff], json!("abc")),
        (&[0xa2, 0x61, b'b', 0x01, 0x61, b'a', 0x02], json!({"a": 2, "b": 1})),
        (&[0xbf, 0x61, b'a', 0x80, 0xff], json!({"a": []})),
    ];
    for (bytes, value) in cases {
        assert_eq!(cbor(bytes), Ok(value), "{bytes:02x?}");
    }
}

#[test]
fn what_json_cannot_say_is_refused() {
    let cases: [(&[u8], &str); 16] = [
        (&[0x41, 0x00], "a byte string, at 0: documents have none"),
        (&[0x5f, 0xff], "a byte string, at 0: documents have none"),
        (&[0xc0, 0x60], "a tag, at 0: documents have none"),
        (&[0xf7], "a simple value that JSON does not know, at 0"),
        (&[0xf9, 0x7e, 0x00], "a number that is not finite, at 0"),
        (&[0xf9, 0x7c, 0x00], "a number that is not finite, at 0"),
        (&[0xfa, 0x7f, 0xc0, 0x00, 0x00], "a number that is not finite, at 0"),
        (&[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "an integer that takes more than 64 bits, at 0"),
        (&[0xa1, 0x01, 0x02], "a key that is no text, at 1"),
        (&[0xa2, 0x61, b'a', 0x01, 0x61, b'a', 0x02], "the key \"a\" twice, at 4"),
        (&[0x62, 0xff, 0xff], "not well-formed, at 0"),
        (&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "not well-formed, at 9"),
        (&[0xff], "not well-formed, at 0"),
        (&[0x82, 0x01], "not well-formed, at 2"),
        (&[0x01, 0x01], "bytes after the end of the document, at 1"),
        (&[], "not well-formed, at 0"),
    ];
    for (bytes, message) in cases {
        assert_eq!(cbor(bytes), Err(format!("Invalid CBOR: {message}")), "{bytes:02x?}");
    }
}

/// What is kept of a JSON number, and told of it.
fn kept(number: &str) -> Result<String, String> {
    let mut play = Play::default();
    let document = format!(r#"{{"state":{{"reported":{{"n":{number}}}}}}}"#);
    let request = Request::parse(document.as_bytes(), Format::Json, Section::Whole);
    play.apply(&request.map_err(|(rejection, _)| rejection.message)?.change);
    Ok(play.state()["reported"]["n"].to_string())
}

#[test]
fn numbers_keep_what_they_say() {
    let cases = [
        ("21", "21"),
        ("21.0", "21.0"),
        ("1e2", "100.0"),
        ("-7", "-7"),
        ("9007199254740993", "9007199254740993"),
        ("18446744073709551615", "18446744073709551615"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551616.0", "1.8446744073709552e+19"),
        ("1.8446744073709552e19", "1.8446744073709552e+19"),
        ("1E300", "1e+300"),
        ("0.1", "0.1"),
        ("0.1000000000000000055511151231257827", "0.1"),
        ("14.139163299240181", "14.139163299240181"),
    ];
    for (sent, told) in cases {
        assert_eq!(kept(sent), Ok(told.to_owned()), "{sent}");
    }
}

#[test]
fn an_integer_that_would_lose_digits_is_refused() {
    let refused = Err("Invalid JSON: an integer that takes more than 64 bits".to_owned());
    for number in
        ["18446744073709551616", "-9223372036854775809", "[1,100000000000000000000]", r#"{"a\"":99999999999999999999}"#]
    {
        assert_eq!(kept(number), refused, "{number}");
    }
    for text in
        [r#""18446744073709551616""#, r#""a\"18446744073709551616""#, r#""\\""#, r#"{"99999999999999999999":1}"#]
    {
        assert_eq!(kept(text), Ok(text.to_owned()), "digits of a text are no number");
    }
    assert_eq!(kept("1e400"), Err("Invalid JSON: number out of range at line 1 column 31".to_owned()));
}

#[test]
fn numbers_are_the_same_by_what_they_say() {
    for (one, other, expected) in [
        (json!(21), json!(21.0), true),
        (json!([21, {"a": 1.0}]), json!([21.0, {"a": 1}]), true),
        (json!(21), json!(21.5), false),
        (json!(21), json!("21"), false),
        (json!(u64::MAX), json!(u64::MAX - 1), false),
    ] {
        assert_eq!(same(&one, &other), expected, "{one} and {other}");
        let mut play = Play::default();
        play.update(json!({"desired": {"n": one}, "reported": {"n": other}}));
        assert_eq!(play.delta().is_none(), expected, "the delta says the same: {one} and {other}");
    }
}

#[test]
fn nesting_has_an_end() {
    for opening in [0x81, 0x9f] {
        assert_eq!(cbor(&vec![opening; 1_000_000]), Err("Invalid CBOR: too many levels of nesting".into()));
    }
    let deep = "[".repeat(1_000_000);
    let refused = format::read(deep.as_bytes(), Format::Json).unwrap_err();
    assert!(refused.message.starts_with("Invalid JSON: too many levels of nesting"), "{refused}");
}

#[test]
fn a_content_type_names_the_format() {
    assert_eq!(Format::of(None), Format::Json);
    assert_eq!(Format::of(Some("application/json; charset=utf-8")), Format::Json);
    assert_eq!(Format::of(Some("Application/CBOR")), Format::Cbor);
    assert_eq!(Format::of(Some("application/cbor; x=y")), Format::Cbor);
}

#[test]
fn a_shadow_of_a_kilobyte_of_json_takes_less() {
    let mut state = serde_json::Map::new();
    for group in ["battery", "doors", "tyres", "climate", "position"] {
        let leaves = (0..8).map(|leaf| (format!("field_{leaf}"), json!(leaf * 111)));
        state.insert(group.into(), Value::Object(leaves.collect()));
    }
    let mut play = Play::default();
    play.update(json!({"reported": state, "desired": {"climate": {"field_0": 21.5, "field_1": "auto"}}}));
    let (bytes, json) = (play.shadow.encode().len(), play.shadow.document(NOW_MS).to_string().len());
    assert!(bytes < 750 && json > 2000, "{bytes} bytes, {json} as a document");
}
