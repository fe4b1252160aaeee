//! What a node hears from Redis: any bytes are an announcement or an error, and
//! an announcement that is read says what was written.

#![no_main]

use bytes::Bytes;
use fanfare::announcement::{Announcement, Body, encode_members};
use fanfare::event::encode_events;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let announcement = match Announcement::decode(bytes.clone()) {
        Ok(announcement) => announcement,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(announcement.encode(), bytes);
    let _ = announcement.position();
    let said = match announcement.read() {
        Ok(said) => said,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // Unknown flags are dropped on reading, so what is compared is the second reading.
    let body = match &said {
        Body::Events(events) | Body::ClientEvents(events) => {
            assert_eq!(events.len(), announcement.count as usize);
            encode_events(events)
        }
        Body::Members(changes) => encode_members(changes),
        _ => return,
    };
    assert_eq!(Announcement { body, ..announcement }.read(), Ok(said));
});
