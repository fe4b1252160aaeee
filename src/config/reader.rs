//! Typed access to [`Settings`].

use std::net::SocketAddr;

use ipnet::IpNet;

use super::layers::Settings;
use super::message_rate::MessageRate;
use super::origin::Place;
use super::value::Value;
use crate::app::{Secret, Webhook};
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDeltas;
use crate::delta::conflation::KeyPath;

/// Reads settings of the server or of one app. A key with a default always has a value
/// of its kind, because only `Kind::read` creates the values in [`Settings`]; tests.rs
/// reads all of them once. A key of another kind panics.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a Settings,
    pub(super) app: Option<usize>,
}

const TYPED: &str = "a key with a default has a value of its kind";

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        let place = self.app.map_or_else(|| Place::top(name), |app| Place::app(app, name));
        self.settings.get(place).map(|setting| &setting.value)
    }

    pub(super) fn address(&self, name: &str) -> SocketAddr {
        let found =
            self.value(name).and_then(|it| if let Value::Address(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        let found = self.value(name).and_then(|it| if let Value::Flag(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    pub(super) fn count(&self, name: &str) -> u64 {
        let found = self.value(name).and_then(|it| if let Value::Count(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    /// `None` is no limit: 0 in the settings.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        Some(self.count(name)).filter(|count| *count > 0)
    }

    pub(super) fn size(&self, name: &str) -> usize {
        usize::try_from(self.count(name)).expect("the table of keys bounds it below usize::MAX")
    }

    pub(super) fn number(&self, name: &str) -> f64 {
        let found = self.value(name).and_then(|it| if let Value::Number(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let found =
            self.value(name).and_then(|it| if let Value::List(it) = it { Some(it.clone()) } else { None });
        found.expect(TYPED)
    }

    pub(super) fn channel_deltas(&self) -> ChannelDeltas {
        match self.value("channel_delta_compression") {
            Some(Value::ChannelDeltas(patterns)) => ChannelDeltas::new(patterns.iter().cloned()),
            _ => ChannelDeltas::default(),
        }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.text("delta_compression.algorithm").and_then(|it| Algorithm::parse(&it)).expect(TYPED)
    }

    pub(super) fn key_path(&self) -> Option<KeyPath> {
        let found = self.value("delta_compression.conflation_key_path");
        found.and_then(|it| if let Value::KeyPath(it) = it { it.clone() } else { None })
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.value(name).and_then(|it| if let Value::Text(it) = it { Some(it.clone()) } else { None })
    }

    pub(super) fn redis_url(&self) -> Option<String> {
        self.value("redis").and_then(|it| if let Value::RedisUrl(it) = it { Some(it.clone()) } else { None })
    }

    /// `secret`, then `secrets`, without duplicates: the newest first.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let mut secrets = Vec::new();
        if let Some(Value::Secret(secret)) = self.value("secret") {
            secrets.push(secret.clone());
        }
        if let Some(Value::Secrets(further)) = self.value("secrets") {
            for secret in further {
                if !secrets.contains(secret) {
                    secrets.push(secret.clone());
                }
            }
        }
        secrets
    }

    pub(super) fn networks(&self) -> Vec<IpNet> {
        let found = self
            .value("trusted_proxies")
            .and_then(|it| if let Value::Networks(it) = it { Some(it.clone()) } else { None });
        found.expect(TYPED)
    }

    pub(super) fn message_rate(&self) -> Option<MessageRate> {
        let found = self.value("message_rate_limit");
        found.and_then(|it| if let Value::MessageRate(it) = it { Some(*it) } else { None }).expect(TYPED)
    }

    pub(super) fn webhooks(&self) -> Vec<Webhook> {
        let found = self
            .value("webhooks")
            .and_then(|it| if let Value::Webhooks(it) = it { Some(it.clone()) } else { None });
        found.expect(TYPED)
    }
}
