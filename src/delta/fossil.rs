//! The Fossil delta format of protocol.md 3.14.

use super::matches::{self, Format, Match};

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The reason why a delta cannot be applied. All counts are bytes; `left` counts those not yet read
/// of the delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FossilError {
    #[error("no integer of at most 32 bits with {left} bytes left")]
    BadInteger { left: usize },
    #[error("declared target of {declared} bytes is above the bound of {bound}")]
    TargetTooLarge { declared: usize, bound: usize },
    #[error("unexpected byte {byte:#04x} with {left} bytes left")]
    BadCommand { byte: u8, left: usize },
    #[error("copy of {count} bytes at {offset} runs past the base of {base_len} bytes")]
    CopyPastBase { offset: usize, count: usize, base_len: usize },
    #[error("insert of {count} bytes with {left} bytes left")]
    InsertPastDelta { count: usize, left: usize },
    #[error("target reaches {found} bytes, declared are {declared}")]
    SizeMismatch { declared: usize, found: usize },
    #[error("checksum of the target is {found:#010x}, declared is {declared:#010x}")]
    BadChecksum { declared: u32, found: u32 },
    #[error("delta ends without its terminator")]
    MissingTerminator,
    #[error("{left} bytes follow the terminator")]
    TrailingBytes { left: usize },
}

/// Encodes `target` as a delta against `base`, in the text form of protocol.md 3.14.
///
/// Always succeeds, in time linear in both lengths. The delta may be longer than `target`: the
/// caller compares. A target must stay under 2 GiB, the most a client can read.
///
/// # Examples
///
/// ```
/// use fanfare::delta::fossil;
///
/// let base = r#"{"symbol":"ACME","bid":101.5,"ask":101.7,"volume":48210}"#;
/// let target = r#"{"symbol":"ACME","bid":101.6,"ask":101.7,"volume":48215}"#;
/// let delta = fossil::encode(base.as_bytes(), target.as_bytes());
/// assert!(delta.len() < target.len());
/// assert_eq!(fossil::decode(base.as_bytes(), &delta, 1024)?, target.as_bytes());
/// # Ok::<(), fossil::FossilError>(())
/// ```
pub fn encode(base: &[u8], target: &[u8]) -> Vec<u8> {
    // Few deltas that are worth sending are longer.
    let mut out = Delta(Vec::with_capacity(target.len() / 4 + 64));
    put_int(&mut out.0, target.len());
    out.0.push(b'\n');
    matches::write(base, target, &mut out);
    put_int(&mut out.0, checksum(target) as usize);
    out.0.push(b';');
    out.0
}

/// The part of a delta that is written so far.
struct Delta(Vec<u8>);

impl Format for Delta {
    fn pays(copy: Match, splits: bool) -> bool {
        copy.len > digits(copy.len) + digits(copy.base) + if splits { 4 } else { 2 }
    }

    fn insert(&mut self, bytes: &[u8]) {
        put_int(&mut self.0, bytes.len());
        self.0.push(b':');
        self.0.extend_from_slice(bytes);
    }

    fn copy(&mut self, copy: Match) {
        put_int(&mut self.0, copy.len);
        self.0.push(b'@');
        put_int(&mut self.0, copy.base);
        self.0.push(b',');
    }
}

