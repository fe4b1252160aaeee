//! A compiled condition on tags. Every leaf requires its tag to be present. Comparisons
//! that match a missing tag (`neq`, `nin`, `nex`) are negations of a leaf.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use memchr::memmem::Finder;

use super::tags::{Tag, Tags, finite};
use crate::limits;

/// Constructed only by the functions below, so that conditions that differ only in order,
/// repetition or redundant nesting are equal values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Node {
    /// The tag is present, and its value passes the test.
    Tag {
        key: Box<str>,
        test: Test,
    },
    Not(Box<Node>),
    All(Box<[Node]>),
    Any(Box<[Node]>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Test {
    Exists,
    /// Sorted, without duplicates.
    OneOf(Box<[Box<str>]>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Needle),
    Number(Relation, Bound),
}

/// A text to search for. Boxed, because it is larger than all other tests.
#[derive(Debug, Clone)]
pub(super) struct Needle(Box<Finder<'static>>);

/// The relation of a tag's value to the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// The bits of a finite `f64` other than -0, so that equal numbers have equal bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bound(u64);

impl Node {
    pub(super) fn holds(&self, tags: &Tags<'_>) -> bool {
        match self {
            Node::Tag { key, test } => tags.get(key).is_some_and(|tag| test.holds(tag)),
            Node::Not(node) => !node.holds(tags),
            Node::All(nodes) => nodes.iter().all(|node| node.holds(tags)),
            Node::Any(nodes) => nodes.iter().any(|node| node.holds(tags)),
        }
    }

    /// The sum of `of` over all leaves.
    pub(super) fn sum(&self, of: fn(&str, &Test) -> usize) -> usize {
        match self {
            Node::Tag { key, test } => of(key, test),
            Node::Not(node) => node.sum(of),
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().map(|node| node.sum(of)).sum(),
        }
    }

    pub(super) fn not(self) -> Node {
        match self {
            Node::Not(node) => *node,
            node => Node::Not(Box::new(node)),
        }
    }

    pub(super) fn all(nodes: Vec<Node>) -> Node {
        let flat = nodes.into_iter().flat_map(|node| match node {
            Node::All(nodes) => nodes.into_vec(),
            node => vec![node],
        });
        branch(flat.collect(), Node::All)
    }

    pub(super) fn any(nodes: Vec<Node>) -> Node {
        let flat = nodes.into_iter().flat_map(|node| match node {
            Node::Any(nodes) => nodes.into_vec(),
            node => vec![node],
        });
        branch(flat.collect(), Node::Any)
    }
}

fn branch(mut nodes: Vec<Node>, of: fn(Box<[Node]>) -> Node) -> Node {
    nodes.sort_unstable();
    nodes.dedup();
    match nodes.len() {
        1 => nodes.remove(0),
        _ => of(nodes.into()),
    }
}

impl Test {
    pub(super) fn one_of(mut values: Vec<Box<str>>) -> Test {
        values.sort_unstable();
        values.dedup();
        Test::OneOf(values.into())
    }

    /// A comparison with a bound. If the bound is not a finite number, no tag passes.
    pub(super) fn number(relation: Relation, bound: &str) -> Test {
        match finite(bound) {
            // Adding 0 turns -0 into 0.
            Some(bound) => Test::Number(relation, Bound((bound + 0.0).to_bits())),
            None => Test::OneOf(Box::default()),
        }
    }

    pub(super) fn contains(part: &str) -> Test {
        Test::Contains(Needle(Box::new(Finder::new(part).into_owned())))
    }

    /// Bytes of all values.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Test::Exists | Test::Number(..) => 0,
            Test::OneOf(values) => values.iter().map(|value| value.len()).sum(),
            Test::StartsWith(part) | Test::EndsWith(part) => part.len(),
            Test::Contains(needle) => needle.bytes().len(),
        }
    }

    /// An upper bound of the time that the test takes, as a multiple of that of a short comparison.
    pub(super) fn cost(&self) -> usize {
        match self {
            Test::Contains(_) => limits::FILTER_SEARCH_COST,
            Test::OneOf(values) => list_cost(values.len(), self.bytes()),
            _ => list_cost(1, self.bytes()),
        }
    }

    fn holds(&self, tag: &Tag<'_>) -> bool {
        let value = tag.value();
        match self {
            Test::Exists => true,
            Test::OneOf(values) => values.binary_search_by(|known| (**known).cmp(value)).is_ok(),
            Test::StartsWith(part) => value.starts_with(&**part),
            Test::EndsWith(part) => value.ends_with(&**part),
            Test::Contains(needle) => needle.0.find(value.as_bytes()).is_some(),
            Test::Number(relation, bound) => tag.number().is_some_and(|value| relation.holds(value, *bound)),
        }
    }
}

impl Needle {
    fn bytes(&self) -> &[u8] {
        self.0.needle()
    }
}

impl PartialEq for Needle {
    fn eq(&self, other: &Needle) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Needle {}

impl Hash for Needle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().hash(state);
    }
}

impl PartialOrd for Needle {
    fn partial_cmp(&self, other: &Needle) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Needle {
    fn cmp(&self, other: &Needle) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Relation {
    fn holds(self, value: f64, bound: Bound) -> bool {
        let bound = f64::from_bits(bound.0);
        match self {
            Relation::Greater => value > bound,
            Relation::GreaterOrEqual => value >= bound,
            Relation::Less => value < bound,
            Relation::LessOrEqual => value <= bound,
        }
    }
}

/// The cost of a look-up in a sorted list. A list takes memory too, so a long one is more
/// expensive than its binary search.
pub(super) fn list_cost(values: usize, bytes: usize) -> usize {
    1 + values / 32 + bytes / 1024
}
