//! WebSocket framing of the server's messages (RFC 6455, 5.2).
//!
//! Frames from a server are not masked, so the bytes of a message are the same for every
//! connection: they are encoded once and shared.

use bytes::{BufMut, Bytes, BytesMut};

const FINAL_TEXT: u8 = 0x81;
const FINAL_CLOSE: u8 = 0x88;

/// `payload` (UTF-8) as one text frame.
pub fn text(payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(text_len(payload.len()));
    put_text(&mut out, payload);
    out.freeze()
}

/// Appends `payload` as one text frame.
pub fn put_text(out: &mut BytesMut, payload: &[u8]) {
    out.put_u8(FINAL_TEXT);
    match payload.len() {
        len @ 0..=125 => out.put_u8(len as u8),
        len @ 126..=0xffff => {
            out.put_u8(126);
            out.put_u16(len as u16);
        }
        len => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
    out.put_slice(payload);
}

/// Bytes of a text frame whose payload has `payload_len` bytes.
pub fn text_len(payload_len: usize) -> usize {
    payload_len
        + match payload_len {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        }
}

/// A control frame has at most 125 bytes, two of which are the code.
const CLOSE_REASON_BYTES_MAX: usize = 123;

/// A close frame. A reason above 123 bytes is cut at the last character that fits.
pub fn close(code: u16, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
    let reason = reason.as_bytes();
    let mut out = BytesMut::with_capacity(4 + reason.len());
    out.put_u8(FINAL_CLOSE);
    out.put_u8(2 + reason.len() as u8);
    out.put_u16(code);
    out.put_slice(reason);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_length_uses_the_shortest_encoding() {
        for (len, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 255, 255]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = text(&vec![b'x'; len]);
            assert_eq!(frame[..header.len()], header, "{len}");
            assert_eq!(frame.len(), text_len(len));
            assert_eq!(frame.len(), header.len() + len);
        }
    }

    #[test]
    fn close_reason_is_cut_to_fit_a_control_frame() {
        assert_eq!(close(4005, "no")[..], [0x88, 4, 15, 165, b'n', b'o']);
        let cut = close(4005, &"é".repeat(100));
        assert_eq!((cut.len(), std::str::from_utf8(&cut[4..])), (126, Ok("é".repeat(61).as_str())));
    }
}
