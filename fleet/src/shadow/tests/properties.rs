//! Properties of shadows under random changes.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::model::{Model, nest};
use super::*;

/// Something that happens to a shadow.
#[derive(Debug, Clone)]
enum Step {
    Update(Value),
    Delete,
    Expire,
    Wait(u64),
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..3).prop_map(Value::from),
        prop_oneof![Just(1.0), Just(-0.5)].prop_map(Value::from),
        "[ab\"\\\\\n\u{1}ü]{0,2}".prop_map(Value::from),
        Just(json!([])),
        Just(json!([1, 2])),
        Just(json!([1.0, 2])),
        Just(json!([{"k": [true]}])),
    ]
}

fn key() -> impl Strategy<Value = String> {
    "[abc]"
}

/// A patch of a section; never `null` itself.
fn patch() -> impl Strategy<Value = Value> {
    let value = prop_oneof![4 => scalar(), 1 => Just(Value::Null)];
    let nested = value.prop_recursive(3, 12, 3, |inner| {
        prop::collection::btree_map(key(), inner, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
    });
    prop::collection::btree_map(key(), nested, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
}

/// Seconds in some places of what is desired.
fn mirror(desired: &Value, seconds: &mut impl Iterator<Item = u64>) -> Value {
    let Value::Object(map) = desired else { return json!({}) };
    let mut all = Map::new();
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        match seconds.next() {
            Some(0) | None => {}
            Some(1) if value.is_object() => {
                all.insert(key.clone(), mirror(value, seconds));
            }
            Some(seconds) => {
                all.insert(key.clone(), seconds.into());
            }
        }
    }
    Value::Object(all)
}

fn update() -> impl Strategy<Value = Value> {
    let section = || prop_oneof![6 => patch(), 1 => Just(Value::Null)];
    let ttl = prop::option::weighted(0.4, prop::collection::vec(0..6_u64, 8));
    let parts = (
        prop::option::weighted(0.6, section()),
        prop::option::weighted(0.6, section()),
        ttl,
        prop::option::weighted(0.3, 0..6_u64),
    );
    parts.prop_map(|(desired, reported, ttl, handled)| {
        let mut update = json!({"state": {}});
        if let (Some(ttl), Some(desired)) = (ttl, desired.as_ref().filter(|desired| desired.is_object())) {
            update["ttl"] = if ttl[0] > 0 { mirror(desired, &mut ttl.iter().copied()) } else { json!(ttl[1] + 1) };
        }
        for (name, section) in [("desired", desired), ("reported", reported)] {
            if let Some(section) = section {
                update["state"][name] = section;
            }
        }
        if let Some(handled) = handled {
            update["delta"] = json!(handled);
        }
        update
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => update().prop_map(Step::Update),
        1 => Just(Step::Update(json!({"state": null}))),
        1 => Just(Step::Delete),
        3 => Just(Step::Expire),
        5 => (1..5_000_u64).prop_map(Step::Wait),
        1 => prop_oneof![Just(VERSION_KEPT_MS), Just(VERSION_KEPT_MS + 1)].prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..30)
}

/// RFC 7386, without empty objects: what the history's `to` does to a state.
fn merged(state: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *state = patch.clone() };
    if !state.is_object() {
        *state = json!({});
    }
    for (key, value) in patch {
        let map = state.as_object_mut().unwrap();
        let entry = map.entry(key).or_insert(Value::Null);
        merged(entry, value);
        if entry.is_null() || *entry == json!({}) {
            map.remove(key);
        }
    }
}

/// `null` for every leaf.
fn nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), nulls(value))).collect(),
        _ => Value::Null,
    }
}

/// The history is enough to get from one state to the next.
fn check_history(before: &Value, after: &Value, history: &Value) -> Result<(), TestCaseError> {
    let mut state = before.clone();
    for dropped in ["released", "expired"] {
        if let Some(dropped) = history.get(dropped) {
            merged(&mut state, &json!({"desired": nulls(dropped)}));
        }
    }
    if let Some(to) = history.get("to") {
        merged(&mut state, to);
    }
    prop_assert_eq!(&state, after, "by {}", history);
    Ok(())
}

/// One step, done to both.
fn step(model: &mut Model, shadow: &mut Shadow, now_ms: u64, step: &Step) -> Result<Option<Change>, TestCaseError> {
    let (before, version) = (model.sections(), shadow.version());
    let (wanted, sequence) = (model.wanted(now_ms), model.sequence);
    let (change, dropped) = match step {
        Step::Update(document) => {
            let change = request(document.clone()).change;
            (change, model.update(now_ms, document))
        }
        Step::Delete if model.exists => {
            model.delete(now_ms);
            (Change::delete(), Default::default())
        }
        Step::Expire if model.next_expiry().is_some_and(|at_ms| at_ms <= now_ms) => {
            (Change::expire(), model.expire(now_ms))
        }
        _ => return Ok(None),
    };
    let transition = shadow.apply(now_ms, &change);
    prop_assert_eq!(transition.version, model.version);
    prop_assert!(transition.version == version + 1 || transition.version == 1);
    prop_assert_eq!(transition.released.unwrap_or(json!({})), or_empty(dropped.released));
    prop_assert_eq!(transition.expired.unwrap_or(json!({})), or_empty(dropped.expired));
    check_history(&before, &model.sections(), &transition.history)?;
    // A number stands for what it asked first, or for less of it.
    let more =
        model.wanted(now_ms).iter().any(|(path, value)| wanted.get(path).is_none_or(|was| !tree::same(was, value)));
    prop_assert!(shadow.sequence() == sequence + 1 || (shadow.sequence() == sequence && !more));
    prop_assert!(change.is_wish() || (shadow.sequence() == sequence && transition.delta.is_none()));
    if let Some(sent) = transition.delta {
        prop_assert_eq!(Some(sent), shadow.delta(now_ms).map(|(sequence, _)| sequence));
    }
    Ok(Some(change))
}

