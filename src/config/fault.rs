//! Why a value is invalid for its key.

/// The reason why a value is invalid for its key.
#[derive(Debug, PartialEq)]
pub(super) enum Wrong {
    /// A description of valid values.
    Expected(String),
    /// The feature of the key is not implemented.
    Unsupported,
    /// The feature of this value is not implemented.
    UnsupportedValue(String),
    /// Mistakes in elements of a list or table.
    Inside(Vec<Mistake>),
}

/// One mistake within a list or table.
#[derive(Debug, PartialEq)]
pub(super) struct Mistake {
    /// Path from the key on, such as `[1].url`.
    pub(super) inside: String,
    pub(super) fault: Fault,
}

#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    Expected { expected: String, found: String },
    Unknown { nearest: &'static str },
    Unsupported,
}
