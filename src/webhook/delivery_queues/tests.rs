//! Order, isolation, retries and fairness of the queues, without IO and with simulated
//! time.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::webhook_event::WebhookEventKind;

/// Delivery queues with a simulated clock. Events are numbered, and the number is their id.
struct Harness {
    queues: DeliveryQueues,
    now: Instant,
    events: u64,
}

impl Harness {
    fn new() -> Harness {
        Harness { queues: DeliveryQueues::default(), now: Instant::now(), events: 0 }
    }

    fn offer(&mut self, endpoint: usize, channel: &str) -> u64 {
        self.events += 1;
        let id = WebhookEventId { time_ms: self.events, number: 0 };
        let what = WebhookEventKind::ChannelOccupied;
        let webhook_event = Arc::new(WebhookEvent { id, app: "1".into(), channel: channel.into(), what });
        let partition = Partition(channel.len() as u8);
        let delivery = Delivery::new(partition, webhook_event, self.now + limits::WEBHOOK_AGE_MAX);
        self.queues.offer(EndpointId { app: "1".into(), index: endpoint }, delivery);
        self.events
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
    }

    fn next(&mut self) -> Option<Call> {
        self.queues.next_call(self.now)
    }

    /// All calls that can begin now.
    fn calls(&mut self) -> Vec<Call> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn call(&mut self) -> Call {
        self.next().expect("a call can begin")
    }

    fn succeed(&mut self, call: Call) -> Finished {
        self.queues.finish(call, true, self.now, 1.0)
    }

    fn fail(&mut self, call: Call) -> Finished {
        self.queues.finish(call, false, self.now, 1.0)
    }

    /// Advances the clock to the next retry and reorder the time passed.
    fn wait(&mut self) -> Duration {
        let due = self.queues.next_due().expect("a retry is scheduled");
        assert!(due > self.now, "no call can begin before");
        let waited = due - self.now;
        self.now = due;
        waited
    }
}

fn ids(call: &Call) -> Vec<u64> {
    call.events.iter().map(|event| event.webhook_event.id.time_ms).collect()
}

fn settled(finished: &Finished) -> Vec<u64> {
    finished.settled.iter().map(|(_, id)| id.time_ms).collect()
}

#[test]
fn queues_share_a_call_in_the_order_of_the_outbox() {
    let mut harness = Harness::new();
    for channel in ["a", "b", "a", "c", "b"] {
        harness.offer(0, channel);
    }
    let call = harness.call();
    assert_eq!((ids(&call), call.is_retry), (vec![1, 2, 3, 4, 5], false));
    assert!(harness.next().is_none());
    assert_eq!(settled(&harness.succeed(call)), [1, 2, 3, 4, 5]);
    assert!(harness.next().is_none() && harness.queues.endpoints.is_empty());
}

#[test]
fn call_is_bounded_and_the_rest_follows_in_order() {
    let mut harness = Harness::new();
    for n in 0..limits::WEBHOOK_BATCH_MAX + 10 {
        harness.offer(0, if n % 2 == 0 { "even" } else { "odd" });
    }
    let first = harness.call();
    assert_eq!(first.events.len(), limits::WEBHOOK_BATCH_MAX);
    assert!(ids(&first).is_sorted());
    let taken: HashSet<u64> = ids(&first).into_iter().collect();
    assert!(harness.next().is_none(), "both queues have a call in progress");
    harness.succeed(first);
    let rest = harness.call();
    let left: Vec<u64> = (1..=110).filter(|id| !taken.contains(id)).collect();
    assert_eq!(ids(&rest), left);
}

#[test]
fn queue_has_at_most_one_call_in_progress() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    let first = harness.call();
    harness.offer(0, "a");
    harness.offer(0, "b");
    let second = harness.call();
    assert_eq!(ids(&second), [3], "a has a call in progress, b has none");
    harness.succeed(first);
    assert_eq!(ids(&harness.call()), [2]);
}

#[test]
fn failed_queue_is_retried_alone_and_does_not_delay_others() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    harness.offer(0, "b");
    let both = harness.call();
    assert_eq!(settled(&harness.fail(both)), [0; 0]);
    harness.offer(0, "a");
    harness.offer(0, "c");
    let fresh = harness.call();
    assert_eq!(ids(&fresh), [4], "only c has not failed");
    harness.succeed(fresh);
    assert_eq!(harness.wait(), limits::WEBHOOK_BACKOFF_MIN);
    let calls = harness.calls();
    assert_eq!(calls.iter().map(ids).collect::<Vec<_>>(), [vec![1], vec![2]], "one queue per retry");
    assert!(calls.iter().all(|call| call.is_retry));
    for call in calls {
        harness.succeed(call);
    }
    assert_eq!(ids(&harness.call()), [3]);
}

