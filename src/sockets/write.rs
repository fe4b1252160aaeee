//! Room 8: what is in an write_buffer goes to the kernel, several frames in one call.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::net::tcp::OwnedWriteHalf;

use crate::metrics::metrics;

/// What is queued, or being written: mostly one chunk, which lies in the list itself.
/// What is allocated for a list is allocated by one thread and let go by another,
/// the most expensive way for an allocator.
pub(super) type Chunks = SmallVec<[Bytes; 1]>;

/// Writes what the kernel takes without waiting, and leaves the rest. True if
/// that was everything.
///
/// The kernel is asked first, and the runtime only when it says no: what the runtime
/// knows of a socket is one more piece of memory that no cache has.
pub(super) fn try_write(stream: &OwnedWriteHalf, chunks: &mut Chunks) -> io::Result<bool> {
    let socket = SockRef::from(stream.as_ref());
    let mut first = 0;
    while first < chunks.len() {
        let written = match &chunks[first..] {
            [only] => socket.send(only),
            several => socket.send_vectored(&slices(several)),
        };
        let written = match written {
            // So that the runtime knows, too, and waits.
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
