//! Stage 7 of a batch's path: writes the chunks of a write buffer to the kernel,
//! several in one call.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::net::tcp::OwnedWriteHalf;

use crate::metrics::metrics;

/// Chunks that are queued or being written. Mostly there is one, which is stored
/// inline: a heap list would be allocated by one thread and freed by another, the most
/// expensive case for an allocator.
pub(super) type Chunks = SmallVec<[Bytes; 1]>;

/// Writes as much as the kernel takes without waiting and keeps the rest. Returns true
/// if everything was written.
///
/// Calls the kernel first, and the runtime only after `WouldBlock`: the runtime's state
/// of a socket is one more piece of memory that is in no cache.
pub(super) fn try_write(stream: &OwnedWriteHalf, chunks: &mut Chunks) -> io::Result<bool> {
    let socket = SockRef::from(stream.as_ref());
    let mut first = 0;
    while first < chunks.len() {
        let written = match &chunks[first..] {
            [only] => socket.send(only),
            several => socket.send_vectored(&slices(several)),
        };
        let written = match written {
            // Repeated through the runtime, so that it registers for write readiness.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.try_write(&chunks[first]),
            written => written,
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

fn slices(chunks: &[Bytes]) -> Vec<IoSlice<'_>> {
    chunks.iter().map(|chunk| IoSlice::new(chunk)).collect()
}

/// Accounts for one write call of `written` bytes. Returns the number of completed
/// chunks.
fn count(chunks: &mut [Bytes], written: usize) -> io::Result<usize> {
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    metrics().writes.increment(1);
    metrics().bytes_sent.increment(written as u64);
    Ok(advance(chunks, written))
}

/// Removes `written` bytes from the front. Returns the number of completed chunks.
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
