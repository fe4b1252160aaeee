//! The conductor of joining and leaving, by channel kind (protocol.md 2.4, 3.2).

use std::time::Instant;

use bytes::Bytes;

use super::connection::{Connection, Subscription};
use crate::auth;
use crate::channel::{Address, ChannelKind, ChannelName};
use crate::delta::Algorithm;
use crate::inbox::Request;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::command::{DeltaRequest, Subscribe};
use crate::wire::reply;

/// Why a subscription fails; the socket stays open.
#[derive(Debug)]
struct Refusal {
    kind: &'static str,
    error: String,
    status: u16,
}

impl Connection {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) {
        match self.check(&subscribe) {
            Ok(channel) => self.join(channel, &subscribe.delta).await,
            Err(refusal) => {
                metrics().subscriptions_refused.increment(1);
                let Refusal { kind, error, status } = refusal;
                self.outbox.send(reply::subscription_error(&subscribe.channel, kind, &error, status));
            }
        }
    }

    pub(super) async fn unsubscribe(&mut self, channel: &str) {
        if let Some((channel, _)) = self.subscriptions.remove_entry(channel) {
            let address = Address::new(&self.app.id, &channel);
            self.node.inbox.ask(Request::Unsubscribe { address, socket: self.socket }).await;
        }
    }

    /// The connection has ended.
    pub(super) async fn unsubscribe_all(&mut self) {
        for (channel, _) in std::mem::take(&mut self.subscriptions) {
            let address = Address::new(&self.app.id, &channel);
            self.node.inbox.ask(Request::Unsubscribe { address, socket: self.socket }).await;
        }
    }

    /// The socket's own opt-in: holds for every subscription that has said
    /// nothing of its own, before or after, and erases nothing.
    pub(super) async fn enable_deltas(&mut self, algorithms: Option<&[String]>) {
        let algorithm = match algorithms {
            None => Some(Algorithm::ALL[0]),
            Some(names) => Algorithm::among(names),
        };
        let algorithm = algorithm.filter(|_| self.node.delta.enabled);
        self.outbox.send(reply::delta_enabled(None, algorithm.map(Algorithm::name)));
        if algorithm.is_none() || std::mem::replace(&mut self.deltas, true) {
            return;
        }
        let unsaid = self.subscriptions.iter().filter(|(_, subscription)| subscription.deltas.is_none());
        let channels: Vec<ChannelName> = unsaid.map(|(channel, _)| channel.clone()).collect();
        for channel in channels.into_iter().filter(|channel| self.permits_deltas(channel)) {
            let address = Address::new(&self.app.id, &channel);
            self.node.inbox.ask(Request::ChangeForm { address, socket: self.socket, deltas: true }).await;
        }
    }

    /// The client has no base: its next event is full. Once a second at most, for
    /// full events are what deltas are there to avoid.
    pub(super) async fn resync(&mut self, channel: &str) {
        let Some((channel, subscription)) = self.subscriptions.get_key_value(channel) else { return };
        if subscription.synced.is_some_and(|synced| synced.elapsed() < limits::DELTA_SYNC_INTERVAL) {
            metrics().delta_syncs_ignored.increment(1);
            return;
        }
        metrics().delta_syncs.increment(1);
        let channel = channel.clone();
        let address = Address::new(&self.app.id, &channel);
        if let Some(subscription) = self.subscriptions.get_mut(&channel) {
            subscription.synced = Some(Instant::now());
        }
        self.node.inbox.ask(Request::Resync { address, socket: self.socket }).await;
    }

    fn check(&self, subscribe: &Subscribe) -> Result<ChannelName, Refusal> {
        let channel = ChannelName::parse(&subscribe.channel, self.app.limits.channel_name_chars_max)
            .map_err(|error| Refusal::new("InvalidChannel", error.to_string(), 400))?;
        if let Some(kind) = channel.unsupported() {
            return Err(Refusal::unsupported(kind));
        }
        if subscribe.filtered {
            return Err(Refusal::unsupported("tag filters"));
        }
        if self.subscriptions.len() >= limits::SOCKET_SUBSCRIPTIONS_MAX
            && !self.subscriptions.contains_key(&channel)
        {
            let error = format!("a connection can have {} subscriptions", limits::SOCKET_SUBSCRIPTIONS_MAX);
            return Err(Refusal::new("LimitReached", error, 4100));
        }
        match channel.kind() {
            ChannelKind::Private | ChannelKind::Encrypted => {
                self.check_auth(&channel, subscribe.auth.as_deref())?;
            }
            ChannelKind::Public | ChannelKind::Presence | ChannelKind::User => {}
        }
        Ok(channel)
    }

    fn check_auth(&self, channel: &ChannelName, auth: Option<&str>) -> Result<(), Refusal> {
        let refused = |error| {
            metrics().auth_failures.increment(1);
            Err(Refusal::new("AuthError", error, 401))
        };
        let Some((key, signature)) = auth.unwrap_or_default().split_once(':') else {
            return refused("`auth` must be the app's key, a colon and a signature".to_owned());
        };
        if key != self.app.key {
            return refused("the key in `auth` is not the key of this connection".to_owned());
        }
        let text = auth::subscription_text(&self.socket.to_string(), channel.as_str(), None);
        if auth::verify(&self.app.secrets, &text, signature) {
            return Ok(());
        }
        refused(format!("Invalid signature: Expected HMAC SHA256 hex digest of {text}, but got {signature}"))
    }

    async fn join(&mut self, channel: ChannelName, request: &DeltaRequest) {
        let deltas = match request {
            DeltaRequest::Unsaid => None,
            DeltaRequest::Off => Some(false),
            DeltaRequest::On { .. } => Some(true),
        };
        let request = Request::Subscribe {
            address: Address::new(&self.app.id, &channel),
            app: self.app.clone(),
            member: None,
            socket: self.socket,
            outbox: self.outbox.clone(),
            deltas: deltas.unwrap_or(self.deltas) && self.permits_deltas(&channel),
            confirmation: self.confirmation(&channel, deltas),
        };
        self.subscriptions.insert(channel, Subscription { deltas, synced: None });
        self.node.inbox.ask(request).await;
    }

    /// `subscription_succeeded`, and an answer to an opt-in for this channel. On
    /// encrypted channels deltas are off without a word (protocol.md 3.12).
    fn confirmation(&self, channel: &ChannelName, deltas: Option<bool>) -> Bytes {
        let succeeded = reply::subscription_succeeded(channel.as_str());
        if deltas != Some(true) || channel.kind() == ChannelKind::Encrypted {
            return succeeded;
        }
        let permitted = self.node.delta.enabled && self.app.deltas.permits(channel.as_str());
        let algorithm = permitted.then_some(Algorithm::ALL[0].name());
        [succeeded, reply::delta_enabled(Some(channel.as_str()), algorithm)].concat().into()
    }

    /// The server and the channel only permit; it is the client that asks.
    fn permits_deltas(&self, channel: &ChannelName) -> bool {
        self.node.delta.enabled
            && self.app.deltas.permits(channel.as_str())
            && !self.decodes_no_deltas
            && channel.kind() != ChannelKind::Encrypted
    }
}

impl Refusal {
    fn new(kind: &'static str, error: String, status: u16) -> Refusal {
        Refusal { kind, error, status }
    }

    fn unsupported(what: &str) -> Refusal {
        Refusal::new("Unsupported", format!("{what} are not supported by this version"), 422)
    }
}
