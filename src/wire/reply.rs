//! What the server says to one socket, as frames ready to write. Events have
//! their own place: [`crate::fan_out`].

use bytes::Bytes;
use serde_json::json;

use super::frame;
use crate::event::SocketId;

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

fn to_frame(message: &serde_json::Value) -> Bytes {
    frame::text(message.to_string().as_bytes())
}
