//! The conductor of joining and leaving, by channel kind (protocol.md 2.4, 3.2).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::connection::{Connection, Subscription};
use super::credentials;
use crate::auth;
use crate::channel::{Address, ChannelKind, ChannelName};
use crate::delta::Algorithm;
use crate::inbox::Request;
use crate::limits;
use crate::metrics::metrics;
use crate::presence::Member;
use crate::wire::command::{DeltaRequest, Subscribe};
use crate::wire::reply;

/// Why a subscription fails; the socket stays open.
#[derive(Debug)]
pub(super) struct Refusal {
    kind: &'static str,
    error: String,
    status: u16,
}

/// A subscription that may be.
#[derive(Debug)]
struct Permit {
    channel: ChannelName,
    /// On a presence channel: as whom.
    member: Option<Arc<Member>>,
}

impl Connection {
    pub(super) async fn subscribe(&mut self, subscribe: Subscribe) {
        match self.check(&subscribe) {
            Ok(permit) => self.join(permit, &subscribe.delta).await,
            Err(refusal) => self.refuse(&subscribe.channel, refusal),
        }
    }

    pub(super) fn refuse(&self, channel: &str, refusal: Refusal) {
        metrics().subscriptions_refused.increment(1);
        let Refusal { kind, error, status } = refusal;
        self.outbox.send(reply::subscription_error(channel, kind, &error, status));
    }

    /// The user's own channel is not among the subscriptions: only the end of the
    /// connection leaves it.
    pub(super) async fn unsubscribe(&mut self, channel: &str) {
        if let Some((channel, _)) = self.subscriptions.remove_entry(channel) {
            let address = Address::new(&self.app.id, &channel);
            self.node.inbox.ask(Request::Unsubscribe { address, socket: self.socket }).await;
        }
    }

    /// The connection has ended.
    pub(super) async fn leave_all(&mut self) {
        self.sign_out().await;
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
            // The fan-out writes no other.
            Some(names) => Algorithm::among(names).filter(|it| *it == Algorithm::Fossil),
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

    fn check(&self, subscribe: &Subscribe) -> Result<Permit, Refusal> {
        let channel = ChannelName::parse(&subscribe.channel, self.app.limits.channel_name_chars_max)
            .map_err(|error| Refusal::new("InvalidChannel", error.to_string(), 400))?;
        if subscribe.filtered {
            let error = "tag filters are not supported by this version";
            return Err(Refusal::new("Unsupported", error.to_owned(), 422));
        }
        if self.subscriptions.len() >= limits::SOCKET_SUBSCRIPTIONS_MAX
            && !self.subscriptions.contains_key(&channel)
        {
            let error = format!("a connection can have {} subscriptions", limits::SOCKET_SUBSCRIPTIONS_MAX);
            return Err(Refusal::new("LimitReached", error, 4100));
        }
        let mut member = None;
        match channel.kind() {
            ChannelKind::Public => {}
            ChannelKind::Private | ChannelKind::Encrypted => {
                self.check_auth(&channel, subscribe.auth.as_deref(), None)?;
            }
            ChannelKind::Presence => member = Some(self.check_presence(&channel, subscribe)?),
            ChannelKind::User => self.check_own(&channel)?,
        }
        Ok(Permit { channel, member })
    }

    fn check_own(&self, channel: &ChannelName) -> Result<(), Refusal> {
        if self.is_own(channel) {
            return Ok(());
        }
        let error = "a user's channel is for connections that have signed in as that user";
        Err(Refusal::new("AuthError", error.to_owned(), 401))
    }

    pub(super) fn check_auth(
        &self,
        channel: &ChannelName,
        auth: Option<&str>,
        channel_data: Option<&str>,
    ) -> Result<(), Refusal> {
        let text = auth::subscription_text(&self.socket.to_string(), channel.as_str(), channel_data);
        credentials::check(&self.app, auth.unwrap_or_default(), text)
            .map_err(|error| Refusal::new("AuthError", error.to_string(), 401))
    }

    async fn join(&mut self, permit: Permit, request: &DeltaRequest) {
        let Permit { channel, member } = permit;
        let deltas = match request {
            DeltaRequest::Unsaid => None,
            DeltaRequest::Off => Some(false),
            DeltaRequest::On { .. } => Some(true),
        };
        let request = Request::Subscribe {
            address: Address::new(&self.app.id, &channel),
            app: self.app.clone(),
            member: member.clone(),
            socket: self.socket,
            outbox: self.outbox.clone(),
            deltas: deltas.unwrap_or(self.deltas) && self.permits_deltas(&channel),
            confirmation: self.confirmation(&channel, deltas),
        };
        if channel.kind() != ChannelKind::Public {
            self.authorize_by = None;
        }
        if channel.kind() != ChannelKind::User {
            self.subscriptions.insert(channel, Subscription { deltas, synced: None, member });
        }
        self.node.inbox.ask(request).await;
    }

    /// `subscription_succeeded`, which on a presence channel is the inbox's to
    /// say, and an answer to an opt-in for this channel. On encrypted channels and
    /// those of users deltas are off without a word (protocol.md 3.12).
    fn confirmation(&self, channel: &ChannelName, deltas: Option<bool>) -> Bytes {
        let succeeded = match channel.kind() {
            ChannelKind::Presence => Bytes::new(),
            _ => reply::subscription_succeeded(channel.as_str()),
        };
        if deltas != Some(true) || never_has_deltas(channel) {
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
            && !never_has_deltas(channel)
    }
}

fn never_has_deltas(channel: &ChannelName) -> bool {
    matches!(channel.kind(), ChannelKind::Encrypted | ChannelKind::User)
}

impl Refusal {
    pub(super) fn new(kind: &'static str, error: String, status: u16) -> Refusal {
        Refusal { kind, error, status }
    }
}
