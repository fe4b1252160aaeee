//! Errors in filters, with the path of the member at fault.

use thiserror::Error;

use crate::limits;

/// A filter that cannot be compiled. The subscription fails with this error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{at}` {fault}")]
pub struct FilterError {
    /// Path of the member at fault within the subscription's data:
    /// `filter.tags.nodes[2].val`.
    pub at: String,
    pub fault: FilterFault,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterFault {
    /// Not JSON, or an object with a duplicate member.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("is nested deeper than {levels_max} levels")]
    TooDeep { levels_max: usize },
    #[error("must be {expected}")]
    Type { expected: &'static str },
    #[error("has half of a surrogate pair, {escape}, which is not a character")]
    LoneSurrogate { escape: String },
    #[error("must have either `cmp` or `op`")]
    NeitherLeafNorBranch,
    #[error("must have either `cmp` or `op`, not both")]
    LeafAndBranch,
    #[error("must be either a node or `events` and `tags`, not both")]
    NodeAndCompound,
    #[error("has {bytes} bytes (limit: {bytes_max})")]
    TooLong { bytes: usize, bytes_max: usize },
    #[error("has {count} elements (limit: {count_max})")]
    TooMany { count: usize, count_max: usize },
    #[error("is one node too many (limit: {})", limits::FILTER_NODES_MAX)]
    TooManyNodes,
    #[error("has {bytes} bytes of names, keys and values (limit: {})", limits::FILTER_BYTES_MAX)]
    TooLarge { bytes: usize },
    #[error("has a cost of {cost} (limit: {})", limits::FILTER_COST_MAX)]
    TooExpensive { cost: usize },
    #[error("is not supported by this server")]
    Unsupported,
}

impl FilterError {
    /// An error in the current value, with an empty path.
    pub(super) fn here(fault: FilterFault) -> FilterError {
        FilterError { at: String::new(), fault }
    }

    pub(super) fn expected(expected: &'static str) -> FilterError {
        FilterError::here(FilterFault::Type { expected })
    }

    /// Prepends the name of the surrounding member to the path.
    pub(super) fn inside(mut self, member: &str) -> FilterError {
        let separator = if self.at.is_empty() || self.at.starts_with('[') { "" } else { "." };
        self.at = format!("{member}{separator}{}", self.at);
        self
    }
}
