//! `POST …/users/{id}/terminate_connections` (protocol.md 1.7).

use axum::extract::State;

use super::ApiError;
use super::path::PathParams;
use super::rates::{self, Rated};
use super::reply::Reply;
use super::signed::SignedRequest;
use crate::channel::ChannelName;
use crate::node::Node;
use crate::publish::terminate_user;

/// Closes all connections that are signed in as the user. Returns `{}`, for an unknown user too.
/// The body is ignored: some libraries send `{}`, others an empty body.
pub(super) async fn post_terminate(
    State(node): State<Node>,
    PathParams((_, user_id)): PathParams<(String, String)>,
    signed: SignedRequest,
) -> Rated {
    let work = Box::pin(async {
        let own_channel = ChannelName::of_user(&user_id).map_err(|error| ApiError::invalid_user(&error))?;
        terminate_user(&node.backend, &signed.app, &own_channel).await?;
        Ok(Reply::empty())
    });
    rates::read(&node, &signed.app, work).await
}
