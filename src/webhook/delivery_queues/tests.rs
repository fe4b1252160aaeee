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
        self.offer_to("1", endpoint, channel)
    }

    fn offer_to(&mut self, app: &str, endpoint: usize, channel: &str) -> u64 {
        self.events += 1;
        let id = WebhookEventId { time_ms: self.events, number: 0 };
        let what = WebhookEventKind::ChannelOccupied;
        let webhook_event = Arc::new(WebhookEvent { id, app: app.into(), channel: channel.into(), what });
        let partition = Partition(channel.len() as u8);
        let delivery = Delivery::new(partition, webhook_event, self.now + limits::WEBHOOK_AGE_MAX);
        self.queues.offer(EndpointId { app: app.into(), index: endpoint }, delivery);
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
        self.queues.finish(call, Outcome::Delivered, self.now, 1.0)
    }

    fn fail(&mut self, call: Call) -> Finished {
        self.queues.finish(call, Outcome::Failed, self.now, 1.0)
    }

    /// Fails calls of many channels until the circuit of the endpoint opens.
    fn open_circuit(&mut self, endpoint: usize) {
        for n in 0..limits::WEBHOOK_CIRCUIT_FAILURES {
            self.offer(endpoint, &format!("failing{n}"));
            let call = self.call();
            let finished = self.fail(call);
            let is_last = n + 1 == limits::WEBHOOK_CIRCUIT_FAILURES;
            assert_eq!(finished.circuit, is_last.then_some(CircuitChange::Opened));
        }
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
    harness.queues.finish(call, Outcome::Failed, harness.now, 1.1);
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
    for app in 100..100 + 2 * limits::WEBHOOK_CALLS_MAX {
        harness.offer_to(&app.to_string(), 0, "a");
    }
    let calls = harness.calls();
    assert_eq!(calls.len(), limits::WEBHOOK_CALLS_MAX);
    assert_eq!(harness.queues.next_due(), None, "a call in progress has to end first");
    let last = calls.last().expect("at least one call").endpoint.app.clone();
    for call in calls {
        harness.succeed(call);
    }
    let next: usize = last.parse::<usize>().expect("a number") + 1;
    assert_eq!(*harness.call().endpoint.app, *next.to_string(), "round robin continues");
}

/// Endpoints of several apps hang. Each app that hangs leaves calls for the next one.
#[test]
fn hanging_apps_leave_calls_for_others() {
    let mut harness = Harness::new();
    let mut of_first = 0;
    for app in 0..10 {
        for n in 0..200 {
            harness.offer_to(&format!("hanging{app}"), n % 8, &format!("c{n}"));
            of_first += usize::from(harness.next().is_some() && app == 0);
        }
    }
    assert!(of_first <= limits::WEBHOOK_CALLS_MAX / 3 + 1, "{of_first} calls of one app");
    for app in 0..limits::WEBHOOK_CALLS_MAX - harness.queues.calls {
        harness.offer_to(&format!("new{app}"), 0, "a");
        assert!(harness.call().endpoint.app.starts_with("new"));
    }
    assert!(harness.queues.calls == limits::WEBHOOK_CALLS_MAX);
}

#[test]
fn failing_apps_leave_retries_for_others() {
    let mut harness = Harness::new();
    for n in 0..40 {
        for endpoint in 0..8 {
            harness.offer(endpoint, &format!("c{n}"));
        }
    }
    let calls = harness.calls();
    for call in calls {
        harness.fail(call);
    }
    harness.offer_to("2", 0, "a");
    let call = harness.call();
    assert_eq!((&*call.endpoint.app, call.is_retry), ("2", false));
    harness.fail(call);
    harness.wait();
    let calls = harness.calls();
    assert!(calls.iter().filter(|call| call.is_retry).count() < limits::WEBHOOK_RETRIES_MAX);
    assert!(calls.iter().any(|call| &*call.endpoint.app == "2"), "{calls:?}");
}

