//! Protocol events from the server to one connection, as encoded frames with the connection's
//! [`EventPrefix`]. Published events are encoded in [`crate::encode`].

use bytes::Bytes;
use serde_json::json;

use super::envelope::wire_seq;
use super::event_prefix::EventPrefix;
use super::frame;
use super::resume::Standing;
use crate::delta::channels::ChannelDelta;
use crate::delta::conflation::KeyPath;
use crate::event::SocketId;
use crate::json;
use crate::presence::Roster;

/// The first frame of every connection (protocol.md 2.1). `data` is a string, which client
/// libraries parse a second time.
pub fn connection_established(
    event_prefix: EventPrefix,
    socket: SocketId,
    activity_timeout_secs: u64,
) -> Bytes {
    let data = json!({ "socket_id": socket.to_string(), "activity_timeout": activity_timeout_secs });
    to_frame(&json!({ "event": own(event_prefix, "connection_established"), "data": data.to_string() }))
}

pub fn ping(event_prefix: EventPrefix) -> Bytes {
    with_data_text(&own(event_prefix, "ping"), None, b"{}")
}

pub fn pong(event_prefix: EventPrefix) -> Bytes {
    with_data_text(&own(event_prefix, "pong"), None, b"{}")
}

/// Confirms a subscription (protocol.md 2.4). `data` is a string, as Pusher's. With `resume` it
/// contains the position of the subscription (protocol.md 2.13).
pub fn subscription_succeeded(event_prefix: EventPrefix, channel: &str, standing: Option<Standing>) -> Bytes {
    let mut data = b"{".to_vec();
    put_position(&mut data, standing);
    data.push(b'}');
    let (event, data) = (internal(event_prefix, "subscription_succeeded"), String::from_utf8_lossy(&data));
    to_frame(&json!({ "event": event, "channel": channel, "data": data }))
}

