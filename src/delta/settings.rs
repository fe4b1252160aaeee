//! What the operator has set for deltas.

use std::time::Duration;

/// `[delta_compression]` (protocol.md 3.11).
#[derive(Debug, Clone)]
pub struct DeltaConfig {
    /// `enabled`: whether this server permits deltas at all.
    pub enabled: bool,
    /// `full_message_interval`: every event whose number divides by one more
    /// than this goes out in full to everyone; 0 means never.
    pub full_message_interval: u64,
    /// `min_message_size`: bytes of the full frame below which no delta is tried.
    pub min_message_bytes: usize,
    /// `min_compression_ratio`: a delta frame is sent only if it is at most this
    /// fraction of the full frame.
    pub compression_ratio_max: f64,
    /// `max_state_age_secs`: an older base is not used.
    pub base_age_max: Duration,
    /// `omit_delta_algorithm`
    pub omit_algorithm: bool,
    /// `refused_clients`: `client/version` patterns that say they decode deltas
    /// and do not (protocol.md 3.6).
    pub refused_clients: Vec<String>,
}
