//! Which events a subscription wants, by their names and tags (protocol.md 4).
//! [`Filter::parse`] compiles what the client sent, once; [`Filter::passes`] is
//! asked for every event, on behalf of all subscribers whose filters are equal.

mod error;
mod grammar;
mod node;
mod tags;

pub use error::{FilterError, FilterFault};
use node::Node;
pub use tags::Tags;

/// What a subscription wants to receive, compiled. Equal filters are equal
/// values: that is how subscribers share an evaluation. Order and repetition
/// within `events`, `vals` and the nodes of a branch make no difference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Sorted. Empty wants every name.
    events: Box<[Box<str>]>,
    /// `None` wants all tags, and none.
    tags: Option<Node>,
}

impl Filter {
    /// `filter` of a subscription, as JSON text: a node, or the compound
    /// `{"events":[…],"tags":node}`, whose parts must both be met. An empty
    /// `events` wants every name. `null` is an error here: it is no filter.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        grammar::filter(text).map_err(|error| error.inside("filter"))
    }

    /// `tags_filter` of a subscription, as JSON text: a node.
    pub fn parse_tags(text: &str) -> Result<Filter, FilterError> {
        grammar::tags_filter(text).map_err(|error| error.inside("tags_filter"))
    }

    /// Whether an event of this name with these tags is wanted.
    pub fn passes(&self, name: &[u8], tags: &Tags<'_>) -> bool {
        self.wants_name(name) && self.tags.as_ref().is_none_or(|node| node.holds(tags))
    }

    fn wants_name(&self, name: &[u8]) -> bool {
        self.events.is_empty() || self.events.binary_search_by(|event| event.as_bytes().cmp(name)).is_ok()
    }
}

#[cfg(test)]
mod tests;
