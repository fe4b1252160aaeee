//! A compiled condition on tags. Every leaf requires its tag to be present. Comparisons
//! that match a missing tag (`neq`, `nin`, `nex`) are negations of a leaf.

use memchr::memmem;

use super::tags::Tags;

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
    Contains(Box<str>),
    Number(Relation, Bound),
}

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
            Node::Tag { key, test } => tags.get(key).is_some_and(|value| test.holds(value)),
            Node::Not(node) => !node.holds(tags),
            Node::All(nodes) => nodes.iter().all(|node| node.holds(tags)),
            Node::Any(nodes) => nodes.iter().any(|node| node.holds(tags)),
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

    fn holds(&self, value: &str) -> bool {
        match self {
            Test::Exists => true,
            Test::OneOf(values) => values.binary_search_by(|known| (**known).cmp(value)).is_ok(),
            Test::StartsWith(part) => value.starts_with(&**part),
            Test::EndsWith(part) => value.ends_with(&**part),
            Test::Contains(part) => memmem::find(value.as_bytes(), part.as_bytes()).is_some(),
            Test::Number(relation, bound) => finite(value).is_some_and(|value| relation.holds(value, *bound)),
        }
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

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}
