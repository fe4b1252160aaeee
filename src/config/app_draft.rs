//! The settings of one app while they are read.

use std::sync::Arc;
use std::time::Duration;

use super::message_rate::MessageRate;
use super::origin::Origin;
use crate::app::{App, AppFeatures, AppLimits, AppRates, Rate, Secret};
use crate::delta::channels::ChannelDeltas;
use crate::metrics;

/// An app, and the settings that determine one of its fields together with others.
#[derive(Debug)]
pub struct AppDraft {
    /// The source that first defined the app.
    pub(super) origin: Origin,
    /// `id` and `key` are empty until they are set; `secrets` is always empty.
    pub(super) app: App,
    pub(super) secret: Option<Secret>,
    pub(super) further_secrets: Vec<Secret>,
    pub(super) client_events: Option<u64>,
    pub(super) client_event_window: Duration,
    pub(super) message_rate: Option<MessageRate>,
    pub(super) requires_authorization: bool,
    pub(super) authorization_timeout: Duration,
}

impl AppDraft {
    pub(super) fn new(origin: Origin) -> AppDraft {
        AppDraft {
            origin,
            app: App {
                id: "".into(),
                key: String::new(),
                secrets: Vec::new(),
                enabled: true,
                limits: AppLimits::default(),
                rates: AppRates::default(),
                features: AppFeatures::default(),
                origins: Vec::new(),
                webhooks: Vec::new(),
                deltas: ChannelDeltas::default(),
                metrics: Arc::default(),
            },
            secret: None,
            further_secrets: Vec::new(),
            client_events: None,
            client_event_window: Duration::ZERO,
            message_rate: None,
            requires_authorization: false,
            authorization_timeout: Duration::ZERO,
        }
    }

    /// `secret`, then `secrets`, without duplicates: the newest first.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let mut secrets = Vec::new();
        for secret in self.secret.iter().chain(&self.further_secrets) {
            if !secrets.contains(secret) {
                secrets.push(secret.clone());
            }
        }
        secrets
    }

    pub(super) fn into_app(self) -> App {
        let secrets = self.secrets();
        let mut app = self.app;
        app.secrets = secrets;
        app.metrics = metrics::apps::of_app(&app.id);
        app.rates.client_events =
            self.client_events.map(|count| Rate { count, window: self.client_event_window });
        app.rates.messages = self.message_rate.map(|it| it.rate);
        app.rates.messages_terminate = self.message_rate.is_some_and(|it| it.terminate);
        app.features.authorization_timeout =
            self.requires_authorization.then_some(self.authorization_timeout);
        app
    }
}
