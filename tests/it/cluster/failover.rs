//! A failover that loses writes (needs.md 4): Redis continues from an earlier
//! state, and its new history may have the same sequence numbers as the old one. No
//! new event is skipped as a duplicate, and no number is used twice once a node has
//! detected the fork.

use std::time::Duration;

use fanfare::entry::Entry;

use crate::support::recorder::{Recorder, assert_once_each};
use crate::support::resp::Reply;
use crate::support::{Backend, Cluster, STEP_TIMEOUT, events_of, eventually, within};

const LIMIT: Duration = Duration::from_secs(90);
/// All new events reach all clients within this time: far sooner than the head
/// check, every 8 s, would find them. Half of it is reserve for a busy machine.
const PROMPT: Duration = Duration::from_secs(4);

/// A channel on a cluster whose node 1 reaches Redis through a proxy.
struct Channel {
    cluster: Cluster,
    /// The keys of the head and of the history.
    head: String,
    log: String,
}

/// The head of a channel in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    epoch: u64,
    seq: u64,
}

impl Channel {
    /// Publishes ten events on `news`.
    async fn start() -> Channel {
        let cluster = Cluster::builder(Backend::Redis).proxied(1).quick_detection().start().await;
        let mut channel = Channel { cluster, head: String::new(), log: String::new() };
        channel.publish("kept", 1..=10).await;
        channel.head = channel.command(&["KEYS", "fanfare:*:head:1:news"]).await.text();
        channel.log = channel.command(&["KEYS", "fanfare:*:log:1:news"]).await.text();
        channel
    }

    async fn command(&self, words: &[&str]) -> Reply {
        self.cluster.redis().command(words).await
    }

    async fn recorders(&self) -> Vec<Recorder> {
        let (mut all, more) = tokio::join!(
            Recorder::connect_many(&self.cluster.nodes[0], 3, &["news"]),
            Recorder::connect_many(&self.cluster.nodes[1], 3, &["news"])
        );
        all.extend(more);
        all
    }

    /// Publishes through both nodes in turn.
    async fn publish(&self, name: &str, numbers: std::ops::RangeInclusive<usize>) {
        for number in numbers {
            self.cluster.nodes[number % 2]
                .caller("1")
                .publish("news", "e", &format!("{name}-{number}"))
                .await;
        }
    }

    /// Copies the state of the channel, as in a replica that is not up to date.
    async fn replicate(&self) {
        for key in [&self.head, &self.log] {
            self.command(&["COPY", key, &format!("old:{key}"), "REPLACE"]).await;
        }
    }

    /// The replica becomes the master: in one atomic step, as clients observe it.
    async fn fail_over(&self) {
        let script = "for i = 1, 2 do redis.call('RENAME', KEYS[i + 2], KEYS[i]) end";
        let old = [&self.head, &self.log].map(|key| format!("old:{key}"));
        self.command(&["EVAL", script, "4", &self.head, &self.log, &old[0], &old[1]]).await;
    }

    async fn head(&self) -> Head {
        let Reply::Array(fields) = self.command(&["HMGET", &self.head, "epoch", "seq"]).await else {
            panic!("two fields were expected");
        };
        let number = |at: usize| fields[at].text().parse().expect("a number");
        Head { epoch: number(0), seq: number(1) }
    }

    /// Waits until a node has begun a new epoch above every sequence number in use.
    async fn epoch_jumps_above(&self, seen: Head) -> Head {
        eventually("a new epoch", STEP_TIMEOUT, async || {
            let head = self.head().await;
            if head.epoch > seen.seq { Ok(head) } else { Err(format!("{head:?}, seen {seen:?}")) }
        })
        .await
    }

    /// Epoch, first number and data of each entry of the history.
    async fn numbers(&self) -> Vec<(u64, u64, String)> {
        let Reply::Array(entries) = self.command(&["LRANGE", &self.log, "0", "-1"]).await else {
            panic!("a list was expected");
        };
        let number = |entry: Reply| {
            let Reply::Bulk(bytes) = entry else { panic!("bytes were expected") };
            let entry = Entry::decode(bytes.into()).unwrap();
            let data = events_of(&entry)[0].data.to_vec();
            (entry.epoch, entry.first_seq, String::from_utf8(data).unwrap())
        };
        entries.into_iter().map(number).collect()
    }

    async fn epoch_changes(&self) -> f64 {
        self.cluster.metric("fanfare_epoch_changes_total").await.iter().sum()
    }
}

fn named(name: &str, numbers: std::ops::RangeInclusive<usize>) -> Vec<String> {
    numbers.map(|number| format!("{name}-{number}")).collect()
}

/// Every node has delivered the events that Redis then lost.
#[tokio::test]
async fn cluster_failover_with_lost_writes_delivers_new_events() {
    within(LIMIT, async {
        let channel = Channel::start().await;
        let recorders = channel.recorders().await;
        channel.replicate().await;
        channel.publish("lost", 1..=5).await;
        let seen = channel.head().await;
        for recorder in &recorders {
            recorder.wait_for("news", "lost-5").await;
        }
        channel.fail_over().await;
        assert!(channel.head().await.seq < seen.seq, "the failover lost writes");
        // One number at a time: the new history has exactly the numbers of the old
        // one.
        channel.publish("new", 1..=5).await;
        let expected = [named("lost", 1..=5), named("new", 1..=5)].concat();
        for recorder in &recorders {
            recorder.wait_for_within("news", "new-5", PROMPT).await;
            assert_eq!(recorder.run("news"), expected, "{}", recorder.name);
        }
        channel.epoch_jumps_above(seen).await;
        assert!(channel.epoch_changes().await >= 1.0, "the epoch change is counted");
        channel.publish("later", 1..=5).await;
        for recorder in &recorders {
            recorder.wait_for_within("news", "later-5", PROMPT).await;
        }
        for (epoch, number, data) in channel.numbers().await {
            let is_later = data.starts_with("later");
            assert!(!is_later || (epoch > seen.epoch && number > seen.seq), "{data} has number {number}");
        }
    })
    .await;
}

