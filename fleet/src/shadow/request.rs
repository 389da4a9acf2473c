//! Reading requests.
//!
//! Owns what a request may look like, in either format, and its normal form. It never looks at a shadow.

use serde_json::{Map, Value};

use super::Rejection;
use super::change::{Change, Kind, Patch, Ttl, Update};
use super::format::{Format, read};

/// What is asked of a shadow.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What is to become of it.
    pub change: Change,
    /// The version that it is about, if it is about one only. 0: there is to be none.
    pub expected_version: Option<u64>,
    /// What the client wants to know the answer by.
    pub client_token: Option<String>,
    /// The format that the answer is to have.
    pub format: Format,
}

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `{"state": {"desired", "reported"}, "version", "clientToken", "ttl", "delta"}`
    Whole,
    /// The reported state alone.
    Reported,
}

/// The longest `clientToken`, in bytes.
const CLIENT_TOKEN_BYTES_MAX: usize = 64;
/// The longest time to live, in seconds: ten years.
const TTL_SECONDS_MAX: u64 = 10 * 366 * 86_400;

impl Request {
    /// Reads an update. With a refusal comes the client token, if the payload has a readable one.
    pub fn parse(payload: &[u8], format: Format, section: Section) -> Result<Request, (Rejection, Option<String>)> {
        let value = read(payload, format).map_err(|rejection| (rejection, None))?;
        match section {
            Section::Whole => whole(value, format),
            Section::Reported => reported(value, format).map_err(|rejection| (rejection, None)),
        }
    }

    /// A deletion.
    pub fn delete(expected_version: Option<u64>, client_token: Option<String>, format: Format) -> Request {
        Request { change: Change::delete(), expected_version, client_token, format }
    }

    /// The client token of a `get`, of which the payload may be empty, or anything.
    pub fn parse_token(payload: &[u8], format: Format) -> Option<String> {
        let Ok(Value::Object(mut fields)) = read(payload, format) else { return None };
        client_token(&mut fields).unwrap_or_default()
    }

    /// Reads a `delete`, of which the payload may be empty. One that cannot be read may have said which version is to be deleted: it is refused.
    /// With a refusal comes the client token, if the payload has a readable one.
    pub fn parse_delete(payload: &[u8], format: Format) -> Result<Request, (Rejection, Option<String>)> {
        if payload.is_empty() {
            return Ok(Request::delete(None, None, format));
        }
        let value = read(payload, format).map_err(|rejection| (rejection, None))?;
        let Value::Object(mut fields) = value else {
            return Err((Rejection::bad("The document must be an object"), None));
        };
        let token = client_token(&mut fields).map_err(|rejection| (rejection, None))?;
        match version(&fields) {
            Ok(version) => Ok(Request::delete(version, token, format)),
            Err(rejection) => Err((rejection, token)),
        }
    }

    /// The same, said by a vehicle that handled the delta of this sequence.
    pub fn handled(mut self, sequence: u64) -> Request {
        self.change = self.change.handled(sequence);
        self
    }
}

fn reported(value: Value, format: Format) -> Result<Request, Rejection> {
    let Value::Object(map) = value else { return Err(Rejection::bad("State node must be an object")) };
    let reported = Patch::Merge(valid(map)?);
    let change = Change(Kind::Update(Update { reported, ..Update::default() }));
    Ok(Request { change, expected_version: None, client_token: None, format })
}

fn whole(value: Value, format: Format) -> Result<Request, (Rejection, Option<String>)> {
    let Value::Object(mut fields) = value else {
        return Err((Rejection::bad("The document must be an object"), None));
    };
    let client_token = client_token(&mut fields).map_err(|rejection| (rejection, None))?;
    match update(fields) {
        Ok((update, expected_version)) => {
            Ok(Request { change: Change(Kind::Update(update)), expected_version, client_token, format })
        }
        Err(rejection) => Err((rejection, client_token)),
    }
}

/// What is left of a request without its token: the update, and the expected version.
fn update(mut fields: Map<String, Value>) -> Result<(Update, Option<u64>), Rejection> {
    let expected_version = version(&fields)?;
    let handled = match fields.get("delta") {
        None | Some(Value::Null) => None,
        Some(sequence) => Some(sequence.as_u64().ok_or_else(|| Rejection::bad("Invalid delta: not a sequence"))?),
    };
    let state = fields.get_mut("state").map(Value::take);
    let (desired, reported) = match state {
        Some(state) => sections(state)?,
        None if handled.is_some() => (Patch::None, Patch::None),
        None => return Err(Rejection::bad("Missing required node: state")),
    };
    let ttl = ttl(fields.get_mut("ttl").map(Value::take), &desired)?;
    const KNOWN: [&str; 6] = ["state", "version", "ttl", "delta", "metadata", "timestamp"];
    if let Some(unknown) = fields.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(Rejection::bad(format!("The document has an unknown node: {unknown}")));
    }
    Ok((Update { desired, reported, ttl, handled }, expected_version))
}

