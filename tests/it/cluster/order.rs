//! One order per channel on every node (P2): two nodes on one Redis, publishing through
//! both, while connections subscribe and unsubscribe.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use fanfare::entry::Entry;
use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::recorder::{Recorder, assert_once_each, range_in};
use crate::support::resp::Reply;
use crate::support::{Backend, Caller, Cluster, Redis, Seed, Server, events_of, within};

const SEEDS: u64 = 20;
const BATCHES: usize = 200;
const BATCH_EVENTS: usize = 10;
/// Sockets per node that stay subscribed throughout.
const PERMANENT: usize = 20;
/// Clients per node that subscribe and unsubscribe.
const CHANGING: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_subscribers_of_all_nodes_receive_one_order() {
    within(Duration::from_secs(180), async {
        let seed = Seed::new();
        let cluster = Cluster::start(Backend::Redis).await;
        for round in 0..SEEDS {
            Round::new(&cluster, Seed(seed.0.wrapping_add(round)), round).run().await;
        }
        for node in &cluster.nodes {
            let metrics = node.metrics().await;
            for name in ["fanfare_gaps_total", "fanfare_gaps_unrepaired_total", "fanfare_epoch_changes_total"]
            {
                assert_eq!(metrics.sum(name), 0.0, "{name}: on links that were never cut");
            }
        }
    })
    .await;
}

/// One seed: its own channels, on nodes that all seeds share.
struct Round<'a> {
    cluster: &'a Cluster,
    seed: Seed,
    channels: Vec<String>,
    batches: Vec<Vec<Value>>,
    /// Batches whose request has begun.
    begun: watch::Sender<usize>,
}

