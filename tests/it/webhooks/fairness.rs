//! The webhooks of one app while the receiver of another app hangs, whose channels are all in the
//! same partition (protocol.md 5, design.md 5).

use std::time::{Duration, Instant};

use fanfare::channel::{ChannelId, ChannelName, Partition};
use fanfare::limits::PARTITIONS;

use crate::support::{AppSpec, Backend, Browser, Cluster, Receiver, Reply, on_both_backends, within};

on_both_backends!(webhook_receiver_that_hangs_delays_no_other_app);

/// More than the events of an app that a node reads ahead, so that the rest stays in the outbox.
const ATTACKING_CHANNELS: usize = 1_100;
/// More endpoints that hang than a node has calls for at 16 for each.
const HANGING_ENDPOINTS: usize = 5;
const SAMPLES: usize = 5;

/// `count` channels of the app in the partition.
fn channels(app: &str, partition: Partition, count: usize) -> Vec<String> {
    let is_in = |name: &String| {
        let name = ChannelName::parse(name, 200).expect("a valid name");
        ChannelId::new(app, &name).partition() == partition
    };
    (0..).map(|number| format!("c{number}")).filter(is_in).take(count).collect()
}

/// An app that may occupy all attacking channels, although they are in one partition.
fn app(id: &str, receiver: &Receiver, endpoints: usize) -> AppSpec {
    let types = "[\"channel_occupied\", \"channel_vacated\"]";
    let webhook = format!("{{ url = \"{}\", event_types = {types} }}", receiver.url());
    AppSpec::new(id)
        .set("max_subscriptions", ATTACKING_CHANNELS)
        .set("max_occupied_channels", ATTACKING_CHANNELS * PARTITIONS)
        .set("webhooks", format!("[{}]", vec![webhook; endpoints].join(", ")))
}

/// Times from a change to its webhook, the longest of several.
#[derive(Debug)]
struct Times {
    occupied: Duration,
    vacated: Duration,
}

/// Time from the request until the receiver has a call with this event.
async fn time_to(receiver: &Receiver, name: &str, channel: &str, requested: Instant) -> Duration {
    let is_event = |event: &serde_json::Value| event["name"] == name && event["channel"] == channel;
    let what = format!("{name} of {channel}");
    let calls = receiver
        .until_within(&what, Duration::from_secs(20), |calls| {
            calls.iter().any(|call| call.events().iter().any(is_event))
        })
        .await;
    let call = calls.iter().find(|call| call.events().iter().any(is_event)).expect("a call with the event");
    call.at.duration_since(requested)
}

async fn time_occupied(browser: &mut Browser, receiver: &Receiver, channels: &[String]) -> Duration {
    let mut longest = Duration::ZERO;
    for channel in channels {
        let requested = Instant::now();
        browser.subscribe(channel).await;
        longest = longest.max(time_to(receiver, "channel_occupied", channel, requested).await);
    }
    longest
}

async fn time_vacated(browser: &mut Browser, receiver: &Receiver, channels: &[String]) -> Duration {
    let mut longest = Duration::ZERO;
    let requested = Instant::now();
    for channel in channels {
        browser.unsubscribe(channel).await;
    }
    for channel in channels {
        longest = longest.max(time_to(receiver, "channel_vacated", channel, requested).await);
    }
    longest
}

async fn subscribe_all(cluster: &Cluster, channels: &[String]) -> Vec<Browser> {
    let mut browsers = Vec::new();
    for some in channels.chunks(500) {
        let mut browser = cluster.first().browser("key2").await;
        for channel in some {
            browser.request_subscription(channel).await;
        }
        browser.settle().await;
        browsers.push(browser);
    }
    let last = channels.last().expect("there are channels");
    cluster.caller("2").count_becomes(last, 1).await;
    browsers
}

async fn webhook_receiver_that_hangs_delays_no_other_app(backend: Backend) {
    within(Duration::from_secs(90), async {
        let (receiver, hanging) = (Receiver::start().await, Receiver::start().await);
        hanging.answer(|_| Reply::Hang);
        let cluster = Cluster::builder(backend).nodes(1).app(app("1", &receiver, 1));
        let cluster = cluster.app(app("2", &hanging, HANGING_ENDPOINTS)).start().await;
        let partition = Partition(7);
        let own = channels("1", partition, 2 * SAMPLES);
        let (first, second) = own.split_at(SAMPLES);
        let mut browser = cluster.first().browser("key1").await;
        let calm = Times {
            occupied: time_occupied(&mut browser, &receiver, first).await,
            vacated: time_vacated(&mut browser, &receiver, first).await,
        };
        let attacking = channels("2", partition, ATTACKING_CHANNELS);
        let attackers = subscribe_all(&cluster, &attacking).await;
        hanging.until("a call that hangs", |calls| !calls.is_empty()).await;
        let occupied = time_occupied(&mut browser, &receiver, second).await;
        for attacker in attackers {
            attacker.close().await;
        }
        cluster.caller("2").count_becomes(&attacking[ATTACKING_CHANNELS - 1], 0).await;
        let attacked = Times { occupied, vacated: time_vacated(&mut browser, &receiver, second).await };
        println!("{backend:?}: calm {calm:?}, attacked {attacked:?}");
        let tolerance = Duration::from_secs(1);
        assert!(attacked.occupied <= calm.occupied + tolerance, "calm {calm:?}, attacked {attacked:?}");
        assert!(attacked.vacated <= calm.vacated + tolerance, "calm {calm:?}, attacked {attacked:?}");
    })
    .await;
}
