//! The app that is not attacked: it publishes one event every [`INTERVAL`], to one subscriber,
//! and subscribes to a new channel with every tenth event, which its webhook reports.

use std::net::SocketAddr;
use std::time::Duration;

use fanfare::channel::{ChannelId, ChannelName, Partition};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::receiver::Receiver;

use crate::Outcome;
use crate::frames::masked_text;
use crate::http_client::{App, HttpClient};
use crate::ws_client::WsClient;

pub const APP: App = App { id: "2", key: "victim-key", secret: "victim-secret" };

/// The configuration of the app.
pub fn settings(receiver: SocketAddr) -> String {
    format!(
        "[[apps]]\nid = \"{}\"\nkey = \"{}\"\nsecret = \"{}\"\n\
         webhooks = [{{ url = \"http://{receiver}\", event_types = [\"channel_occupied\"] }}]\n",
        APP.id, APP.key, APP.secret
    )
}

/// The partition of the channels that the webhook reports.
pub const PARTITION: Partition = Partition(7);

const INTERVAL: Duration = Duration::from_millis(20);
const EVENTS_PER_SUBSCRIPTION: u32 = 10;
/// A delivery or a subscription that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Victim {
    address: SocketAddr,
    receiver: Receiver,
    connections: Connections,
    /// Channels whose webhook is expected, with the time of their subscription.
    expected: Vec<(String, Instant)>,
    events: u32,
}

#[derive(Debug)]
struct Connections {
    publisher: HttpClient,
    subscriber: WsClient,
}

#[derive(Debug, Default)]
pub struct Observed {
    /// From the time at which an event was due to the response to its request.
    pub responses: Vec<Duration>,
    /// From the time at which an event was due until the subscriber has it.
    pub deliveries: Vec<Duration>,
    pub subscriptions: Vec<Duration>,
    /// From a subscription to the call that reports it.
    pub webhooks: Vec<Duration>,
    /// Deliveries, subscriptions and webhooks that failed, or took longer than [`TIMEOUT`].
    pub failed: u32,
}

impl Victim {
    pub async fn connect(address: SocketAddr, receiver: Receiver) -> Outcome<Victim> {
        let connections = Connections::open(address).await?;
        Ok(Victim { address, receiver, connections, expected: Vec::new(), events: 0 })
    }

    /// Measures for `duration`. An event that is late because the one before was late counts from
    /// the time at which it was due.
    pub async fn observe(&mut self, duration: Duration) -> Outcome<Observed> {
        let mut observed = Observed::default();
        let started = Instant::now();
        for at in 0.. {
            let due = started + INTERVAL * at;
            if due.duration_since(started) >= duration || started.elapsed() >= duration + TIMEOUT {
                break;
            }
            sleep_until(due).await;
            self.events += 1;
            let Ok(Ok((response, delivery))) = timeout(TIMEOUT, self.deliver(due)).await else {
                self.fail(&mut observed).await;
                continue;
            };
            observed.responses.push(response);
            observed.deliveries.push(delivery);
            if at % EVENTS_PER_SUBSCRIPTION == 0 {
                let started = Instant::now();
                if timeout(TIMEOUT, self.subscribe()).await.is_ok_and(|confirmed| confirmed.is_ok()) {
                    observed.subscriptions.push(started.elapsed());
                } else {
                    self.fail(&mut observed).await;
                }
            }
        }
        self.observe_webhooks(&mut observed).await;
        Ok(observed)
    }

    /// Waits for the webhooks that are expected.
    async fn observe_webhooks(&mut self, observed: &mut Observed) {
        let end = Instant::now() + TIMEOUT;
        for (channel, subscribed) in std::mem::take(&mut self.expected) {
            loop {
                if let Some(received) = self.receiver.received(&channel) {
                    observed.webhooks.push(received.duration_since(subscribed));
                    break;
                }
                if Instant::now() >= end {
                    observed.failed += 1;
                    observed.webhooks.push(subscribed.elapsed());
                    break;
                }
                sleep(INTERVAL).await;
            }
        }
    }

    /// Publishes an event, and waits for the response and for the subscriber to receive it. Returns
    /// the time of each since `due`.
    async fn deliver(&mut self, due: Instant) -> Outcome<(Duration, Duration)> {
        let data = format!("event-{}.", self.events);
        let body = json!({ "name": "price", "channel": "prices", "data": data }).to_string();
        let Connections { publisher, subscriber } = &mut self.connections;
        let request = publisher.signed(&APP, "/events", &body)?;
        let (sent, received) =
            tokio::join!(async { publisher.send(&request).await.map(|()| due.elapsed()) }, async {
                subscriber.wait_for(&data).await.map(|_| due.elapsed())
            });
        Ok((sent?, received?))
    }

    async fn subscribe(&mut self) -> Outcome<()> {
        let channels = channels_of(&APP, PARTITION, &format!("page-{}", self.events));
        let channel = channels.into_iter().next().ok_or("no channel in the partition")?;
        self.expected.push((channel.clone(), Instant::now()));
        let command = json!({ "event": "pusher:subscribe", "data": { "channel": channel } }).to_string();
        self.connections.subscriber.request(&masked_text(command.as_bytes()), &channel).await.map(drop)
    }

    /// Counts a failure, and connects again, because the state of the connections is unknown.
    async fn fail(&mut self, observed: &mut Observed) {
        observed.failed += 1;
        if let Ok(Ok(connections)) = timeout(TIMEOUT, Connections::open(self.address)).await {
            self.connections = connections;
        }
    }
}

impl Connections {
    async fn open(address: SocketAddr) -> Outcome<Connections> {
        let publisher = HttpClient::connect(address).await?;
        let mut subscriber = WsClient::connect_to(address, &APP).await?;
        subscriber.subscribe(&["prices".to_owned()]).await?;
        Ok(Connections { publisher, subscriber })
    }
}

/// Channels of an app in one partition. They have a common prefix and end with a dot.
pub fn channels_of(
    app: &App,
    partition: Partition,
    prefix: &str,
) -> impl IntoIterator<Item = String> + use<> {
    let (app, prefix) = (app.id, prefix.to_owned());
    (0..u32::MAX).map(move |n| format!("{prefix}-{n}.")).filter(move |channel| {
        let name = ChannelName::parse(channel, 200).expect("the characters are valid");
        ChannelId::new(app, &name).partition() == partition
    })
}
