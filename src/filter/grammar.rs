//! The grammar of protocol.md 4: compiles JSON text to a filter, or returns an error with
//! the path of the member at fault.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::node::{Node, Relation, Test};
use super::{Filter, FilterError, FilterFault};
use crate::json::{self, DecodeError};
use crate::limits;

/// The compound form of `filter`, and the two members that identify a node.
#[derive(Deserialize)]
struct Compound<'a> {
    #[serde(borrow, default)]
    events: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tags: Option<&'a RawValue>,
    #[serde(borrow, default)]
    expression: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cmp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    op: Option<&'a RawValue>,
}

/// The members of a leaf (`cmp`) and of a branch (`op`).
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cmp: Option<&'a RawValue>,
    #[serde(borrow, default)]
    val: Option<&'a RawValue>,
    #[serde(borrow, default)]
    vals: Option<&'a RawValue>,
    #[serde(borrow, default)]
    op: Option<&'a RawValue>,
    #[serde(borrow, default)]
    nodes: Option<&'a RawValue>,
}

pub(super) fn filter(text: &str) -> Result<Filter, FilterError> {
    let raw = json_text(text)?;
    let parts: Compound<'_> = object(raw)?;
    let is_node = parts.cmp.is_some() || parts.op.is_some();
    let is_compound = parts.events.is_some() || parts.tags.is_some() || parts.expression.is_some();
    match (is_node, is_compound) {
        (true, true) => Err(FilterError::here(FilterFault::NodeAndCompound)),
        (false, true) => compound(&parts),
        _ => Ok(Filter { events: Box::default(), tags: Some(root(raw)?) }),
    }
}

pub(super) fn tags_filter(text: &str) -> Result<Filter, FilterError> {
    Ok(Filter { events: Box::default(), tags: Some(root(json_text(text)?)?) })
}

fn json_text(text: &str) -> Result<&RawValue, FilterError> {
    let levels_max = limits::JSON_DEPTH_MAX;
    if !json::depth_within(text.as_bytes(), levels_max) {
        return Err(FilterError::here(FilterFault::TooDeep { levels_max }));
    }
    serde_json::from_str(text).map_err(unreadable)
}

fn compound(parts: &Compound<'_>) -> Result<Filter, FilterError> {
    // JMESPath, as in other servers: an expression of a hundred bytes can double a document
    // twenty times, so limits on its source do not bound the work.
    if parts.expression.is_some() {
        return Err(FilterError::here(FilterFault::Unsupported).inside("expression"));
    }
    let events = parts.events.map_or(Ok(Vec::new()), |raw| member("events", || event_names(raw)))?;
    let tags = parts.tags.map(|raw| member("tags", || root(raw))).transpose()?;
    Ok(Filter { events: events.into(), tags })
}