/// Appends the members `epoch`, `seq`, `resumed` and `token` to an object that is not closed yet.
fn put_position(data: &mut Vec<u8>, standing: Option<Standing>) {
    let Some(Standing { epoch, seq, resumed, token }) = standing else { return };
    if data.len() > 1 {
        data.push(b',');
    }
    let seq = wire_seq(seq);
    let members = format!(r#""epoch":{epoch},"seq":{seq},"resumed":{resumed},"token":"{token}""#);
    data.extend_from_slice(members.as_bytes());
}

/// A position notice (protocol.md 2.13): every event up to `seq` that the subscription receives
/// has been sent. `missed` if earlier events may be lost.
pub fn position(event_prefix: EventPrefix, channel: &str, epoch: u64, seq: u64, missed: bool) -> Bytes {
    let mut data = json!({ "epoch": epoch, "seq": wire_seq(seq) });
    if missed {
        data["missed"] = true.into();
    }
    to_frame(&json!({ "event": own(event_prefix, "position"), "channel": channel, "data": data }))
}

/// The initial bases (protocol.md 3.9). They replace all bases that the client holds for the
/// channel. Each state is a conflation key, the text of its newest event and the event's
/// sequence number.
pub fn delta_cache_sync(
    event_prefix: EventPrefix,
    channel: &str,
    deltas: &ChannelDelta,
    states: &[(Bytes, Bytes, u64)],
) -> Bytes {
    let key = deltas.conflation_key.as_ref().map(KeyPath::text);
    let messages_max = deltas.messages_per_key_max;
    let mut data =
        format!(r#"{{"conflation_key":{},"max_messages_per_key":{messages_max},"states":{{"#, json!(key))
            .into_bytes();
    for (at, (key, content, seq)) in states.iter().enumerate() {
        if at > 0 {
            data.push(b',');
        }
        json::write_string(&mut data, key);
        data.extend_from_slice(br#":[{"content":"#);
        json::write_string(&mut data, content);
        data.extend_from_slice(format!(r#","seq":{}}}]"#, wire_seq(*seq)).as_bytes());
    }
    data.extend_from_slice(b"}}");
    with_data_text(&own(event_prefix, "delta_cache_sync"), Some(channel), &data)
}

/// Code of a refused subscription in `pusher:error`. Some clients disconnect on codes below
/// 4300 (Pysher), or have no codes from 5000 on (.NET).
const SUBSCRIPTION_REFUSED: u16 = 4300;

/// Refuses a subscription in two frames (protocol.md 2.4): `subscription_error` on the channel,
/// without which pusher-js would keep the subscription pending, and `pusher:error`, the only
/// one that older clients handle.
pub fn subscription_refused(
    event_prefix: EventPrefix,
    channel: &str,
    kind: &str,
    error: &str,
    status: u16,
) -> Bytes {
    let of_channel = subscription_error(event_prefix, channel, kind, error, status);
    [of_channel, channel_error(event_prefix, channel, error)].concat().into()
}

fn subscription_error(
    event_prefix: EventPrefix,
    channel: &str,
    kind: &str,
    error: &str,
    status: u16,
) -> Bytes {
    to_frame(&json!({
        "event": own(event_prefix, "subscription_error"),
        "channel": channel,
        "data": { "type": kind, "error": error, "status": status },
    }))
}

fn channel_error(event_prefix: EventPrefix, channel: &str, message: &str) -> Bytes {
    let data = json!({ "channel": channel, "code": SUBSCRIPTION_REFUSED, "message": message });
    to_frame(&json!({ "event": own(event_prefix, "error"), "data": data }))
}

/// An error that does not belong to a channel (protocol.md 2.3). `data` is an object.
pub fn error(event_prefix: EventPrefix, code: Option<u16>, message: &str) -> Bytes {
    to_frame(&json!({ "event": own(event_prefix, "error"), "data": { "message": message, "code": code } }))
}

/// Confirms that deltas are enabled, for the connection or for one channel (protocol.md 3.2).
/// `data` is an object. Without an algorithm, deltas are off.
pub fn delta_enabled(event_prefix: EventPrefix, channel: Option<&str>, algorithm: Option<&str>) -> Bytes {
    let mut data = json!({ "enabled": algorithm.is_some() });
    if let Some(algorithm) = algorithm {
        data["algorithm"] = algorithm.into();
    }
    let mut event = json!({ "event": own(event_prefix, "delta_compression_enabled") });
    if let Some(channel) = channel {
        data["channel"] = channel.into();
        event["channel"] = channel.into();
    }
    event["data"] = data;
    to_frame(&event)
}

/// Confirms a subscription to a presence channel, with the roster of the cluster, the
/// subscriber included (protocol.md 2.6). `user_info` is verbatim JSON text.
pub fn presence_succeeded(
    event_prefix: EventPrefix,
    channel: &str,
    roster: &Roster,
    standing: Option<Standing>,
) -> Bytes {
    let mut data = br#"{"presence":{"ids":"#.to_vec();
    put_strings(&mut data, roster.iter().map(|(user_id, _)| &**user_id));
    data.extend_from_slice(br#","hash":{"#);
    for (at, (user_id, info)) in roster.iter().enumerate() {
        if at > 0 {
            data.push(b',');
        }
        json::write_string(&mut data, user_id.as_bytes());
        data.push(b':');
        data.extend_from_slice(info);
    }
    data.extend_from_slice(format!(r#"}},"count":{}}}"#, roster.len()).as_bytes());
    put_position(&mut data, standing);
    data.push(b'}');
    with_data_text(&internal(event_prefix, "subscription_succeeded"), Some(channel), &data)
}

/// The first connection of a user in the cluster has subscribed (protocol.md 2.6). `info` is
/// JSON text.
pub fn member_added(event_prefix: EventPrefix, channel: &str, user_id: &str, info: &[u8]) -> Bytes {
    let mut data = br#"{"user_id":"#.to_vec();
    json::write_string(&mut data, user_id.as_bytes());
    data.extend_from_slice(br#","user_info":"#);
    data.extend_from_slice(info);
    data.push(b'}');
    with_data_text(&internal(event_prefix, "member_added"), Some(channel), &data)
}

/// The last connection of a user in the cluster has left (protocol.md 2.6).
pub fn member_removed(event_prefix: EventPrefix, channel: &str, user_id: &str) -> Bytes {
    let mut data = br#"{"user_id":"#.to_vec();
    json::write_string(&mut data, user_id.as_bytes());
    data.push(b'}');
    with_data_text(&internal(event_prefix, "member_removed"), Some(channel), &data)
}

/// The number of subscriptions in the cluster (protocol.md 2.11).
pub fn subscription_count(event_prefix: EventPrefix, channel: &str, count: u64) -> Bytes {
    let data = format!(r#"{{"subscription_count":{count}}}"#);
    with_data_text(&internal(event_prefix, "subscription_count"), Some(channel), data.as_bytes())
}

/// The cache channel has no cached event for the new subscriber (protocol.md 2.12).
pub fn cache_miss(event_prefix: EventPrefix, channel: &str) -> Bytes {
    with_data_text(&own(event_prefix, "cache_miss"), Some(channel), b"{}")
}

/// Confirms a sign-in (protocol.md 2.9). `data` is an object, and its `user_data` the exact
/// text that was signed.
pub fn signin_success(event_prefix: EventPrefix, user_data: &str) -> Bytes {
    let event = own(event_prefix, "signin_success");
    let mut text = format!(r#"{{"event":"{event}","data":{{"user_data":"#).into_bytes();
    json::write_string(&mut text, user_data.as_bytes());
    text.extend_from_slice(b"}}");
    frame::text(&text)
}

/// The online status of watched users (protocol.md 2.10). A list without users is left out.
pub fn watchlist_events(event_prefix: EventPrefix, online: &[&str], offline: &[&str]) -> Bytes {
    let mut data = br#"{"events":["#.to_vec();
    let lists = [("online", online), ("offline", offline)];
    for (at, (name, users)) in lists.into_iter().filter(|(_, users)| !users.is_empty()).enumerate() {
        if at > 0 {
            data.push(b',');
        }
        data.extend_from_slice(format!(r#"{{"name":"{name}","user_ids":"#).as_bytes());
        put_strings(&mut data, users.iter().copied());
        data.push(b'}');
    }
    data.extend_from_slice(b"]}");
    with_data_text(&internal(event_prefix, "watchlist_events"), None, &data)
}

/// The name of a protocol event.
fn own(event_prefix: EventPrefix, name: &str) -> String {
    format!("{}:{name}", event_prefix.prefix())
}

/// The name of an internal protocol event, which libraries do not pass on to the application.
fn internal(event_prefix: EventPrefix, name: &str) -> String {
    format!("{}:{name}", event_prefix.internal())
}

/// Appends a JSON array of strings.
fn put_strings<'a>(out: &mut Vec<u8>, strings: impl IntoIterator<Item = &'a str>) {
    out.push(b'[');
    for (at, string) in strings.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        json::write_string(out, string.as_bytes());
    }
    out.push(b']');
}

/// Encodes a frame whose `data` is a string that holds JSON, as client libraries expect.
fn with_data_text(event: &str, channel: Option<&str>, data: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(96 + data.len() + data.len() / 4);
    text.extend_from_slice(format!(r#"{{"event":"{event}","#).as_bytes());
    if let Some(channel) = channel {
        text.extend_from_slice(br#""channel":"#);
        json::write_string(&mut text, channel.as_bytes());
        text.push(b',');
    }
    text.extend_from_slice(br#""data":"#);
    json::write_string(&mut text, data);
    text.push(b'}');
    frame::text(&text)
}

fn to_frame(message: &serde_json::Value) -> Bytes {
    frame::text(message.to_string().as_bytes())
}

#[cfg(test)]
mod tests;
