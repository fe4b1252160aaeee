//! The connections of this node: their limits, write buffers, the writer pool, the registry.

pub mod connection_limit;
pub mod connections;
pub mod http_limit;
pub mod subscription_permit;
mod unsigned_requests;
mod write;
pub mod write_buffer;
pub mod writers;

use std::sync::Arc;

use bytes::Bytes;

use write_buffer::WriteBuffer;

/// Appends `chunk` to a write buffer, and the buffer to `to_flush` unless this round
/// has already done so.
pub fn push(write_buffer: &Arc<WriteBuffer>, chunk: Bytes, to_flush: &mut Vec<Arc<WriteBuffer>>) {
    if !chunk.is_empty() && write_buffer.push(chunk) {
        to_flush.push(write_buffer.clone());
    }
}