impl<'a> Round<'a> {
    fn new(cluster: &'a Cluster, seed: Seed, round: u64) -> Round<'a> {
        let channels: Vec<String> = (0..3).map(|n| format!("round{round}-{n}")).collect();
        let mut rng = seed.rng();
        let batch = |number| (0..BATCH_EVENTS).map(|at| event(&channels, number, at, &mut rng)).collect();
        let batches = (0..BATCHES).map(batch).collect();
        Round { cluster, seed, channels, batches, begun: watch::Sender::new(0) }
    }

    async fn run(&self) {
        let names: Vec<&str> = self.channels.iter().map(String::as_str).collect();
        let [first, second] = [self.cluster.first(), self.cluster.second()];
        let (mut permanent, of_second) = tokio::join!(
            Recorder::connect_many(first, PERMANENT, &names),
            Recorder::connect_many(second, PERMANENT, &names)
        );
        permanent.extend(of_second);
        let changing =
            (0..2 * CHANGING).map(|n| self.change_subscriptions(n, if n % 2 == 0 { first } else { second }));
        let (changing, ()) = tokio::join!(join_all(changing), self.publish());
        for (at, channel) in names.iter().enumerate() {
            // Through either node: all other requests have received their responses.
            self.caller(at).publish(channel, "end", "end").await;
        }
        self.check(&permanent, &changing).await;
    }

    fn caller(&self, node: usize) -> Caller {
        self.cluster.nodes[node % 2].caller("1")
    }

    /// Publishes the first half of the batches through both nodes in turn, the second half
    /// through both concurrently.
    async fn publish(&self) {
        let (alternately, concurrently) = self.batches.split_at(BATCHES / 2);
        let callers = [self.caller(0), self.caller(1)];
        for (number, batch) in alternately.iter().enumerate() {
            self.post(&callers[number % 2], batch).await;
        }
        let half = |node: usize| {
            let (callers, batches) = (&callers, concurrently.iter().skip(node).step_by(2));
            async move {
                for batch in batches {
                    self.post(&callers[node], batch).await;
                }
            }
        };
        tokio::join!(half(0), half(1));
    }

    async fn post(&self, caller: &Caller, batch: &[Value]) {
        self.begun.send_modify(|begun| *begun += 1);
        caller.post_batch(batch.into()).await.expect_ok();
    }

    /// Subscribes and unsubscribes at random; ends with subscriptions to all channels.
    async fn change_subscriptions(&self, number: usize, node: &Server) -> ChangingClient {
        let mut rng = self.seed.rng_of(number as u64 + 1);
        let mut recorders = vec![Recorder::connect(node).await];
        let mut begun = self.begun.subscribe();
        let mut next = 0;
        while next < BATCHES * 9 / 10 {
            next += rng.random_range(1..20);
            begun.wait_for(|begun| *begun >= next.min(BATCHES)).await.unwrap();
            let recorder = recorders.last_mut().unwrap();
            match rng.random_range(0..10) {
                // Opens another socket; the one before stays open, without further commands.
                0 => recorders.push(Recorder::connect(node).await),
                1..5 => self.join(recorder, &mut rng).await,
                _ => self.leave(recorder, &mut rng).await,
            }
        }
        let recorder = recorders.last_mut().unwrap();
        for channel in &self.channels {
            recorder.request_unsubscription(channel).await;
            recorder.subscribe(channel).await;
        }
        ChangingClient { recorders }
    }

    async fn join(&self, recorder: &mut Recorder, rng: &mut StdRng) {
        for channel in self.some(rng) {
            // A repeated subscription would be confirmed twice and mix two runs.
            recorder.request_unsubscription(channel).await;
            recorder.subscribe(channel).await;
        }
    }

    async fn leave(&self, recorder: &mut Recorder, rng: &mut StdRng) {
        for channel in self.some(rng) {
            recorder.request_unsubscription(channel).await;
        }
    }

    fn some(&self, rng: &mut StdRng) -> Vec<&str> {
        self.channels.iter().filter(|_| rng.random_bool(0.6)).map(String::as_str).collect()
    }

    async fn check(&self, permanent: &[Recorder], changing: &[ChangingClient]) {
        for channel in &self.channels {
            for recorder in permanent {
                recorder.wait_for(channel, "end").await;
            }
            let sequence = permanent[0].run(channel);
            self.check_sequence(channel, &sequence).await;
            for recorder in permanent {
                assert_eq!(recorder.run(channel), sequence, "{} of {channel}", recorder.name);
            }
            for client in changing {
                client.check(channel, &sequence).await;
            }
        }
        for recorder in permanent {
            self.check_channel_order(&recorder.all_events());
        }
    }

    /// The sequence consists of the published events, each once; each batch is contiguous and
    /// in its own order; the end of the sequence equals the history in Redis.
    async fn check_sequence(&self, channel: &str, sequence: &[String]) {
        assert_once_each(sequence, channel);
        let mut expected: HashMap<usize, Vec<String>> = HashMap::new();
        for (number, batch) in self.batches.iter().enumerate() {
            let run: Vec<String> =
                batch.iter().filter(|event| event["channel"] == channel).map(data).collect();
            expected.insert(number, run);
        }
        let mut rest = &sequence[..sequence.len() - 1];
        while let Some(first) = rest.first() {
            let run = expected.remove(&batch_of(first)).expect("a batch arrives once");
            assert!(
                rest.starts_with(&run),
                "{channel}: batch {run:?} arrived as {:?}",
                &rest[..run.len().min(rest.len())]
            );
            rest = &rest[run.len()..];
        }
        expected.retain(|_, run| !run.is_empty());
        assert!(expected.is_empty(), "{channel}: {} batches are lost: {expected:?}", expected.len());
        let log = logged(self.cluster.redis(), channel).await;
        assert!(sequence.ends_with(&log), "{channel}: the history in Redis has another order");
    }

    /// The channels of a batch are published in the order of their first event.
    fn check_channel_order(&self, all: &[String]) {
        let mut received: HashMap<usize, Vec<String>> = HashMap::new();
        for data in all.iter().filter(|data| *data != "end") {
            received.entry(batch_of(data)).or_default().push(data.clone());
        }
        for (number, batch) in self.batches.iter().enumerate() {
            assert_eq!(received[&number], in_order_of_channels(batch), "batch {number}");
        }
    }
}

/// A client that subscribes and unsubscribes, on several sockets in a row.
struct ChangingClient {
    recorders: Vec<Recorder>,
}

impl ChangingClient {
    async fn check(&self, channel: &str, sequence: &[String]) {
        let (last, earlier) = self.recorders.split_last().expect("a client has connected");
        last.wait_for(channel, "end").await;
        for recorder in earlier {
            // An earlier socket may still be subscribed, and then receives the end too.
            for run in recorder.runs(channel) {
                range_in(&run, sequence, &recorder.name);
            }
        }
        for run in last.runs(channel) {
            range_in(&run, sequence, &last.name);
        }
        let runs = last.runs(channel);
        let range = range_in(runs.last().expect("a subscription at the end"), sequence, &last.name);
        assert_eq!(range.end, sequence.len(), "the last run of {} has no end", last.name);
        let starts: Vec<usize> = runs.iter().map(|run| range_in(run, sequence, &last.name).start).collect();
        let received: usize = runs.iter().map(Vec::len).sum();
        let distinct: BTreeSet<&String> = runs.iter().flatten().collect();
        assert_eq!(
            received,
            distinct.len(),
            "{}: an event arrived in two subscriptions: {starts:?}",
            last.name
        );
    }
}

fn event(channels: &[String], batch: usize, at: usize, rng: &mut StdRng) -> Value {
    json!({ "name": "e", "channel": channels.choose(rng).unwrap(), "data": format!("{batch}-{at}") })
}

fn data(event: &Value) -> String {
    event["data"].as_str().unwrap().to_owned()
}

fn batch_of(data: &str) -> usize {
    data.split('-').next().unwrap().parse().unwrap_or_else(|_| panic!("{data:?} is of no batch"))
}

/// A batch A1 B1 A2 on the channels A and B arrives as A1 A2 B1.
fn in_order_of_channels(batch: &[Value]) -> Vec<String> {
    let mut runs: Vec<(&Value, Vec<String>)> = Vec::new();
    for event in batch {
        match runs.iter_mut().find(|(channel, _)| *channel == &event["channel"]) {
            Some((_, run)) => run.push(data(event)),
            None => runs.push((&event["channel"], vec![data(event)])),
        }
    }
    runs.into_iter().flat_map(|(_, run)| run).collect()
}

/// The data of the events in a channel's history.
pub async fn logged(redis: &Redis, channel: &str) -> Vec<String> {
    let keys = redis.command(&["KEYS", &format!("fanfare:{{*}}:log:1:{channel}")]).await;
    let Reply::Array(entries) = redis.command(&["LRANGE", &keys.text(), "0", "-1"]).await else {
        panic!("a list was expected");
    };
    let mut all = Vec::new();
    for entry in entries {
        let Reply::Bulk(bytes) = entry else { panic!("bytes were expected") };
        let entry = Entry::decode(bytes.into()).expect("an entry");
        for event in events_of(&entry) {
            all.push(String::from_utf8(event.data.to_vec()).unwrap());
        }
    }
    all
}
