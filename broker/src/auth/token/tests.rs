//! Tokens that are good, and all kinds that are not.

use std::path::PathBuf;

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

use super::*;
use crate::registry::now_ms;

const VIN: &str = "1M8GDM9AXKP042788";
/// An RSA key, and a token that was signed with it: for service:rsa, until 2100.
const RSA: &str = "\
-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAv5rYL5niFkgft9tDPxeP
UylIuRD3WMs2Xd/xMRNjx22qXW3c5s6vIKTsG3jI2HmArskIBPwel1ietee8sRR3
lEoLdhI0haCgnFhiP7hVLCQ34w93lki+rKoup6uxmt7rL4uetK0oxHZnhk0+q9Lz
8LHfY7JQgcAUuXsnLzfU9Ob+dRDk8ztZp+JnA3XH1MyAGssfhFSa/0AxWylvWVK+
7ax5eUOa4Da/vFL/X+krenk4JltZmBulLQ4ekrZ4C83mLvpUxR0U5ozUWWv9evt8
x55b/D0dQc9bZfJDrIKbao8aHs0q5b9xpcwrgGU2t3YA4rapQ3got0r/0ib6RQ23
SwIDAQAB
-----END PUBLIC KEY-----
";
const RSA_TOKEN: &str = "eyJhbGciOiAiUlMyNTYiLCAidHlwIjogIkpXVCJ9.eyJzdWIiOiAic2VydmljZTpyc2EiLCAiZXhwIjogNDEwMjQ0NDgwMH0.BmMhoFH07Gb0a-llZY2W4hjlM2Kmti9TMNmqPqHb9HOTioTxsVj1o3tPa0z8tfcnfA4zP6ZQM1k85ruEUTpKOnvg_-YGSKvCIqVsx55FqbGA16stfyTC-B5J_ASu6yjrtZ1WARqlqjizjWXAQLhuyqbKDrL2pFAdaMrapHKjnMxoTi_IldNEBXFzzaqNGqO9729y7dh4LyLHmpV5gfrY1RRv8OsZQrYKcBdqn0reOhkQOuxqbmCOG7BFl92f1NNg_SIHK02q0gSoaWj477bfWU1wXCR6tIJdkfJPb6IjJpnjEwbMdQwk1Gt_xG_gWmTBbHN_Vf4FbjRCx7PKcaWo2g";
/// Too short for anything.
const RSA_1024: &str = "\
-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQD5cXIQSqAo/5r8zYAPuY+Fqr/n
4wuIN0EvJtRR5zMwj3Ldwln/jNTi0nImQeoeJ2NpSEDZf4hzTvTI3nbo6DfmxckT
kipq8GzoP/FGlAF9lp//npmiumtdFsTrGp6OxcRX5ojXRWIt2eZH1qcgH/1A/4Vf
e6XbBXwNMblpEgmYgQIDAQAB
-----END PUBLIC KEY-----
";

