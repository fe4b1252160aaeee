use proptest::{collection::vec, prelude::*, sample::Index as Offset};

use super::*;

/// Bytes of a delta of one window in addition to its sections, at most, if no length exceeds 16 KB.
const OVERHEAD: usize = HEADER.len() + 1 + 3 + 3 + 3 + 3 + 1 + 3 * 3;

/// Encodes, and checks that the delta decodes and is at most [`OVERHEAD`] longer than the target.
fn round_trip(base: &[u8], target: &[u8]) -> Vec<u8> {
    let delta = encode(base, target);
    assert_eq!(decode(base, &delta, target.len()).as_deref(), Ok(target));
    assert!(delta.len() <= target.len() + OVERHEAD, "{} bytes", delta.len());
    delta
}

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).expect("hexadecimal")
}

/// The delta of one window against the whole of a base of `base_len` < 128 bytes.
fn delta(base_len: u8, target_len: u8, sections: [&[u8]; 3]) -> Vec<u8> {
    let mut window = vec![target_len, 0];
    window.extend(sections.map(|section| section.len() as u8));
    window.extend(sections.concat());
    let head = [VCD_SOURCE, base_len, 0, window.len() as u8];
    [&HEADER[..], &head, &window].concat()
}

#[test]
fn protocol_vector_round_trips() {
    let vector = hex("d6c3c4 00 00 01 05 00 0b 06 00 01 04 01 21 13 05 01 01 00");
    assert_eq!(decode(b"hello", &vector, 6).as_deref(), Ok(&b"hello!"[..]));
    // The same with sizes in the codes, and a base long enough for a copy.
    let ours = hex("d6c3c4 00 00 01 0a 00 09 0b 00 01 02 01 21 1a 02 00");
    assert_eq!(round_trip(b"0123456789", b"0123456789!"), ours);
}

#[test]
fn delta_without_copies_has_no_source() {
    assert_eq!(round_trip(b"", b"abc"), hex("d6c3c4 00 00 00 09 03 00 03 01 00 616263 04"));
    assert_eq!(round_trip(b"0123456789", b"abc"), hex("d6c3c4 00 00 00 09 03 00 03 01 00 616263 04"));
    assert_eq!(round_trip(b"", b""), hex("d6c3c4 00 00 00 05 00 00 00 00 00"));
}

#[test]
fn repeated_byte_is_encoded_as_a_run() {
    let target = format!("zero {} one {}!", "0".repeat(100), "1".repeat(1_000));
    assert!(round_trip(b"", target.as_bytes()).len() < OVERHEAD + 24);
}

#[test]
fn copies_of_moved_text_have_short_addresses() {
    let member = |n: usize| format!("{{\"symbol\":\"S{}\",\"price\":{}}},", n * 31, n * n * 7919);
    let members = |numbers: &[usize]| numbers.iter().map(|n| member(*n)).collect::<String>().into_bytes();
    let base: Vec<usize> = (0..60).collect();
    // The same distant member repeatedly: after the first copy, addresses have one byte.
    let target: Vec<usize> = base.iter().copied().chain([50; 20]).collect();
    assert!(round_trip(&members(&base), &members(&target)).len() < OVERHEAD + 6 + 20 * 3);
}

#[test]
fn windows_are_decoded_in_order() {
    let first = delta(5, 6, [b"!", &[0x13, 5, 2], &[0]]);
    let second = &delta(5, 7, [b"", &[0x13, 3, 20], &[0, 3]])[HEADER.len()..];
    let both = [&first[..], second].concat();
    // Each window has its own source, and copies only from its own target.
    assert_eq!(
        decode(b"hello", &both, 13),
        Err(VcdiffError::CopyPastSource { address: 3, size: 4, source_len: 5 })
    );
    let second = &delta(5, 7, [b"", &[0x13, 3, 20], &[0, 5]])[HEADER.len()..];
    let both = [&first[..], second].concat();
    assert_eq!(decode(b"hello", &both, 13).as_deref(), Ok(&b"hello!helhelh"[..]));
    assert_eq!(decode(b"hello", &both, 12), Err(VcdiffError::TargetTooLarge { declared: 13, bound: 12 }));
}

#[test]
fn instructions_and_address_modes_are_all_decoded() {
    // A run, an add with a copy and a copy with an add, each pair in one code; and addresses of
    // each mode.
    let codes = [0, 3, 163, 247 + 1, 20 + 16 * 2, 20 + 16 * 3, 20 + 16 * 6];
    let addresses = [2, 5, 0, 0, 13];
    let target = b"xxxy2345y234z2345y234y234";
    let decoded = decode(b"0123456789", &delta(10, 25, [b"xyz", &codes, &addresses]), 25);
    assert_eq!(decoded.as_deref(), Ok(&target[..]));
}

