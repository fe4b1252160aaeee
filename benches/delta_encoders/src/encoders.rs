//! The compared encoders: those of Fanfare, and published crates for the same two formats.

use fanfare::delta::{fossil, vcdiff};
use oxidelta::compress::encoder::{CompressOptions, encode_all};

#[derive(Clone, Copy)]
pub(crate) struct Encoder {
    pub(crate) name: &'static str,
    pub(crate) encode: fn(&[u8], &[u8]) -> Vec<u8>,
    /// Decodes base and delta to the target, with Fanfare's strict decoder of the format.
    pub(crate) decode: fn(&[u8], &[u8]) -> Vec<u8>,
}

pub(crate) const ENCODERS: [Encoder; 5] = [
    Encoder { name: "our Fossil", encode: fossil::encode, decode: from_fossil },
    // Takes the target first.
    Encoder {
        name: "fossil-delta",
        encode: |base, target| fossil_delta::delta(target, base),
        decode: from_fossil,
    },
    Encoder { name: "our VCDIFF", encode: vcdiff::encode, decode: from_vcdiff },
    Encoder {
        name: "oxidelta, level 1",
        encode: |base, target| oxidelta(base, target, 1),
        decode: from_vcdiff,
    },
    Encoder {
        name: "oxidelta, level 6",
        encode: |base, target| oxidelta(base, target, 6),
        decode: from_vcdiff,
    },
];

const TARGET_BYTES_MAX: usize = 1 << 20;

fn from_fossil(base: &[u8], delta: &[u8]) -> Vec<u8> {
    fossil::decode(base, delta, TARGET_BYTES_MAX).expect("the encoder writes a valid delta")
}

fn from_vcdiff(base: &[u8], delta: &[u8]) -> Vec<u8> {
    vcdiff::decode(base, delta, TARGET_BYTES_MAX).expect("the encoder writes a valid delta")
}

/// Encodes without the checksum, which the JavaScript decoder does not support.
fn oxidelta(base: &[u8], target: &[u8], level: u32) -> Vec<u8> {
    let options = CompressOptions { level, checksum: false, ..Default::default() };
    let mut delta = Vec::new();
    encode_all(&mut delta, base, target, options).expect("writing to a Vec cannot fail");
    delta
}
