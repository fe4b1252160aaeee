//! A refused subscription (protocol.md 2.4). The connection stays open.

/// Type, text and status of the frame that reports the refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: &'static str,
    pub(super) error: String,
    pub(super) status: u16,
}

impl Refusal {
    pub(super) fn new(kind: &'static str, error: String, status: u16) -> Refusal {
        Refusal { kind, error, status }
    }
}