#[test]
fn backoff_doubles_up_to_its_maximum() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    let mut backoffs = Vec::new();
    for _ in 0..8 {
        let call = harness.call();
        harness.fail(call);
        backoffs.push(harness.wait().as_secs());
    }
    assert_eq!(backoffs, [1, 2, 4, 8, 16, 32, 60, 60]);
    harness.offer(0, "a");
    let call = harness.call();
    harness.succeed(call);
    let call = harness.call();
    harness.fail(call);
    assert_eq!(harness.wait(), limits::WEBHOOK_BACKOFF_MIN, "a success resets the backoff");
}

#[test]
fn jitter_spreads_retries() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    let call = harness.call();
    harness.queues.finish(call, false, harness.now, 1.1);
    assert_eq!(harness.wait(), limits::WEBHOOK_BACKOFF_MIN.mul_f64(1.1));
}

#[test]
fn event_too_old_when_its_call_fails_is_dropped() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    harness.advance(limits::WEBHOOK_AGE_MAX);
    harness.offer(0, "a");
    let call = harness.call();
    assert_eq!(ids(&call), [1, 2], "an old event is sent at least once");
    let finished = harness.fail(call);
    assert_eq!((settled(&finished), finished.abandoned), (vec![1], 1));
    harness.wait();
    let call = harness.call();
    assert_eq!(ids(&call), [2], "the queue continues");
}

/// An event that the receiver always rejects does not cause the loss of others.
#[test]
fn event_always_rejected_is_dropped_alone() {
    let mut harness = Harness::new();
    for _ in 0..20 {
        harness.offer(0, "a");
    }
    let poison = 7;
    let (mut taken, mut abandoned) = (Vec::new(), Vec::new());
    while taken.len() < 19 {
        let Some(call) = harness.next() else {
            harness.wait();
            continue;
        };
        if ids(&call).contains(&poison) {
            abandoned.extend(settled(&harness.fail(call)));
        } else {
            taken.extend(settled(&harness.succeed(call)));
        }
    }
    assert_eq!(abandoned, [poison]);
    assert_eq!(taken, (1..=20).filter(|id| *id != poison).collect::<Vec<u64>>());
}

#[test]
fn hanging_webhook_leaves_calls_for_others() {
    let mut harness = Harness::new();
    let mut hanging = Vec::new();
    // One channel after the other, so that no two share a call.
    for n in 0..2 * limits::WEBHOOK_CALLS_MAX {
        harness.offer(0, &format!("hanging{n}"));
        hanging.extend(harness.next());
    }
    assert_eq!(hanging.len(), limits::WEBHOOK_ENDPOINT_CALLS_MAX);
    harness.offer(1, "a");
    assert_eq!(harness.call().endpoint.index, 1);
}

#[test]
fn calls_of_a_node_are_bounded() {
    let mut harness = Harness::new();
    for endpoint in 0..2 * limits::WEBHOOK_CALLS_MAX {
        harness.offer(endpoint, "a");
    }
    let calls = harness.calls();
    assert_eq!(calls.len(), limits::WEBHOOK_CALLS_MAX);
    assert_eq!(harness.queues.next_due(), None, "a call in progress has to end first");
    let last = calls.last().expect("at least one call").endpoint.index;
    for call in calls {
        harness.succeed(call);
    }
    assert_eq!(harness.call().endpoint.index, last + 1, "round robin continues");
}

#[test]
fn webhooks_are_served_round_robin() {
    let mut harness = Harness::new();
    for _ in 0..4 {
        harness.offer(0, "a");
        harness.offer(1, "a");
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        let call = harness.call();
        order.push(call.endpoint.index);
        harness.offer(call.endpoint.index, "a");
        harness.succeed(call);
    }
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn failing_channels_leave_calls_for_others() {
    let mut harness = Harness::new();
    for n in 0..50 {
        harness.offer(0, &format!("failing{n}"));
    }
    let call = harness.call();
    harness.fail(call);
    harness.wait();
    assert_eq!(harness.calls().len(), limits::WEBHOOK_ENDPOINT_RETRIES_MAX);
    assert_eq!(harness.queues.next_due(), None, "a call in progress has to end first");
    harness.offer(0, "fresh");
    assert!(!harness.call().is_retry);
}

/// More channels fail than there are retries, each for the maximum duration of a call.
#[test]
fn failed_queue_without_a_call_drops_events_too_old() {
    let mut harness = Harness::new();
    for n in 0..50 {
        harness.offer(0, &format!("failing{n}"));
    }
    let call = harness.call();
    harness.fail(call);
    harness.wait();
    let hanging = harness.calls().len();
    assert_eq!(harness.queues.expire(harness.now), [], "no event is too old yet");
    harness.advance(limits::WEBHOOK_AGE_MAX);
    assert_eq!(harness.queues.expire(harness.now).len(), 50 - hanging);
    assert_eq!(harness.queues.expire(harness.now), []);
}

#[test]
fn failure_and_recovery_of_a_webhook_are_reported_once() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    harness.offer(0, "b");
    let call = harness.call();
    assert_eq!(harness.fail(call).change, Some(Change::BeganToFail));
    harness.wait();
    let (first, second) = (harness.call(), harness.call());
    assert_eq!(harness.fail(first).change, None);
    assert_eq!(harness.succeed(second).change, None, "a still fails");
    harness.wait();
    let call = harness.call();
    assert_eq!(harness.succeed(call).change, Some(Change::Recovered));
}

