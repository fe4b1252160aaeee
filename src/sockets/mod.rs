//! The connections of this node: their write buffers, the writer pool, the registry.

pub mod connections;
mod write;
pub mod write_buffer;
pub mod writers;

use std::sync::Arc;

use bytes::Bytes;

use write_buffer::WriteBuffer;

/// Wakes whoever has to be to_flush later, once for all that one round has for it.
pub fn push(write_buffer: &Arc<WriteBuffer>, chunk: Bytes, to_flush: &mut Vec<Arc<WriteBuffer>>) {
    if !chunk.is_empty() && write_buffer.push(chunk) {
        to_flush.push(write_buffer.clone());
    }
}
