//! Client events: from one subscriber to the other subscribers of its channel
//! (protocol.md 2.7).

use bytes::Bytes;
use thiserror::Error;

use super::connection::Connection;
use super::rate_windows::RateLimitExceeded;
use crate::backend::BackendError;
use crate::channel::{ChannelKind, ChannelName, ChannelNameError};
use crate::event::Event;
use crate::metrics::metrics;
use crate::publish::publish_client_event;
use crate::wire::command::ClientEvent;

/// Why the server refuses a client event; the text of a `pusher:error` with code 4301.
#[derive(Debug, PartialEq, Eq, Error)]
enum ClientEventError {
    #[error("Client events are not enabled for this app")]
    Disabled,
    #[error("The name of the client event has {chars} characters (limit: {chars_max})")]
    Name { chars: usize, chars_max: usize },
    #[error("The client event has no valid channel: {0}")]
    Channel(#[from] ChannelNameError),
    #[error("Client events are not allowed on `{0}`: only on private and presence channels")]
    Kind(ChannelName),
    #[error("This connection is not subscribed to `{0}`, the channel of the client event")]
    NotSubscribed(ChannelName),
    #[error("The data of the client event has {bytes} bytes (limit: {bytes_max})")]
    Data { bytes: usize, bytes_max: usize },
    #[error(transparent)]
    RateLimitExceeded(#[from] RateLimitExceeded),
    #[error("No reply from Redis in time: the client event may have been published")]
    Unknown,
    #[error("The client event was not published: Redis is unavailable: the operation was not executed")]
    Unavailable,
    #[error("The client event was not published: {0}")]
    NotSent(BackendError),
}

impl Connection {
    /// Publishes a client event, or reports the error to the client. A published event has no
    /// response. The connection handles its next message only after the backend has returned,
    /// so its client events keep their order.
    pub(super) async fn trigger(&mut self, event: ClientEvent) {
        match self.try_trigger(event).await {
            Ok(()) => {
                metrics().client_events.increment(1);
                self.app.metrics.client_events.increment(1);
            }
            Err(error @ ClientEventError::RateLimitExceeded(_)) => {
                self.send_error(Some(4301), &error.to_string());
                self.on_rate_exceeded(self.app.rates.client_events_terminate);
            }
            Err(error) => self.send_error(Some(4301), &error.to_string()),
        }
    }

    async fn try_trigger(&mut self, event: ClientEvent) -> Result<(), ClientEventError> {
        let (channel, event) = self.check_event(event)?;
        self.admits_client_event()?;
        let published = publish_client_event(&self.node.backend, &self.app, &channel, &event).await;
        published.map_err(|error| match error {
            BackendError::OutcomeUnknown => ClientEventError::Unknown,
            BackendError::Unavailable => ClientEventError::Unavailable,
            error => ClientEventError::NotSent(error),
        })
    }

    fn check_event(&self, event: ClientEvent) -> Result<(ChannelName, Event), ClientEventError> {
        if !self.app.features.client_events {
            return Err(ClientEventError::Disabled);
        }
        let limits = &self.app.limits;
        let (chars, chars_max) = (event.name.chars().count(), limits.event_name_chars_max);
        if chars > chars_max {
            return Err(ClientEventError::Name { chars, chars_max });
        }
        let channel = ChannelName::parse(&event.channel, limits.channel_name_chars_max)?;
        if let ChannelKind::Public | ChannelKind::User = channel.kind() {
            return Err(ClientEventError::Kind(channel));
        }
        let Some(subscription) = self.subscriptions.get(&channel) else {
            return Err(ClientEventError::NotSubscribed(channel));
        };
        let (bytes, bytes_max) = (event.data.len(), limits.payload_bytes_max);
        if bytes > bytes_max {
            return Err(ClientEventError::Data { bytes, bytes_max });
        }
        // `user_id` comes from the subscription, never from the message: a client cannot send
        // as another user.
        let member = subscription.member.as_ref();
        let event = Event {
            except: Some(self.socket),
            user: member.map(|member| Bytes::copy_from_slice(member.user_id.as_bytes())),
            ..Event::new(event.name, event.data)
        };
        Ok((channel, event))
    }
}
