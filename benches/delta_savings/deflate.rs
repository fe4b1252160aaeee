//! What permessage-deflate (RFC 7692) makes of a connection's messages, with its
//! window kept from one to the next, at the default level.

use fanfare::wire::frame;
use flate2::{Compress, Compression, FlushCompress};

/// Ends each message and is not sent (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// One socket's.
pub struct Socket {
    window: Compress,
    out: Vec<u8>,
}

impl Socket {
    pub fn new() -> Socket {
        Socket { window: Compress::new(Compression::default(), false), out: Vec::new() }
    }

    /// Bytes of the frame that a message becomes.
    pub fn send(&mut self, message: &[u8]) -> usize {
        self.out.clear();
        self.out.reserve(message.len() + 64);
        self.window
            .compress_vec(message, &mut self.out, FlushCompress::Sync)
            .expect("memory is all that compressing takes");
        let payload = self.out.strip_suffix(&TAIL).expect("a flush leaves its mark: there was room");
        frame::text_len(payload.len())
    }
}
