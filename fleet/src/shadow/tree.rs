//! One section of a shadow as a tree: branches sorted by key, and leaves with what is known of each.
//!
//! Owns looking up, removing and turning into values. It has no empty branch below its root, and never decides what becomes of a
//! leaf.

use serde_json::{Map, Value};

use super::limits::{text_bytes, value_bytes};

/// Branches by key, sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tree(Vec<(String, Node)>);

/// What a key leads to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Leaf(Leaf),
    Branch(Tree),
}

/// A value that is no object, which counts as one: an array, too.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaf {
    pub(super) value: Value,
    /// When it was set last, Unix milliseconds.
    pub(super) at_ms: u64,
    /// Of a desired leaf that is pending: the sequence of the delta that it came into. Settled, and reported ones have none.
    pub(super) pending: Option<u64>,
    /// When a desired leaf is dropped, Unix milliseconds.
    pub(super) expires_ms: Option<u64>,
}

/// Some leaves of a tree: their values, and their metadata.
#[derive(Default)]
pub(super) struct Picked {
    pub(super) state: Map<String, Value>,
    pub(super) metadata: Map<String, Value>,
}

impl Node {
    pub(super) fn value(&self) -> Value {
        match self {
            Node::Leaf(leaf) => leaf.value.clone(),
            Node::Branch(tree) => tree.state(),
        }
    }

    pub(super) fn leaf(&self) -> Option<&Leaf> {
        match self {
            Node::Leaf(leaf) => Some(leaf),
            Node::Branch(_) => None,
        }
    }
}

impl Leaf {
    /// What documents say of it: `{"timestamp": seconds}`, for each element of an array.
    fn metadata(&self) -> Value {
        metadata_of(&self.value, self.at_ms, self.expires_ms)
    }
}

/// The metadata of a value set at one time.
pub(super) fn metadata_of(value: &Value, at_ms: u64, expires_ms: Option<u64>) -> Value {
    match value {
        Value::Array(elements) => {
            elements.iter().map(|element| metadata_of(element, at_ms, expires_ms)).collect::<Vec<_>>().into()
        }
        Value::Object(fields) => {
            let metadata = fields.iter().map(|(key, field)| (key.clone(), metadata_of(field, at_ms, expires_ms)));
            Value::Object(metadata.collect())
        }
        _ => {
            let mut metadata = Map::new();
            metadata.insert("timestamp".into(), (at_ms / 1000).into());
            if let Some(expires_ms) = expires_ms {
                metadata.insert("expires".into(), expires_ms.div_ceil(1000).into());
            }
            Value::Object(metadata)
        }
    }
}

/// Whether two values mean the same: numbers by what they say (1 is 1.0, as doubles where one is one), everything else to the letter. Nothing
/// is wanted of a vehicle that reports the same as is desired.
pub fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => one == other,
    }
}

impl Tree {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// A tree of keys that come in ascending order; nothing if they do not.
    pub(super) fn from_sorted(entries: Vec<(String, Node)>) -> Option<Tree> {
        entries.is_sorted_by(|(one, _), (next, _)| one < next).then_some(Tree(entries))
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| own.as_str().cmp(key))
    }

    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.find(key).ok().map(|index| &self.0[index].1)
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.find(key).ok().map(|index| &mut self.0[index].1)
    }

    pub(super) fn insert(&mut self, key: &str, node: Node) {
        match self.find(key) {
            Ok(index) => self.0[index].1 = node,
            Err(index) => self.0.insert(index, (key.to_owned(), node)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Node> {
        self.find(key).ok().map(|index| self.0.remove(index).1)
    }

    /// What a path of keys leads to.
    pub(super) fn at<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> Option<&Node> {
        let mut node = self.get(path.next()?)?;
        for key in path {
            match node {
                Node::Branch(tree) => node = tree.get(key)?,
                Node::Leaf(_) => return None,
            }
        }
        Some(node)
    }

    /// Calls for each leaf.
    pub(super) fn each(&self, visit: &mut impl FnMut(&Leaf)) {
        for (_, node) in &self.0 {
            match node {
                Node::Leaf(leaf) => visit(leaf),
                Node::Branch(tree) => tree.each(visit),
            }
        }
    }

    /// Calls for each leaf, to change it.
    pub(super) fn each_mut(&mut self, visit: &mut impl FnMut(&mut Leaf)) {
        for (_, node) in &mut self.0 {
            match node {
                Node::Leaf(leaf) => visit(leaf),
                Node::Branch(tree) => tree.each_mut(visit),
            }
        }
    }

    /// Removes entries of which `visit` says so, and branches that got empty.
    pub(super) fn retain(&mut self, mut visit: impl FnMut(&str, &mut Node) -> bool) {
        self.0.retain_mut(|(key, node)| visit(key, node) && !matches!(node, Node::Branch(tree) if tree.is_empty()));
    }

    /// Removes leaves, and says which they were.
    pub(super) fn extract(&mut self, pick: &impl Fn(&Leaf) -> bool) -> Map<String, Value> {
        let mut removed = Map::new();
        self.retain(|key, node| match node {
            Node::Leaf(leaf) if pick(leaf) => {
                removed.insert(key.to_owned(), leaf.value.take());
                false
            }
            Node::Leaf(_) => true,
            Node::Branch(tree) => {
                let below = tree.extract(pick);
                if !below.is_empty() {
                    removed.insert(key.to_owned(), Value::Object(below));
                }
                true
            }
        });
        removed
    }

    /// The values, as an object.
    pub(super) fn state(&self) -> Value {
        Value::Object(self.0.iter().map(|(key, node)| (key.clone(), node.value())).collect())
    }

    /// The same with metadata in the values' places.
    pub(super) fn metadata(&self) -> Value {
        let entries = self.0.iter().map(|(key, node)| match node {
            Node::Leaf(leaf) => (key.clone(), leaf.metadata()),
            Node::Branch(tree) => (key.clone(), tree.metadata()),
        });
        Value::Object(entries.collect())
    }

    /// Some leaves.
    pub(super) fn only(&self, pick: &impl Fn(&Leaf) -> bool) -> Picked {
        let mut some = Picked::default();
        for (key, node) in &self.0 {
            match node {
                Node::Leaf(leaf) if pick(leaf) => {
                    some.state.insert(key.clone(), leaf.value.clone());
                    some.metadata.insert(key.clone(), leaf.metadata());
                }
                Node::Leaf(_) => {}
                Node::Branch(tree) => {
                    let inner = tree.only(pick);
                    if !inner.state.is_empty() {
                        some.state.insert(key.clone(), Value::Object(inner.state));
                        some.metadata.insert(key.clone(), Value::Object(inner.metadata));
                    }
                }
            }
        }
        some
    }
}

impl Tree {
    /// The size of the values as JSON, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let entries = self.0.iter().map(|(key, node)| {
            let value = match node {
                Node::Leaf(leaf) => value_bytes(&leaf.value),
                Node::Branch(tree) => tree.bytes(),
            };
            text_bytes(key) + value + 2
        });
        1 + entries.sum::<usize>().max(1)
    }
}
