//! The delta chain of one channel on a client (protocol.md 3.3 to 3.5).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fanfare::delta::fossil;
use memchr::memmem;

/// The markers of a full event. Clients remove them before they store the event as a base.
const MARKERS: [&[u8]; 2] = [b",\"__delta_seq\":", b",\"__conflation_key\":"];
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The last sequence number of the chain and, on subscribers that decode, the base of the
/// next delta.
#[derive(Debug, Default)]
pub struct Chain {
    seq: Option<u64>,
    base: Option<Vec<u8>>,
}

/// The kind of an event frame, as far as it is known without decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A full event with its number.
    Number(u64),
    /// A delta, with the distance of its sequence number from the previous one.
    After(u64),
}

/// The value of the first member, `number`, of the event data.
pub fn number(text: &[u8]) -> Option<u64> {
    let at = memmem::find(text, b"number")? + b"number".len();
    digits(&text[at..])
}

/// The leading number of `text`. Only quotes, colons and backslashes may precede it.
fn digits(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    let between = &text[..start];
    if !between.iter().all(|byte| b"\\\":".contains(byte)) {
        return None;
    }
    let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn is_delta(text: &[u8]) -> bool {
    memmem::find(&text[..text.len().min(40)], b":delta\"").is_some()
}

impl Chain {
    /// Advances the chain by a frame. `None` if the frame is not an event.
    pub fn step(&mut self, text: &[u8]) -> Option<Step> {
        let is_delta = is_delta(text);
        let marker: &[u8] = if is_delta { b"\"seq\":" } else { MARKERS[0] };
        let seq = memmem::rfind(text, marker).and_then(|at| digits(&text[at + marker.len()..]));
        let before = self.seq;
        self.seq = seq.or(before);
        match is_delta {
            true => Some(Step::After(seq?.saturating_sub(before.unwrap_or_default()))),
            false => number(text).map(Step::Number),
        }
    }

    /// The text of an event: of a delta, the decoded text. `None` if decoding fails.
    pub fn decode(&mut self, text: &[u8]) -> Option<&[u8]> {
        let decoded = match is_delta(text) {
            true => {
                let start = memmem::find(text, b"\"delta\":\"")? + b"\"delta\":\"".len();
                let len = memchr::memchr(b'"', &text[start..])?;
                let patch = STANDARD.decode(&text[start..start + len]).ok()?;
                fossil::decode(self.base.as_ref()?, &patch, TEXT_BYTES_MAX).ok()?
            }
            false => without_markers(text),
        };
        Some(self.base.insert(decoded))
    }
}

/// Removes the markers, which are the last members of the object.
fn without_markers(text: &[u8]) -> Vec<u8> {
    let starts = MARKERS.iter().filter_map(|marker| memmem::rfind(text, marker));
    match starts.min() {
        Some(start) => [&text[..start], b"}"].concat(),
        None => text.to_vec(),
    }
}
