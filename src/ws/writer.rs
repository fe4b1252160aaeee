//! Room 8: what is in the outbox goes to the kernel, several frames in one call.

use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::hub::outbox::{Chunks, Outbox};
use crate::limits;
use crate::metrics::metrics;

/// Writes all chunks. Fails when the connection is lost, when the client takes
/// nothing for `patience`, or when its outbox overflows meanwhile and it does
/// not take what is under way within [`limits::CLOSE_TIMEOUT`].
pub(super) async fn write(
    stream: &mut TcpStream,
    chunks: &mut Chunks,
    outbox: &Outbox,
    patience: Duration,
) -> io::Result<()> {
    let overflown = async {
        std::future::poll_fn(|context| outbox.poll_overflown(context)).await;
        tokio::time::sleep(limits::CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        written = tokio::time::timeout(patience, write_all(stream, chunks)) => written?,
        () = overflown => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Writes what the kernel takes without waiting, and leaves the rest. True if
/// that was everything.
pub(super) fn try_write(stream: &TcpStream, chunks: &mut Chunks) -> io::Result<bool> {
    let mut first = 0;
    while first < chunks.len() {
        let written = match &chunks[first..] {
            [only] => stream.try_write(only),
            several => stream.try_write_vectored(&slices(several)),
        };
        match written {
            Ok(written) => first += count(&mut chunks[first..], written)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    chunks.drain(..first);
    Ok(chunks.is_empty())
}

async fn write_all(stream: &mut TcpStream, chunks: &mut Chunks) -> io::Result<()> {
    let mut first = 0;
    while first < chunks.len() {
        let written = match &chunks[first..] {
            [only] => stream.write(only).await?,
            several => stream.write_vectored(&slices(several)).await?,
        };
        first += count(&mut chunks[first..], written)?;
    }
    chunks.clear();
    Ok(())
}

fn slices(chunks: &[Bytes]) -> Vec<IoSlice<'_>> {
    chunks.iter().map(|chunk| IoSlice::new(chunk)).collect()
}

/// One call has written so many bytes. Returns how many chunks are done.
fn count(chunks: &mut [Bytes], written: usize) -> io::Result<usize> {
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    metrics().writes.increment(1);
    metrics().bytes_sent.increment(written as u64);
    Ok(advance(chunks, written))
}

/// Takes `written` bytes off the front; returns how many chunks are done.
fn advance(chunks: &mut [Bytes], mut written: usize) -> usize {
    let mut done = 0;
    for chunk in chunks {
        let taken = written.min(chunk.len());
        chunk.advance(taken);
        written -= taken;
        if !chunk.is_empty() {
            break;
        }
        done += 1;
    }
    done
}
