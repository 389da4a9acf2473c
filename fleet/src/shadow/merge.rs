//! Merging a patch into one section.
//!
//! Owns what setting a leaf makes of it, and what of the section changed. It never touches the other section.

use serde_json::{Map, Value};

use super::change::Ttl;
use super::tree::{Leaf, Node, Tree, same};

/// How leaves are set at one place of the section.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) now_ms: u64,
    /// What the vehicle reports at this place; nothing where reported leaves are set.
    pub(super) beside: Option<&'a Tree>,
    pub(super) ttl: Lives<'a>,
    /// The sequence of the next delta, where desired leaves are set.
    pub(super) sequence: Option<u64>,
}

/// How long leaves live that are set at one place.
#[derive(Clone, Copy)]
pub(super) enum Lives<'a> {
    Forever,
    Seconds(u64),
    Each(&'a Map<String, Value>),
}

/// The leaves of a section that changed: what they were, without those that were not there, and what they are, `null` for those that went.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) from: Map<String, Value>,
    pub(super) to: Map<String, Value>,
    /// Whether more, or something else, is wanted than before.
    pub(super) wanted: bool,
}

impl<'a> From<&'a Ttl> for Lives<'a> {
    fn from(ttl: &'a Ttl) -> Lives<'a> {
        match ttl {
            Ttl::None => Lives::Forever,
            Ttl::All(seconds) => Lives::Seconds(*seconds),
            Ttl::Each(mirror) => Lives::Each(mirror),
        }
    }
}

impl<'a> Lives<'a> {
    fn below(self, key: &str) -> Lives<'a> {
        let Lives::Each(mirror) = self else { return self };
        match mirror.get(key) {
            Some(Value::Object(mirror)) => Lives::Each(mirror),
            Some(seconds) => seconds.as_u64().map_or(Lives::Forever, Lives::Seconds),
            None => Lives::Forever,
        }
    }
}

impl<'a> Setting<'a> {
    /// The same one key further down.
    fn below(self, key: &str) -> Setting<'a> {
        let beside = match self.beside.and_then(|beside| beside.get(key)) {
            Some(Node::Branch(tree)) => Some(tree),
            _ => None,
        };
        Setting { beside, ttl: self.ttl.below(key), ..self }
    }

    /// The leaf that a value makes of what was there. Only what the vehicle does not report is wanted of it.
    fn leaf(self, key: &str, old: Option<&Leaf>, value: &Value, changed: &mut Changed) -> Leaf {
        let reported = self.beside.and_then(|beside| beside.get(key)).and_then(Node::leaf);
        let settled = reported.is_some_and(|reported| same(&reported.value, value));
        let pending = self.sequence.filter(|_| !settled).map(|next| {
            let was = old.filter(|old| same(&old.value, value)).and_then(|old| old.pending);
            changed.wanted |= was.is_none();
            was.unwrap_or(next)
        });
        let expires_ms = match self.ttl.below(key) {
            Lives::Seconds(seconds) => Some(self.now_ms.saturating_add(seconds.saturating_mul(1000))),
            Lives::Forever | Lives::Each(_) => None,
        };
        Leaf { value: value.clone(), at_ms: self.now_ms, pending, expires_ms }
    }
}

impl Changed {
    fn was(&mut self, key: &str, old: Option<Node>) {
        if let Some(old) = old {
            self.from.insert(key.to_owned(), old.value());
        }
    }

    fn is(&mut self, key: &str, value: Value) {
        self.to.insert(key.to_owned(), value);
    }

    /// What changed below a branch.
    fn below(&mut self, key: &str, inner: Changed) {
        self.wanted |= inner.wanted;
        if !inner.from.is_empty() {
            self.from.insert(key.to_owned(), Value::Object(inner.from));
        }
        if !inner.to.is_empty() {
            self.to.insert(key.to_owned(), Value::Object(inner.to));
        }
    }
}

/// Merges: objects key by key, `null` removes, everything else takes the place of what was there.
pub(super) fn merge(tree: &mut Tree, patch: &Map<String, Value>, setting: Setting<'_>) -> Changed {
    let mut changed = Changed::default();
    for (key, value) in patch {
        match value {
            Value::Null => {
                if let Some(old) = tree.remove(key) {
                    changed.was(key, Some(old));
                    changed.is(key, Value::Null);
                }
            }
            Value::Object(inner) => merge_branch(tree, key, inner, setting, &mut changed),
            value => {
                let leaf = setting.leaf(key, tree.get(key).and_then(Node::leaf), value, &mut changed);
                set(tree, key, leaf, &mut changed);
            }
        }
    }
    changed
}

fn set(tree: &mut Tree, key: &str, leaf: Leaf, changed: &mut Changed) {
    match tree.get_mut(key) {
        Some(Node::Leaf(old)) if old.value == leaf.value => *old = leaf,
        old => {
            changed.is(key, leaf.value.clone());
            match old {
                Some(old) => changed.was(key, Some(std::mem::replace(old, Node::Leaf(leaf)))),
                None => tree.insert(key, Node::Leaf(leaf)),
            }
        }
    }
}

/// An object takes the place of a leaf, and is merged into a branch. One that comes out empty is not kept.
fn merge_branch(tree: &mut Tree, key: &str, patch: &Map<String, Value>, setting: Setting<'_>, changed: &mut Changed) {
    if let Some(Node::Branch(branch)) = tree.get_mut(key) {
        let inner = merge(branch, patch, setting.below(key));
        let empty = branch.is_empty();
        changed.below(key, inner);
        if empty {
            tree.remove(key);
        }
        return;
    }
    let mut branch = Tree::default();
    let inner = merge(&mut branch, patch, setting.below(key));
    let old = tree.remove(key);
    if branch.is_empty() {
        if old.is_some() {
            changed.is(key, Value::Null);
        }
    } else {
        tree.insert(key, Node::Branch(branch));
        changed.below(key, inner);
    }
    changed.was(key, old);
}

/// What the vehicle reports at a place that a patch touched, for every desired leaf there: those that it equals are settled, those that
/// were settled before and differ now are released.
pub(super) fn settle(
    desired: &mut Tree,
    patch: Option<&Map<String, Value>>,
    reported: Option<&Tree>,
) -> Map<String, Value> {
    let mut released = Map::new();
    desired.retain(|key, node| {
        // Without a patch everything is touched: something above it was.
        let touching = match patch.map(|patch| patch.get(key)) {
            Some(None) => return true,
            Some(Some(Value::Object(inner))) => Some(inner),
            Some(Some(_)) | None => None,
        };
        let reported = reported.and_then(|reported| reported.get(key));
        match node {
            Node::Leaf(leaf) => {
                let equal = reported.and_then(Node::leaf).is_some_and(|reported| same(&reported.value, &leaf.value));
                if equal {
                    leaf.pending = None;
                } else if leaf.pending.is_none() {
                    released.insert(key.to_owned(), leaf.value.take());
                    return false;
                }
            }
            Node::Branch(tree) => {
                let reported = match reported {
                    Some(Node::Branch(reported)) => Some(reported),
                    _ => None,
                };
                let below = settle(tree, touching, reported);
                if !below.is_empty() {
                    released.insert(key.to_owned(), Value::Object(below));
                }
            }
        }
        true
    });
    released
}
