//! A backend that publishes batches to channels of its own, so that their order is
//! known, through any live node.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::payloads::{self, Tags};
use super::world::{CHANNELS, Outcome, Published, World, print};
use crate::support::server::AppSpec;
use crate::support::{Answer, Caller};

pub const BATCH_MAX: usize = 100;
/// Longer than a script can still run after the request for it has failed.
const UNKNOWN_OUTCOME_PAUSE: Duration = Duration::from_millis(300);

pub struct Publisher {
    world: Arc<World>,
    app: AppSpec,
    rng: StdRng,
    /// Indexes in [`CHANNELS`]: no other publisher publishes to these channels.
    channels: Vec<usize>,
    callers: HashMap<SocketAddr, Caller>,
}

impl Publisher {
    pub fn new(world: Arc<World>, app: AppSpec, rng: StdRng, channels: Vec<usize>) -> Publisher {
        Publisher { world, app, rng, channels, callers: HashMap::new() }
    }

    /// Publishes `count` events, at most `rate` per second.
    pub async fn publish(&mut self, count: usize, rate: usize) {
        let mut left = count;
        while left > 0 {
            let size = self.rng.random_range(1..=BATCH_MAX).min(left);
            left -= size;
            let batch: Vec<(usize, Value)> = (0..size).map(|_| self.event()).collect();
            let pause = tokio::time::sleep(Duration::from_secs(1) * size as u32 / rate as u32);
            self.send(batch).await;
            pause.await;
        }
    }

    /// Publishes one event that passes all filters on each of its channels.
    pub async fn fence(&mut self, number: u64) {
        let tags = Tags { fence: true, ..Tags::default() };
        let batch: Vec<(usize, Value)> = self
            .channels
            .clone()
            .into_iter()
            .map(|channel| {
                let data = format!(r#"{{"symbol":"S1","fence":{number}}}"#);
                self.write(channel, "fence", data, tags, None, json!({}))
            })
            .collect();
        self.send(batch).await;
    }

    fn event(&mut self) -> (usize, Value) {
        let channel = self.channels[self.rng.random_range(0..self.channels.len())];
        let (name, keyed) = CHANNELS[channel];
        let data = payloads::data(&mut self.rng, self.world.next_id(), keyed, name.starts_with("random"));
        let (tags, name) = (Tags::random(&mut self.rng), payloads::name(&mut self.rng));
        let except = self.rng.random_bool(0.1).then(|| {
            let sockets = self.world.sockets.lock();
            sockets[self.rng.random_range(0..sockets.len())].clone()
        });
        let members = match self.rng.random_range(0..20) {
            0 => json!({ "delta": true }),
            1 => json!({ "delta": false }),
            _ => json!({}),
        };
        self.write(channel, name, data, tags, except.filter(|it| !it.is_empty()), members)
    }

    fn write(
        &mut self,
        channel: usize,
        name: &str,
        data: String,
        tags: Tags,
        except: Option<String>,
        mut item: Value,
    ) -> (usize, Value) {
        let published =
            Published { print: print(name, &data), tags, except: except.clone(), outcome: Outcome::Pending };
        item["channel"] = CHANNELS[channel].0.into();
        item["name"] = name.into();
        item["data"] = data.into();
        if let Some(tags) = tags.json() {
            item["tags"] = tags;
        }
        if let Some(except) = except {
            item["socket_id"] = except.into();
        }
        self.world.logs[channel].lock().0.push(published);
        (channel, item)
    }

    async fn send(&mut self, batch: Vec<(usize, Value)>) {
        let (channels, items): (Vec<usize>, Vec<Value>) = batch.into_iter().unzip();
        let count = items.len() as u64;
        let outcome = self.outcome_of(Value::from(items)).await;
        self.world.totals.add_many(
            match outcome {
                Outcome::Accepted => "publishes accepted",
                Outcome::Unknown => "publishes unknown",
                _ => "publishes refused",
            },
            count,
        );
        for channel in channels {
            let mut log = self.world.logs[channel].lock();
            for event in log.0.iter_mut().rev().take_while(|it| it.outcome == Outcome::Pending) {
                event.outcome = outcome;
            }
        }
        if outcome != Outcome::Accepted {
            tokio::time::sleep(UNKNOWN_OUTCOME_PAUSE).await;
        }
    }

    async fn outcome_of(&mut self, items: Value) -> Outcome {
        let nodes = self.world.live_nodes();
        let Some(node) = (!nodes.is_empty()).then(|| nodes[self.rng.random_range(0..nodes.len())]) else {
            return Outcome::Refused;
        };
        let caller = self.callers.entry(node).or_insert_with(|| Caller::new(node, self.app.clone()));
        match caller.batch(&json!({ "batch": items })["batch"]).try_send().await {
            Ok(answer) => self.read(&answer),
            Err(_) => Outcome::Unknown,
        }
    }

    fn read(&self, answer: &Answer) -> Outcome {
        let code = || answer.json()["code"].as_str().unwrap_or_default().to_owned();
        match answer.status {
            200 => Outcome::Accepted,
            503 if code() == "outcome_unknown" => Outcome::Unknown,
            503 => Outcome::Refused,
            status => {
                self.world.fail(format!("a publish returned status {status}: {}", answer.text()));
                Outcome::Refused
            }
        }
    }
}
