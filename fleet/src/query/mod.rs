//! Questions about the fleet: `reported.battery.soc < 20 and group = eu`.
//!
//! Owns what a question means: its words, and whether it is true of one vehicle. It holds no vehicle, and never decides in which order they are
//! looked at: it says from where to where it is enough to look.
//!
//! A field that a vehicle does not have is equal to nothing and neither less nor greater than anything; `!=` is the opposite of `=`, so it is
//! true of such a vehicle. Values of different kinds are not equal, and none of them is less.

mod parse;
mod scalar;
mod words;

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use thiserror::Error;

pub use scalar::Scalar;

use crate::{Groups, Vin};

/// The longest text of a question, in bytes.
pub const QUERY_BYTES_MAX: usize = 4096;
/// Fields that may be indexed.
pub const FIELDS_MAX: usize = 16;

/// The fields that are indexed, in the order of the configuration: paths into the classic shadow such as `reported.battery.soc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Arc<[Box<str>]>);

/// A text cannot be indexed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path:?} {why}")]
pub struct FieldError {
    path: String,
    why: String,
}

impl Fields {
    /// Fields of these paths.
    ///
    /// # Errors
    /// One of them is no path, they are too many, or one is there twice.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Fields, FieldError> {
        let mut fields: Vec<Box<str>> = Vec::new();
        for path in paths {
            let wrong = |why: String| Err(FieldError { path: path.to_owned(), why });
            let levels = path.strip_prefix("reported.").or_else(|| path.strip_prefix("desired."));
            let Some(levels) = levels else {
                return wrong("is no field of a shadow: it begins with reported. or with desired.".to_owned());
            };
            if levels.split('.').any(str::is_empty) || !path.chars().all(words::is_part_of_word) {
                return wrong(
                    "has a level that cannot be asked for: they are made of A-Z a-z 0-9 _ - : / + # $ @".to_owned(),
                );
            }
            if fields.iter().any(|known| **known == *path) {
                return wrong("is there twice".to_owned());
            }
            if fields.len() == FIELDS_MAX {
                return wrong(format!("is one too many: {FIELDS_MAX} fields can be indexed"));
            }
            fields.push(path.into());
        }
        Ok(Fields(fields.into()))
    }

    /// The paths.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is known of one vehicle.
pub trait Facts {
    /// Its identification number.
    fn vin(&self) -> &Vin;
    /// The version of its classic shadow.
    fn version(&self) -> u64;
    /// The value of a field, by its place among [`Fields`].
    fn value(&self, field: usize) -> Option<&Scalar>;
    /// Its groups. None: they are not known here.
    fn groups(&self) -> Option<&Groups>;
}

/// Why a text is no question, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("at character {position}: {message}")]
pub struct QueryError {
    /// The character where it is wrong, counted from 1.
    pub position: usize,
    /// What is wrong.
    pub message: String,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Vin,
    Group,
    Version,
    /// By its place among [`Fields`].
    Field(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Is(Subject, Comparison, Scalar),
    /// The values are sorted.
    In(Subject, Vec<Scalar>),
    Exists(Subject),
}

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Query(Node);

/// In which order it is best to look at vehicles for a question, and from which value to which: everything that it is true of is there.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    /// In the order of this field's values.
    ByField(usize, Bound<Scalar>, Bound<Scalar>),
    /// In the order of their VINs, all of them.
    ByVin,
}

impl Query {
    /// Reads a question about these fields.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str, fields: &Fields) -> Result<Query, QueryError> {
        parse::parse(text, fields).map(Query)
    }

    /// The question of which everything is the answer.
    pub fn everything() -> Query {
        Query(Node::All(Vec::new()))
    }

    /// Whether it is true of a vehicle. None: that depends on its groups, which are not known.
    pub fn is_true_of(&self, facts: &impl Facts) -> Option<bool> {
        self.0.is_true_of(facts)
    }

    /// How to look for what it is true of. The same for the same question, wherever it is asked.
    pub fn way(&self) -> Way {
        let ranges = self.conjuncts().filter_map(|node| node.range());
        let best = ranges.min_by_key(|(_, from, to)| match (from, to) {
            (Bound::Included(from), Bound::Included(to)) if from == to => 0,
            (Bound::Unbounded, Bound::Unbounded) => 2,
            _ => 1,
        });
        let Some((field, from, to)) = best else { return Way::ByVin };
        // What else is said of the same field makes it narrower.
        let same = self.conjuncts().filter_map(|node| node.range()).filter(|(other, ..)| *other == field);
        let (from, to) = same.fold((from, to), |(from, to), (_, others_from, others_to)| {
            (narrower(from, others_from, Ordering::Greater), narrower(to, others_to, Ordering::Less))
        });
        Way::ByField(field, from, to)
    }

    /// Groups of one of which a vehicle has to be, for the question to be true of it. None where it may be of any.
    pub fn groups_needed(&self) -> Option<Vec<&str>> {
        self.conjuncts().find_map(|node| match node {
            Node::Is(Subject::Group, Comparison::Equal, name) => name.text().map(|name| vec![name]),
            Node::In(Subject::Group, names) => Some(names.iter().filter_map(Scalar::text).collect()),
            _ => None,
        })
    }

    /// VINs of which a vehicle has to have one, for the question to be true of it. None where it may have any.
    pub fn vins_needed(&self) -> Option<Vec<Vin>> {
        let vin = |value: &Scalar| value.text().and_then(|text| text.parse().ok());
        self.conjuncts().find_map(|node| match node {
            Node::Is(Subject::Vin, Comparison::Equal, value) => Some(vin(value).into_iter().collect()),
            Node::In(Subject::Vin, values) => Some(values.iter().filter_map(vin).collect()),
            _ => None,
        })
    }

    /// All of these have to be true.
    fn conjuncts(&self) -> impl Iterator<Item = &Node> {
        match &self.0 {
            Node::All(nodes) => nodes.iter(),
            node => std::slice::from_ref(node).iter(),
        }
    }
}

