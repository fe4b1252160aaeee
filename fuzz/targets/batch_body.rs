//! Bodies of `POST …/batch_events` and `POST …/events`: any bytes parse to a valid batch or to
//! an error. A valid batch is within the limits of its app, and survives encoding and decoding
//! as an entry.

#![no_main]

use std::collections::HashSet;

use bytes::Bytes;
use fanfare::app::AppLimits;
use fanfare::batch::{Batch, BatchError};
use fanfare::entry::{Body, Entry, EntryId, Kind};
use fanfare::event::{Event, encode_events};

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let limits = AppLimits::default();
    check(Batch::parse_batch(body, &limits), &limits);
    check(Batch::parse_event(body, &limits), &limits);
});

fn check(parsed: Result<Batch, BatchError>, limits: &AppLimits) {
    match parsed {
        Ok(batch) => {
            check_limits(&batch, limits);
            check_entry(&batch);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error.index.is_none_or(|index| index < limits.batch_events_max));
        }
    }
}

fn check_limits(batch: &Batch, limits: &AppLimits) {
    assert!(batch.events.len() <= limits.batch_events_max);
    for item in &batch.events {
        let name = str::from_utf8(&item.name).expect("a name is text");
        assert!((1..=limits.event_name_chars_max).contains(&name.chars().count()));
        let data = str::from_utf8(&item.data).expect("data is text");
        assert!(data.len() <= limits.payload_bytes_max);
        assert!((1..=limits.event_channels_max).contains(&item.channels.len()));
        let distinct: HashSet<_> = item.channels.iter().collect();
        assert_eq!(distinct.len(), item.channels.len());
        for channel in &item.channels {
            assert!((1..=limits.channel_name_chars_max).contains(&channel.as_str().len()));
        }
    }
}

fn check_entry(batch: &Batch) {
    let events = batch.events.iter().map(|item| Event {
        except: item.except,
        tags: item.tags.clone(),
        delta: item.delta,
        ..Event::new(item.name.clone(), item.data.clone())
    });
    let events: Vec<Event> = events.collect();
    let entry = Entry {
        kind: Kind::Events,
        epoch: 1,
        first_seq: 1,
        count: events.len() as u32,
        time_ms: 1,
        offset: 0,
        id: EntryId::NONE,
        prev: EntryId::NONE,
        body: encode_events(batch.events.iter().map(|item| item.with_key(None))),
    };
    let bytes: Bytes = entry.encode();
    let decoded = Entry::decode(bytes).expect("an encoded entry decodes");
    assert_eq!(decoded.read(), Ok(Body::Events(events)));
}
