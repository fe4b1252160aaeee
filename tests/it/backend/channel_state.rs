//! The state that both backends keep of a channel in addition to its entries,
//! through the interface of the backends: the newest event of each chain, and
//! whether deltas are on. On Redis, one node reads the data that another node has written.

use bytes::Bytes;
use fanfare::backend::memory::Memory;
use fanfare::backend::redis::Redis as Shared;
use fanfare::backend::{
    self, KeptBase, KeptBases, MembershipRules, MembershipUpdate, Publication, StoredBase,
};
use fanfare::backend_events::{Receiver, backend_events};
use fanfare::channel::{ChannelId, ChannelName};
use fanfare::entry::{Body, EntryId, Kind, Log};
use fanfare::event::{Event, encode_events};
use fanfare::limits;
use fanfare::limits::DetectionTimes;

use serde_json::json;

use crate::support::{AppSpec, Backend, Redis, Server, bounded, events_of, on_both_backends};

on_both_backends![
    backend_keeps_newest_event_of_each_chain,
    backend_evicts_least_recently_published_chains,
    membership_update_returns_delta_toggle,
    history_is_read_since_sequence_number,
];

/// One node that writes, and one that reads: on the memory backend the same.
struct Nodes {
    writer: backend::Backend,
    reader: Option<backend::Backend>,
    channel: ChannelId,
    _receivers: Vec<Receiver>,
    _redis: Option<Redis>,
}

impl Nodes {
    async fn start(backend: Backend) -> Nodes {
        let channel = ChannelId::new("1", &ChannelName::parse("news", 200).unwrap());
        let mut receivers = Vec::new();
        let mut open = || {
            let (events, open) = backend_events();
            receivers.push(open);
            events
        };
        let (writer, reader, redis) = match backend {
            Backend::Memory => {
                (backend::Backend::Memory(Box::new(Memory::new(open(), limits::LOG_AGE_MAX))), None, None)
            }
            Backend::Redis => {
                let redis = Redis::start().await;
                let mut nodes = Vec::new();
                for _ in 0..2 {
                    let node = Shared::connect(
                        &redis.url(),
                        None,
                        "fanfare",
                        open(),
                        DetectionTimes::default(),
                        |_| {},
                    )
                    .await
                    .unwrap();
                    nodes.push(backend::Backend::Redis(Box::new(node)));
                }
                (nodes.remove(0), nodes.pop(), Some(redis))
            }
        };
        Nodes { writer, reader, channel, _receivers: receivers, _redis: redis }
    }

    fn reader(&self) -> &backend::Backend {
        self.reader.as_ref().unwrap_or(&self.writer)
    }

    async fn publish(&self, events: &[Event], bases: Option<KeptBases>) {
        let (channel_id, body) = (self.channel.clone(), encode_events(events));
        let count = u32::try_from(events.len()).unwrap();
        let publication = Publication { channel_id, count, body, wants_counts: false, last: None, bases };
        self.writer.publish(EntryId::random(), vec![publication], None).await.unwrap();
    }

    /// Publishes events with a request to keep the last event of each chain.
    async fn publish_kept(&self, events: &[Event], keys_max: usize) {
        let mut newest: Vec<KeptBase> = Vec::new();
        let mut start = 0;
        for (index, event) in (0..).zip(events) {
            let (key, bytes) = (event.key.clone().unwrap(), encode_events([event]).len());
            newest.retain(|base| base.key != key);
            newest.push(KeptBase { key, index, start, bytes });
            start += bytes;
        }
        self.publish(events, Some(KeptBases { keys_max, newest })).await;
    }

    async fn bases(&self) -> Vec<StoredBase> {
        self.reader().read_bases(&self.channel).await.unwrap()
    }

    async fn head(&self) -> u64 {
        let heads = self.reader().read_heads(std::slice::from_ref(&self.channel)).await.unwrap();
        heads[0].unwrap().seq
    }

