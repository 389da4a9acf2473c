//! A tree of topic levels with a value at some of its nodes.
//!
//! Owns walking it from both sides: stored filters against a topic name, and stored topic names against a filter.
//! Depth is bounded by the limit on topic levels, so recursion is, too.

use std::collections::HashMap;
use std::ops::ControlFlow;

use foldhash::fast::FixedState;
use slab::Slab;

const ROOT: usize = 0;

#[derive(Debug)]
struct Node<V> {
    parent: usize,
    name: Box<str>,
    children: HashMap<Box<str>, usize, FixedState>,
    /// The child named `+`, kept apart: every match asks for it.
    plus: Option<usize>,
    /// The child named `#`, likewise.
    hash: Option<usize>,
    value: Option<V>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct LevelTree<V> {
    nodes: Slab<Node<V>>,
    hasher: FixedState,
}

impl<V> LevelTree<V> {
    pub(crate) fn new(hash_seed: u64) -> Self {
        let mut tree = LevelTree { nodes: Slab::new(), hasher: FixedState::with_seed(hash_seed) };
        tree.add_node(ROOT, "");
        tree
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    pub(crate) fn get(&self, path: &str) -> Option<&V> {
        self.nodes[self.find(path)?].value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, path: &str) -> Option<&mut V> {
        let at = self.find(path)?;
        self.nodes[at].value.as_mut()
    }

    /// The value at a path, made if it is not there.
    pub(crate) fn entry(&mut self, path: &str) -> &mut V
    where
        V: Default,
    {
        let mut at = ROOT;
        for level in path.split('/') {
            at = match self.child(at, level) {
                Some(child) => child,
                None => self.add_child(at, level),
            };
        }
        self.nodes[at].value.get_or_insert_default()
    }

    /// Takes the value at a path and prunes what only led there.
    pub(crate) fn remove(&mut self, path: &str) -> Option<V> {
        let mut at = self.find(path)?;
        let value = self.nodes[at].value.take();
        while at != ROOT && self.nodes[at].is_bare() {
            let node = self.nodes.remove(at);
            let parent = &mut self.nodes[node.parent];
            match &*node.name {
                "+" => parent.plus = None,
                "#" => parent.hash = None,
                name => {
                    parent.children.remove(name);
                }
            }
            at = node.parent;
        }
        value
    }

    /// Visits the values of all stored filters that match the topic name.
    pub(crate) fn filters_matching<'t>(&'t self, topic: &str, visit: &mut impl FnMut(&'t V)) {
        let root = &self.nodes[ROOT];
        //= [MQTT-4.7.2-1] a wildcard in the first level does not match a topic that begins with $
        if topic.starts_with('$') {
            let (level, rest) = split_level(topic);
            if let Some(&child) = root.children.get(level) {
                self.filters_below(child, rest, visit);
            }
            return;
        }
        self.filters_below(ROOT, Some(topic), visit);
    }

    /// Visits all values.
    pub(crate) fn all<'t>(&'t self, visit: &mut impl FnMut(&'t V)) {
        self.nodes.iter().for_each(|(_, node)| node.value.iter().for_each(&mut *visit));
    }

    /// Visits the values of all stored topic names that the filter matches, until the visitor has enough.
    pub(crate) fn topics_matching<'t>(
        &'t self,
        filter: &str,
        visit: &mut impl FnMut(&'t V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.topics_below(ROOT, Some(filter), visit)
    }

    fn filters_below<'t>(&'t self, at: usize, rest: Option<&str>, visit: &mut impl FnMut(&'t V)) {
        let node = &self.nodes[at];
        if let Some(hash) = node.hash {
            // `a/#` matches `a`, too.
            self.nodes[hash].value.iter().for_each(&mut *visit);
        }
        let Some(rest) = rest else {
            node.value.iter().for_each(visit);
            return;
        };
        let (level, rest) = split_level(rest);
        if !node.children.is_empty()
            && let Some(&child) = node.children.get(level)
        {
            self.filters_below(child, rest, visit);
        }
        if let Some(child) = node.plus {
            self.filters_below(child, rest, visit);
        }
    }

    fn topics_below<'t>(
        &'t self,
        at: usize,
        rest: Option<&str>,
        visit: &mut impl FnMut(&'t V) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let node = &self.nodes[at];
        let Some(rest) = rest else {
            return node.value.iter().try_for_each(visit);
        };
        match split_level(rest) {
            ("#", _) => self.all_below(at, visit),
            ("+", rest) => self.wildcard_children(at).try_for_each(|&child| self.topics_below(child, rest, visit)),
            (level, rest) => match node.children.get(level) {
                Some(&child) => self.topics_below(child, rest, visit),
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn all_below<'t>(&'t self, at: usize, visit: &mut impl FnMut(&'t V) -> ControlFlow<()>) -> ControlFlow<()> {
        self.nodes[at].value.iter().try_for_each(&mut *visit)?;
        self.wildcard_children(at).try_for_each(|&child| self.all_below(child, visit))
    }

    /// The children a wildcard stands for: at the root, none that begins with `$`.
    fn wildcard_children(&self, at: usize) -> impl Iterator<Item = &usize> {
        let children = self.nodes[at].children.iter();
        children.filter(move |(name, _)| at != ROOT || !name.starts_with('$')).map(|(_, child)| child)
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/').try_fold(ROOT, |at, level| self.child(at, level))
    }

    fn child(&self, at: usize, level: &str) -> Option<usize> {
        let node = &self.nodes[at];
        match level {
            "+" => node.plus,
            "#" => node.hash,
            _ => node.children.get(level).copied(),
        }
    }

    fn add_child(&mut self, at: usize, level: &str) -> usize {
        let child = self.add_node(at, level);
        let node = &mut self.nodes[at];
        match level {
            "+" => node.plus = Some(child),
            "#" => node.hash = Some(child),
            _ => {
                node.children.insert(level.into(), child);
            }
        }
        child
    }

    fn add_node(&mut self, parent: usize, name: &str) -> usize {
        self.nodes.insert(Node {
            parent,
            name: name.into(),
            children: HashMap::with_hasher(self.hasher.clone()),
            plus: None,
            hash: None,
            value: None,
        })
    }
}

impl<V> Node<V> {
    fn is_bare(&self) -> bool {
        self.value.is_none() && self.children.is_empty() && self.plus.is_none() && self.hash.is_none()
    }
}

fn split_level(path: &str) -> (&str, Option<&str>) {
    // Levels are short: a look at each byte beats the search that `split_once` sets up.
    match path.bytes().position(|byte| byte == b'/') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}
