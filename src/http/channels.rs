//! Queries of channels (protocol.md 1.5): the occupied channels, one channel, and the users of
//! a presence channel. All responses describe the whole cluster.

use std::borrow::Cow;

use axum::extract::State;
use serde::{Serialize, Serializer};

use super::ApiError;
use super::info::Attributes;
use super::path::PathParams;
use super::rates::{self, Rated};
use super::reply::Reply;
use super::signed::SignedRequest;
use crate::backend::{Cached, Counts, Occupied};
use crate::channel::{ChannelId, ChannelKind, ChannelName};
use crate::json;
use crate::node::Node;
use crate::presence::Roster;

/// Returns `{"channels":{name:attributes}}` of all occupied channels, sorted by name. Users are
/// counted only if `filter_by_prefix` limits the query to presence channels.
pub(super) async fn get_channels(State(node): State<Node>, signed: SignedRequest) -> Rated {
    let work = Box::pin(async {
        let prefix = signed.query.get("filter_by_prefix").map_or("", String::as_str);
        let attributes = Attributes::of(&signed)?.check(prefix.starts_with("presence-"), false)?;
        let occupied = node.backend.list_occupied(&signed.app.id, prefix).await?;
        Ok(Reply::json(&ChannelList { channels: (&occupied, attributes) }))
    });
    rates::read(&node, &signed.app, work).await
}

/// Returns `{"occupied":bool}` and the requested attributes. A channel without subscribers is
/// not an error.
pub(super) async fn get_channel(
    State(node): State<Node>,
    PathParams((_, name)): PathParams<(String, String)>,
    signed: SignedRequest,
) -> Rated {
    let work = Box::pin(async {
        let channel = parse_name(&name, &signed)?;
        let has_users = channel.kind() == ChannelKind::Presence;
        let attributes = Attributes::of(&signed)?.check(has_users, channel.is_cache())?;
        let channel_id = ChannelId::new(&signed.app.id, &channel);
        let counts = node.backend.read_counts(&channel_id).await?;
        let cached = match attributes.cache {
            true => Some(node.backend.read_cached(&channel_id).await?),
            false => None,
        };
        Ok(Reply::json(&ChannelState {
            occupied: counts.subscriptions > 0,
            counts: RequestedCounts::of(counts, attributes),
            cache: cached.as_ref().map(|cached| cached.as_ref().map(CachedEvent::of)),
        }))
    });
    rates::read(&node, &signed.app, work).await
}

/// Returns `{"users":[{"id":id}]}` of a presence channel, sorted by id. With `with_user_info=1`
/// each user has its `user_info`, verbatim.
pub(super) async fn get_users(
    State(node): State<Node>,
    PathParams((_, name)): PathParams<(String, String)>,
    signed: SignedRequest,
) -> Rated {
    let work = Box::pin(async {
        let channel = parse_name(&name, &signed)?;
        if channel.kind() != ChannelKind::Presence {
            return Err(ApiError::no_users());
        }
        let with_info =
            signed.query.get("with_user_info").is_some_and(|value| value == "1" || value == "true");
        let read = node.backend.read_roster(&ChannelId::new(&signed.app.id, &channel)).await?;
        Ok(Reply(write_users(&read.roster, with_info)))
    });
    rates::read(&node, &signed.app, work).await
}

fn parse_name(name: &str, signed: &SignedRequest) -> Result<ChannelName, ApiError> {
    Ok(ChannelName::parse(name, signed.app.limits.channel_name_chars_max)?)
}

/// The names are serialized where they are: there may be 100,000 occupied channels.
#[derive(Serialize)]
struct ChannelList<'a> {
    #[serde(serialize_with = "serialize_by_name")]
    channels: (&'a [Occupied], Attributes),
}

fn serialize_by_name<S: Serializer>(
    (occupied, attributes): &(&[Occupied], Attributes),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let counts = |it: &Occupied| RequestedCounts::of(it.counts, *attributes);
    serializer.collect_map(occupied.iter().map(|it| (it.channel.as_str(), counts(it))))
}

#[derive(Serialize)]
struct RequestedCounts {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_count: Option<u64>,
}

impl RequestedCounts {
    fn of(counts: Counts, attributes: Attributes) -> RequestedCounts {
        RequestedCounts {
            user_count: attributes.user_count.then_some(counts.users),
            subscription_count: attributes.subscription_count.then_some(counts.subscriptions),
        }
    }
}

#[derive(Serialize)]
struct ChannelState<'a> {
    occupied: bool,
    #[serde(flatten)]
    counts: RequestedCounts,
    /// `Some` if the query requests the attribute `cache`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<Option<CachedEvent<'a>>>,
}

#[derive(Serialize)]
struct CachedEvent<'a> {
    data: Cow<'a, str>,
    /// Seconds, rounded up: an event that is still cached never has a `ttl` of 0.
    ttl: u64,
}

impl CachedEvent<'_> {
    fn of(cached: &Cached) -> CachedEvent<'_> {
        CachedEvent {
            data: String::from_utf8_lossy(&cached.event.data),
            ttl: cached.ttl.as_secs_f64().ceil() as u64,
        }
    }
}

/// `user_info` is valid JSON already.
fn write_users(roster: &Roster, with_info: bool) -> Vec<u8> {
    let mut out = b"{\"users\":[".to_vec();
    for (at, (user, info)) in roster.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b",{\"id\":" } else { b"{\"id\":" });
        json::write_string(&mut out, user.as_bytes());
        if with_info {
            out.extend_from_slice(b",\"user_info\":");
            out.extend_from_slice(info);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}