    async fn are_off(&self, count: u64) -> bool {
        let (channel_id, rules) = (self.channel.clone(), MembershipRules::default());
        let update = MembershipUpdate {
            channel_id,
            count,
            users: Vec::new(),
            rules,
            wants_last: false,
            is_new: false,
        };
        self.reader().update_membership(&update).await.unwrap().deltas_off
    }

    async fn since(&self, seq: u64) -> Log {
        self.reader().read_log_since(&self.channel, (seq & 0x7fff_ffff) as u32).await.unwrap()
    }
}

fn event(key: &'static str, data: &'static str) -> Event {
    Event { key: Some(Bytes::from(key)), ..Event::new("e", data) }
}

async fn backend_keeps_newest_event_of_each_chain(backend: Backend) {
    let nodes = Nodes::start(backend).await;
    assert_eq!(nodes.bases().await, [], "an unpublished channel has no bases");
    let events = [event("A", "1"), event("B", "{\"b\":1}"), event("A", "2")];
    nodes.publish_kept(&events, 9).await;
    let seq = nodes.head().await;
    let log = nodes.since(seq).await;
    let base = |key: &str, seq, time_ms, event: &Event| StoredBase {
        key: Bytes::from(key.to_owned()),
        seq,
        time_ms,
        event: event.clone(),
    };
    let time_ms = log.head.unwrap().time_ms;
    let expected = [base("B", seq - 1, time_ms, &events[1]), base("A", seq, time_ms, &events[2])];
    assert_eq!(nodes.bases().await, expected);
    nodes.publish(&[Event::new("e", "in no chain")], None).await;
    assert_eq!(nodes.bases().await, expected);
    nodes.publish_kept(&[event("B", "3")], 9).await;
    let bases = nodes.bases().await;
    let times = bases.iter().map(|base| (&base.key[..], base.seq, &base.event.data[..])).collect::<Vec<_>>();
    assert_eq!(times, [(&b"A"[..], seq, &b"2"[..]), (b"B", seq + 2, b"3")]);
}

async fn backend_evicts_least_recently_published_chains(backend: Backend) {
    let nodes = Nodes::start(backend).await;
    let kept = async || nodes.bases().await.into_iter().map(|base| base.key).collect::<Vec<_>>();
    nodes.publish_kept(&[event("A", "1"), event("B", "1"), event("C", "1")], 3).await;
    nodes.publish_kept(&[event("A", "2")], 3).await;
    nodes.publish_kept(&[event("D", "1")], 3).await;
    assert_eq!(kept().await, ["C", "A", "D"]);
    nodes.publish_kept(&[event("C", "2")], 2).await;
    assert_eq!(kept().await, ["D", "C"]);
}

async fn membership_update_returns_delta_toggle(backend: Backend) {
    let nodes = Nodes::start(backend).await;
    nodes.writer.switch_deltas(&nodes.channel, false).await.unwrap();
    assert!(!nodes.are_off(1).await, "deltas are on for a channel without events");
    nodes.publish(&[Event::new("e", "1")], None).await;
    let first = nodes.head().await;
    for (count, on) in [(2, false), (3, false), (4, true), (5, true), (6, false)] {
        nodes.writer.switch_deltas(&nodes.channel, on).await.unwrap();
        assert_eq!(nodes.are_off(count).await, !on);
    }
    let entries = nodes.since(first).await.entries;
    let bodies: Vec<Body> = entries[1..].iter().map(|it| it.read().unwrap()).collect();
    assert_eq!(bodies, [false, true, false].map(|on| Body::Deltas { on }), "each change once");
    assert_eq!(nodes.head().await, first + 3);
}

