//! What the operator has set for deltas.

use std::time::Duration;

use super::Algorithm;
use super::conflation::KeyPath;

/// `[delta_compression]` (protocol.md 3.11).
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConfig {
    /// `enabled`: whether this server permits deltas at all.
    pub enabled: bool,
    /// `algorithm`: where neither the client nor the channel chooses.
    pub algorithm: Algorithm,
    /// `markers`
    pub markers: MarkerStyle,
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
    /// `conflation_key_path`: on channels whose pattern names none.
    pub conflation_key: Option<KeyPath>,
    /// `max_conflation_states_per_channel`: chains of a channel whose pattern says
    /// no other number.
    pub keys_max: usize,
    /// `cache_sync`: who joins is sent the newest event of each chain as a base.
    pub cache_sync: bool,
    /// `tag_filtering.enabled` and `tag_filtering.enable_tags`: who has opted in to
    /// something gets events with their tags.
    pub shows_tags: bool,
}

/// How a full event says that it is a base (protocol.md 3.3, 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MarkerStyle {
    /// `__delta_seq`, `__conflation_key`: clients strip them to get the base.
    #[default]
    Underscore,
    /// `sequence`, `conflation_key`: they are part of the base.
    Plain,
}

impl Default for DeltaConfig {
    /// What holds where nothing is said (protocol.md 3.11).
    fn default() -> DeltaConfig {
        DeltaConfig {
            enabled: true,
            algorithm: Algorithm::Fossil,
            markers: MarkerStyle::Underscore,
            full_message_interval: 10,
            min_message_bytes: 100,
            compression_ratio_max: 0.9,
            base_age_max: Duration::from_secs(300),
            omit_algorithm: false,
            refused_clients: Vec::new(),
            conflation_key: None,
            keys_max: 100,
            cache_sync: false,
            shows_tags: false,
        }
    }
}
