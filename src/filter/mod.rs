//! Filters of subscriptions by event names and tags (protocol.md 4). [`Filter::parse`]
//! compiles a filter once per subscription. [`Filter::passes`] runs once per event for all
//! subscribers with equal filters.

mod budget;
mod error;
mod grammar;
mod node;
mod tags;

pub use budget::{AdmittedFilter, AppFilters, ChannelFilters, OverBudget};
pub use error::{FilterError, FilterFault};
use node::{Node, Test, list_cost};
pub use tags::Tags;

use crate::limits;

/// A compiled filter. Filters with the same meaning are equal values, so that subscribers
/// share an evaluation: order and repetition within `events`, `vals` and the nodes of a
/// branch do not matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Event names, sorted. Empty matches every name.
    events: Box<[Box<str>]>,
    /// `None` matches any tags, and events without tags.
    tags: Option<Node>,
}

impl Filter {
    /// Compiles `filter` of a subscription, as JSON text: a node, or the compound
    /// `{"events":[…],"tags":node}`, whose parts both have to match. An empty `events`
    /// matches every name. `null` is an error here; the caller treats it as no filter.
    ///
    /// # Errors
    ///
    /// Any [`FilterError`]: invalid JSON, an unknown form, or a limit exceeded.
    ///
    /// # Examples
    ///
    /// ```
    /// use fanfare::filter::{Filter, Tags};
    ///
    /// let filter = Filter::parse(r#"{"key":"minute","cmp":"gte","val":85}"#)?;
    /// assert!(filter.passes(b"goal", &Tags::read(Some(br#"{"minute":"90"}"#))));
    /// assert!(!filter.passes(b"goal", &Tags::read(Some(br#"{"minute":"12"}"#))));
    /// assert!(!filter.passes(b"goal", &Tags::read(None)));
    /// # Ok::<(), fanfare::filter::FilterError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        grammar::filter(text).and_then(Filter::bounded).map_err(|error| error.inside("filter"))
    }

    /// Compiles `tags_filter` of a subscription, as JSON text: a node. Errors are those of
    /// [`Filter::parse`].
    pub fn parse_tags(text: &str) -> Result<Filter, FilterError> {
        grammar::tags_filter(text).and_then(Filter::bounded).map_err(|error| error.inside("tags_filter"))
    }

    /// Whether an event with this name and these tags matches.
    pub fn passes(&self, name: &[u8], tags: &Tags<'_>) -> bool {
        self.matches_name(name) && self.tags.as_ref().is_none_or(|node| node.holds(tags))
    }

    /// An upper bound of the time of an evaluation: protocol.md 4 has the formula.
    pub fn cost(&self) -> usize {
        let names = if self.events.is_empty() { 0 } else { list_cost(self.events.len(), self.name_bytes()) };
        names + self.tags.as_ref().map_or(0, |node| node.sum(|_, test| test.cost()))
    }

    fn name_bytes(&self) -> usize {
        self.events.iter().map(|event| event.len()).sum()
    }

    fn bounded(self) -> Result<Filter, FilterError> {
        let of_tags = |node: &Node| node.sum(|key: &str, test: &Test| key.len() + test.bytes());
        let bytes = self.name_bytes() + self.tags.as_ref().map_or(0, of_tags);
        let cost = self.cost();
        if bytes > limits::FILTER_BYTES_MAX {
            return Err(FilterError::here(FilterFault::TooLarge { bytes }));
        }
        if cost > limits::FILTER_COST_MAX {
            return Err(FilterError::here(FilterFault::TooExpensive { cost }));
        }
        Ok(self)
    }

    fn matches_name(&self, name: &[u8]) -> bool {
        self.events.is_empty() || self.events.binary_search_by(|event| event.as_bytes().cmp(name)).is_ok()
    }
}

#[cfg(test)]
mod tests;
