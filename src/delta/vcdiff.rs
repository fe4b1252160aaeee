//! The subset of VCDIFF (RFC 3284) that all clients can decode (protocol.md 3.15).
//!
//! A delta is a header and windows. Each window has three sections: new bytes, instructions, and
//! addresses of copies. Addresses count from the start of the base and continue through the target.

mod addresses;
mod codes;
mod decoder;
mod encoder;
#[cfg(test)]
mod tests;

pub use decoder::{VcdiffError, decode};
pub use encoder::encode;

/// The magic bytes with the version, then `Hdr_Indicator`: no compression of sections, no custom
/// code table.
const HEADER: [u8; 5] = [0xd6, 0xc3, 0xc4, 0x00, 0x00];

/// `Win_Indicator` of a window that can copy from the base; 0 for one that cannot.
const VCD_SOURCE: u8 = 0x01;

/// The number of bytes of `value` in base 128. All but the last have the highest bit set.
fn int_len(value: usize) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

fn put_int(out: &mut Vec<u8>, value: usize) {
    for septet in (1..int_len(value)).rev() {
        out.push(0x80 | (value >> (7 * septet)) as u8);
    }
    out.push(value as u8 & 0x7f);
}
