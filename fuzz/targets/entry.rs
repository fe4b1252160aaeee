//! What a node hears from Redis: any bytes are an entry or an error, and
//! an entry that is read says what was written.

#![no_main]

use bytes::Bytes;
use fanfare::entry::{Entry, Body, encode_members};
use fanfare::event::encode_events;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let entry = match Entry::decode(bytes.clone()) {
        Ok(entry) => entry,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(entry.encode(), bytes);
    let _ = entry.position();
    let said = match entry.read() {
        Ok(said) => said,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // Unknown flags are dropped on reading, so what is compared is the second reading.
    let body = match &said {
        Body::Events(events) | Body::ClientEvents(events) => {
            assert_eq!(events.len(), entry.count as usize);
            encode_events(events)
        }
        Body::Members(changes) => encode_members(changes),
        _ => return,
    };
    assert_eq!(Entry { body, ..entry }.read(), Ok(said));
});