/// `desired` and `reported` of a state. `null` in place of the state clears both.
fn sections(state: Value) -> Result<(Patch, Patch), Rejection> {
    let mut state = match state {
        Value::Null => return Ok((Patch::Clear, Patch::Clear)),
        Value::Object(state) => state,
        _ => return Err(Rejection::bad("State node must be an object")),
    };
    if let Some(unknown) = state.keys().find(|key| !matches!(key.as_str(), "desired" | "reported")) {
        return Err(Rejection::bad(format!("State contains an invalid node: {unknown}")));
    }
    let mut take = |key, name| match state.get_mut(key).map(Value::take) {
        None => Ok(Patch::None),
        Some(Value::Null) => Ok(Patch::Clear),
        Some(Value::Object(map)) => valid(map).map(Patch::Merge),
        Some(_) => Err(Rejection::bad(format!("{name} node must be an object"))),
    };
    Ok((take("desired", "Desired")?, take("reported", "Reported")?))
}

/// A patch without `null` in its arrays.
fn valid(map: Map<String, Value>) -> Result<Map<String, Value>, Rejection> {
    if map.values().any(|value| null_in_array(value, false)) {
        return Err(Rejection::bad("State contains an invalid node: an array with null in it"));
    }
    Ok(map)
}

fn null_in_array(value: &Value, inside: bool) -> bool {
    match value {
        Value::Null => inside,
        Value::Array(elements) => elements.iter().any(|element| null_in_array(element, true)),
        Value::Object(map) => map.values().any(|value| null_in_array(value, inside)),
        _ => false,
    }
}

/// The client token, taken out.
fn client_token(fields: &mut Map<String, Value>) -> Result<Option<String>, Rejection> {
    let token = fields.get_mut("clientToken").map(Value::take);
    fields.retain(|key, _| key != "clientToken");
    match token {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) if token.len() <= CLIENT_TOKEN_BYTES_MAX => Ok(Some(token)),
        Some(_) => Err(Rejection::bad("Invalid clientToken")),
    }
}

fn version(fields: &Map<String, Value>) -> Result<Option<u64>, Rejection> {
    match fields.get("version") {
        None | Some(Value::Null) => Ok(None),
        Some(version) => version.as_u64().map(Some).ok_or_else(|| Rejection::bad("Invalid version")),
    }
}

fn ttl(ttl: Option<Value>, desired: &Patch) -> Result<Ttl, Rejection> {
    let Some(ttl) = ttl.filter(|ttl| !ttl.is_null()) else { return Ok(Ttl::None) };
    let Patch::Merge(desired) = desired else { return Err(Rejection::bad("Invalid ttl: nothing is desired")) };
    match ttl {
        Value::Object(mirror) => {
            check_mirror(&mirror, desired)?;
            Ok(Ttl::Each(mirror))
        }
        seconds => check_seconds(&seconds).map(Ttl::All),
    }
}

fn check_seconds(seconds: &Value) -> Result<u64, Rejection> {
    let seconds = seconds.as_u64().filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds));
    seconds.ok_or_else(|| {
        Rejection::bad(format!("Invalid ttl: not a whole number of seconds from 1 to {TTL_SECONDS_MAX}"))
    })
}

/// Each time to live stands where the update sets something.
fn check_mirror(mirror: &Map<String, Value>, desired: &Map<String, Value>) -> Result<(), Rejection> {
    for (key, ttl) in mirror {
        match (ttl, desired.get(key)) {
            (_, None | Some(Value::Null)) => {
                return Err(Rejection::bad(format!("Invalid ttl: the update does not set {key}")));
            }
            (Value::Object(mirror), Some(Value::Object(desired))) => check_mirror(mirror, desired)?,
            (Value::Object(_), Some(_)) => {
                return Err(Rejection::bad(format!("Invalid ttl: the update sets no object at {key}")));
            }
            (seconds, Some(_)) => {
                check_seconds(seconds)?;
            }
        }
    }
    Ok(())
}
