//! Order, isolation, patience and fairness of the queues: without IO, in made-up
//! time.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::webhook_event::WebhookEventKind;

/// One webhook more often than not; events are numbered, and that is their id.
struct World {
    queues: DeliveryQueues,
    now: Instant,
    events: u64,
}

impl World {
    fn new() -> World {
        World { queues: DeliveryQueues::default(), now: Instant::now(), events: 0 }
    }

    fn offer(&mut self, endpoint: usize, channel: &str) -> u64 {
        self.events += 1;
        let id = WebhookEventId { time_ms: self.events, number: 0 };
        let what = WebhookEventKind::ChannelOccupied;
        let webhook_event = Arc::new(WebhookEvent { id, app: "1".into(), channel: channel.into(), what });
        let partition = Partition(channel.len() as u8);
        let delivery = Delivery::new(partition, webhook_event, self.now + limits::WEBHOOK_AGE_MAX);
        self.queues.offer(HookId { app: "1".into(), index: endpoint }, delivery);
        self.events
    }

    fn pass(&mut self, time: Duration) {
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

    /// Waits for the next call as long as it takes; how long that was.
    fn wait(&mut self) -> Duration {
        let due = self.queues.next_due().expect("something waits for its time");
        assert!(due > self.now, "what can be called now was not");
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
fn lanes_share_a_call_in_the_order_of_the_outbox() {
    let mut world = World::new();
    for channel in ["a", "b", "a", "c", "b"] {
        world.offer(0, channel);
    }
    let call = world.call();
    assert_eq!((ids(&call), call.is_retry), (vec![1, 2, 3, 4, 5], false));
    assert!(world.next().is_none());
    assert_eq!(settled(&world.succeed(call)), [1, 2, 3, 4, 5]);
    assert!(world.next().is_none() && world.queues.endpoints.is_empty());
}

#[test]
fn a_call_has_its_bound_and_the_rest_follows_in_order() {
    let mut world = World::new();
    for n in 0..limits::WEBHOOK_BATCH_MAX + 10 {
        world.offer(0, if n % 2 == 0 { "even" } else { "odd" });
    }
    let first = world.call();
    assert_eq!(first.events.len(), limits::WEBHOOK_BATCH_MAX);
    assert!(ids(&first).is_sorted());
    let taken: HashSet<u64> = ids(&first).into_iter().collect();
    assert!(world.next().is_none(), "both queues are under way");
    world.succeed(first);
    let rest = world.call();
    let left: Vec<u64> = (1..=110).filter(|id| !taken.contains(id)).collect();
    assert_eq!(ids(&rest), left);
}

#[test]
fn a_lane_has_one_call_under_way() {
    let mut world = World::new();
    world.offer(0, "a");
    let first = world.call();
    world.offer(0, "a");
    world.offer(0, "b");
    let second = world.call();
    assert_eq!(ids(&second), [3], "a is under way, b is not");
    world.succeed(first);
    assert_eq!(ids(&world.call()), [2]);
}

#[test]
fn what_fails_is_alone_and_others_go_on() {
    let mut world = World::new();
    world.offer(0, "a");
    world.offer(0, "b");
    let both = world.call();
    assert_eq!(settled(&world.fail(both)), [0; 0]);
    world.offer(0, "a");
    world.offer(0, "c");
    let fresh = world.call();
    assert_eq!(ids(&fresh), [4], "c has never failed");
    world.succeed(fresh);
    assert_eq!(world.wait(), limits::WEBHOOK_BACKOFF_MIN);
    let calls = world.calls();
    assert_eq!(calls.iter().map(ids).collect::<Vec<_>>(), [vec![1], vec![2]], "each alone");
    assert!(calls.iter().all(|call| call.is_retry));
    for call in calls {
        world.succeed(call);
    }
    assert_eq!(ids(&world.call()), [3]);
}

#[test]
fn pauses_double_up_to_their_bound() {
    let mut world = World::new();
    world.offer(0, "a");
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let call = world.call();
        world.fail(call);
        pauses.push(world.wait().as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    world.offer(0, "a");
    let call = world.call();
    world.succeed(call);
    let call = world.call();
    world.fail(call);
    assert_eq!(world.wait(), limits::WEBHOOK_BACKOFF_MIN, "a success forgives all failures");
}

#[test]
fn jitter_spreads_retries() {
    let mut world = World::new();
    world.offer(0, "a");
    let call = world.call();
    world.queues.finish(call, false, world.now, 1.1);
    assert_eq!(world.wait(), limits::WEBHOOK_BACKOFF_MIN.mul_f64(1.1));
}

#[test]
fn what_is_too_old_when_its_call_fails_is_given_up() {
    let mut world = World::new();
    world.offer(0, "a");
    world.pass(limits::WEBHOOK_AGE_MAX);
    world.offer(0, "a");
    let call = world.call();
    assert_eq!(ids(&call), [1, 2], "it gets its chance however late");
    let finished = world.fail(call);
    assert_eq!((settled(&finished), finished.given_up), (vec![1], 1));
    world.wait();
    let call = world.call();
    assert_eq!(ids(&call), [2], "the queue goes on");
}

/// An event that its receiver can never take does not take others along.
#[test]
fn only_the_event_that_cannot_be_taken_is_given_up() {
    let mut world = World::new();
    for _ in 0..20 {
        world.offer(0, "a");
    }
    let poison = 7;
    let (mut taken, mut given_up) = (Vec::new(), Vec::new());
    while taken.len() < 19 {
        let Some(call) = world.next() else {
            world.wait();
            continue;
        };
        if ids(&call).contains(&poison) {
            given_up.extend(settled(&world.fail(call)));
        } else {
            taken.extend(settled(&world.succeed(call)));
        }
    }
    assert_eq!(given_up, [poison]);
    assert_eq!(taken, (1..=20).filter(|id| *id != poison).collect::<Vec<u64>>());
}

#[test]
fn a_webhook_that_hangs_leaves_calls_for_others() {
    let mut world = World::new();
    let mut hanging = Vec::new();
    // Channels of their own, one after the other, so that no two share a call.
    for n in 0..2 * limits::WEBHOOK_CALLS_MAX {
        world.offer(0, &format!("hanging{n}"));
        hanging.extend(world.next());
    }
    assert_eq!(hanging.len(), limits::WEBHOOK_ENDPOINT_CALLS_MAX);
    world.offer(1, "a");
    assert_eq!(world.call().endpoint.index, 1);
}

#[test]
fn the_calls_of_a_node_are_bounded() {
    let mut world = World::new();
    for endpoint in 0..2 * limits::WEBHOOK_CALLS_MAX {
        world.offer(endpoint, "a");
    }
    let calls = world.calls();
    assert_eq!(calls.len(), limits::WEBHOOK_CALLS_MAX);
    assert_eq!(world.queues.next_due(), None, "only the end of a call helps");
    let last = calls.last().expect("there are many").endpoint.index;
    for call in calls {
        world.succeed(call);
    }
    assert_eq!(world.call().endpoint.index, last + 1, "whose turn it is was not forgotten");
}

#[test]
fn webhooks_take_turns() {
    let mut world = World::new();
    for _ in 0..4 {
        world.offer(0, "a");
        world.offer(1, "a");
    }
    let mut turns = Vec::new();
    for _ in 0..6 {
        let call = world.call();
        turns.push(call.endpoint.index);
        world.offer(call.endpoint.index, "a");
        world.succeed(call);
    }
    assert_eq!(turns, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn channels_that_fail_leave_calls_for_those_that_do_not() {
    let mut world = World::new();
    for n in 0..50 {
        world.offer(0, &format!("failing{n}"));
    }
    let call = world.call();
    world.fail(call);
    world.wait();
    assert_eq!(world.calls().len(), limits::WEBHOOK_ENDPOINT_RETRIES_MAX);
    assert_eq!(world.queues.next_due(), None, "only the end of a call helps");
    world.offer(0, "fresh");
    assert!(!world.call().is_retry);
}

/// More channels fail, each for as long as a call may take, than there are calls.
#[test]
fn what_never_gets_its_call_is_given_up_too() {
    let mut world = World::new();
    for n in 0..50 {
        world.offer(0, &format!("failing{n}"));
    }
    let call = world.call();
    world.fail(call);
    world.wait();
    let hanging = world.calls().len();
    assert_eq!(world.queues.expire(world.now), [], "they are not old yet");
    world.pass(limits::WEBHOOK_AGE_MAX);
    assert_eq!(world.queues.expire(world.now).len(), 50 - hanging);
    assert_eq!(world.queues.expire(world.now), []);
}

#[test]
fn failing_and_working_again_are_said_once() {
    let mut world = World::new();
    world.offer(0, "a");
    world.offer(0, "b");
    let call = world.call();
    assert_eq!(world.fail(call).change, Some(Change::BeganToFail));
    world.wait();
    let (first, second) = (world.call(), world.call());
    assert_eq!(world.fail(first).change, None);
    assert_eq!(world.succeed(second).change, None, "a is failing still");
    world.wait();
    let call = world.call();
    assert_eq!(world.succeed(call).change, Some(Change::Recovered));
}

#[test]
fn what_is_withdrawn_is_forgotten_and_what_is_under_way_counts() {
    let mut world = World::new();
    world.offer(0, "a");
    let call = world.call();
    world.offer(0, "a");
    world.offer(0, "b");
    world.offer(0, "other partition");
    world.queues.cancel(&HashSet::from([Partition(1)]));
    assert!(world.queues.is_in_progress(Partition(1)));
    assert_eq!(settled(&world.succeed(call)), [1]);
    assert!(!world.queues.is_in_progress(Partition(1)));
    assert_eq!(ids(&world.call()), [4]);
}

#[test]
fn what_is_forsaken_settles_nothing_and_is_not_called_for_twice_at_once() {
    let mut world = World::new();
    world.offer(0, "a");
    let call = world.call();
    world.queues.abandon(&HashSet::from([Partition(1)]));
    // The partition came back, and was read from its start.
    let again = world.offer(0, "a");
    assert!(world.next().is_none(), "the queue is under way");
    assert_eq!(world.fail(call), Finished::default());
    let call = world.call();
    assert_eq!((ids(&call), call.is_retry), (vec![again], false));
    world.queues.abandon(&HashSet::from([Partition(1)]));
    assert_eq!(settled(&world.succeed(call)), [0; 0]);
    assert!(world.queues.endpoints.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    Offer { endpoint: usize, channel: u8 },
    Finish { nth: usize, is_delivered: bool },
    Pass { ms: u64 },
    Forsake { channel: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 0..4_u8).prop_map(|(endpoint, channel)| Step::Offer { endpoint, channel }),
        4 => (0..9_usize, any::<bool>()).prop_map(|(nth, is_delivered)| Step::Finish { nth, is_delivered }),
        2 => (0..40_000_u64).prop_map(|ms| Step::Pass { ms }),
        1 => (0..4_u8).prop_map(|channel| Step::Forsake { channel }),
    ]
}

/// A channel per partition, as [`World::offer`] has it.
fn channel_name(channel: u8) -> String {
    "x".repeat(usize::from(channel) + 1)
}

proptest! {
    /// Whatever happens: in order per queue, each event settled exactly once unless
    /// it was forsaken, and never two calls of a queue at once.
    #[test]
    fn every_lane_keeps_its_order(steps in proptest::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        let mut under_way: Vec<Call> = Vec::new();
        let mut expected: HashMap<(usize, String), Vec<u64>> = HashMap::new();
        let mut got: HashMap<(usize, String), Vec<u64>> = HashMap::new();
        let finish = |world: &mut World, call: Call, is_delivered: bool,
                          got: &mut HashMap<(usize, String), Vec<u64>>| {
            let (endpoint, channels) = (call.endpoint.index, call.events.clone());
            let finished = world.queues.finish(call, is_delivered, world.now, 1.0);
            for id in settled(&finished) {
                let event = channels.iter().find(|event| event.webhook_event.id.time_ms == id);
                let channel = event.expect("it was in the call").webhook_event.channel.clone();
                got.entry((endpoint, channel)).or_default().push(id);
            }
        };
        for step in steps {
            match step {
                Step::Offer { endpoint, channel } => {
                    let id = world.offer(endpoint, &channel_name(channel));
                    expected.entry((endpoint, channel_name(channel))).or_default().push(id);
                }
                Step::Finish { nth, is_delivered } if nth < under_way.len() => {
                    let call = under_way.remove(nth);
                    finish(&mut world, call, is_delivered, &mut got);
                }
                Step::Finish { .. } => {}
                Step::Pass { ms } => world.pass(Duration::from_millis(ms)),
                Step::Forsake { channel } => {
                    world.queues.abandon(&HashSet::from([Partition(channel + 1)]));
                    for endpoint in 0..3 {
                        let queue = (endpoint, channel_name(channel));
                        let done = got.get(&queue).cloned().unwrap_or_default();
                        expected.insert(queue, done);
                    }
                }
            }
            under_way.extend(world.calls());
            let queues = under_way.iter().flat_map(|call| {
                call.queues.iter().map(|(channel, _)| (call.endpoint.clone(), channel.clone()))
            });
            let queues: Vec<_> = queues.collect();
            prop_assert_eq!(queues.iter().collect::<HashSet<_>>().len(), queues.len());
        }
        loop {
            for call in std::mem::take(&mut under_way) {
                finish(&mut world, call, true, &mut got);
            }
            under_way = world.calls();
            if under_way.is_empty() {
                let Some(due) = world.queues.next_due() else { break };
                world.now = due;
            }
        }
        expected.retain(|_, ids| !ids.is_empty());
        prop_assert_eq!(got, expected);
        prop_assert!(world.queues.endpoints.is_empty());
        prop_assert_eq!((world.queues.calls, world.queues.retries), (0, 0));
    }
}
