//! An app: one tenant with its key, secret and limits.

use std::collections::HashMap;
use std::sync::Arc;

use crate::delta::permit::ChannelPermits;
use crate::limits;

/// One tenant. Whoever holds its secret may publish; whoever knows its key may
/// connect.
#[derive(Debug)]
pub struct App {
    /// In the path of every API call. All digits in most client libraries.
    pub id: Arc<str>,
    /// Public: browsers name it in `/app/{key}`.
    pub key: String,
    /// Signs requests and subscriptions. Never logged.
    pub secret: Secret,
    /// A disabled app answers 403 and closes its sockets with 4003.
    pub enabled: bool,
    pub limits: AppLimits,
    /// `channel_delta_compression`: where clients may ask for deltas.
    pub deltas: ChannelPermits,
}

/// A secret that cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    pub fn reveal(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

/// What an app may send (protocol.md 1.9); the config keys are Sockudo's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppLimits {
    /// `max_event_batch_size`
    pub batch_events_max: usize,
    /// `max_event_payload_in_kb`, in bytes
    pub payload_bytes_max: usize,
    /// `max_event_channels_at_once`
    pub event_channels_max: usize,
    /// `max_event_name_length`
    pub event_name_chars_max: usize,
    /// `max_channel_name_length`
    pub channel_name_chars_max: usize,
    /// `max_batch_publications`: events times channels of one batch
    pub batch_publications_max: usize,
}

impl Default for AppLimits {
    fn default() -> AppLimits {
        AppLimits {
            batch_events_max: limits::BATCH_EVENTS_MAX,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX,
            event_channels_max: limits::EVENT_CHANNELS_MAX,
            event_name_chars_max: limits::EVENT_NAME_CHARS_MAX,
            channel_name_chars_max: limits::CHANNEL_NAME_CHARS_MAX,
            batch_publications_max: limits::BATCH_PUBLICATIONS_MAX,
        }
    }
}

impl AppLimits {
    /// The largest body that a valid batch of `events` events can have.
    ///
    /// It follows from the other limits: every character may be escaped to six
    /// bytes, and the names of all channels are bounded for the batch as a
    /// whole.
    pub fn body_bytes_max(&self, events: usize) -> usize {
        let per_event = limits::JSON_ESCAPE_FACTOR
            * (self.payload_bytes_max + self.event_name_chars_max * 4 + limits::TAGS_BYTES_MAX)
            + limits::EVENT_OVERHEAD_BYTES_MAX;
        let channels = (events * self.event_channels_max).min(self.batch_publications_max + events);
        let per_channel = limits::JSON_ESCAPE_FACTOR * self.channel_name_chars_max + 4;
        events * per_event + channels * per_channel + limits::EVENT_OVERHEAD_BYTES_MAX
    }
}

/// All apps this node serves, found by id (backends) or by key (browsers).
#[derive(Debug, Default)]
pub struct Apps {
    by_id: HashMap<Arc<str>, Arc<App>>,
    by_key: HashMap<String, Arc<App>>,
}

impl Apps {
    /// `apps` have distinct ids and distinct keys: [`crate::config`] has
    /// checked it.
    pub fn new(apps: impl IntoIterator<Item = App>) -> Apps {
        let mut all = Apps::default();
        for app in apps {
            let app = Arc::new(app);
            all.by_id.insert(app.id.clone(), app.clone());
            all.by_key.insert(app.key.clone(), app);
        }
        all
    }

    pub fn by_id(&self, id: &str) -> Option<&Arc<App>> {
        self.by_id.get(id)
    }

    pub fn by_key(&self, key: &str) -> Option<&Arc<App>> {
        self.by_key.get(key)
    }
}