#[test]
fn failures_in_a_row_open_the_circuit_and_a_probe_closes_it() {
    let mut harness = Harness::new();
    harness.open_circuit(0);
    harness.offer(0, "fresh");
    assert!(harness.next().is_none(), "the circuit is open");
    assert_eq!(harness.queues.open_circuits(), 1);
    for expected in [1, 2, 4, 8] {
        assert_eq!(harness.wait().as_secs(), expected);
        let probe = harness.call();
        assert!(probe.is_probe && probe.is_retry && probe.queues.len() == 1);
        assert!(harness.next().is_none() && harness.queues.next_due().is_none(), "one probe at a time");
        assert_eq!(harness.fail(probe).circuit, None);
    }
    harness.wait();
    let probe = harness.call();
    assert_eq!(harness.succeed(probe).circuit, Some(CircuitChange::Closed));
    assert_eq!(harness.queues.open_circuits(), 0);
    assert!(harness.calls().len() > 1);
}

#[test]
fn success_in_between_keeps_the_circuit_closed() {
    let mut harness = Harness::new();
    for n in 0..5 * limits::WEBHOOK_CIRCUIT_FAILURES {
        harness.offer(0, &format!("c{n}"));
        let call = harness.call();
        let finished = if n % 5 == 4 { harness.succeed(call) } else { harness.fail(call) };
        assert_eq!(finished.circuit, None);
    }
}

/// A channel that is always rejected delays no other, even if there is no other for long.
#[test]
fn retries_of_one_channel_do_not_open_the_circuit() {
    let mut harness = Harness::new();
    harness.offer(0, "rejected");
    for _ in 0..3 * limits::WEBHOOK_CIRCUIT_FAILURES {
        let call = harness.call();
        assert_eq!(harness.fail(call).circuit, None);
        harness.offer(0, "rejected");
        harness.wait();
    }
    harness.call();
    harness.offer(0, "other");
    assert!(!harness.call().is_probe);
}

#[test]
fn probes_are_for_failed_and_new_channels_alternately() {
    let mut harness = Harness::new();
    harness.open_circuit(0);
    let mut kinds = Vec::new();
    for n in 0..6 {
        harness.offer(0, &format!("fresh{n}"));
        harness.wait();
        let probe = harness.call();
        kinds.push(probe.queues[0].0.starts_with("fresh"));
        harness.fail(probe);
    }
    assert_eq!(kinds, [true, false, true, false, true, false]);
}

#[test]
fn open_circuit_drops_events_too_old_without_a_call() {
    let mut harness = Harness::new();
    harness.open_circuit(0);
    for n in 0..50 {
        harness.offer(0, &format!("fresh{n}"));
    }
    harness.advance(limits::WEBHOOK_AGE_MAX / 2);
    assert_eq!(harness.queues.expire(harness.now), []);
    let late = harness.offer(0, "late");
    harness.advance(limits::WEBHOOK_AGE_MAX / 2);
    let expired = harness.queues.expire(harness.now);
    assert_eq!(expired.len(), 50 + limits::WEBHOOK_CIRCUIT_FAILURES as usize);
    assert_eq!(ids(&harness.call()), [late]);
}

