//! The TCP stream of a connection: reads go to the stream, writes to the write buffer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::sockets::write_buffer::WriteBuffer;

/// The stream that the WebSocket library works on. The library writes only responses to control
/// frames. They are queued in the write buffer with all other frames, so that a response never
/// lands inside another frame.
#[derive(Debug)]
pub(super) struct Stream {
    read: OwnedReadHalf,
    pub(super) write_buffer: Arc<WriteBuffer>,
}

impl Stream {
    pub(super) fn new(stream: TcpStream) -> Stream {
        let (read, write) = stream.into_split();
        Stream { read, write_buffer: WriteBuffer::new(write) }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        self.read.as_ref()
    }
}

/// Ends the write buffer with the connection: other tasks may still hold a reference to it.
impl Drop for Stream {
    fn drop(&mut self) {
        self.write_buffer.end();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    /// Queues `frames`, which are whole: the library's own write buffer has size 0.
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, frames: &[u8]) -> Poll<io::Result<usize>> {
        self.write_buffer.send(Bytes::copy_from_slice(frames));
        Poll::Ready(Ok(frames.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
