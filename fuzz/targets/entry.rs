//! Entries from Redis: any bytes decode to an entry or to an error. A decoded entry encodes to
//! the same bytes, and its body survives encoding and decoding.

#![no_main]

use bytes::Bytes;
use fanfare::entry::{Body, Entry, encode_members};
use fanfare::event::encode_events;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let entry = match Entry::decode(bytes.clone()) {
        Ok(entry) => entry,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(entry.encode(), bytes);
    let _ = entry.position();
    let read = match entry.read() {
        Ok(read) => read,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // Reading drops unknown flags, so that bytes cannot be compared. The second reading can.
    let body = match &read {
        Body::Events(events) | Body::ClientEvents(events) => {
            assert_eq!(events.len(), entry.count as usize);
            encode_events(events)
        }
        Body::Members(changes) => encode_members(changes),
        _ => return,
    };
    assert_eq!(Entry { body, ..entry }.read(), Ok(read));
});