impl Node {
    fn is_true_of(&self, facts: &impl Facts) -> Option<bool> {
        match self {
            Node::All(nodes) => settled(nodes.iter().map(|node| node.is_true_of(facts)), false),
            Node::Any(nodes) => settled(nodes.iter().map(|node| node.is_true_of(facts)), true),
            Node::Not(node) => node.is_true_of(facts).map(|is_true| !is_true),
            Node::Exists(Subject::Vin | Subject::Version) => Some(true),
            Node::Exists(Subject::Group) => facts.groups().map(|groups| groups.iter().next().is_some()),
            Node::Exists(Subject::Field(field)) => Some(facts.value(*field).is_some()),
            Node::Is(Subject::Group, comparison, name) => {
                let is_in = facts.groups()?.iter().any(|group| name.text() == Some(group));
                Some(is_in == (*comparison == Comparison::Equal))
            }
            Node::In(Subject::Group, names) => {
                let groups = facts.groups()?;
                Some(names.iter().any(|name| groups.iter().any(|group| name.text() == Some(group))))
            }
            Node::Is(subject, comparison, value) => Some(subject.with(facts, |fact| comparison.holds(fact, value))),
            Node::In(subject, values) => {
                Some(subject.with(facts, |fact| fact.is_some_and(|fact| values.binary_search(fact).is_ok())))
            }
        }
    }

    /// The field, and the values, of everything that this is true of.
    fn range(&self) -> Option<(usize, Bound<Scalar>, Bound<Scalar>)> {
        use Bound::{Excluded, Included, Unbounded};
        match self {
            Node::Is(Subject::Field(field), comparison, value) => {
                let value = || value.clone();
                // What is of another kind is not among them, but that is asked of each.
                let (from, to) = match comparison {
                    Comparison::Equal => (Included(value()), Included(value())),
                    Comparison::Less => (Unbounded, Excluded(value())),
                    Comparison::AtMost => (Unbounded, Included(value())),
                    Comparison::Greater => (Excluded(value()), Unbounded),
                    Comparison::AtLeast => (Included(value()), Unbounded),
                    Comparison::Unequal => return None,
                };
                Some((*field, from, to))
            }
            Node::In(Subject::Field(field), values) => {
                Some((*field, Included(values.first()?.clone()), Included(values.last()?.clone())))
            }
            Node::Exists(Subject::Field(field)) => Some((*field, Unbounded, Unbounded)),
            _ => None,
        }
    }
}

/// The one of two bounds that leaves less.
fn narrower(one: Bound<Scalar>, other: Bound<Scalar>, is_narrower: Ordering) -> Bound<Scalar> {
    use Bound::{Excluded, Included, Unbounded};
    match (&one, &other) {
        (_, Unbounded) => one,
        (Unbounded, _) => other,
        (Included(value) | Excluded(value), Included(than) | Excluded(than)) => match value.cmp(than) {
            Ordering::Equal if matches!(one, Excluded(_)) => one,
            Ordering::Equal => other,
            ordering if ordering == is_narrower => one,
            _ => other,
        },
    }
}

/// One answer that settles it does; else it is open if any is.
fn settled(answers: impl Iterator<Item = Option<bool>>, settles: bool) -> Option<bool> {
    let mut all = Some(!settles);
    for answer in answers {
        match answer {
            Some(answer) if answer == settles => return Some(settles),
            Some(_) => {}
            None => all = None,
        }
    }
    all
}

impl Subject {
    /// Has its value looked at, if it has one. Not for groups, which are several.
    fn with<T>(self, facts: &impl Facts, look: impl FnOnce(Option<&Scalar>) -> T) -> T {
        match self {
            Subject::Field(field) => look(facts.value(field)),
            Subject::Version => look(Some(&Scalar::Number(facts.version() as f64))),
            Subject::Vin => look(Some(&Scalar::from(facts.vin().as_str()))),
            Subject::Group => look(None),
        }
    }
}

impl Comparison {
    fn holds(self, fact: Option<&Scalar>, value: &Scalar) -> bool {
        let is_equal = fact == Some(value);
        let ordering = fact.filter(|fact| fact.is_same_kind(value)).map(|fact| fact.cmp(value));
        match self {
            Comparison::Equal => is_equal,
            Comparison::Unequal => !is_equal,
            Comparison::Less => ordering.is_some_and(|it| it.is_lt()),
            Comparison::AtMost => ordering.is_some_and(|it| it.is_le()),
            Comparison::Greater => ordering.is_some_and(|it| it.is_gt()),
            Comparison::AtLeast => ordering.is_some_and(|it| it.is_ge()),
        }
    }
}

#[cfg(test)]
mod tests;