async fn history_is_read_since_sequence_number(backend: Backend) {
    let nodes = Nodes::start(backend).await;
    let nothing = nodes.since(7).await;
    assert!(nothing.head.is_none() && nothing.entries.is_empty());
    const BEFORE: usize = limits::RESUME_BASES_MAX;
    for _ in 0..BEFORE + 20 {
        nodes.publish(&[Event::new("e", "1"), Event::new("e", "2")], None).await;
    }
    let last = nodes.head().await;
    let first = last - 2 * (BEFORE as u64 + 20) + 1;
    // The requested number, and the first one that is read.
    for (seq, from) in [
        (last, last - 1 - 2 * BEFORE as u64),
        (last - 1, last - 1 - 2 * BEFORE as u64),
        (last - 2, last - 3 - 2 * BEFORE as u64),
        (first + 1, first),
        (first, first),
        (first - 1, first),
        (last + 1, first),
    ] {
        let log = nodes.since(seq).await;
        assert_eq!(log.head.unwrap().seq, last);
        assert_eq!(log.entries[0].first_seq, from, "since {seq} of {first} to {last}");
        assert_eq!(log.entries.last().unwrap().position().seq, last);
        assert!(log.entries.iter().all(|it| events_of(it).len() == 2));
    }
}

/// From the body of a request to another node's read: events carry their conflation
/// keys, and the newest of each chain is kept where new subscribers receive initial
/// bases.
#[tokio::test]
async fn event_published_over_http_is_stored_in_its_chain() {
    bounded(async {
        let redis = Redis::start().await;
        let patterns = "{ \"*\" = { conflation_key = \"asset.id\", max_conflation_keys = 2, cache_sync = true }, \
                    \"one\" = { cache_sync = true }, \"quiet\" = { conflation_key = \"asset.id\" } }";
        let app = AppSpec::new("7").set("channel_delta_compression", patterns).set("max_event_batch_size", 25);
        let server = Server::builder().redis(&redis).app(app).start().await;
        let (events, _receivers) = backend_events();
        let reader = Shared::connect(&redis.url(), None, "fanfare", events, DetectionTimes::default(), |_| {}).await.unwrap();
        let mut browser = server.browser("key7").await;
        browser.subscribe("market").await;
        let data = |id: &str, price: u64| json!({ "asset": { "id": id }, "price": price }).to_string();
        let channels = ["market", "private-cache-a", "private-encrypted-a", "one", "quiet"];
        let published: Vec<String> =
            [("BTC", 1), ("ETH", 2), ("BTC", 3), ("XRP", 4)].map(|it| data(it.0, it.1)).into();
        let published: Vec<&str> = published.iter().map(String::as_str).chain(["no key"]).collect();
        let events = channels.iter().flat_map(|channel| {
            published.iter().map(move |data| json!({ "name": "e", "channel": channel, "data": data }))
        });
        server.caller("7").post_batch(events.collect()).await.expect_ok();
        for data in &published {
            assert_eq!(browser.expect_event("market", "e").await.data_text(), *data);
        }
        let newest = [("BTC", published[2]), ("XRP", published[3])];
        let keys = ["BTC", "ETH", "BTC", "XRP", ""];
        for (channel, kept, keys) in [
            ("market", &newest[..], Some(keys)),
            ("private-cache-a", &newest[..], Some(keys)),
            ("private-encrypted-a", &[], None),
            ("one", &[("", "no key")], None),
            ("quiet", &[], Some(keys)),
        ] {
            let channel_id = ChannelId::new("7", &ChannelName::parse(channel, 200).unwrap());
            let bases = reader.read_bases(&channel_id).await.unwrap();
            let of_chain = |base: &StoredBase| (text(&base.key), text(&base.event.data));
            let expected: Vec<_> = kept.iter().map(|it| (it.0.to_owned(), it.1.to_owned())).collect();
            assert_eq!(bases.iter().map(of_chain).collect::<Vec<_>>(), expected, "{channel}");
            let log = reader.read_log(&channel_id, EntryId::NONE).await.unwrap();
            let found = log.entries.iter().find(|it| it.kind == Kind::Events).map(events_of).unwrap();
            let found: Vec<_> = found.into_iter().map(|event| event.key.map(|key| text(&key))).collect();
            let expected = (0..5).map(|at| keys.map(|keys| keys[at].to_owned()));
            assert_eq!(found, expected.collect::<Vec<_>>(), "{channel}");
        }
    })
    .await;
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
