//! A Redis client for binary keys and arguments.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::source::Script;
use crate::support::resp::{self, Reply};
use crate::support::{Redis, STEP_TIMEOUT};

pub struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Client {
    pub async fn connect(redis: &Redis) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap();
        Client { stream, read: Vec::new() }
    }

    async fn send(&mut self, words: &[&[u8]]) {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next reply or message.
    pub async fn next(&mut self) -> Reply {
        let read = async {
            loop {
                if let Some((reply, length)) = resp::reply(&self.read) {
                    self.read.drain(..length);
                    return reply;
                }
                assert_ne!(
                    self.stream.read_buf(&mut self.read).await.unwrap(),
                    0,
                    "Redis has closed the connection"
                );
            }
        };
        tokio::time::timeout(STEP_TIMEOUT, read).await.expect("Redis replies in time")
    }

    pub async fn command(&mut self, words: &[&[u8]]) -> Reply {
        self.send(words).await;
        self.next().await
    }

    pub async fn eval(&mut self, script: &Script, keys: &[String], arguments: &[Vec<u8>]) -> Reply {
        let (source, count) = (script.source(), keys.len().to_string());
        let mut words: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), count.as_bytes()];
        words.extend(keys.iter().map(String::as_bytes));
        words.extend(arguments.iter().map(Vec::as_slice));
        self.command(&words).await
    }
}

#[track_caller]
pub fn items(reply: Reply) -> Vec<Reply> {
    match reply {
        Reply::Array(items) => items,
        other => panic!("expected an array, received {other:?}"),
    }
}

#[track_caller]
pub fn number(reply: &Reply) -> u64 {
    reply.text().parse().unwrap_or_else(|_| panic!("expected a number, received {reply:?}"))
}

#[track_caller]
pub fn bulk(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Bulk(bytes) => bytes.clone(),
        other => panic!("expected bytes, received {other:?}"),
    }
}
