//! The app that is not attacked: it publishes one event every [`INTERVAL`], to one subscriber,
//! and subscribes to a new channel with every tenth event.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use crate::Outcome;
use crate::frames::masked_text;
use crate::http_client::{App, HttpClient};
use crate::ws_client::WsClient;

const APP: App = App { id: "2", key: "victim-key", secret: "victim-secret" };

/// The configuration of the app.
pub const SETTINGS: &str = "[[apps]]\nid = \"2\"\nkey = \"victim-key\"\nsecret = \"victim-secret\"\n";

const INTERVAL: Duration = Duration::from_millis(20);
const EVENTS_PER_SUBSCRIPTION: u32 = 10;
/// A delivery or a subscription that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Victim {
    address: SocketAddr,
    publisher: HttpClient,
    subscriber: WsClient,
    events: u32,
}

#[derive(Debug, Default)]
pub struct Observed {
    /// From the time at which an event was due to the response to its request.
    pub responses: Vec<Duration>,
    /// From the time at which an event was due until the subscriber has it.
    pub deliveries: Vec<Duration>,
    pub subscriptions: Vec<Duration>,
    /// Deliveries and subscriptions that failed, or took longer than [`TIMEOUT`].
    pub failed: u32,
}

impl Victim {
    pub async fn connect(address: SocketAddr) -> Outcome<Victim> {
        let publisher = HttpClient::connect(address).await?;
        let mut subscriber = WsClient::connect_to(address, &APP).await?;
        subscriber.subscribe(&["prices".to_owned()]).await?;
        Ok(Victim { address, publisher, subscriber, events: 0 })
    }

    /// Measures for `duration`. An event that is late because the one before was late counts from
    /// the time at which it was due.
    pub async fn observe(&mut self, duration: Duration) -> Outcome<Observed> {
        let mut observed = Observed::default();
        let started = Instant::now();
        for at in 0.. {
            let due = started + INTERVAL * at;
            if due.duration_since(started) >= duration || started.elapsed() >= duration + TIMEOUT {
                return Ok(observed);
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
        Ok(observed)
    }

    /// Publishes an event, and waits for the response and for the subscriber to receive it. Returns
    /// the time of each since `due`.
    async fn deliver(&mut self, due: Instant) -> Outcome<(Duration, Duration)> {
        let data = format!("event-{}.", self.events);
        let body = json!({ "name": "price", "channel": "prices", "data": data }).to_string();
        let request = self.publisher.signed(&APP, "/events", &body)?;
        let (sent, received) =
            tokio::join!(async { self.publisher.send(&request).await.map(|()| due.elapsed()) }, async {
                self.subscriber.wait_for(&data).await.map(|_| due.elapsed())
            });
        Ok((sent?, received?))
    }

    async fn subscribe(&mut self) -> Outcome<()> {
        let channel = format!("page-{}.", self.events);
        let command = json!({ "event": "pusher:subscribe", "data": { "channel": channel } }).to_string();
        self.subscriber.request(&masked_text(command.as_bytes()), &channel).await.map(drop)
    }

    /// Counts a failure, and connects again, because the state of the connections is unknown.
    async fn fail(&mut self, observed: &mut Observed) {
        observed.failed += 1;
        let again = timeout(TIMEOUT, Victim::connect(self.address)).await;
        if let Ok(Ok(victim)) = again {
            *self = Victim { events: self.events, ..victim };
        }
    }
}
