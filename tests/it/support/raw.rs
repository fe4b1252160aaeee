//! A TCP connection to a server, for details that a client library hides: incomplete
//! requests, single headers of a handshake, and when and how a connection ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::STEP_TIMEOUT;
use super::caller::Request;
use super::http::Answer;

pub struct RawConnection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl RawConnection {
    pub async fn open(addr: SocketAddr) -> RawConnection {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        RawConnection { stream, received: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the connection takes the bytes");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sent = tokio::time::timeout(STEP_TIMEOUT, self.stream.write_all(bytes.as_ref())).await;
        sent.expect("the send completes in time")
    }

    /// An answer with a `Content-Length`.
    pub async fn answer(&mut self) -> Answer {
        self.answer_within(STEP_TIMEOUT).await
    }

    pub async fn answer_within(&mut self, within: Duration) -> Answer {
        let answer = tokio::time::timeout(within, self.try_answer()).await;
        answer.expect("an answer in time").expect("an answer before the connection ends")
    }

    pub async fn try_answer(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(answer) = self.take_answer() {
                return Ok(answer);
            }
            self.read().await?;
        }
    }

    fn take_answer(&mut self) -> Option<Answer> {
        let (head, start) = Answer::parse_head(&self.received)?;
        let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        let body = Bytes::copy_from_slice(self.received.get(start..start + length)?);
        self.received.drain(..start + length);
        Some(Answer { body, ..head })
    }

    /// The head of a response. Its body, or the frames after an upgrade, remain unread.
    pub async fn head(&mut self) -> Answer {
        let head = async {
            loop {
                if let Some((head, length)) = Answer::parse_head(&self.received) {
                    self.received.drain(..length);
                    return head;
                }
                self.read().await.unwrap();
            }
        };
        tokio::time::timeout(STEP_TIMEOUT, head).await.expect("a response in time")
    }

    /// Reads until these bytes have arrived.
    pub async fn read_until(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let read = async {
            while memchr::memmem::find(&self.received, bytes).is_none() {
                self.read().await.unwrap();
            }
        };
        let what = String::from_utf8_lossy(bytes);
        tokio::time::timeout(STEP_TIMEOUT, read).await.unwrap_or_else(|_| panic!("no {what} in time"));
    }

    async fn read(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.received).await? {
            0 => {
                let received = String::from_utf8_lossy(&self.received).into_owned();
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, received))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the peer to close the connection in order, without another byte.
    pub async fn expect_end(&mut self, within: Duration) {
        self.end(within).await.expect("the connection ends in order");
    }

    /// The same, or the error with which the connection ended.
    pub async fn end(&mut self, within: Duration) -> io::Result<()> {
        let read = tokio::time::timeout(within, self.stream.read_buf(&mut self.received)).await;
        read.unwrap_or_else(|_| panic!("the connection is still open after {within:?}"))?;
        assert!(self.received.is_empty(), "received {:?}", String::from_utf8_lossy(&self.received));
        Ok(())
    }
}

impl Request<'_> {
    /// Request line and headers with the length of the body, for a connection that
    /// is kept alive.
    pub fn head(&self) -> String {
        let bytes = self.bytes();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head has an end") + 4;
        String::from_utf8_lossy(&bytes[..end]).replace("connection: close\r\n", "")
    }
}