enum Signer {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Signer {
    fn ed25519() -> Signer {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn p256() -> Signer {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Signer::P256(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap())
    }

    fn public(&self) -> &[u8] {
        match self {
            Signer::Ed25519(pair) => pair.public_key().as_ref(),
            Signer::P256(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Signer::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Signer::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
        }
    }

    fn jwk(&self, id: &str) -> Value {
        let public = self.public();
        match self {
            Signer::Ed25519(_) => json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": base64(public)}),
            Signer::P256(_) => {
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": base64(&public[1..33]), "y": base64(&public[33..])})
            }
        }
    }

    fn pem(&self) -> String {
        let head: &[u8] = match self {
            Signer::Ed25519(_) => &[0x30, 0x2A, 0x30, 5, 6, 3, 0x2B, 0x65, 0x70, 3, 0x21, 0],
            Signer::P256(_) => &[
                0x30, 0x59, 0x30, 0x13, 6, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D,
                3, 1, 7, 3, 0x42, 0,
            ],
        };
        let der = BASE64_STANDARD.encode([head, self.public()].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", base64(&signature))
    }
}

fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()))
}

fn now() -> u64 {
    now_ms() / 1000
}

/// Claims that are good for a minute, with these added or replaced.
fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "service:ota", "exp": now() + 60});
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        Files { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn settings(&self, keys: &str) -> Jwt {
        Jwt {
            keys_file: self.write(keys),
            issuer: None,
            audience: None,
            leeway_seconds: 30,
            principal_claim: "sub".to_owned(),
            principal_kind: PrincipalKind::Prefixed,
            vin_claim: None,
        }
    }

    fn tokens(&self, keys: &str) -> Tokens {
        Tokens::load(&self.settings(keys), false).unwrap()
    }
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

#[track_caller]
fn assert_refused(tokens: &Tokens, token: &str, part: &str) {
    match tokens.verify(token.as_bytes()) {
        Ok(identity) => panic!("{} was let in", identity.principal),
        Err(why) => assert!(why.contains(part), "{why}"),
    }
}

#[track_caller]
fn assert_principal(tokens: &Tokens, token: &str, principal: &str) {
    assert_eq!(tokens.verify(token.as_bytes()).unwrap().principal.to_string(), principal);
}

#[test]
fn tokens_of_all_algorithms_and_both_kinds_of_files() {
    let (ed, ec, files) = (Signer::ed25519(), Signer::p256(), Files::new());
    for keys in [set(&[ed.jwk("a"), ec.jwk("b")]), format!("{}{}", ed.pem(), ec.pem())] {
        let tokens = files.tokens(&keys);
        for (signer, algorithm, id) in [(&ed, "EdDSA", "a"), (&ec, "ES256", "b")] {
            let token = signer.token(&json!({"alg": algorithm}), &claims(json!({})));
            assert!(Tokens::looks_like_one(token.as_bytes()));
            assert_principal(&tokens, &token, "service:ota");
            let named = json!({"alg": algorithm, "kid": id, "typ": "at+jwt"});
            assert_principal(&tokens, &signer.token(&named, &claims(json!({}))), "service:ota");
        }
    }
    let tokens = files.tokens(RSA);
    assert_principal(&tokens, RSA_TOKEN, "service:rsa");
    let short = Tokens::load(&files.settings(RSA_1024), false).err().unwrap().to_string();
    assert!(short.contains("2048 bits"), "{short}");
}

#[test]
fn a_token_does_not_choose_how_it_is_verified() {
    let (ed, ec, files) = (Signer::ed25519(), Signer::p256(), Files::new());
    let pem = format!("{}{}", ed.pem(), ec.pem());
    let tokens = files.tokens(&pem);
    let good = claims(json!({}));
    for none in ["none", "None", "NONE", ""] {
        let unsigned = message(&json!({"alg": none}), &good);
        assert_refused(&tokens, &format!("{unsigned}."), "cannot be read");
        assert_refused(&tokens, &format!("{unsigned}.AAAA"), "cannot be read");
    }
    // Signed with what everybody knows.
    for secret in [ed.public(), ec.public(), pem.as_bytes(), ed.pem().as_bytes()] {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let message = message(&json!({"alg": algorithm}), &good);
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
            assert_refused(&tokens, &format!("{message}.{}", base64(tag.as_ref())), "none of the keys");
        }
    }
    // Another algorithm than the key's.
    for (signer, algorithm) in [(&ed, "ES256"), (&ec, "EdDSA"), (&ed, "RS256"), (&ec, "ES384"), (&ec, "PS256")] {
        assert_refused(&tokens, &signer.token(&json!({"alg": algorithm}), &good), "none of the keys");
    }
    // A key of its own.
    let stranger = Signer::ed25519();
    let own = json!({"alg": "EdDSA", "jwk": stranger.jwk("a"), "jku": "https://a.example/keys", "kid": "a"});
    assert_refused(&tokens, &stranger.token(&own, &good), "none of the keys");
    // Extensions that nobody here knows.
    for header in [json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}), json!({"alg": "EdDSA", "crit": []})] {
        assert_refused(&tokens, &ed.token(&header, &good), "critical");
    }
}

