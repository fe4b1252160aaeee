//! What a node hears from Redis: any bytes are an announcement or an error, and
//! an announcement that is read says what was written.

#![no_main]

use bytes::Bytes;
use fanfare::announcement::Announcement;
use fanfare::event::encode_events;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let announcement = match Announcement::decode(bytes.clone()) {
        Ok(announcement) => announcement,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(announcement.encode(), bytes);
    let _ = announcement.position();
    match announcement.events() {
        Ok(events) => {
            assert_eq!(events.len(), announcement.count as usize);
            // Unknown flags are dropped on reading, so what is compared is the second reading.
            let again = Announcement { body: encode_events(&events), ..announcement };
            assert_eq!(again.events().expect("they were encoded"), events);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
