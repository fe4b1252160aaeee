//! Sign-in, the user channel of a signed-in connection, and its watchlist
//! (protocol.md 2.9, 2.10).
use bytes::Bytes;
use thiserror::Error;

use super::connection::{Connection, User};
use super::credentials::{self, CredentialsError};
use crate::auth;
use crate::channel::{ChannelId, ChannelName, UserIdError};
use crate::channels::{self, ChannelCommand, Command, Confirmation};
use crate::encode::DeliveryOptions;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::command::Signin;
use crate::wire::identity::{IdentityError, UserData};
use crate::wire::reply;

/// Why the server refuses a sign-in; the text of a `pusher:error` with code 4009. A wrong
/// signature also closes the connection. Invalid `user_data` with a valid signature is a mistake
/// of the app's backend and leaves it open.
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
            // A repeated sign-in as the same user is confirmed and changes nothing.
            Ok((_, channel)) => {
                let confirmation = reply::signin_success(self.event_prefix, &signin.user_data);
                self.subscribe_to_user_channel(&channel, confirmation).await;
            }
            Err(error) => {
                self.send_error(Some(4009), &error.to_string());
                if let SigninError::Credentials(_) = error {
                    self.write_buffer.close(Close::Unauthorized);
                }
            }
        }
    }

    /// Whether `channel` is the user channel of this connection. A subscription to it needs no
    /// signature; one to any other user channel is refused.
    pub(super) fn is_own_user_channel(&self, channel: &ChannelName) -> bool {
        self.user.as_ref().is_some_and(|user| user.channel == *channel)
    }

    /// Ends the watchlist and the subscription to the user channel when the connection has
    /// ended. The user is offline after the last connection in the cluster.
    pub(super) async fn sign_out(&mut self) {
        let Some(user) = self.user.take() else { return };
        if !user.watched.is_empty() {
            self.node.channels.send(Command::Unwatch { users: user.watched, socket: self.socket }).await;
        }
        self.send(&user.channel, ChannelCommand::Unsubscribe { socket: self.socket }).await;
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
            let message = format!("`watchlist` has {count} users, only the first {count_max} are watched");
            confirmation =
                [confirmation, reply::error(self.event_prefix, Some(4302), &message)].concat().into();
            watchlist.truncate(count_max);
        }
        let watched = self.channel_ids(&watchlist);
        if !watched.is_empty() {
            let (app, socket, write_buffer) = (self.app.clone(), self.socket, self.write_buffer.clone());
            let (users, event_prefix) = (watched.clone(), self.event_prefix);
            let command = Command::Watch { app, users, socket, write_buffer, event_prefix };
            self.node.channels.send(command).await;
        }
        // After `Watch`: the first status follows the confirmation of the sign-in.
        self.subscribe_to_user_channel(&channel, confirmation).await;
        self.user = Some(Box::new(User { id: data.id, info: data.info, channel, watched }));
    }

    /// Subscribes to the user channel, which has no deltas (protocol.md 3.12).
    async fn subscribe_to_user_channel(&self, channel: &ChannelName, confirmation: Bytes) {
        let command = ChannelCommand::Subscribe(Box::new(channels::Subscribe {
            app: self.app.clone(),
            socket: self.socket,
            write_buffer: self.write_buffer.clone(),
            options: DeliveryOptions { event_prefix: self.event_prefix, ..DeliveryOptions::default() },
            filter: None,
            resume: None,
            member: None,
            confirmation: Confirmation::Signin(confirmation),
            attempt: 0,
            permit: None,
        }));
        self.send(channel, command).await;
    }

    /// The user channels of `users`. Invalid ids are left out: a sign-in with such an id fails,
    /// so it is never online (protocol.md 2.10).
    fn channel_ids(&self, users: &[String]) -> Vec<ChannelId> {
        let channels = users.iter().filter_map(|user| ChannelName::of_user(user).ok());
        channels.map(|channel| ChannelId::new(&self.app.id, &channel)).collect()
    }
}
