//! Subscribing and unsubscribing, by channel kind (protocol.md 2.4, 3.2). This module validates
//! a subscription; the channels actor confirms it.

use std::sync::Arc;

use tokio::time::Instant;

use super::connection::{Connection, Subscription};
use super::credentials;
use super::refusal::Refusal;
use super::waiting::WaitingSubscribe;
use crate::auth;
use crate::capacity::Shrink;
use crate::channel::{ChannelId, ChannelKind, ChannelName};
use crate::channels::{self, ChannelCommand, Confirmation};
use crate::encode::DeliveryOptions;
use crate::filter::Filter;
use crate::limits;
use crate::metrics::metrics;
use crate::presence::Member;
use crate::resume_tokens::Holder;
use crate::sockets::subscription_permit::SubscriptionPermit;
use crate::sockets::write_buffer::Rejection;
use crate::wire::command::{DeltaRequest, FilterText, Subscribe};
use crate::wire::resume::{Resume, ResumeRequest};

/// Whether a signature that does not cover `channel_data` is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsigned {
    Allowed,
    Refused,
}

/// A subscription that has passed all checks of the connection.
#[derive(Debug)]
struct CheckedSubscription {
    channel: ChannelName,
    /// The member on a presence channel.
    member: Option<Arc<Member>>,
    filter: Option<Box<Filter>>,
    resume: Option<ResumeRequest>,
}

impl Connection {
    /// Subscribes if the budget of the connection and the pending subscriptions of the app permit.
    /// Otherwise the command waits, and every message behind it.
    pub(super) async fn subscribe_in_turn(&mut self, subscribe: Subscribe) {
        let now = Instant::now();
        let cost = limits::SUBSCRIBE_COST_BYTES + self.permits.take_charge();
        let not_before = self.budget.spend(cost, now);
        match self.permits.try_acquire() {
            Some(permit) if not_before <= now => self.subscribe(subscribe, permit).await,
            _ => {
                metrics().subscriptions_delayed.increment(1);
                let waiting = WaitingSubscribe::new(subscribe, not_before, &self.permits);
                self.waiting = Some(Box::new(waiting));
            }
        }
    }

    /// Continues with the command that waited.
    pub(super) async fn subscribe_waiting(&mut self, permit: SubscriptionPermit) {
        if let Some(waiting) = self.waiting.take() {
            self.subscribe(waiting.into_command(), permit).await;
        }
    }

    async fn subscribe(&mut self, subscribe: Subscribe, permit: SubscriptionPermit) {
        match self.check(&subscribe) {
            Ok(checked) => self.send_subscribe(checked, subscribe.delta, permit).await,
            Err(refusal) => self.refuse(&subscribe.channel, refusal),
        }
    }

    /// Ends a subscription, if there is one. `subscriptions` does not contain the user channel,
    /// whose subscription ends only with the connection.
    pub(super) async fn unsubscribe(&mut self, channel: &str) {
        if let Some((channel, _)) = self.subscriptions.remove_entry(channel) {
            self.subscriptions.shrink_if_sparse();
            self.send(&channel, ChannelCommand::Unsubscribe { socket: self.socket }).await;
        }
    }

    /// Ends all subscriptions, that to the user channel included, when the connection has ended.
    pub(super) async fn unsubscribe_all(&mut self) {
        self.sign_out().await;
        for (channel, _) in std::mem::take(&mut self.subscriptions) {
            self.send(&channel, ChannelCommand::Unsubscribe { socket: self.socket }).await;
        }
    }

    fn check(&self, subscribe: &Subscribe) -> Result<CheckedSubscription, Refusal> {
        let channel = ChannelName::parse(&subscribe.channel, self.app.limits.channel_name_chars_max)
            .map_err(|error| Refusal::new("InvalidChannel", error.to_string(), 400))?;
        let subscriptions_max = self.app.limits.subscriptions_max;
        if self.subscriptions.len() >= subscriptions_max && !self.subscriptions.contains_key(&channel) {
            let error = format!("too many subscriptions on this connection (limit: {subscriptions_max})");
            return Err(Refusal::new("LimitReached", error, 4100));
        }
        let filter = self.check_filter(subscribe.filter.as_ref())?;
        let resume = subscribe.resume.as_deref().map(ResumeRequest::parse).transpose();
        let resume = resume.map_err(|error| Refusal::new("InvalidResume", error.to_string(), 400))?.flatten();
        let mut member = None;
        match channel.kind() {
            ChannelKind::Public => {}
            ChannelKind::Private | ChannelKind::Encrypted => {
                // Some backend libraries leave `channel_data` of private channels unsigned.
                let channel_data = subscribe.channel_data();
                self.check_auth(&channel, subscribe.auth.as_deref(), channel_data, Unsigned::Allowed)?;
            }
            ChannelKind::Presence => member = Some(self.check_presence(&channel, subscribe)?),
            ChannelKind::User => self.check_user_channel(&channel)?,
        }
        Ok(CheckedSubscription { channel, member, filter, resume })
    }

