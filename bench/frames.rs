//! WebSocket frames, as far as a load needs them.

/// Takes the server's frames apart as they come in, in pieces of any size.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a frame of which the rest is to come.
    partial: Vec<u8>,
}

/// One frame of the server: opcode and payload. They are not masked, and a message
/// is one frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    pub opcode: u8,
    pub payload: &'a [u8],
}

pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const TEXT: u8 = 1;

impl Frames {
    pub fn pass(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        if self.partial.is_empty() {
            let rest = take_whole(bytes, &mut each);
            self.partial.extend_from_slice(rest);
            return;
        }
        self.partial.extend_from_slice(bytes);
        let left = take_whole(&self.partial, &mut each).len();
        match left {
            // Nothing is kept for a socket of which nothing is under way.
            0 => self.partial = Vec::new(),
            _ => drop(self.partial.drain(..self.partial.len() - left)),
        }
    }
}

/// Calls `each` with every whole frame; returns what is left.
fn take_whole<'a>(mut bytes: &'a [u8], each: &mut impl FnMut(Frame<'a>)) -> &'a [u8] {
    while let Some((frame, rest)) = first(bytes) {
        each(frame);
        bytes = rest;
    }
    bytes
}

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

/// A text frame as a server sends it.
pub fn text(payload: &[u8]) -> Vec<u8> {
    frame(TEXT, payload)
}

/// A text frame from a client: masked, with zeros, which leave it as it is.
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