/// The app cannot be read, which is not a fault of the receiver.
#[test]
fn call_that_is_not_sent_does_not_open_the_circuit() {
    let mut harness = Harness::new();
    for n in 0..3 * limits::WEBHOOK_CIRCUIT_FAILURES {
        harness.offer(0, &format!("c{n}"));
        let call = harness.call();
        let finished = harness.queues.finish(call, Outcome::NotSent, harness.now, 1.0);
        assert_eq!(finished, Finished::default());
    }
    harness.wait();
    assert!(harness.calls().iter().all(|call| call.is_retry));
    let mut harness = Harness::new();
    harness.open_circuit(0);
    harness.wait();
    let probe = harness.call();
    harness.queues.finish(probe, Outcome::NotSent, harness.now, 1.0);
    harness.wait();
    assert!(harness.call().is_probe, "another probe follows");
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

#[derive(Debug, Clone, Copy)]
enum Step {
    Offer {
        endpoint: usize,
        channel: u8,
    },
    Finish {
        nth: usize,
        outcome: Outcome,
    },
    /// Every call of the endpoint fails from now on, or none does.
    Break {
        endpoint: usize,
        is_broken: bool,
    },
    Expire,
    Pass {
        ms: u64,
    },
    Detach {
        channel: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_usize, 0..20_u8).prop_map(|(endpoint, channel)| Step::Offer { endpoint, channel }),
        6 => (0..9_usize, outcome()).prop_map(|(nth, outcome)| Step::Finish { nth, outcome }),
        1 => (0..4_usize, any::<bool>()).prop_map(|(endpoint, is_broken)| Step::Break { endpoint, is_broken }),
        1 => Just(Step::Expire),
        2 => (0..40_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..20_u8).prop_map(|channel| Step::Detach { channel }),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![4 => Just(Outcome::Delivered), 4 => Just(Outcome::Failed), 1 => Just(Outcome::NotSent)]
}

/// Endpoints 0 and 1 are of app 1, the others of app 2.
fn app_of(endpoint: usize) -> &'static str {
    if endpoint < 2 { "1" } else { "2" }
}

/// A channel name that selects the partition, see [`Harness::offer`].
fn channel_name(channel: u8) -> String {
    "x".repeat(usize::from(channel) + 1)
}

/// The queues, and what is expected of them.
struct Model {
    harness: Harness,
    in_progress: Vec<Call>,
    broken: HashSet<usize>,
    /// Endpoints with an open circuit.
    open: HashSet<usize>,
    /// By endpoint and channel, the events that are not detached.
    offered: HashMap<(usize, String), Vec<u64>>,
    settled: HashMap<(usize, String), Vec<u64>>,
}

impl Model {
    fn new() -> Model {
        Model {
            harness: Harness::new(),
            in_progress: Vec::new(),
            broken: HashSet::new(),
            open: HashSet::new(),
            offered: HashMap::new(),
            settled: HashMap::new(),
        }
    }

    fn finish(&mut self, call: Call, outcome: Outcome) {
        let (endpoint, events) = (call.endpoint.index, call.events.clone());
        let is_broken = self.broken.contains(&endpoint) && outcome == Outcome::Delivered;
        let outcome = if is_broken { Outcome::Failed } else { outcome };
        let finished = self.harness.queues.finish(call, outcome, self.harness.now, 1.0);
        match finished.circuit {
            Some(CircuitChange::Opened) => {
                assert!(outcome == Outcome::Failed && self.open.insert(endpoint), "opened twice");
            }
            Some(CircuitChange::Closed) => {
                assert!(outcome == Outcome::Delivered && self.open.remove(&endpoint), "closed twice");
            }
            None => {}
        }
        for id in settled(&finished) {
            let event = events.iter().find(|event| event.webhook_event.id.time_ms == id);
            let channel = event.expect("a settled event is from the call").webhook_event.channel.clone();
            self.settled.entry((endpoint, channel)).or_default().push(id);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Offer { endpoint, channel } => {
                let id = self.harness.offer_to(app_of(endpoint), endpoint, &channel_name(channel));
                self.offered.entry((endpoint, channel_name(channel))).or_default().push(id);
            }
            Step::Finish { nth, outcome } if nth < self.in_progress.len() => {
                let call = self.in_progress.remove(nth);
                self.finish(call, outcome);
            }
            Step::Finish { .. } => {}
            Step::Break { endpoint, is_broken: true } => drop(self.broken.insert(endpoint)),
            Step::Break { endpoint, is_broken: false } => drop(self.broken.remove(&endpoint)),
            Step::Expire => self.expire(),
            Step::Pass { ms } => self.harness.advance(Duration::from_millis(ms)),
            Step::Detach { channel } => {
                self.harness.queues.detach(&HashSet::from([Partition(channel + 1)]));
                for endpoint in 0..4 {
                    let queue = (endpoint, channel_name(channel));
                    let done = self.settled.get(&queue).cloned().unwrap_or_default();
                    self.offered.insert(queue, done);
                }
            }
        }
        // An endpoint without events is forgotten, with its circuit.
        let known: HashSet<usize> = self.harness.queues.endpoints.keys().map(|id| id.index).collect();
        self.open.retain(|endpoint| known.contains(endpoint));
        self.begin_calls();
        self.check();
    }

