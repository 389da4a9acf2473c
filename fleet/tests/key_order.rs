//! A shadow does not depend on the order in which requests name their keys: not its bytes, nor its records, its history, or anything that is told.
//!
//! Owns documents by chance, and writing them in any order. It is part of the broker's tests, too: there, serde_json keeps keys in the order
//! in which they came, and here it sorts them.

// A test ends where something is not as it should be.
#![allow(clippy::unwrap_used)]

use causeway_fleet::shadow::{Format, Request, Section, Shadow, ShadowLimits, Value, answer, write};
use serde_json::{Map, json};

const NOW_MS: u64 = 1_700_000_000_000;
const SEEDS: u64 = 50;

/// Numbers by chance, the same for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

fn object(random: &mut Random, depth: u64, is_patch: bool) -> Value {
    let mut map = Map::new();
    for key in ["zone", "b", "a", "äther", "10", "9", "\"", "B"] {
        if random.below(2) == 0 {
            map.insert(key.to_owned(), value(random, depth, is_patch));
        }
    }
    Value::Object(map)
}

fn value(random: &mut Random, depth: u64, is_patch: bool) -> Value {
    match random.below(8) {
        0 if is_patch => Value::Null,
        1..4 if depth > 0 => object(random, depth - 1, is_patch),
        // What is in an array is part of a leaf.
        4 if depth > 0 => json!([object(random, depth - 1, false), random.below(3)]),
        5 => json!(random.below(3) as f64 / 2.0),
        _ => json!(random.below(3)),
    }
}

/// Seconds in some of the places that an object sets.
fn mirror(random: &mut Random, desired: &Value) -> Value {
    let Value::Object(map) = desired else { return json!(1 + random.below(9)) };
    let set = map.iter().filter(|(_, value)| !value.is_null());
    let some: Vec<_> = set.map(|(key, value)| (key.clone(), mirror(random, value))).collect();
    Value::Object(some.into_iter().filter(|_| random.below(3) > 0).collect())
}

fn update(random: &mut Random) -> Value {
    let mut state = Map::new();
    let mut document = Map::new();
    for section in ["reported", "desired"] {
        match random.below(8) {
            0 => drop(state.insert(section.to_owned(), Value::Null)),
            1..6 => drop(state.insert(section.to_owned(), object(random, 2, true))),
            _ => {}
        }
    }
    if let Some(desired) = state.get("desired").filter(|desired| desired.is_object() && random.below(2) == 0) {
        document.insert("ttl".to_owned(), mirror(random, desired));
    }
    document.insert("state".to_owned(), state.into());
    if random.below(3) == 0 {
        document.insert("delta".to_owned(), random.below(5).into());
    }
    document.insert("clientToken".to_owned(), "t".into());
    Value::Object(document)
}

/// The same value, as JSON with the keys of each object in another order.
fn shuffled_json(random: &mut Random, value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            random.shuffle(&mut fields);
            let field = |(key, field): (&String, &Value)| format!("{}:{}", json!(key), shuffled_json(random, field));
            format!("{{{}}}", fields.into_iter().map(field).collect::<Vec<_>>().join(","))
        }
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(|element| shuffled_json(random, element)).collect();
            format!("[{}]", elements.join(","))
        }
        _ => value.to_string(),
    }
}

/// All that comes of updates: records, shadows, and what is told.
fn play(payloads: &[(Vec<u8>, Format)]) -> Vec<Vec<u8>> {
    let (mut shadow, mut came) = (Shadow::default(), Vec::new());
    for (turn, (payload, format)) in payloads.iter().enumerate() {
        let now_ms = NOW_MS + 1500 * turn as u64;
        let request = Request::parse(payload, *format, Section::Whole).unwrap();
        shadow.check(&request, now_ms, &ShadowLimits::default()).unwrap();
        let before = shadow.clone();
        let transition = shadow.apply(now_ms, &request.change);
        came.extend([request.change.encode(), shadow.encode()]);
        let documents = answer::documents(&before, &shadow, &transition, now_ms, None);
        let accepted = answer::accepted_update(&request.change, &transition, now_ms, Some("t"));
        let delta = shadow.delta(now_ms).map(|(_, delta)| delta);
        let told = [Some(shadow.document(now_ms)), Some(transition.history), Some(documents), Some(accepted), delta];
        for told in told.into_iter().flatten() {
            came.extend([Format::Json, Format::Cbor].map(|format| write(&told, format)));
        }
    }
    came
}

#[test]
fn the_order_of_keys_means_nothing() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let documents: Vec<Value> = (0..8).map(|_| update(&mut random)).collect();
        let told = |document: &Value| (document.to_string().into_bytes(), Format::Json);
        let as_it_is = play(&documents.iter().map(told).collect::<Vec<_>>());
        for turn in 0..3 {
            let shuffled: Vec<String> = documents.iter().map(|document| shuffled_json(&mut random, document)).collect();
            let of = |shuffled: &String| match turn {
                0 => (shuffled.clone().into_bytes(), Format::Json),
                _ => (write(&serde_json::from_str(shuffled).unwrap(), Format::Cbor), Format::Cbor),
            };
            let came = play(&shuffled.iter().map(of).collect::<Vec<_>>());
            assert!(came == as_it_is, "seed {seed}: {shuffled:#?}");
        }
    }
}
