//! Every route, without a socket.

use std::collections::BTreeSet;

use super::*;

const A: &str = "1M8GDM9AXKP042788";
const B: &str = "WVWZZZ1JZ3W386752";
const NOW: u64 = 1_800_000_000_000;

struct Api(Registry);

impl Api {
    fn new() -> Api {
        Api(Registry::in_memory().unwrap())
    }

    #[track_caller]
    fn ask(&self, method: &str, target: &str, body: Value, status: u16) -> Value {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = handle(&self.0, &Request { method, path, query, body: body.as_bytes(), now_ms: NOW });
        assert_eq!(answer.status, status, "{method} {target}: {:?}", answer.body);
        answer.body.unwrap_or_default()
    }

    #[track_caller]
    fn get(&self, target: &str) -> Value {
        self.ask("GET", target, Value::Null, 200)
    }

    /// What is said about something that does not go.
    #[track_caller]
    fn refused(&self, method: &str, target: &str, body: Value, status: u16) -> String {
        let problem = self.ask(method, target, body, status);
        assert_eq!(problem["status"], status);
        problem["detail"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_vehicle_from_its_first_day_to_its_last() {
    let api = Api::new();
    api.ask("PUT", "/v1/groups/eu", json!({ "description": "Europe" }), 201);
    let made = api.ask("POST", "/v1/vehicles", json!({ "vin": A, "groups": ["eu"], "note": "n" }), 201);
    let expected = json!({ "vin": A, "state": "provisioned", "groups": ["eu"], "note": "n", "made_at_ms": NOW, "changed_at_ms": NOW });
    assert_eq!(made, expected);
    let token = api.ask("POST", &format!("/v1/vehicles/{A}/enrolment-token"), Value::Null, 201);
    assert_eq!(token["expires_at_ms"], NOW + 86_400_000);
    assert!(token["token"].as_str().unwrap().starts_with(A));
    let shown = api.get(&format!("/v1/vehicles/{A}"));
    assert_eq!(shown["enrolment_token"]["used_at_ms"], Value::Null);
    assert_eq!(api.ask("POST", &format!("/v1/vehicles/{A}/activate"), Value::Null, 200)["state"], "active");
    assert_eq!(api.ask("PATCH", &format!("/v1/vehicles/{A}"), json!({ "groups": [] }), 200)["groups"], json!([]));
    assert_eq!(api.ask("POST", &format!("/v1/vehicles/{A}/suspend"), Value::Null, 200)["state"], "suspended");
    assert_eq!(api.ask("PATCH", &format!("/v1/vehicles/{A}"), json!({ "state": "active" }), 200)["state"], "active");
    assert_eq!(api.ask("POST", &format!("/v1/vehicles/{A}/retire"), Value::Null, 200)["state"], "retired");
    let why = api.refused("POST", &format!("/v1/vehicles/{A}/activate"), Value::Null, 409);
    assert_eq!(why, format!("{A} is retired, which is final: it cannot become active"));
    let why = api.refused("DELETE", &format!("/v1/vehicles/{A}"), Value::Null, 409);
    assert!(why.contains("only a provisioned vehicle"), "{why}");
    api.ask("POST", "/v1/vehicles", json!({ "vin": B }), 201);
    api.ask("DELETE", &format!("/v1/vehicles/{B}"), Value::Null, 204);
    api.refused("GET", &format!("/v1/vehicles/{B}"), Value::Null, 404);
    let counts =
        json!({ "vehicles": { "provisioned": 0, "active": 0, "suspended": 0, "retired": 1 }, "groups": 1, "bans": 0 });
    assert_eq!(api.get("/v1/registry"), counts);
}

#[test]
fn many_at_once() {
    let api = Api::new();
    let both = json!({ "vehicles": [{ "vin": A, "state": "active" }, { "vin": B, "state": "active" }] });
    assert_eq!(api.ask("POST", "/v1/vehicles", both.clone(), 201), json!({ "added": 2, "known": 0 }));
    api.refused("POST", "/v1/vehicles", both.clone(), 409);
    let kept = json!({ "vehicles": both["vehicles"], "keep_known": true });
    assert_eq!(api.ask("POST", "/v1/vehicles", kept, 201), json!({ "added": 0, "known": 2 }));
    api.ask("PUT", "/v1/groups/eu", Value::Null, 201);
    api.ask("PUT", "/v1/groups/eu", Value::Null, 200);
    let group = api.ask("POST", "/v1/groups/eu/members", json!({ "add": [A, B] }), 200);
    assert_eq!(group["members"], 2);
    api.ask("DELETE", &format!("/v1/groups/eu/members/{A}"), Value::Null, 204);
    let members = api.get("/v1/groups/eu/members");
    assert_eq!((members["vehicles"][0]["vin"].as_str(), members["vehicles"][1].is_null()), (Some(B), true));
    api.refused("DELETE", "/v1/groups/eu", Value::Null, 409);
    api.ask("PUT", &format!("/v1/groups/eu/members/{A}"), Value::Null, 204);
    api.ask("POST", "/v1/groups/eu/members", json!({ "remove": [A, B] }), 200);
    api.ask("DELETE", "/v1/groups/eu", Value::Null, 204);
    api.ask("POST", "/v1/vehicles/suspend", json!({ "vins": [A, B] }), 200);
    let page = api.get("/v1/vehicles?state=suspended&limit=1");
    assert_eq!((page["vehicles"][0]["vin"].as_str(), page["next"].as_str()), (Some(A), Some(A)));
    let page = api.get(&format!("/v1/vehicles?state=suspended&limit=1&after={A}"));
    assert_eq!((page["vehicles"][0]["vin"].as_str(), page["next"].is_null()), (Some(B), true));
    api.ask("POST", "/v1/vehicles/activate", json!({ "vins": [A, B] }), 200);
    api.ask("POST", "/v1/vehicles/retire", json!({ "vins": [B] }), 200);
    assert_eq!(api.get("/v1/vehicles?state=retired")["vehicles"][0]["vin"], B);
}

#[test]
fn bans_and_credentials() {
    let api = Api::new();
    let ban = api.ask("POST", "/v1/bans", json!({ "subject": "client:a/b", "for_seconds": 60, "why": "flaps" }), 201);
    assert_eq!(ban, json!({ "subject": "client:a/b", "until_ms": NOW + 60_000, "made_at_ms": NOW, "why": "flaps" }));
    assert_eq!(api.get("/v1/bans")["bans"], json!([ban]));
    assert_eq!(api.get("/v1/bans/client:a%2Fb"), ban);
    api.ask("DELETE", "/v1/bans/client:a%2Fb", Value::Null, 204);
    api.refused("GET", "/v1/bans/client:a%2Fb", Value::Null, 404);
    api.refused("POST", "/v1/bans", json!({ "subject": "nobody" }), 400);
    api.ask("POST", "/v1/credentials/revoke", json!({ "credentials": ["x509:01@aa"], "why": "lost" }), 200);
    assert_eq!(api.get("/v1/credentials/x509:01@aa")["state"], "revoked");
    assert_eq!(api.get("/v1/credentials")["credentials"][0]["why"], "lost");
    assert_eq!(api.get(&format!("/v1/vehicles/{A}/credentials"))["credentials"], json!([]));
}

#[test]
fn what_makes_no_sense_is_told() {
    let api = Api::new();
    api.refused("GET", "/v1/nothing", Value::Null, 404);
    assert_eq!(api.refused("PUT", "/v1/vehicles", Value::Null, 405), "/v1/vehicles takes GET, POST, not PUT");
    assert!(api.refused("POST", "/v1/vehicles", json!({ "vin": "x" }), 400).contains("a VIN has"));
    assert!(
        api.refused("POST", "/v1/vehicles", json!({ "vin": A, "colour": 1 }), 400).contains("unknown field `colour`")
    );
    assert!(api.refused("POST", "/v1/vehicles", json!({ "vehicles": [{}] }), 400).contains("missing field `vin`"));
    assert!(api.refused("POST", "/v1/vehicles", json!({ "vehicles": [] }), 422).contains("no vehicle is named"));
    assert!(
        api.refused("POST", "/v1/vehicles", json!({ "vin": A, "groups": ["a/b"] }), 400).contains("a group's name")
    );
    assert!(api.refused("POST", "/v1/vehicles", json!({ "vin": A, "groups": ["g"] }), 404).contains("no group"));
    assert!(api.refused("GET", "/v1/vehicles?limit=0", Value::Null, 400).contains("1 to 1000"));
    assert!(api.refused("GET", "/v1/vehicles?lmit=1", Value::Null, 400).contains("\"lmit\""));
    assert!(api.refused("GET", "/v1/vehicles?state=x", Value::Null, 400).contains("no state"));
    api.refused("GET", "/v1/vehicles/%zz", Value::Null, 404);
}

/// The document and the routes are of the same paths and methods, and what changes something says what it needs.
#[test]
fn the_document_knows_every_route_and_no_other() {
    let document: Value = serde_json::from_str(super::super::OPENAPI).unwrap();
    let documented: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let others = ["GET /metrics", "GET /live", "GET /ready", "GET /v1/openapi.json", "POST /v1/backup"];
    let routes = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path));
    let routes: BTreeSet<String> = routes.chain(others.map(str::to_owned)).collect();
    assert_eq!(documented, routes);
    for route in ROUTES {
        assert_eq!(route.needs == Needs::Read, route.method == "GET", "{} {}", route.method, route.path);
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{}", route.path);
        let said = operation["responses"].as_object().unwrap();
        assert!(said.contains_key("401") && said.contains_key("403"), "{} {}", route.method, route.path);
        for name in route.path.split('/').filter(|word| word.starts_with('{')) {
            let parameters = document["paths"][route.path]["parameters"].to_string();
            assert!(parameters.contains(name.trim_matches(['{', '}'])), "{} has no parameter {name}", route.path);
        }
        let has_body = operation.get("requestBody").is_some();
        assert!(!has_body || operation["requestBody"].to_string().contains("\"example\""), "{}", route.path);
    }
}