fn event_names(raw: &RawValue) -> Result<Vec<Box<str>>, FilterError> {
    let mut names = elements(raw, "an array of strings", limits::FILTER_EVENTS_MAX, |raw| {
        name(Some(raw), limits::FILTER_EVENT_BYTES_MAX)
    })?;
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn root(raw: &RawValue) -> Result<Node, FilterError> {
    node(raw, 1, &mut 0)
}

/// `depth` is that of this node, `count` the number of nodes read before it.
fn node(raw: &RawValue, depth: usize, count: &mut usize) -> Result<Node, FilterError> {
    let levels_max = limits::FILTER_DEPTH_MAX;
    if depth > levels_max {
        return Err(FilterError::here(FilterFault::TooDeep { levels_max }));
    }
    *count += 1;
    if *count > limits::FILTER_NODES_MAX {
        return Err(FilterError::here(FilterFault::TooManyNodes));
    }
    let members: Members<'_> = object(raw)?;
    match (members.cmp, members.op) {
        (Some(cmp), None) => leaf(cmp, &members),
        (None, Some(op)) => {
            let nodes = member("nodes", || children(members.nodes, depth, count))?;
            branch(op, nodes)
        }
        (None, None) => Err(FilterError::here(FilterFault::NeitherLeafNorBranch)),
        (Some(_), Some(_)) => Err(FilterError::here(FilterFault::LeafAndBranch)),
    }
}

fn children(raw: Option<&RawValue>, depth: usize, count: &mut usize) -> Result<Vec<Node>, FilterError> {
    let expected = "an array of at least one node";
    let raw = raw.ok_or(FilterError::expected(expected))?;
    let nodes = elements(raw, expected, limits::FILTER_NODES_MAX, |raw| node(raw, depth + 1, count))?;
    not_empty(nodes, expected)
}

fn branch(op: &RawValue, mut nodes: Vec<Node>) -> Result<Node, FilterError> {
    match string(op, "").ok().as_deref() {
        Some("and") => Ok(Node::all(nodes)),
        Some("or") => Ok(Node::any(nodes)),
        Some("not") if nodes.len() == 1 => Ok(nodes.remove(0).not()),
        Some("not") => Err(FilterError::expected("an array of exactly one node").inside("nodes")),
        _ => Err(FilterError::expected("`and`, `or` or `not`").inside("op")),
    }
}

fn leaf(cmp: &RawValue, members: &Members<'_>) -> Result<Node, FilterError> {
    let key = member("key", || name(members.key, limits::FILTER_KEY_BYTES_MAX))?;
    let val = || member("val", || single(members.val));
    let vals = || member("vals", || several(members.vals));
    let tag = |test| Node::Tag { key, test };
    Ok(match string(cmp, "").ok().as_deref() {
        Some("eq") => tag(Test::one_of(vec![val()?])),
        Some("neq") => tag(Test::one_of(vec![val()?])).not(),
        Some("in") => tag(Test::one_of(vals()?)),
        Some("nin") => tag(Test::one_of(vals()?)).not(),
        Some("ex") => tag(Test::Exists),
        Some("nex") => tag(Test::Exists).not(),
        Some("sw") => tag(Test::StartsWith(val()?)),
        Some("ew") => tag(Test::EndsWith(val()?)),
        Some("ct") => tag(Test::contains(&val()?)),
        Some("gt") => tag(Test::number(Relation::Greater, &val()?)),
        Some("gte") => tag(Test::number(Relation::GreaterOrEqual, &val()?)),
        Some("lt") => tag(Test::number(Relation::Less, &val()?)),
        Some("lte") => tag(Test::number(Relation::LessOrEqual, &val()?)),
        _ => {
            let known =
                "one of `eq`, `neq`, `in`, `nin`, `ex`, `nex`, `sw`, `ew`, `ct`, `gt`, `gte`, `lt`, `lte`";
            return Err(FilterError::expected(known).inside("cmp"));
        }
    })
}

fn single(raw: Option<&RawValue>) -> Result<Box<str>, FilterError> {
    let expected = "a string that is not empty, a number or a boolean";
    let value = value(raw.ok_or(FilterError::expected(expected))?)?;
    if value.is_empty() { Err(FilterError::expected(expected)) } else { Ok(value) }
}

fn several(raw: Option<&RawValue>) -> Result<Vec<Box<str>>, FilterError> {
    let expected = "an array of at least one value";
    let raw = raw.ok_or(FilterError::expected(expected))?;
    not_empty(elements(raw, expected, limits::FILTER_VALUES_MAX, value)?, expected)
}

/// A value as text. Numbers and booleans are compared by their JSON text, verbatim.
fn value(raw: &RawValue) -> Result<Box<str>, FilterError> {
    let value = match raw.get().as_bytes() {
        [b't' | b'f' | b'-' | b'0'..=b'9', ..] => raw.get().to_owned(),
        _ => string(raw, "a string, a number or a boolean")?,
    };
    bounded(value, limits::FILTER_VALUE_BYTES_MAX)
}

fn name(raw: Option<&RawValue>, bytes_max: usize) -> Result<Box<str>, FilterError> {
    let expected = "a string that is not empty";
    let name = string(raw.ok_or(FilterError::expected(expected))?, expected)?;
    if name.is_empty() { Err(FilterError::expected(expected)) } else { bounded(name, bytes_max) }
}

fn bounded(text: String, bytes_max: usize) -> Result<Box<str>, FilterError> {
    match text.len() {
        bytes if bytes > bytes_max => Err(FilterError::here(FilterFault::TooLong { bytes, bytes_max })),
        _ => Ok(text.into()),
    }
}

/// Reads the elements of an array of at most `count_max`.
fn elements<T>(
    raw: &RawValue,
    expected: &'static str,
    count_max: usize,
    mut read: impl FnMut(&RawValue) -> Result<T, FilterError>,
) -> Result<Vec<T>, FilterError> {
    let elements: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| FilterError::expected(expected))?;
    let count = elements.len();
    if count > count_max {
        return Err(FilterError::here(FilterFault::TooMany { count, count_max }));
    }
    let read = |(at, raw)| read(raw).map_err(|error: FilterError| error.inside(&format!("[{at}]")));
    elements.into_iter().enumerate().map(read).collect()
}

fn not_empty<T>(elements: Vec<T>, expected: &'static str) -> Result<Vec<T>, FilterError> {
    if elements.is_empty() { Err(FilterError::expected(expected)) } else { Ok(elements) }
}

fn member<T>(name: &str, read: impl FnOnce() -> Result<T, FilterError>) -> Result<T, FilterError> {
    read().map_err(|error| error.inside(name))
}

fn string(raw: &RawValue, expected: &'static str) -> Result<String, FilterError> {
    json::decode(raw).map_err(|error| match error {
        DecodeError::Type => FilterError::expected(expected),
        DecodeError::LoneSurrogate(escape) => FilterError::here(FilterFault::LoneSurrogate { escape }),
    })
}

/// Reads an object. serde would accept an array too, with its elements as members.
fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, FilterError> {
    match raw.get().starts_with('{') {
        true => serde_json::from_str(raw.get()).map_err(unreadable),
        false => Err(FilterError::expected("an object")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: serde_json::Error) -> FilterError {
    FilterError::here(FilterFault::Unreadable(error.to_string()))
}
