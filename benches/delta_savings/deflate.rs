//! permessage-deflate (RFC 7692) of the messages of a connection, at the default level and with
//! context takeover.

use fanfare::wire::frame;
use flate2::{Compress, Compression, FlushCompress};

/// The end of each compressed message, which is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The compressor of one socket.
pub struct Socket {
    window: Compress,
    out: Vec<u8>,
}

impl Socket {
    pub fn new() -> Socket {
        Socket { window: Compress::new(Compression::default(), false), out: Vec::new() }
    }

    /// Compresses a message. Returns the size of its frame in bytes.
    pub fn send(&mut self, message: &[u8]) -> usize {
        self.out.clear();
        self.out.reserve(message.len() + 64);
        self.window
            .compress_vec(message, &mut self.out, FlushCompress::Sync)
            .expect("compressing into a Vec cannot fail");
        let payload = self
            .out
            .strip_suffix(&TAIL)
            .expect("a sync flush ends with the tail, as the buffer has capacity");
        frame::text_len(payload.len())
    }
}
