//! Backpressure of one connection: when the kernel's send buffer is full, the connection task
//! waits until it is writable again and flushes the rest of the write buffer.

use std::io;
use std::time::Duration;

use super::stream::Stream;
use crate::limits;

/// Flushes some of the write buffer. Fails when the connection is lost, when the client reads
/// nothing for `timeout`, or when the write buffer has overflowed and the client does not read
/// the frame in progress within [`limits::CLOSE_TIMEOUT`].
pub(super) async fn write_some(stream: &Stream, timeout: Duration) -> io::Result<()> {
    if stream.write_buffer.has_overflowed() {
        return write_all(stream, limits::CLOSE_TIMEOUT).await;
    }
    let written = async {
        stream.tcp().writable().await?;
        stream.write_buffer.resume().map(drop)
    };
    let overflowed = std::future::poll_fn(|context| stream.write_buffer.poll_overflow(context));
    tokio::select! {
        biased;
        written = tokio::time::timeout(timeout, written) => written?,
        () = overflowed => Ok(()),
    }
}

/// Flushes the whole write buffer. Fails when that takes longer than `timeout`.
pub(super) async fn write_all(stream: &Stream, timeout: Duration) -> io::Result<()> {
    let written = async {
        while !stream.write_buffer.resume()? {
            stream.tcp().writable().await?;
        }
        Ok(())
    };
    tokio::time::timeout(timeout, written).await?
}
