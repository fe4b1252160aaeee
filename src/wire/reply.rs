//! What the server says to one socket, as frames ready to write. Events have
//! their own place: [`crate::fan_out`].

use bytes::Bytes;
use serde_json::json;

use super::frame;
use crate::event::SocketId;
use crate::json;
use crate::presence::Roster;

/// The first frame of every connection (protocol.md 2.1). `data` is a string:
/// libraries parse it a second time.
pub fn connection_established(socket: SocketId, activity_timeout_secs: u64) -> Bytes {
    let data = json!({ "socket_id": socket.to_string(), "activity_timeout": activity_timeout_secs });
    to_frame(&json!({ "event": "pusher:connection_established", "data": data.to_string() }))
}

pub fn ping() -> Bytes {
    frame::text(br#"{"event":"pusher:ping","data":"{}"}"#)
}

pub fn pong() -> Bytes {
    frame::text(br#"{"event":"pusher:pong","data":"{}"}"#)
}

/// Protocol.md 2.4. `data` is a string, as Pusher's.
pub fn subscription_succeeded(channel: &str) -> Bytes {
    to_frame(&json!({ "event": "pusher_internal:subscription_succeeded", "channel": channel, "data": "{}" }))
}

/// Bound to the channel, so that handlers of that channel see it: a bare
/// `pusher:error` would leave it pending for ever (protocol.md 2.4).
pub fn subscription_error(channel: &str, kind: &str, error: &str, status: u16) -> Bytes {
    to_frame(&json!({
        "event": "pusher:subscription_error",
        "channel": channel,
        "data": { "type": kind, "error": error, "status": status },
    }))
}

/// Protocol.md 2.3. `data` is an object here.
pub fn error(code: Option<u16>, message: &str) -> Bytes {
    to_frame(&json!({ "event": "pusher:error", "data": { "message": message, "code": code } }))
}

/// Protocol.md 3.2: the answer to an opt-in, for the socket or for one channel.
/// `data` is an object. Without an algorithm, deltas stay off.
pub fn delta_enabled(channel: Option<&str>, algorithm: Option<&str>) -> Bytes {
    let mut data = json!({ "enabled": algorithm.is_some() });
    if let Some(algorithm) = algorithm {
        data["algorithm"] = algorithm.into();
    }
    let mut event = json!({ "event": "pusher:delta_compression_enabled" });
    if let Some(channel) = channel {
        data["channel"] = channel.into();
        event["channel"] = channel.into();
    }
    event["data"] = data;
    to_frame(&event)
}

/// Protocol.md 2.6: who is in the channel, the subscriber included. `user_info`
/// goes out as the text that it came in.
pub fn presence_succeeded(channel: &str, roster: &Roster) -> Bytes {
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
    data.extend_from_slice(format!(r#"}},"count":{}}}}}"#, roster.len()).as_bytes());
    with_data_text("pusher_internal:subscription_succeeded", Some(channel), &data)
}

/// A user's first connection has joined (protocol.md 2.6). `info` is JSON text.
pub fn member_added(channel: &str, user_id: &str, info: &[u8]) -> Bytes {
    let mut data = br#"{"user_id":"#.to_vec();
    json::write_string(&mut data, user_id.as_bytes());
    data.extend_from_slice(br#","user_info":"#);
    data.extend_from_slice(info);
    data.push(b'}');
    with_data_text("pusher_internal:member_added", Some(channel), &data)
}

/// A user's last connection has left (protocol.md 2.6).
pub fn member_removed(channel: &str, user_id: &str) -> Bytes {
    let mut data = br#"{"user_id":"#.to_vec();
    json::write_string(&mut data, user_id.as_bytes());
    data.push(b'}');
    with_data_text("pusher_internal:member_removed", Some(channel), &data)
}

/// Protocol.md 2.11: subscriptions of the whole cluster.
pub fn subscription_count(channel: &str, count: u64) -> Bytes {
    let data = format!(r#"{{"subscription_count":{count}}}"#);
    with_data_text("pusher_internal:subscription_count", Some(channel), data.as_bytes())
}

/// Protocol.md 2.12: the cache channel has no event to begin with.
pub fn cache_miss(channel: &str) -> Bytes {
    with_data_text("pusher:cache_miss", Some(channel), b"{}")
}

/// Protocol.md 2.9. `data` is an object, and `user_data` in it the very string
/// that was signed.
pub fn signin_success(user_data: &str) -> Bytes {
    let mut text = br#"{"event":"pusher:signin_success","data":{"user_data":"#.to_vec();
    json::write_string(&mut text, user_data.as_bytes());
    text.extend_from_slice(b"}}");
    frame::text(&text)
}

/// Protocol.md 2.10: who of the watched users is online and who is not. A list
/// without users is left out.
pub fn watchlist_events(online: &[&str], offline: &[&str]) -> Bytes {
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
    with_data_text("pusher_internal:watchlist_events", None, &data)
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

/// A frame whose `data` is a string that holds JSON, as libraries expect. Names
/// of events and channels need no escaping: theirs are checked.
fn with_data_text(event: &str, channel: Option<&str>, data: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(96 + data.len() + data.len() / 4);
    text.extend_from_slice(format!(r#"{{"event":"{event}","#).as_bytes());
    if let Some(channel) = channel {
        text.extend_from_slice(format!(r#""channel":"{channel}","#).as_bytes());
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