/// Applies `delta` (protocol.md 3.14) to `base` and returns the target.
///
/// Never panics, and never allocates more than `target_bytes_max` bytes, whatever the delta
/// declares.
///
/// # Errors
///
/// Any [`FossilError`]. A wrong base is detected by the checksum at best.
pub fn decode(base: &[u8], delta: &[u8], target_bytes_max: usize) -> Result<Vec<u8>, FossilError> {
    let mut rest = delta;
    let declared = take_int(&mut rest, Some(b'\n'))? as usize;
    if declared > target_bytes_max {
        return Err(FossilError::TargetTooLarge { declared, bound: target_bytes_max });
    }
    let mut target = Vec::with_capacity(declared);
    loop {
        let number = take_int(&mut rest, None)?;
        let (count, left) = (number as usize, rest.len());
        let bytes = match take_byte(&mut rest)? {
            b'@' => {
                let offset = take_int(&mut rest, Some(b','))? as usize;
                let copied = base.get(offset..).and_then(|from| from.get(..count));
                copied.ok_or(FossilError::CopyPastBase { offset, count, base_len: base.len() })?
            }
            b':' => rest.split_off(..count).ok_or(FossilError::InsertPastDelta { count, left: left - 1 })?,
            b';' if target.len() != declared => {
                return Err(FossilError::SizeMismatch { declared, found: target.len() });
            }
            b';' if left > 1 => return Err(FossilError::TrailingBytes { left: left - 1 }),
            b';' => match checksum(&target) {
                found if found == number => return Ok(target),
                found => return Err(FossilError::BadChecksum { declared: number, found }),
            },
            byte => return Err(FossilError::BadCommand { byte, left }),
        };
        // Checked before the bytes are appended, so that the target never exceeds its allocation.
        if bytes.len() > declared - target.len() {
            return Err(FossilError::SizeMismatch { declared, found: target.len() + bytes.len() });
        }
        target.extend_from_slice(bytes);
    }
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, FossilError> {
    rest.split_off_first().copied().ok_or(FossilError::MissingTerminator)
}

/// Takes an integer and, if `follower` is given, the byte that must follow it.
fn take_int(rest: &mut &[u8], follower: Option<u8>) -> Result<u32, FossilError> {
    let left = rest.len();
    let mut value = None;
    while let Some(digit) = rest.first().and_then(|byte| DIGITS.iter().position(|digit| digit == byte)) {
        let shifted = value.unwrap_or(0u32).checked_mul(64).ok_or(FossilError::BadInteger { left })?;
        value = Some(shifted | digit as u32);
        rest.split_off_first();
    }
    let follows = *rest.first().ok_or(FossilError::MissingTerminator)?;
    match follower {
        Some(expected) if follows != expected => {
            return Err(FossilError::BadCommand { byte: follows, left: rest.len() });
        }
        Some(_) => take_byte(rest)?,
        None => follows,
    };
    value.ok_or(FossilError::BadInteger { left })
}

/// The sum of the big-endian 32-bit words modulo 2^32; the last word is filled with zeros on the
/// right.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().fold(u32::from_be_bytes(last), |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

/// The number of base-64 digits of `value`.
fn digits(value: usize) -> usize {
    (value | 1).ilog2() as usize / 6 + 1
}

fn put_int(out: &mut Vec<u8>, value: usize) {
    for digit in (0..digits(value)).rev() {
        out.push(DIGITS[value >> (6 * digit) & 63]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index as Offset};

    use super::*;

    /// Encodes, checks that the delta decodes, and that it is no longer than one insert of
    /// everything.
    fn round_trip(base: &[u8], target: &[u8]) -> Vec<u8> {
        let delta = encode(base, target);
        assert_eq!(decode(base, &delta, target.len()).as_deref(), Ok(target));
        assert!(delta.len() <= target.len() + 2 * digits(target.len()) + 9, "{} bytes", delta.len());
        delta
    }

    /// Small alphabets and whole JSON members, so that bytes repeat within and between the inputs.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let members =
            prop::sample::select(vec!["{\"id\":", "\"name\":\"market\",", "1", "27", "},", "\u{e9}"]);
        prop_oneof![
            vec(any::<u8>(), 0..300),
            vec(0u8..3, 0..2000),
            vec(members, 0..300).prop_map(|members| members.concat().into_bytes()),
            (any::<u8>(), 0usize..40_000).prop_map(|(byte, len)| vec![byte; len]),
        ]
    }

    #[test]
    fn protocol_vector_round_trips() {
        let frame = |p: u8| {
            let head =
                format!("{{\"event\":\"tick\",\"channel\":\"m\",\"data\":\"{{\\\"p\\\":{p},\\\"q\\\":\\\"");
            (head + &"a".repeat(67) + "\\\"}\"}").into_bytes()
        };
        assert_eq!(decode(&frame(1), b"1~\ni@0,1:21H@j,2SyqLx;", 127), Ok(frame(2)));
        assert_eq!(round_trip(&frame(1), &frame(2)), b"1~\ni@0,1:21H@j,2SyqLx;");
    }

    #[test]
    fn encode_finds_matches_between_edits_and_in_moved_text() {
        let member = |n: usize, price: usize| format!("{{\"symbol\":\"S{n}\",\"price\":{price}}},");
        let base: Vec<String> = (0..40).map(|n| member(n, n * n * 7919)).collect();
        let mut target = base.clone();
        (target[9], target[20]) = (member(9, 5), member(20, 123));
        assert!(round_trip(base.concat().as_bytes(), target.concat().as_bytes()).len() < 45);
        target.swap(3, 33);
        assert!(round_trip(base.concat().as_bytes(), target.concat().as_bytes()).len() < 75);
    }

    #[test]
    fn decode_of_an_invalid_delta_returns_the_specific_error() {
        use FossilError::*;
        let refused = |delta: &str| decode(b"0123456789", delta.as_bytes(), 100).expect_err(delta);
        assert_eq!(refused(""), MissingTerminator);
        assert_eq!(refused("4\n4:abcd"), MissingTerminator);
        assert_eq!(refused("\n0;"), BadInteger { left: 3 });
        assert_eq!(refused("4000000\n0;"), BadInteger { left: 10 });
        assert_eq!(refused("3~~~~~\n0;"), TargetTooLarge { declared: u32::MAX as usize, bound: 100 });
        assert_eq!(refused("4\n4?"), BadCommand { byte: b'?', left: 1 });
        assert_eq!(refused("4\n4@7,0;"), CopyPastBase { offset: 7, count: 4, base_len: 10 });
        assert_eq!(refused("4\n4:abc"), InsertPastDelta { count: 4, left: 3 });
        assert_eq!(refused("4\n5@0,0;"), SizeMismatch { declared: 4, found: 5 });
        assert_eq!(refused("4\n3@0,0;"), SizeMismatch { declared: 4, found: 3 });
        assert_eq!(refused("1\n1@0,0;"), BadChecksum { declared: 0, found: 0x3000_0000 });
        assert_eq!(refused("0\n0;0;"), TrailingBytes { left: 2 });
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
            noise in vec(any::<u8>(), 0..60),
            offset in any::<Offset>(),
        ) {
            let mut delta = encode(&base, &noise);
            let from = offset.index(delta.len());
            delta.truncate(from);
            delta.extend_from_slice(&noise);
            for delta in [&delta, &noise] {
                prop_assert!(decode(&base, delta, 50).map_or(true, |target| target.len() <= 50));
            }
        }
    }
}