#[test]
fn a_key_is_found_by_its_name() {
    let (first, second, files) = (Signer::ed25519(), Signer::ed25519(), Files::new());
    let tokens = files.tokens(&set(&[first.jwk("1"), second.jwk("2")]));
    let good = claims(json!({}));
    assert_principal(&tokens, &second.token(&json!({"alg": "EdDSA"}), &good), "service:ota");
    assert_principal(&tokens, &second.token(&json!({"alg": "EdDSA", "kid": "2"}), &good), "service:ota");
    for id in ["1", "3", ""] {
        assert_refused(&tokens, &second.token(&json!({"alg": "EdDSA", "kid": id}), &good), "none of the keys");
    }
}

#[test]
fn tokens_have_a_beginning_and_an_end() {
    let (ed, files) = (Signer::ed25519(), Files::new());
    let tokens = files.tokens(&ed.pem());
    let token = |more| ed.token(&json!({"alg": "EdDSA"}), &claims(more));
    let end = now() + 60;
    let identity = tokens.verify(token(json!({"exp": end, "jti": "t-1"})).as_bytes()).unwrap();
    assert_eq!(identity.valid_until_ms, Some((end + 30) * 1000));
    assert_eq!(identity.credential.as_deref(), Some("jwt:t-1"));
    let identity = tokens.verify(token(json!({"exp": u64::MAX})).as_bytes()).unwrap();
    assert_eq!(identity.valid_until_ms, Some(FOREVER_MS));
    assert!(identity.credential.is_some_and(|credential| credential.len() == 4 + 32));
    // Clocks may differ.
    assert!(tokens.verify(token(json!({"exp": now() - 20, "nbf": now() + 20})).as_bytes()).is_ok());
    for (more, part) in [
        (json!({"exp": now() - 40}), "ExpiredSignature"),
        (json!({"exp": 0}), "ExpiredSignature"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": "4102444800"}), "exp"),
        (json!({"exp": -1}), "exp"),
        (json!({"exp": []}), "exp"),
        (json!({"nbf": now() + 50}), "ImmatureSignature"),
        (json!({"nbf": "0"}), "nbf"),
    ] {
        assert_refused(&tokens, &token(more), part);
    }
    let endless = ed.token(&json!({"alg": "EdDSA"}), &json!({"sub": "service:ota"}));
    assert_refused(&tokens, &endless, "exp");
}

#[test]
fn issuer_and_audience_are_what_is_configured() {
    let (ed, files) = (Signer::ed25519(), Files::new());
    let token = |more| ed.token(&json!({"alg": "EdDSA"}), &claims(more));
    let open = files.tokens(&ed.pem());
    assert_principal(&open, &token(json!({"iss": "anybody"})), "service:ota");
    assert_refused(&open, &token(json!({"aud": "another broker"})), "InvalidAudience");

    let (issuer, audience) = (Some("https://id.example".to_owned()), Some("mqtt".to_owned()));
    let strict = Tokens::load(&Jwt { issuer, audience, ..files.settings(&ed.pem()) }, false).unwrap();
    assert_principal(&strict, &token(json!({"iss": "https://id.example", "aud": "mqtt"})), "service:ota");
    assert_principal(&strict, &token(json!({"iss": "https://id.example", "aud": ["web", "mqtt"]})), "service:ota");
    for more in [
        json!({}),
        json!({"iss": "https://id.example"}),
        json!({"aud": "mqtt"}),
        json!({"iss": "https://id.example.evil", "aud": "mqtt"}),
        json!({"iss": "https://id.example", "aud": "mqtt2"}),
        json!({"iss": "https://id.example", "aud": []}),
        json!({"iss": 7, "aud": "mqtt"}),
        json!({"iss": "https://id.example", "aud": {"mqtt": true}}),
    ] {
        assert!(strict.verify(token(more.clone()).as_bytes()).is_err(), "{more}");
    }
}

#[test]
fn claims_say_who_it_is() {
    let (ed, files) = (Signer::ed25519(), Files::new());
    let token = |more| ed.token(&json!({"alg": "EdDSA"}), &claims(more));
    let check = |settings: Jwt, rows: &[(Value, &str)]| {
        let tokens = Tokens::load(&settings, false).unwrap();
        for (more, expected) in rows {
            let found = match tokens.verify(token(more.clone()).as_bytes()) {
                Ok(identity) => identity.principal.to_string(),
                Err(_) => "refused".to_owned(),
            };
            assert_eq!(found, *expected, "{more}");
        }
    };
    let settings = || files.settings(&ed.pem());
    let vehicle = format!("vehicle:{VIN}");
    check(
        settings(),
        &[
            (json!({"sub": vehicle}), &vehicle),
            (json!({"sub": "operator:olga"}), "operator:olga"),
            (json!({"sub": "vehicle:1m8gdm9axkp042788"}), "refused"),
            (json!({"sub": VIN}), "refused"),
            (json!({"sub": "ota"}), "refused"),
            (json!({"sub": "shard:0"}), "refused"),
            (json!({"sub": "service:"}), "refused"),
            (json!({"sub": "service:+"}), "refused"),
            (json!({"sub": "service:a/b"}), "refused"),
            (json!({"sub": ["service:ota"]}), "refused"),
            (json!({"sub": null}), "refused"),
        ],
    );
    let (principal_claim, principal_kind) = ("azp".to_owned(), PrincipalKind::Service);
    let vin_claim = Some("vin".to_owned());
    check(
        Jwt { principal_claim, principal_kind, vin_claim, ..settings() },
        &[
            (json!({"azp": "ota"}), "service:ota"),
            (json!({"azp": "ota", "vin": VIN}), &vehicle),
            (json!({"azp": "ota", "vin": ""}), "refused"),
            (json!({"azp": "ota", "vin": null}), "refused"),
            (json!({}), "refused"),
        ],
    );
    let vehicles = Jwt { principal_kind: PrincipalKind::Vehicle, ..settings() };
    check(vehicles, &[(json!({"sub": VIN}), &vehicle), (json!({"sub": vehicle}), "refused")]);
    let operators = Jwt { principal_kind: PrincipalKind::Operator, ..settings() };
    check(operators, &[(json!({"sub": "olga"}), "operator:olga")]);
}

#[test]
fn what_is_not_a_whole_token_is_none() {
    let (ed, files) = (Signer::ed25519(), Files::new());
    let tokens = files.tokens(&ed.pem());
    let token = ed.token(&json!({"alg": "EdDSA"}), &claims(json!({})));
    for length in 0..token.len() {
        assert!(tokens.verify(&token.as_bytes()[..length]).is_err(), "{length}");
    }
    for index in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
        assert!(tokens.verify(&changed).is_err(), "{index}");
    }
    for text in ["", ".", "..", "a.b.c", "ey.ey.ey", &format!("{token}.x"), &format!(" {token}"), &"e".repeat(20_000)] {
        assert!(tokens.verify(text.as_bytes()).is_err(), "{text}");
    }
    for password in ["", "pencil", "eye", "ey.a", "ey.a.b.c", "ey.a b.c", "Ey.a.b"] {
        assert!(!Tokens::looks_like_one(password.as_bytes()), "{password}");
    }
}

#[test]
fn keys_are_read_again() {
    let (old, new, files) = (Signer::ed25519(), Signer::p256(), Files::new());
    let tokens = files.tokens(&old.pem());
    let of_new = new.token(&json!({"alg": "ES256"}), &claims(json!({})));
    assert_refused(&tokens, &of_new, "none of the keys");
    assert!(!tokens.file_changed());
    files.write(&set(&[new.jwk("n")]));
    assert!(tokens.file_changed());
    assert_eq!(tokens.reload().unwrap(), 1);
    assert_principal(&tokens, &of_new, "service:ota");
    assert_refused(&tokens, &old.token(&json!({"alg": "EdDSA"}), &claims(json!({}))), "none of the keys");

    let shared = json!({"kty": "oct", "k": "c2VjcmV0", "kid": "s"});
    let encryption = json!({"kty": "OKP", "crv": "Ed25519", "use": "enc", "x": base64(old.public())});
    for wrong in ["", "{}", "x", &set(&[]), &set(&[new.jwk("n"), shared]), &set(&[encryption]), &new.pem()[..40]] {
        files.write(wrong);
        assert!(tokens.reload().is_err(), "{wrong}");
        assert_principal(&tokens, &of_new, "service:ota");
    }
}
