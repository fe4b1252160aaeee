//! The subset of WebSocket framing (RFC 6455) that the load generator needs.

/// Splits the byte stream of a server into frames. Reads may end anywhere in a frame.
#[derive(Debug, Default)]
pub struct Frames {
    /// The received part of an incomplete frame.
    partial: Vec<u8>,
}

/// One frame from the server: opcode and payload. Server frames are not masked; every
/// message is a single frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
}

pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const TEXT: u8 = 1;

impl Frames {
    /// Appends received bytes and calls `each` with every complete frame.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        if self.partial.is_empty() {
            let rest = split_complete(bytes, &mut each);
            self.partial.extend_from_slice(rest);
            return;
        }
        self.partial.extend_from_slice(bytes);
        let left = split_complete(&self.partial, &mut each).len();
        match left {
            // Frees the buffer: sockets without an incomplete frame hold no memory.
            0 => self.partial = Vec::new(),
            _ => drop(self.partial.drain(..self.partial.len() - left)),
        }
    }
}

/// Calls `each` with every complete frame. Returns the remaining bytes.
fn split_complete<'a>(mut bytes: &'a [u8], each: &mut impl FnMut(Frame<'a>)) -> &'a [u8] {
    while let Some((frame, rest)) = first(bytes) {
        each(frame);
        bytes = rest;
    }
    bytes
}

/// The first frame and the bytes after it. `None` if the frame is incomplete.
fn first(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match head[1] & 0x7f {
        126 => {
            let (len, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*len).into(), rest)
        }
        127 => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*len)).ok()?, rest)
        }
        len => (len.into(), rest),
    };
    let (payload, rest) = rest.split_at_checked(len)?;
    Some((Frame { opcode: head[0] & 0xf, payload }, rest))
}

/// An unmasked text frame, as servers send it.
pub fn text(payload: &[u8]) -> Vec<u8> {
    frame(TEXT, payload)
}

/// A masked text frame, as clients send it. The mask is zero, so that the payload is unchanged.
pub fn masked_text(payload: &[u8]) -> Vec<u8> {
    masked(TEXT, payload)
}

pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    let header_len = frame.len() - payload.len();
    frame[1] |= 0x80;
    frame.splice(header_len..header_len, [0; 4]);
    frame
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len @ 126..=0xffff => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}
