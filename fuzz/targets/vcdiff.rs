//! VCDIFF deltas: no delta makes the decoder panic or exceed its bound. An encoded delta decodes
//! to exactly its target.

#![no_main]

use fanfare::delta::vcdiff;

const TARGET_BYTES_MAX: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    // A NUL separates base and delta, as in the target `fossil`.
    let nul = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let (base, rest) = input.split_at(nul);
    let delta = rest.get(1..).unwrap_or_default();
    if let Ok(target) = vcdiff::decode(base, delta, TARGET_BYTES_MAX) {
        assert!(target.len() <= TARGET_BYTES_MAX);
    }
    check_round_trip(base, delta);
    let (base, target) = input.split_at(input.len() / 2);
    check_round_trip(base, target);
});

fn check_round_trip(base: &[u8], target: &[u8]) {
    let delta = vcdiff::encode(base, target);
    assert_eq!(vcdiff::decode(base, &delta, target.len()).as_deref(), Ok(target));
}