fn or_empty(value: Value) -> Value {
    if value.is_null() { json!({}) } else { value }
}

/// The whole of a shadow against the model.
fn check(model: &Model, shadow: &Shadow, now_ms: u64) -> Result<(), TestCaseError> {
    prop_assert_eq!(shadow.document(now_ms), model.document(now_ms));
    prop_assert_eq!(shadow.sequence(), model.sequence);
    prop_assert_eq!(shadow.exists(), model.exists);
    prop_assert_eq!(shadow.next_expiry(), model.next_expiry());
    let wanted = model.wanted(now_ms);
    let state = nest(wanted.iter().map(|(path, value)| (path, value.clone())));
    let delta = shadow.delta(now_ms).map(|(sequence, message)| (sequence, message["state"].clone()));
    prop_assert_eq!(delta, (!wanted.is_empty()).then_some((model.sequence, state)));
    prop_assert_eq!(shadow.state_bytes(), model.sections().to_string().len());
    Ok(())
}

proptest! {
    #[test]
    fn a_shadow_is_what_a_naive_model_says(steps in steps()) {
        let (mut model, mut shadow, mut now_ms) = (Model::default(), Shadow::default(), NOW_MS);
        for next in &steps {
            if let Step::Wait(ms) = next {
                now_ms += ms;
            }
            step(&mut model, &mut shadow, now_ms, next)?;
            check(&model, &shadow, now_ms)?;
        }
    }

    #[test]
    fn a_replay_makes_the_same_bytes(steps in steps()) {
        let (mut model, mut live, mut now_ms) = (Model::default(), Shadow::default(), NOW_MS);
        let mut replayed = Shadow::default().encode();
        for next in &steps {
            if let Step::Wait(ms) = next {
                now_ms += ms;
            }
            let Some(change) = step(&mut model, &mut live, now_ms, next)? else { continue };
            let recorded = change.encode();
            prop_assert_eq!(Change::decode(&recorded), Some(change));
            let mut shadow = Shadow::decode(&replayed).unwrap();
            shadow.apply(now_ms, &Change::decode(&recorded).unwrap());
            prop_assert_eq!(&shadow, &live);
            replayed = shadow.encode();
            prop_assert_eq!(&replayed, &live.encode());
        }
    }

    #[test]
    fn damaged_bytes_are_no_shadow_and_no_panic(steps in steps(), at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let (mut model, mut shadow) = (Model::default(), Shadow::default());
        let mut changes = Vec::new();
        for next in &steps {
            changes.extend(step(&mut model, &mut shadow, NOW_MS, next)?);
        }
        let bytes = shadow.encode();
        let cut = at.index(bytes.len());
        prop_assert_eq!(Shadow::decode(&bytes[..cut]), None);
        prop_assert_eq!(Shadow::decode(&[&bytes[..], &[0]].concat()), None);
        let mut flipped = bytes.clone();
        flipped[cut] ^= 1_u8 << bit;
        if let Some(mut damaged) = Shadow::decode(&flipped) {
            // What can be read can be used, and kept.
            damaged.document(NOW_MS);
            damaged.apply(NOW_MS, &request(json!({"state": {"desired": {"a": {"b": 1}}, "reported": {"a": 2}}})).change);
            prop_assert!(Shadow::decode(&damaged.encode()).is_some());
        }
        for change in changes {
            let bytes = change.encode();
            let cut = at.index(bytes.len());
            prop_assert_eq!(Change::decode(&bytes[..cut]), None);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 1_u8 << bit;
            if let Some(damaged) = Change::decode(&flipped) {
                Shadow::default().apply(NOW_MS, &damaged);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        Shadow::decode(&bytes);
        Shadow::decode(&[&[1], &bytes[..]].concat());
        Change::decode(&[&[1], &bytes[..]].concat());
        for format in [Format::Json, Format::Cbor] {
            let _ = Request::parse(&bytes, format, Section::Whole);
            let _ = Request::parse(&bytes, format, Section::Reported);
            let _ = Request::parse_delete(&bytes, format);
            Request::parse_token(&bytes, format);
        }
    }

    #[test]
    fn both_formats_say_the_same(value in patch()) {
        for format in [Format::Json, Format::Cbor] {
            prop_assert_eq!(&format::read(&write(&value, format), format).unwrap(), &value);
        }
    }
}