    fn expire(&mut self) {
        let expired = self.harness.queues.expire(self.harness.now);
        for (outbox, id) in expired {
            let of_app = (0..4).filter(|endpoint| app_of(*endpoint) == &*outbox.app);
            let channel = "x".repeat(outbox.partition.0.into());
            // The id is of one endpoint only.
            let mut queues = of_app.map(|endpoint| (endpoint, channel.clone()));
            let queue = queues
                .find(|queue| self.offered.get(queue).is_some_and(|offered| offered.contains(&id.time_ms)));
            self.settled.entry(queue.expect("an offered event")).or_default().push(id.time_ms);
        }
    }

    fn begin_calls(&mut self) {
        let calls = self.harness.calls();
        for endpoint in 0..4 {
            let began = calls.iter().filter(|call| call.endpoint.index == endpoint);
            if self.open.contains(&endpoint) {
                assert!(began.clone().all(|call| call.is_probe && call.queues.len() == 1));
                assert!(began.count() <= 1, "one probe at a time");
            } else {
                assert!(began.clone().all(|call| !call.is_probe));
            }
        }
        self.in_progress.extend(calls);
    }

    fn check(&self) {
        let of_call = |call: &Call| {
            let queue = |(channel, _): &(Arc<str>, usize)| (call.endpoint.clone(), channel.clone());
            call.queues.iter().map(queue).collect::<Vec<_>>()
        };
        let queues: Vec<_> = self.in_progress.iter().flat_map(of_call).collect();
        assert_eq!(
            queues.iter().collect::<HashSet<_>>().len(),
            queues.len(),
            "one call of a queue at a time"
        );
        for app in ["1", "2"] {
            let calls = self.in_progress.iter().filter(|call| &*call.endpoint.app == app);
            assert!(calls.clone().count() <= limits::WEBHOOK_CALLS_MAX / 3 + 1);
            assert!(calls.filter(|call| call.is_retry).count() <= limits::WEBHOOK_RETRIES_MAX / 3 + 1);
        }
        for (queue, settled) in &self.settled {
            assert!(self.offered[queue].starts_with(settled), "{queue:?}: in order, and each once");
        }
    }

    /// All receivers work: delivers everything that is left.
    fn drain(&mut self) {
        self.broken.clear();
        loop {
            for call in std::mem::take(&mut self.in_progress) {
                self.finish(call, Outcome::Delivered);
            }
            self.begin_calls();
            if self.in_progress.is_empty() {
                let Some(due) = self.harness.queues.next_due() else { break };
                self.harness.now = due;
            }
        }
    }
}

proptest! {
    /// For any sequence of steps: order per queue, each event settled exactly once unless it was
    /// detached, at most one call of a queue at a time, only probes while a circuit is open, and
    /// no more calls than the share of an app.
    #[test]
    fn queues_keep_their_order(steps in proptest::collection::vec(step(), 0..200)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.drain();
        model.offered.retain(|_, ids| !ids.is_empty());
        prop_assert_eq!(&model.settled, &model.offered);
        prop_assert!(model.open.is_empty());
        let queues = &model.harness.queues;
        prop_assert!(queues.endpoints.is_empty() && queues.apps.is_empty());
        prop_assert_eq!((queues.calls, queues.retries), (0, 0));
    }
}
