//! Queries of channels (protocol.md 1.5): the occupied channels, one channel, and the users of
//! a presence channel. All responses describe the whole cluster.

use std::io::Write;

use axum::extract::State;

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
        Ok(Reply(write_channels(&occupied, attributes)))
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
        Ok(Reply(write_channel(counts, attributes, cached)))
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

/// Writes channel names and numbers, neither of which needs escaping, directly into one buffer:
/// there may be 100,000 occupied channels.
fn write_channels(occupied: &[Occupied], attributes: Attributes) -> Vec<u8> {
    const ATTRIBUTES_BYTES: usize = 64;
    let bytes = occupied.iter().map(|it| it.channel.as_str().len() + ATTRIBUTES_BYTES).sum();
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(b"{\"channels\":{");
    for (at, Occupied { channel, counts }) in occupied.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b",\"" } else { b"\"" });
        out.extend_from_slice(channel.as_str().as_bytes());
        out.extend_from_slice(b"\":{");
        write_counts(&mut out, *counts, attributes);
        // Every attribute ends with a comma.
        out.pop_if(|last| *last == b',');
        out.push(b'}');
    }
    out.extend_from_slice(b"}}");
    out
}

/// `cached` is `Some` if the query requests the attribute `cache`.
fn write_channel(counts: Counts, attributes: Attributes, cached: Option<Option<Cached>>) -> Vec<u8> {
    let mut out = Vec::new();
    let _ = write!(out, "{{\"occupied\":{},", counts.subscriptions > 0);
    write_counts(&mut out, counts, attributes);
    match cached {
        None => {}
        Some(None) => out.extend_from_slice(b"\"cache\":null,"),
        Some(Some(cached)) => {
            out.extend_from_slice(b"\"cache\":{\"data\":");
            json::write_string(&mut out, &cached.event.data);
            // Rounded up: an event that is still cached never has a `ttl` of 0.
            let _ = write!(out, ",\"ttl\":{}}},", cached.ttl.as_secs_f64().ceil() as u64);
        }
    }
    out.pop();
    out.push(b'}');
    out
}

/// Writes to a `Vec` never fail, so the results are ignored.
fn write_counts(out: &mut Vec<u8>, counts: Counts, attributes: Attributes) {
    if attributes.user_count {
        let _ = write!(out, "\"user_count\":{},", counts.users);
    }
    if attributes.subscription_count {
        let _ = write!(out, "\"subscription_count\":{},", counts.subscriptions);
    }
}

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