/// More events are lost than added, and fewer, several times in sequence.
#[tokio::test]
async fn cluster_repeated_failovers_with_lost_writes_deliver_new_events() {
    within(LIMIT, async {
        let channel = Channel::start().await;
        let recorders = channel.recorders().await;
        let mut expected = Vec::new();
        for (round, (lost, new)) in [(1, 1), (5, 1), (1, 5), (3, 3), (7, 2)].into_iter().enumerate() {
            channel.replicate().await;
            let names = [format!("lost-{round}"), format!("new-{round}")];
            channel.publish(&names[0], 1..=lost).await;
            for recorder in &recorders {
                recorder.wait_for("news", &format!("{}-{lost}", names[0])).await;
            }
            let seen = channel.head().await;
            channel.fail_over().await;
            channel.publish(&names[1], 1..=new).await;
            expected.extend([named(&names[0], 1..=lost), named(&names[1], 1..=new)].concat());
            for recorder in &recorders {
                recorder.wait_for_within("news", &format!("{}-{new}", names[1]), PROMPT).await;
                assert_eq!(recorder.run("news"), expected, "{} in round {round}", recorder.name);
            }
            channel.epoch_jumps_above(seen).await;
        }
    })
    .await;
}

/// Sockets that subscribe after the newest event have received nothing of the
/// channel, and neither has their node: only the sequence number is left for
/// detection, and it does not help.
#[tokio::test]
async fn cluster_failover_after_subscription_delivers_new_events() {
    within(LIMIT, async {
        let channel = Channel::start().await;
        channel.replicate().await;
        channel.publish("lost", 1..=5).await;
        let recorders = channel.recorders().await;
        let seen = channel.head().await;
        channel.fail_over().await;
        channel.publish("new", 1..=3).await;
        for recorder in &recorders {
            recorder.wait_for_within("news", "new-3", PROMPT).await;
            assert_eq!(recorder.run("news"), named("new", 1..=3), "{}", recorder.name);
        }
        channel.epoch_jumps_above(seen).await;
    })
    .await;
}

/// One node has received the lost events, the other subscribes later.
#[tokio::test]
async fn cluster_nodes_with_different_histories_converge_after_failover() {
    within(LIMIT, async {
        let channel = Channel::start().await;
        let first = Recorder::connect_many(&channel.cluster.nodes[0], 2, &["news"]).await;
        channel.replicate().await;
        channel.publish("lost", 1..=5).await;
        for recorder in &first {
            recorder.wait_for("news", "lost-5").await;
        }
        let seen = channel.head().await;
        channel.fail_over().await;
        let second = Recorder::connect_many(&channel.cluster.nodes[1], 2, &["news"]).await;
        let third = Recorder::connect_many(&channel.cluster.nodes[0], 2, &["news"]).await;
        channel.publish("new", 1..=5).await;
        for recorder in first.iter().chain(&second).chain(&third) {
            recorder.wait_for_within("news", "new-5", PROMPT).await;
            let run = recorder.run("news");
            assert!(run.ends_with(&named("new", 1..=5)), "{}: {run:?}", recorder.name);
            assert_once_each(&run, &recorder.name);
        }
        for recorder in second.iter().chain(&third) {
            assert_eq!(recorder.run("news"), named("new", 1..=5), "{}", recorder.name);
        }
        channel.epoch_jumps_above(seen).await;
    })
    .await;
}

/// The first event of the new history is lost as well, and no other follows.
#[tokio::test]
async fn cluster_fork_is_found_by_head_check_without_events() {
    within(LIMIT, async {
        let channel = Channel::start().await;
        let recorders = channel.recorders().await;
        channel.replicate().await;
        channel.publish("lost", 1..=5).await;
        for recorder in &recorders {
            recorder.wait_for("news", "lost-5").await;
        }
        channel.fail_over().await;
        let swallowed = channel.cluster.proxy().swallow("new-1");
        channel.publish("new", 1..=1).await;
        swallowed.happened().await;
        let expected = [named("lost", 1..=5), named("new", 1..=1)].concat();
        for recorder in &recorders {
            recorder.wait_for_within("news", "new-1", Duration::from_secs(12)).await;
            assert_eq!(recorder.run("news"), expected, "{}", recorder.name);
        }
    })
    .await;
}

/// Redis's clock has gone back, and its data is lost: a new epoch starts above the
/// publishing node's last number.
#[tokio::test]
async fn cluster_sequence_numbers_stay_monotonic_after_clock_went_back() {
    within(LIMIT, async {
        let channel = Channel::start().await;
        let recorders = channel.recorders().await;
        // As if numbered by a clock that was an hour ahead.
        let ahead = (channel.head().await.seq + 3_600_000_000).to_string();
        channel.command(&["HSET", &channel.head, "seq", &ahead, "epoch", &ahead]).await;
        channel.publish("ahead", 1..=2).await;
        for recorder in &recorders {
            recorder.wait_for_within("news", "ahead-2", PROMPT).await;
        }
        let seen = channel.head().await;
        channel.command(&["DEL", &channel.head, &channel.log]).await;
        channel.publish("new", 1..=2).await;
        for recorder in &recorders {
            recorder.wait_for_within("news", "new-2", PROMPT).await;
        }
        let head = channel.head().await;
        assert!(head.epoch >= seen.seq && head.seq > seen.seq, "{head:?} after {seen:?}");
        assert!(channel.epoch_changes().await >= 1.0, "the epoch change is counted");
    })
    .await;
}
