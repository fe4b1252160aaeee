use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::test_client::{Client, Received, frames, normalized};
use super::*;
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::{DeltaConfig, MarkerStyle};
use crate::event::Event;
use crate::filter::{AppFilters, ChannelFilters, Filter};

#[derive(Debug, Clone)]
struct Published {
    name: String,
    data: String,
    except: Option<u8>,
    delta: Option<bool>,
    tag: Option<u8>,
    key: Option<u8>,
}

impl Published {
    fn tags(&self) -> Option<Bytes> {
        self.tag.map(|tag| format!(r#"{{"t":"{tag}"}}"#).into())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(Vec<Published>),
    ClientEvent(String),
    Join(u8, usize),
    Leave(u8),
    /// Leaves and subscribes again, and keeps its bases.
    Resume(u8),
    EnableDeltas(u8),
    Resync(u8),
    Restart,
    Toggle(bool),
}

/// Delivery options of the clients in this test.
fn all_options() -> Vec<DeliveryOptions> {
    let (mut filters, app) = (ChannelFilters::default(), AppFilters::default());
    let mut filter = |text| filters.admit(Filter::parse(text).expect("a filter"), &app).ok();
    let filters = [None, filter(r#"{"key":"t","cmp":"eq","val":"1"}"#), filter(r#"{"key":"t","cmp":"nex"}"#)];
    let mut all_options = Vec::new();
    for filter in filters {
        for algorithm in [None, Some(Algorithm::Fossil), Some(Algorithm::Vcdiff)] {
            for (positions, event_prefix) in [(false, EventPrefix::Pusher), (true, EventPrefix::Sockudo)] {
                all_options.push(DeliveryOptions {
                    event_prefix,
                    algorithm,
                    positions,
                    filter: filter.clone(),
                });
            }
        }
    }
    all_options
}

const CLIENTS: u8 = 6;

fn step() -> impl Strategy<Value = Step> {
    let payload = prop_oneof![
        4 => (0_u32..50, "[a-zé😀\"\\\\]{0,20}").prop_map(|(n, s)|
            serde_json::json!({ "price": n, "text": s, "padding": "x".repeat(80) }).to_string()),
        1 => "\\PC{0,60}",
        1 => Just(r#"{"a":1,"__delta_seq":5,"padding":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#.to_owned()),
        1 => Just("7".to_owned()),
    ];
    let event = (
        "[ab]",
        payload,
        proptest::option::weighted(0.2, 0..CLIENTS),
        proptest::option::weighted(0.1, any::<bool>()),
        proptest::option::weighted(0.7, 0_u8..3),
        proptest::option::weighted(0.9, 0_u8..12),
    )
        .prop_map(|(name, data, except, delta, tag, key)| Published {
            name,
            data,
            except,
            delta,
            tag,
            key,
        });
    prop_oneof![
        8 => proptest::collection::vec(event, 1..6).prop_map(Step::Publish),
        1 => "[a-z]{1,9}".prop_map(Step::ClientEvent),
        3 => (0..CLIENTS, 0..all_options().len()).prop_map(|(id, options)| Step::Join(id, options)),
        1 => (0..CLIENTS).prop_map(Step::Leave),
        2 => (0..CLIENTS).prop_map(Step::Resume),
        1 => (0..CLIENTS).prop_map(Step::EnableDeltas),
        1 => (0..CLIENTS).prop_map(Step::Resync),
        1 => Just(Step::Restart),
        1 => any::<bool>().prop_map(Step::Toggle),
    ]
}

fn socket(id: u8) -> SocketId {
    SocketId::parse(&format!("1.{id}")).expect("a socket id")
}

fn subscriber(write_buffer: &Arc<WriteBuffer>, options: &DeliveryOptions) -> Subscriber {
    Subscriber {
        write_buffer: write_buffer.clone(),
        options: options.clone(),
        previous_socket_ids: Box::default(),
        member: None,
    }
}

/// One channel of a node, with its subscribers.
struct TestChannel {
    config: DeltaConfig,
    channel: ChannelDelta,
    policy: Policy,
    keyed: bool,
    subscribers: Subscribers,
    clients: HashMap<u8, Client>,
    expected: HashMap<u8, Vec<Received>>,
    seq: u64,
}

impl TestChannel {
    fn new(keyed: bool, markers: MarkerStyle, enabled: bool) -> TestChannel {
        let config =
            DeltaConfig { min_message_bytes: 40, markers, shows_tags: true, ..DeltaConfig::default() };
        let mut channel = crate::delta::channels::ChannelDeltas::default().on("c", &config);
        // Fewer than there are keys.
        channel.keys_max = 8;
        channel.enabled = enabled;
        TestChannel {
            config,
            channel,
            policy: Policy::default(),
            keyed,
            subscribers: Subscribers::default(),
            clients: HashMap::new(),
            expected: HashMap::new(),
            seq: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Join(id, options) => {
                let (write_buffer, options) = (Arc::<WriteBuffer>::default(), all_options()[options].clone());
                let held = Chains::default();
                self.subscribers.add(socket(id), subscriber(&write_buffer, &options), &held, self.seq + 1);
                self.expected.insert(id, vec![]);
                let style = self.config.markers;
                let (bases, received) = (HashMap::new(), vec![]);
                self.clients
                    .insert(id, Client { write_buffer, options, style, bases, received, position: 0 });
            }
            Step::Leave(id) => {
                self.subscribers.remove(socket(id));
                self.check(id);
                self.clients.remove(&id);
            }
            Step::Resume(id) => {
                self.check(id);
                self.subscribers.remove(socket(id));
                let Some(client) = self.clients.get(&id) else { return };
                self.subscribers.add(
                    socket(id),
                    subscriber(&client.write_buffer, &client.options),
                    &client.held(),
                    self.seq + 1,
                );
            }
            Step::EnableDeltas(id) => {
                self.check(id);
                let Some(client) = self.clients.get_mut(&id) else { return };
                if self.subscribers.options(socket(id)).is_none_or(|options| options.algorithm.is_some()) {
                    return;
                }
                client.options.algorithm = Some(Algorithm::Fossil);
                let subscriber = subscriber(&client.write_buffer, &client.options);
                self.subscribers.add(socket(id), subscriber, &Chains::default(), self.seq + 1);
            }
            Step::Resync(id) => {
                self.subscribers.resync(socket(id), self.seq + 1);
                self.check(id);
                if let Some(client) = self.clients.get_mut(&id) {
                    client.bases.clear();
                }
            }
            Step::Restart => self.subscribers.groups().restart(),
            Step::Toggle(on) => self.policy.set(on),
            Step::ClientEvent(data) => self.deliver(&[Event::new("client-e", data)], false),
            Step::Publish(events) => self.publish(&events),
        }
    }

    fn publish(&mut self, events: &[Published]) {
        let events: Vec<Event> = events
            .iter()
            .map(|it| {
                let key = it.key.map_or(Bytes::new(), |key| format!("k{key}").into());
                for (id, client) in self.clients.iter().filter(|(id, _)| Some(**id) != it.except) {
                    if client.matches(&it.name, it.tags().as_deref()) {
                        let expected = self.expected.get_mut(id).expect("a subscribed client");
                        expected.push((it.name.clone(), normalized(&it.data)));
                    }
                }
                Event {
                    except: it.except.map(socket),
                    tags: it.tags(),
                    delta: it.delta,
                    key: self.keyed.then_some(key),
                    ..Event::new(it.name.clone(), it.data.clone())
                }
            })
            .collect();
        self.deliver(&events, true);
    }

    fn deliver(&mut self, events: &[Event], is_chained: bool) {
        let delivery = Delivery { channel: "c", first_seq: self.seq + 1, time_ms: 0, events, is_chained };
        self.seq += events.len() as u64;
        let TestChannel { config, channel, policy, .. } = self;
        let mut context = FanOutContext::new(config, channel, policy);
        self.subscribers.deliver(&delivery, &mut context, &mut vec![]);
        if !is_chained {
            for (id, _) in self.clients.iter().filter(|(_, client)| client.matches("client-e", None)) {
                let data = String::from_utf8(events[0].data.to_vec()).expect("UTF-8");
                self.expected.get_mut(id).expect("a subscribed client").push(("client-e".into(), data));
            }
        }
    }

    fn check(&mut self, id: u8) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.read();
        assert_eq!(client.received, self.expected[&id]);
        assert!(client.position <= self.seq);
    }
}

proptest! {
    /// Promises P3 and P8 on one node: subscribers that join, leave, resume, lose their
    /// bases, filter, or are excluded receive exactly the events published to them,
    /// with any delivery options.
    #[test]
    fn reconstructed_events_equal_published_events(
        keyed in any::<bool>(),
        plain in any::<bool>(),
        enabled in proptest::bool::weighted(0.9),
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let markers = if plain { MarkerStyle::Plain } else { MarkerStyle::Underscore };
        let mut test = TestChannel::new(keyed, markers, enabled);
        for step in steps {
            test.step(step);
        }
        for id in 0..CLIENTS {
            test.check(id);
        }
    }
}

#[test]
fn subscribers_without_deltas_share_one_buffer_per_delivery() {
    let mut test = TestChannel::new(false, MarkerStyle::Underscore, true);
    let write_buffers: Vec<_> = (0..3).map(|_| Arc::<WriteBuffer>::default()).collect();
    for (id, write_buffer) in (0..).zip(&write_buffers) {
        test.subscribers.add(
            socket(id),
            subscriber(write_buffer, &DeliveryOptions::default()),
            &Chains::default(),
            1,
        );
    }
    test.deliver(&vec![Event::new("e", "d"); 10], true);
    let chunks: Vec<_> = write_buffers.iter().flat_map(|write_buffer| write_buffer.queued()).collect();
    assert_eq!(chunks.len(), 3, "one chunk each for ten events");
    assert!(chunks.iter().all(|chunk| chunk.as_ptr() == chunks[0].as_ptr()));
}

#[test]
fn socket_id_exclusion_applies_to_previous_socket_ids() {
    let mut test = TestChannel::new(false, MarkerStyle::Underscore, true);
    let write_buffer = Arc::<WriteBuffer>::default();
    let resumed = Subscriber {
        previous_socket_ids: [socket(7)].into(),
        ..subscriber(&write_buffer, &DeliveryOptions::default())
    };
    test.subscribers.add(socket(1), resumed, &Chains::default(), 1);
    let to = |id| Event { except: Some(socket(id)), ..Event::new("e", "d") };
    test.deliver(&[to(1), to(7), to(2)], true);
    assert_eq!(frames(&write_buffer.queued().concat()).len(), 1);
}

#[test]
fn new_subscriber_receives_deltas_after_catch_up() {
    let mut test = TestChannel::new(false, MarkerStyle::Underscore, true);
    let options = DeliveryOptions { algorithm: Some(Algorithm::Fossil), ..DeliveryOptions::default() };
    let event = |n: u32| Event::new("e", format!(r#"{{"n":{n},"padding":"{}"}}"#, "x".repeat(200)));
    let (events, mut held) = ([event(1), event(2)], Chains::default());
    let delivery = Delivery { channel: "c", first_seq: 1, time_ms: 0, events: &events, is_chained: true };
    let identity = SocketIdentity { socket: socket(1), previous_socket_ids: &[] };
    let TestChannel { config, channel, policy, .. } = &mut test;
    let mut context = FanOutContext::new(config, channel, policy);
    let caught_up = fan_out_to_one(&delivery, &options, identity, &mut held, &mut context);
    let write_buffer = Arc::<WriteBuffer>::default();
    let _ = write_buffer.push(caught_up);
    test.subscribers.add(socket(1), subscriber(&write_buffer, &options), &held, 3);
    test.seq = 2;
    test.deliver(&[event(3)], true);
    let is_delta: Vec<bool> =
        frames(&write_buffer.queued().concat()).iter().map(|it| it.contains("pusher:delta")).collect();
    assert_eq!(is_delta, [false, true, true]);
}
