//! [`Settings`], with their types.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::layers::{Place, Settings};
use super::message_rate::MessageRate;
use super::value::Value;
use crate::app::{Secret, Webhook};
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDeltas;
use crate::delta::conflation::KeyPath;

/// Typed access. A key with a default always has a value of its kind, because
/// nothing gets into [`Settings`] but through `Kind::read`; tests.rs reads them
/// all once.
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

    /// 0 is no limit.
    pub(super) fn limit(&self, name: &str) -> Option<u64> {
        Some(self.count(name)).filter(|count| *count > 0)
    }

    pub(super) fn size(&self, name: &str) -> usize {
        usize::try_from(self.count(name)).expect("the table bounds it far below")
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

    /// `secret` first: what this server signs, it signs with that one.
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
