//! Signing in, being reached as a user, and watching others (protocol.md 2.9,
//! 2.10).

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::connection::Connection;
use super::credentials::{self, CredentialsError};
use crate::auth;
use crate::channel::{ChannelId, ChannelName, UserIdError};
use crate::channels;
use crate::fan_out::DeliveryOptions;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::command::Signin;
use crate::wire::identity::{IdentityError, UserData};
use crate::wire::reply;

/// Whom a connection has signed in as.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: Arc<str>,
    /// `user_info`, as JSON text.
    pub(super) info: Bytes,
    /// The user's own. To be subscribed to it is what makes the user online, and
    /// the way for what is sent to the user, its termination included.
    pub(super) channel: ChannelName,
    /// The channels of the users that this one watches.
    watched: Vec<ChannelId>,
}

/// Told in a `pusher:error` with code 4009. A wrong signature ends the
/// connection, as elsewhere; what the app's backend has signed is only a mistake.
#[derive(Debug, PartialEq, Eq, Error)]
enum SigninError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    UserData(#[from] IdentityError),
    #[error("`id` is refused: {0}")]
    Id(#[from] UserIdError),
    #[error("this connection is signed in as another user")]
    OtherUser,
}

impl Connection {
    pub(super) async fn sign_in(&mut self, signin: Signin) {
        match self.check_signin(&signin) {
            Ok((data, channel)) if self.user.is_none() => self.sign_in_as(data, channel, &signin).await,
            // Again, as the same user: nothing changes.
            Ok((_, channel)) => {
                self.enter(&channel, reply::signin_success(self.event_prefix, &signin.user_data)).await;
            }
            Err(error) => {
                self.send_error(Some(4009), &error.to_string());
                if let SigninError::Credentials(_) = error {
                    self.write_buffer.close(Close::Unauthorized);
                }
            }
        }
    }

    /// Whether this is the channel of the user who has signed in here: nobody
    /// needs a signature for their own, and nobody gets on another one.
    pub(super) fn is_own(&self, channel: &ChannelName) -> bool {
        self.user.as_ref().is_some_and(|user| user.channel == *channel)
    }

    /// The connection has ended: its user may be offline now.
    pub(super) async fn sign_out(&mut self) {
        let Some(user) = self.user.take() else { return };
        if !user.watched.is_empty() {
            self.node
                .channels
                .send(channels::Command::Unwatch { users: user.watched, socket: self.socket })
                .await;
        }
        let channel_id = ChannelId::new(&self.app.id, &user.channel);
        self.node.channels.send(channels::Command::Unsubscribe { channel_id, socket: self.socket }).await;
    }

    fn check_signin(&self, signin: &Signin) -> Result<(UserData, ChannelName), SigninError> {
        let text = auth::signin_text(&self.socket.to_string(), &signin.user_data);
        credentials::check(&self.app, &signin.auth, &[text])?;
        let data = UserData::parse(&signin.user_data)?;
        let channel = ChannelName::of_user(&data.id)?;
        match &self.user {
            Some(user) if user.id != data.id => Err(SigninError::OtherUser),
            _ => Ok((data, channel)),
        }
    }

    async fn sign_in_as(&mut self, data: UserData, channel: ChannelName, signin: &Signin) {
        metrics().signins.increment(1);
        self.authorize_by = None;
        let mut watchlist = if self.app.features.watchlists { data.watchlist } else { Vec::new() };
        let mut confirmation = reply::signin_success(self.event_prefix, &signin.user_data);
        if watchlist.len() > limits::WATCHLIST_MAX {
            let (count, count_max) = (watchlist.len(), limits::WATCHLIST_MAX);
            let message = format!("`watchlist` has {count} users, the first {count_max} are watched");
            confirmation =
                [confirmation, reply::error(self.event_prefix, Some(4302), &message)].concat().into();
            watchlist.truncate(count_max);
        }
        self.enter(&channel, confirmation).await;
        let watched = self.channel_ids(&watchlist);
        if !watched.is_empty() {
            let (app, socket, write_buffer) = (self.app.clone(), self.socket, self.write_buffer.clone());
            let (own, users) = (ChannelId::new(&app.id, &channel), watched.clone());
            let event_prefix = self.event_prefix;
            self.node
                .channels
                .send(channels::Command::Watch { app, own, users, socket, write_buffer, event_prefix })
                .await;
        }
        self.user = Some(Box::new(User { id: data.id, info: data.info, channel, watched }));
    }

    /// Subscribes to the user's own channel. It has no deltas (protocol.md 3.12).
    async fn enter(&self, channel: &ChannelName, confirmation: Bytes) {
        let command = channels::Command::Subscribe {
            channel_id: ChannelId::new(&self.app.id, channel),
            app: self.app.clone(),
            member: None,
            socket: self.socket,
            write_buffer: self.write_buffer.clone(),
            options: DeliveryOptions { event_prefix: self.event_prefix, ..DeliveryOptions::default() },
            resume: None,
            confirmation,
        };
        self.node.channels.send(command).await;
    }

    /// Ids that nobody can sign in with are left out: they are never online.
    fn channel_ids(&self, users: &[String]) -> Vec<ChannelId> {
        let channels = users.iter().filter_map(|user| ChannelName::of_user(user).ok());
        channels.map(|channel| ChannelId::new(&self.app.id, &channel)).collect()
    }
}
