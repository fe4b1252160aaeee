//! Delta settings of the server.

use std::time::Duration;

use super::Algorithm;
use super::conflation::KeyPath;

/// `[delta_compression]` (protocol.md 3.11).
#[derive(Debug, Clone, PartialEq)]
pub struct DeltaConfig {
    /// `enabled`: whether clients can enable deltas at all.
    pub enabled: bool,
    /// `algorithm`: the format if neither the client nor the channel pattern selects one.
    pub algorithm: Algorithm,
    /// `markers`: names of the markers in full events.
    pub markers: MarkerStyle,
    /// `full_message_interval`: an event whose sequence number is divisible by one more than
    /// this is sent in full to all subscribers; 0 means never.
    pub full_message_interval: u64,
    /// `min_message_size`: bytes of an event's base text below which it is sent in full.
    pub min_message_bytes: usize,
    /// `min_compression_ratio`: largest size of a delta frame, as a fraction of the full
    /// frame.
    pub compression_ratio_max: f64,
    /// `max_state_age_secs`: age above which a base is not used.
    pub base_age_max: Duration,
    /// `omit_delta_algorithm`: omit `algorithm` from delta frames in the server's own format.
    pub omit_algorithm: bool,
    /// `refused_clients`: `client/version` patterns of clients that enable deltas without a
    /// working decoder (protocol.md 3.6).
    pub refused_clients: Vec<String>,
    /// `conflation_key_path`: path for channels whose pattern has none.
    pub conflation_key: Option<KeyPath>,
    /// `max_conflation_states_per_channel`: number of chains for channels whose pattern has
    /// none.
    pub keys_max: usize,
    /// `cache_sync`: whether a new subscriber receives initial bases.
    pub cache_sync: bool,
    /// `tag_filtering.enabled` and `tag_filtering.enable_tags`: whether events have their
    /// tags, for clients with an extension enabled.
    pub shows_tags: bool,
}

/// The names of the markers in full events (protocol.md 3.3, 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MarkerStyle {
    /// `__delta_seq`, `__conflation_key`: clients remove them to get the base.
    #[default]
    Underscore,
    /// `sequence`, `conflation_key`: they are part of the base.
    Plain,
}

impl Default for DeltaConfig {
    /// The defaults of protocol.md 3.11 and 6.
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