    fn check_filter(&self, text: Option<&FilterText>) -> Result<Option<Box<Filter>>, Refusal> {
        let Some(text) = text else { return Ok(None) };
        if !self.node.tag_filtering {
            let error = "tag filters are not enabled on this server: `tag_filtering.enabled`";
            return Err(Refusal::new("Unsupported", error.to_owned(), 422));
        }
        let filter = match text {
            FilterText::Filter(text) => Filter::parse(text),
            FilterText::Tags(text) => Filter::parse_tags(text),
        };
        let filter = filter.map_err(|error| Refusal::new("InvalidFilter", error.to_string(), 400))?;
        Ok(Some(Box::new(filter)))
    }

    fn check_user_channel(&self, channel: &ChannelName) -> Result<(), Refusal> {
        if self.is_own_user_channel(channel) {
            return Ok(());
        }
        let error = "a user channel requires a connection that is signed in as that user";
        Err(Refusal::new("AuthError", error.to_owned(), 401))
    }

    /// Verifies `auth` over socket id, channel and `channel_data`.
    pub(super) fn check_auth(
        &self,
        channel: &ChannelName,
        auth: Option<&str>,
        channel_data: Option<&str>,
        unsigned: Unsigned,
    ) -> Result<(), Refusal> {
        let socket = self.socket.to_string();
        let mut texts = vec![auth::subscription_text(&socket, channel.as_str(), channel_data)];
        if channel_data.is_some() && unsigned == Unsigned::Allowed {
            texts.push(auth::subscription_text(&socket, channel.as_str(), None));
        }
        credentials::check(&self.app, auth.unwrap_or_default(), &texts)
            .map_err(|error| Refusal::new("AuthError", error.to_string(), 401))
    }

    /// Sends the subscription to the channels actor, which confirms it to the client.
    async fn send_subscribe(
        &mut self,
        checked: CheckedSubscription,
        deltas: DeltaRequest,
        permit: SubscriptionPermit,
    ) {
        let CheckedSubscription { channel, member, filter, resume } = checked;
        let options = DeliveryOptions {
            event_prefix: self.event_prefix,
            algorithm: self.algorithm_for(&channel, &deltas),
            positions: resume.is_some(),
            filter: None,
        };
        let resume = match resume {
            Some(ResumeRequest::From(resume)) => {
                Some(Box::new(self.verify_token(&channel, member.as_deref(), resume)))
            }
            Some(ResumeRequest::Position) | None => None,
        };
        let deltas_reply = self.deltas_reply(&channel, &deltas, &options);
        self.attempts = self.attempts.wrapping_add(1);
        let attempt = self.attempts;
        if channel.kind() != ChannelKind::Public {
            self.authorize_by = None;
        }
        let command = ChannelCommand::Subscribe(Box::new(channels::Subscribe {
            app: self.app.clone(),
            socket: self.socket,
            write_buffer: self.write_buffer.clone(),
            options,
            filter,
            resume,
            member: member.clone(),
            confirmation: Confirmation::Subscription { deltas: deltas_reply },
            attempt,
            permit: Some(permit),
        }));
        self.send(&channel, command).await;
        if channel.kind() != ChannelKind::User {
            let synced = self.subscriptions.get(&channel).and_then(|existing| existing.synced);
            let requests_deltas = deltas != DeltaRequest::Unspecified;
            self.subscriptions.insert(channel, Subscription { requests_deltas, synced, member, attempt });
        }
    }

    /// Removes a token that this client was not given, or that is presented too often. Without one,
    /// only the ids of previous connections have an effect.
    fn verify_token(&mut self, channel: &ChannelName, member: Option<&Member>, mut resume: Resume) -> Resume {
        if !self.admits_resume(channel) {
            return Resume { token: None, ..resume };
        }
        let channel_id = ChannelId::new(&self.app.id, channel);
        let tokens = self.node.backend.resume_tokens();
        let mut sockets = std::iter::once(self.socket).chain(resume.previous_socket_ids.iter().copied());
        resume.token = resume.token.filter(|token| {
            sockets
                .any(|socket| tokens.verify(&channel_id, Holder::of(channel.kind(), socket, member), token))
        });
        resume
    }

    /// Drops the subscriptions that the channels actor has rejected, because a presence
    /// channel was full.
    pub(super) fn drop_rejected(&mut self) {
        for Rejection { channel, attempt } in self.write_buffer.take_rejections() {
            if self.subscriptions.get(&*channel).is_some_and(|it| it.attempt == attempt) {
                self.subscriptions.remove(&*channel);
            }
        }
    }
}
