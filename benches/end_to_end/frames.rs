//! Counting WebSocket frames without looking into them.

/// Reads the server's frames as they come in, in pieces of any size.
#[derive(Debug, Default)]
pub struct FrameCounter {
    header: [u8; 10],
    header_len: usize,
    payload_left: u64,
    /// Frames that have arrived whole.
    pub frames: u64,
}

impl FrameCounter {
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left == 0 {
                self.header[self.header_len] = bytes[0];
                self.header_len += 1;
                bytes = &bytes[1..];
                match self.payload_len() {
                    Some(len) => (self.payload_left, self.header_len) = (len, 0),
                    None => continue,
                }
            }
            let taken = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
            self.payload_left -= taken as u64;
            bytes = &bytes[taken..];
            self.frames += u64::from(self.payload_left == 0);
        }
    }

    /// Once the header is complete. The server's frames are not masked.
    fn payload_len(&self) -> Option<u64> {
        let header = &self.header[..self.header_len];
        let be = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match (header.get(1)? & 0x7f, header.len()) {
            (126, 4) => Some(be(&header[2..])),
            (127, 10) => Some(be(&header[2..])),
            (126 | 127, _) => None,
            (len, _) => Some(len.into()),
        }
    }
}

/// A text frame as a server sends it.
pub fn text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
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

/// The same from a client: masked, with zeros, which leave it as it is.
pub fn masked_text(payload: &[u8]) -> Vec<u8> {
    let mut frame = text(payload);
    let header_len = frame.len() - payload.len();
    frame[1] |= 0x80;
    frame.splice(header_len..header_len, [0; 4]);
    frame
}
