//! Connects and subscribes a socket.

use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Protocol;
use crate::Outcome;
use crate::frames::masked_text;
use crate::load;

/// Connects and subscribes. Returns the stream, and the bytes received after the handshake.
pub async fn connect(
    address: SocketAddr,
    protocol: &Protocol,
    socket: u32,
    channel: u32,
) -> Outcome<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let channel = load::name(channel);
    let rest = match protocol {
        Protocol::Floor => {
            stream.write_all(&socket.to_le_bytes()).await?;
            Vec::new()
        }
        Protocol::Nchan => upgrade(&mut stream, address, &format!("/subscribe/{channel}")).await?,
        Protocol::Pusher { key, event_prefix, subscribes, deltas } => {
            let (prefix, version) = (event_prefix.prefix(), event_prefix.protocol_version());
            let path = format!("/app/{key}?protocol={version}&client=js&version=8.4.0&flash=false");
            let mut read = upgrade(&mut stream, address, &path).await?;
            let mut commands = Vec::new();
            if *deltas {
                let enable = format!(r#"{{"event":"{prefix}:enable_delta_compression","data":{{}}}}"#);
                commands.extend(masked_text(enable.as_bytes()));
            }
            if *subscribes {
                let subscribe =
                    format!(r#"{{"event":"{prefix}:subscribe","data":{{"channel":"{channel}"}}}}"#);
                commands.extend(masked_text(subscribe.as_bytes()));
            }
            stream.write_all(&commands).await?;
            let replies: [(bool, &[u8]); 3] = [
                (true, b":connection_established"),
                (*deltas, b":delta_compression_enabled"),
                (*subscribes, b"_internal:subscription_succeeded"),
            ];
            for (_, reply) in replies.iter().filter(|(is_expected, _)| *is_expected) {
                while memmem::find(&read, reply).is_none() {
                    read_more(&mut stream, &mut read).await?;
                }
            }
            read
        }
    };
    Ok((stream, rest))
}

/// Sends the WebSocket handshake. Returns the bytes received after the head of the response.
async fn upgrade(stream: &mut TcpStream, address: SocketAddr, path: &str) -> Outcome<Vec<u8>> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    loop {
        if let Some(end) = memmem::find(&read, b"\r\n\r\n") {
            return match read.starts_with(b"HTTP/1.1 101 ") {
                true => Ok(read.split_off(end + 4)),
                false => Err(format!("not upgraded: {}", String::from_utf8_lossy(&read)).into()),
            };
        }
        read_more(stream, &mut read).await?;
    }
}

async fn read_more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Outcome<()> {
    match stream.read_buf(read).await? {
        0 => Err(format!("closed before the subscription: {}", String::from_utf8_lossy(read)).into()),
        _ => Ok(()),
    }
}
