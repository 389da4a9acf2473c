//! CBOR (RFC 8949) to and from the values of JSON.
//!
//! Owns what of CBOR a document may be made of: what JSON can say, too, and nothing else. It never recurses deeper than it is told, and
//! never takes memory on the word of a length.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use serde_json::{Map, Number, Value};

/// How deep anything is read, of either format: deeper than any limit on documents.
pub(super) const DEPTH_MAX: usize = 100;

/// What comes of writing to memory, which never fails.
pub(super) fn sure<T>(written: Result<T, minicbor::encode::Error<Infallible>>) {
    // There is no error of this type that writing numbers, texts and lengths can make.
    let _ = written;
}

/// A document, the whole of `bytes`.
pub(super) fn from_slice(bytes: &[u8]) -> Result<Value, String> {
    let mut input = Decoder::new(bytes);
    let value = read(&mut input, DEPTH_MAX)?;
    if input.position() != bytes.len() {
        return Err(format!("bytes after the end of the document, at {}", input.position()));
    }
    Ok(value)
}

/// The document as CBOR.
pub(super) fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Encoder::new(Vec::with_capacity(256));
    value_out(&mut out, value);
    out.into_writer()
}

pub(super) fn value_out(out: &mut Encoder<Vec<u8>>, value: &Value) {
    match value {
        Value::Null => sure(out.null()),
        Value::Bool(bool) => sure(out.bool(*bool)),
        Value::Number(number) => number_out(out, number),
        Value::String(text) => sure(out.str(text)),
        Value::Array(elements) => {
            sure(out.array(elements.len() as u64));
            for element in elements {
                value_out(out, element);
            }
        }
        Value::Object(map) => map_out(out, map),
    }
}

pub(super) fn map_out(out: &mut Encoder<Vec<u8>>, map: &Map<String, Value>) {
    sure(out.map(map.len() as u64));
    for (key, value) in map {
        sure(out.str(key));
        value_out(out, value);
    }
}

fn number_out(out: &mut Encoder<Vec<u8>>, number: &Number) {
    if let Some(number) = number.as_u64() {
        sure(out.u64(number));
    } else if let Some(number) = number.as_i64() {
        sure(out.i64(number));
    } else {
        sure(out.f64(number.as_f64().unwrap_or_default()));
    }
}

/// The next value, at most `depth` levels deep.
pub(super) fn read(input: &mut Decoder<'_>, depth: usize) -> Result<Value, String> {
    let at = input.position();
    let kind = input.datatype().map_err(|_| broken(at))?;
    match kind {
        Type::Null => input.null().map(|()| Value::Null).map_err(|_| broken(at)),
        Type::Bool => input.bool().map(Value::Bool).map_err(|_| broken(at)),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => input.u64().map(Value::from).map_err(|_| broken(at)),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => input.i64().map(Value::from).map_err(|_| broken(at)),
        Type::Int => Err(format!("an integer that takes more than 64 bits, at {at}")),
        Type::F16 => half(input).ok_or_else(|| broken(at)).and_then(|number| float(number, at)),
        Type::F32 => input.f32().map_err(|_| broken(at)).and_then(|number| float(f64::from(number), at)),
        Type::F64 => input.f64().map_err(|_| broken(at)).and_then(|number| float(number, at)),
        Type::String | Type::StringIndef => text(input).map(Value::String),
        Type::Array | Type::ArrayIndef => array(input, below(depth)?).map(Value::Array),
        Type::Map | Type::MapIndef => map(input, below(depth)?).map(Value::Object),
        Type::Bytes | Type::BytesIndef => Err(format!("a byte string, at {at}: documents have none")),
        Type::Tag => Err(format!("a tag, at {at}: documents have none")),
        Type::Undefined | Type::Simple => Err(format!("a simple value that JSON does not know, at {at}")),
        Type::Break | Type::Unknown(_) => Err(broken(at)),
    }
}

fn broken(at: usize) -> String {
    format!("not well-formed, at {at}")
}

fn below(depth: usize) -> Result<usize, String> {
    depth.checked_sub(1).ok_or_else(|| "too many levels of nesting".to_owned())
}

fn float(number: f64, at: usize) -> Result<Value, String> {
    Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("a number that is not finite, at {at}"))
}

/// A float of 16 bits: 1 for the sign, 5 for the exponent, 10 for the fraction.
fn half(input: &mut Decoder<'_>) -> Option<f64> {
    let at = input.position();
    let bytes = input.input().get(at + 1..at + 3)?;
    let bits = u16::from_be_bytes(bytes.try_into().ok()?);
    input.set_position(at + 3);
    let fraction = f64::from(bits & 0x3ff);
    let magnitude = match i32::from(bits >> 10 & 0x1f) {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    Some(if bits >> 15 == 1 { -magnitude } else { magnitude })
}

fn text(input: &mut Decoder<'_>) -> Result<String, String> {
    let at = input.position();
    if matches!(input.datatype(), Ok(Type::String)) {
        return input.str().map(str::to_owned).map_err(|_| broken(at));
    }
    let pieces = input.str_iter().map_err(|_| broken(at))?;
    pieces.collect::<Result<String, _>>().map_err(|_| broken(at))
}

fn array(input: &mut Decoder<'_>, depth: usize) -> Result<Vec<Value>, String> {
    let at = input.position();
    let length = input.array().map_err(|_| broken(at))?;
    let mut elements = Vec::new();
    while more(input, length, elements.len())? {
        elements.push(read(input, depth)?);
    }
    Ok(elements)
}

fn map(input: &mut Decoder<'_>, depth: usize) -> Result<Map<String, Value>, String> {
    let at = input.position();
    let length = input.map().map_err(|_| broken(at))?;
    let mut fields = Map::new();
    while more(input, length, fields.len())? {
        let at = input.position();
        if !matches!(input.datatype(), Ok(Type::String | Type::StringIndef)) {
            return Err(format!("a key that is no text, at {at}"));
        }
        let key = text(input)?;
        let value = read(input, depth)?;
        if fields.contains_key(&key) {
            return Err(format!("the key {key:?} twice, at {at}"));
        }
        fields.insert(key, value);
    }
    fields.sort_keys();
    Ok(fields)
}

/// Whether another element comes after `had` of them: counted, or until the break.
fn more(input: &mut Decoder<'_>, length: Option<u64>, had: usize) -> Result<bool, String> {
    match length {
        Some(length) => Ok((had as u64) < length),
        None if matches!(input.datatype(), Ok(Type::Break)) => {
            input.set_position(input.position() + 1);
            Ok(false)
        }
        None => Ok(true),
    }
}
