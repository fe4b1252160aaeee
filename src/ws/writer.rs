//! Where the kernel has not taken everything at once: the socket's task waits until
//! it does, for as long as the client may take.

use std::io;
use std::time::Duration;

use super::stream::Stream;
use crate::limits;

/// Writes some of what is left. Fails when the connection is lost, when the client
/// takes nothing for `patience`, or when its write_buffer has overflowed and it does not
/// take what is under way within [`limits::CLOSE_TIMEOUT`].
pub(super) async fn write_some(stream: &Stream, patience: Duration) -> io::Result<()> {
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
        written = tokio::time::timeout(patience, written) => written?,
        () = overflowed => Ok(()),
    }
}

/// Writes all that is left, within `patience`.
pub(super) async fn write_all(stream: &Stream, patience: Duration) -> io::Result<()> {
    let written = async {
        while !stream.write_buffer.resume()? {
            stream.tcp().writable().await?;
        }
        Ok(())
    };
    tokio::time::timeout(patience, written).await?
}