#[test]
fn cancelled_partition_drops_queued_events_and_finishes_its_call() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    let call = harness.call();
    harness.offer(0, "a");
    harness.offer(0, "b");
    harness.offer(0, "other partition");
    harness.queues.cancel(&HashSet::from([Partition(1)]));
    assert!(harness.queues.is_in_progress(Partition(1)));
    assert_eq!(settled(&harness.succeed(call)), [1]);
    assert!(!harness.queues.is_in_progress(Partition(1)));
    assert_eq!(ids(&harness.call()), [4]);
}

#[test]
fn detached_call_settles_no_event_and_blocks_its_queue_until_it_ends() {
    let mut harness = Harness::new();
    harness.offer(0, "a");
    let call = harness.call();
    harness.queues.detach(&HashSet::from([Partition(1)]));
    // The node owns the partition again and reads it from its start.
    let again = harness.offer(0, "a");
    assert!(harness.next().is_none(), "the queue has a call in progress");
    assert_eq!(harness.fail(call), Finished::default());
    let call = harness.call();
    assert_eq!((ids(&call), call.is_retry), (vec![again], false));
    harness.queues.detach(&HashSet::from([Partition(1)]));
    assert_eq!(settled(&harness.succeed(call)), [0; 0]);
    assert!(harness.queues.endpoints.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Offer { endpoint: usize, channel: u8 },
    Finish { nth: usize, is_delivered: bool },
    Pass { ms: u64 },
    Detach { channel: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 0..4_u8).prop_map(|(endpoint, channel)| Step::Offer { endpoint, channel }),
        4 => (0..9_usize, any::<bool>()).prop_map(|(nth, is_delivered)| Step::Finish { nth, is_delivered }),
        2 => (0..40_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..4_u8).prop_map(|channel| Step::Detach { channel }),
    ]
}

/// A channel name that selects the partition, see [`Harness::offer`].
fn channel_name(channel: u8) -> String {
    "x".repeat(usize::from(channel) + 1)
}

proptest! {
    /// For any sequence of steps: order per queue, each event settled exactly once unless
    /// it was detached, and at most one call of a queue at a time.
    #[test]
    fn queues_keep_their_order(steps in proptest::collection::vec(step(), 0..120)) {
        let mut harness = Harness::new();
        let mut in_progress: Vec<Call> = Vec::new();
        let mut expected: HashMap<(usize, String), Vec<u64>> = HashMap::new();
        let mut got: HashMap<(usize, String), Vec<u64>> = HashMap::new();
        let finish = |harness: &mut Harness, call: Call, is_delivered: bool,
                          got: &mut HashMap<(usize, String), Vec<u64>>| {
            let (endpoint, channels) = (call.endpoint.index, call.events.clone());
            let finished = harness.queues.finish(call, is_delivered, harness.now, 1.0);
            for id in settled(&finished) {
                let event = channels.iter().find(|event| event.webhook_event.id.time_ms == id);
                let channel = event.expect("a settled event is from the call").webhook_event.channel.clone();
                got.entry((endpoint, channel)).or_default().push(id);
            }
        };
        for step in steps {
            match step {
                Step::Offer { endpoint, channel } => {
                    let id = harness.offer(endpoint, &channel_name(channel));
                    expected.entry((endpoint, channel_name(channel))).or_default().push(id);
                }
                Step::Finish { nth, is_delivered } if nth < in_progress.len() => {
                    let call = in_progress.remove(nth);
                    finish(&mut harness, call, is_delivered, &mut got);
                }
                Step::Finish { .. } => {}
                Step::Pass { ms } => harness.advance(Duration::from_millis(ms)),
                Step::Detach { channel } => {
                    harness.queues.detach(&HashSet::from([Partition(channel + 1)]));
                    for endpoint in 0..3 {
                        let queue = (endpoint, channel_name(channel));
                        let done = got.get(&queue).cloned().unwrap_or_default();
                        expected.insert(queue, done);
                    }
                }
            }
            in_progress.extend(harness.calls());
            let queues = in_progress.iter().flat_map(|call| {
                call.queues.iter().map(|(channel, _)| (call.endpoint.clone(), channel.clone()))
            });
            let queues: Vec<_> = queues.collect();
            prop_assert_eq!(queues.iter().collect::<HashSet<_>>().len(), queues.len());
        }
        loop {
            for call in std::mem::take(&mut in_progress) {
                finish(&mut harness, call, true, &mut got);
            }
            in_progress = harness.calls();
            if in_progress.is_empty() {
                let Some(due) = harness.queues.next_due() else { break };
                harness.now = due;
            }
        }
        expected.retain(|_, ids| !ids.is_empty());
        prop_assert_eq!(got, expected);
        prop_assert!(harness.queues.endpoints.is_empty());
        prop_assert_eq!((harness.queues.calls, harness.queues.retries), (0, 0));
    }
}