#[test]
fn decode_of_an_invalid_delta_returns_the_specific_error() {
    use VcdiffError::*;
    let refused = |delta: &[u8]| decode(b"0123456789", delta, 100).expect_err("a broken delta");
    let sections = |len, data, codes, addresses| refused(&delta(10, len, [data, codes, addresses]));
    assert_eq!(refused(b""), BadHeader);
    assert_eq!(refused(&hex("d6c3c4 00 04")), BadHeader);
    assert_eq!(refused(&hex("d6c3c4 53 00")), BadHeader);
    assert_eq!(refused(&HEADER), Truncated { needed: 1, left: 0 });
    assert_eq!(refused(&hex("d6c3c4 00 00 02")), Unsupported { field: "Win_Indicator", value: 2 });
    assert_eq!(refused(&hex("d6c3c4 00 00 05")), Unsupported { field: "Win_Indicator", value: 5 });
    assert_eq!(refused(&hex("d6c3c4 00 00 00 02 00 01")), Unsupported { field: "Delta_Indicator", value: 1 });
    assert_eq!(refused(&hex("d6c3c4 00 00 01 0b 00")), SourcePastBase { offset: 0, len: 11, base_len: 10 });
    assert_eq!(refused(&hex("d6c3c4 00 00 01 01 0a")), SourcePastBase { offset: 10, len: 1, base_len: 10 });
    assert_eq!(refused(&hex("d6c3c4 00 00 00 ffffffffff7f")), BadInteger { left: 6 });
    assert_eq!(refused(&hex("d6c3c4 00 00 00 06 00")), Truncated { needed: 6, left: 1 });
    assert_eq!(refused(&hex("d6c3c4 00 00 00 06 00 00 00 00 00 00")), LeftOver { left: 1 });
    assert_eq!(
        refused(&hex("d6c3c4 00 00 00 05 65 00 00 00 00")),
        TargetTooLarge { declared: 101, bound: 100 }
    );
    assert_eq!(sections(2, b"a", &[3], &[]), Truncated { needed: 2, left: 1 });
    assert_eq!(sections(2, b"abc", &[3], &[]), LeftOver { left: 1 });
    assert_eq!(sections(4, b"", &[20], &[0, 0]), LeftOver { left: 1 });
    assert_eq!(sections(4, b"", &[20], &[]), Truncated { needed: 1, left: 0 });
    assert_eq!(sections(4, b"", &[20], &[10]), BadAddress { here: 10 });
    assert_eq!(sections(4, b"", &[20 + 16], &[11]), BadAddress { here: 10 });
    assert_eq!(sections(4, b"", &[20], &[7]), CopyPastSource { address: 7, size: 4, source_len: 10 });
    assert_eq!(sections(3, b"", &[20], &[0]), SizeMismatch { declared: 3, found: 4 });
    assert_eq!(sections(5, b"", &[20], &[0]), SizeMismatch { declared: 5, found: 4 });
    assert_eq!(
        sections(9, b"a", &[0, 0x87, 0xff, 0xff, 0xff, 0x7f], &[]),
        SizeMismatch { declared: 9, found: i32::MAX as usize }
    );
}

/// Small alphabets and whole JSON members, so that bytes repeat within and between the inputs.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let members = prop::sample::select(vec!["{\"id\":", "\"name\":\"market\",", "1", "27", "},", "\u{e9}"]);
    prop_oneof![
        vec(any::<u8>(), 0..300),
        vec(0u8..3, 0..2000),
        vec(members, 0..300).prop_map(|members| members.concat().into_bytes()),
        (any::<u8>(), 0usize..40_000).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

proptest! {
    #[test]
    fn any_pair_round_trips(base in text(), target in text()) {
        round_trip(&base, &target);
    }

    #[test]
    fn edited_text_round_trips(
        base in text(),
        edits in vec((any::<Offset>(), 0usize..60, vec(any::<u8>(), 0..9)), 0..8),
    ) {
        let mut target = base.clone();
        for (offset, removed, inserted) in edits {
            let from = offset.index(target.len() + 1);
            target.splice(from..(from + removed).min(target.len()), inserted);
        }
        round_trip(&base, &target);
        round_trip(&target, &base);
    }

    #[test]
    fn decode_of_any_bytes_neither_panics_nor_exceeds_the_bound(
        base in text(),
        other in text(),
        noise in vec(any::<u8>(), 1..60),
        offset in any::<Offset>(),
    ) {
        // Truncated, with one byte overwritten, and random bytes only.
        let mut broken = encode(&base, &other);
        let from = offset.index(broken.len());
        let cut = [&broken[..from], &noise].concat();
        broken[from] = noise[0];
        for delta in [&cut, &broken, &[&HEADER, &noise[..]].concat()] {
            prop_assert!(decode(&base, delta, 500).map_or(true, |target| target.len() <= 500));
        }
    }
}
