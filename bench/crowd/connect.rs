//! From a socket to a subscriber.

use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Speech;
use crate::Outcome;
use crate::frames::masked_text;
use crate::load;

/// Connected and subscribed; and what was read beyond the handshake.
pub async fn connect(
    address: SocketAddr,
    speech: &Speech,
    socket: u32,
    channel: u32,
) -> Outcome<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let channel = load::name(channel);
    let rest = match speech {
        Speech::Floor => {
            stream.write_all(&socket.to_le_bytes()).await?;
            Vec::new()
        }
        Speech::Nchan => upgrade(&mut stream, address, &format!("/subscribe/{channel}")).await?,
        Speech::Pusher { key, dialect, subscribes, deltas } => {
            let (prefix, protocol) = (dialect.prefix(), dialect.protocol());
            let path = format!("/app/{key}?protocol={protocol}&client=js&version=8.4.0&flash=false");
            let mut read = upgrade(&mut stream, address, &path).await?;
            let mut said = Vec::new();
            if *deltas {
                let enable = format!(r#"{{"event":"{prefix}:enable_delta_compression","data":{{}}}}"#);
                said.extend(masked_text(enable.as_bytes()));
            }
            if *subscribes {
                let subscribe =
                    format!(r#"{{"event":"{prefix}:subscribe","data":{{"channel":"{channel}"}}}}"#);
                said.extend(masked_text(subscribe.as_bytes()));
            }
            stream.write_all(&said).await?;
            let answers: [(bool, &[u8]); 3] = [
                (true, b":connection_established"),
                (*deltas, b":delta_compression_enabled"),
                (*subscribes, b"_internal:subscription_succeeded"),
            ];
            for (_, answer) in answers.iter().filter(|(is_due, _)| *is_due) {
                while memmem::find(&read, answer).is_none() {
                    more(&mut stream, &mut read).await?;
                }
            }
            read
        }
    };
    Ok((stream, rest))
}

/// What follows the head of the answer.
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
        more(stream, &mut read).await?;
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Outcome<()> {
    match stream.read_buf(read).await? {
        0 => Err(format!("closed while joining: {}", String::from_utf8_lossy(read)).into()),
        _ => Ok(()),
    }
}
