//! `GET …/channels/{name}` (protocol.md 1.5, 1.6).

use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::json;

use super::ApiError;
use super::events::reply;
use super::path::InPath;
use super::signed::Signed;
use crate::channel::{Address, ChannelName};
use crate::node::Node;

/// `{"occupied":bool}` and the attributes asked for. A channel that nobody has
/// subscribed to is not an error.
pub(super) async fn get_channel(
    State(node): State<Node>,
    InPath((_, name)): InPath<(String, String)>,
    signed: Signed,
) -> Result<impl IntoResponse, ApiError> {
    let channel = ChannelName::parse(&name, signed.app.limits.channel_name_chars_max)?;
    let wants_count = parse_info(signed.query.get("info").map(String::as_str))?;
    let counts = node.backend.read_counts(&Address::new(&signed.app.id, &channel)).await?;
    let count = counts.subscriptions;
    let mut body = json!({ "occupied": count > 0 });
    if wants_count {
        body["subscription_count"] = count.into();
    }
    Ok(reply(&body))
}

/// Whether `subscription_count` is asked for; anything a channel without
/// presence or cache does not have is an error on GET.
fn parse_info(info: Option<&str>) -> Result<bool, ApiError> {
    let mut wants_count = false;
    for name in info.unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        match name {
            "subscription_count" => wants_count = true,
            "user_count" => {
                return Err(ApiError::invalid_info("`user_count` is only there on presence channels"));
            }
            "cache" => return Err(ApiError::invalid_info("`cache` is only there on cache channels")),
            _ => return Err(ApiError::invalid_info(format!("{name:?} is not an attribute of a channel"))),
        }
    }
    Ok(wants_count)
}
