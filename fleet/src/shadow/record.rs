//! The bytes of a shadow.
//!
//! Owns their format: a byte with its version, then CBOR. Damaged bytes are no shadow, and never a panic.
//!
//! `[version, sequence, at, exists, desired, reported]`; a branch is a map, a leaf `[value, age]` or
//! `[value, age, pending, expires]`. Times of leaves are counted from `at`, for they are small that way.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::Shadow;
use super::cbor::{self, sure};
use super::tree::{Leaf, Node, Tree};

const FORMAT: u8 = 1;

impl Shadow {
    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.push(FORMAT);
        let mut out = Encoder::new(out);
        sure(out.u64(self.version));
        sure(out.u64(self.sequence));
        sure(out.u64(self.at_ms));
        sure(out.bool(self.exists));
        tree_out(&mut out, &self.desired, self.at_ms);
        tree_out(&mut out, &self.reported, self.at_ms);
        let mut bytes = out.into_writer();
        bytes.shrink_to_fit();
        bytes
    }

    /// From the bytes of [`Shadow::encode`]; nothing if they are damaged.
    pub fn decode(bytes: &[u8]) -> Option<Shadow> {
        let [FORMAT, bytes @ ..] = bytes else { return None };
        let mut input = Decoder::new(bytes);
        let mut shadow = Shadow {
            version: input.u64().ok()?,
            sequence: input.u64().ok()?,
            at_ms: input.u64().ok()?,
            exists: input.bool().ok()?,
            ..Shadow::default()
        };
        shadow.desired = tree_in(&mut input, shadow.at_ms, cbor::DEPTH_MAX)?;
        shadow.reported = tree_in(&mut input, shadow.at_ms, cbor::DEPTH_MAX)?;
        (input.position() == bytes.len()).then_some(shadow)
    }
}

fn tree_out(out: &mut Encoder<Vec<u8>>, tree: &Tree, at_ms: u64) {
    sure(out.map(tree.len() as u64));
    for (key, node) in tree.iter() {
        sure(out.str(key));
        match node {
            Node::Leaf(leaf) => leaf_out(out, leaf, at_ms),
            Node::Branch(tree) => tree_out(out, tree, at_ms),
        }
    }
}

fn leaf_out(out: &mut Encoder<Vec<u8>>, leaf: &Leaf, at_ms: u64) {
    let wanted = leaf.pending.is_some() || leaf.expires_ms.is_some();
    sure(out.array(if wanted { 4 } else { 2 }));
    cbor::value_out(out, &leaf.value);
    sure(out.i64(at_ms.wrapping_sub(leaf.at_ms) as i64));
    if wanted {
        // A sequence is at least 1, and a leaf is dropped some time after it was set.
        sure(out.u64(leaf.pending.unwrap_or(0)));
        sure(out.u64(leaf.expires_ms.map_or(0, |at_ms| at_ms - leaf.at_ms)));
    }
}

fn tree_in(input: &mut Decoder<'_>, at_ms: u64, depth: usize) -> Option<Tree> {
    let depth = depth.checked_sub(1)?;
    let length = input.map().ok()??;
    let mut entries = Vec::with_capacity(length.min(64) as usize);
    for _ in 0..length {
        let key = input.str().ok()?.to_owned();
        let node = match input.datatype().ok()? {
            Type::Array => Node::Leaf(leaf_in(input, at_ms, depth)?),
            _ => Node::Branch(tree_in(input, at_ms, depth).filter(|tree| !tree.is_empty())?),
        };
        entries.push((key, node));
    }
    Tree::from_sorted(entries)
}

fn leaf_in(input: &mut Decoder<'_>, at_ms: u64, depth: usize) -> Option<Leaf> {
    let fields = input.array().ok()??;
    let value = cbor::read(input, depth).ok().filter(|value| !value.is_null() && !value.is_object())?;
    let at_ms = at_ms.wrapping_sub(input.i64().ok()? as u64);
    let (mut pending, mut expires_ms) = (None, None);
    if fields == 4 {
        pending = Some(input.u64().ok()?).filter(|&sequence| sequence > 0);
        let lives_ms = Some(input.u64().ok()?).filter(|&lives_ms| lives_ms > 0);
        expires_ms = match lives_ms {
            Some(lives_ms) => Some(at_ms.checked_add(lives_ms)?),
            None => None,
        };
    } else if fields != 2 {
        return None;
    }
    Some(Leaf { value, at_ms, pending, expires_ms })
}
