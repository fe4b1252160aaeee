use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::entry::Kind;

/// A channel in the backend, with a history of up to `log_max` entries.
#[derive(Clone, Default)]
struct Channel {
    head: Option<Position>,
    log: VecDeque<Entry>,
    next_id: u64,
}

impl Channel {
    fn append(&mut self, count: u32, log_max: usize) -> Entry {
        self.next_id += 1;
        let head = self.head.unwrap_or(Position {
            epoch: self.next_id * 1_000,
            seq: self.next_id * 1_000,
            ..Position::default()
        });
        let entry = Entry {
            kind: Kind::Events,
            epoch: head.epoch,
            first_seq: head.seq + 1,
            count,
            time_ms: self.next_id,
            offset: 0,
            id: EntryId::from_bytes(&self.next_id.to_be_bytes()).expect("8 bytes"),
            prev: head.id,
            body: Bytes::new(),
        };
        self.head = Some(entry.position());
        self.log.push_back(entry.clone());
        while self.log.len() > log_max {
            self.log.pop_front();
        }
        entry
    }

    fn read(&self, after: EntryId) -> Log {
        let from = self.log.iter().position(|entry| entry.id == after).map_or(0, |at| at + 1);
        Log { head: self.head, entries: self.log.iter().skip(from).cloned().collect() }
    }
}

/// A node: receives entries, reads the history at a gap, and records its deliveries.
struct Node {
    sequencer: Sequencer,
    delivered: Vec<EntryId>,
    repairs: Vec<Repair>,
}

impl Node {
    fn joined(at: Option<Position>) -> Node {
        let mut sequencer = Sequencer::default();
        assert!(sequencer.reset_to(at.unwrap_or_default()).is_empty());
        Node { sequencer, delivered: vec![], repairs: vec![] }
    }

    fn receive(&mut self, entry: Entry, channel: &mut Channel) {
        match self.sequencer.accept(entry, Instant::now()) {
            Decision::Deliver(entry) | Decision::Begin(entry) => self.delivered.push(entry.id),
            Decision::Gap => self.read(channel),
            Decision::Duplicate | Decision::Held => {}
        }
    }

    fn read(&mut self, channel: &mut Channel) {
        let after = self.sequencer.position().expect("a known position").id;
        let (repair, missed, held) = self.sequencer.repair(channel.read(after), Instant::now());
        self.repairs.push(repair);
        self.delivered.extend(missed.iter().map(|entry| entry.id));
        if let Repair::Fork { .. } = repair {
            let head = channel.head.as_mut().expect("a fork has a head");
            head.epoch += 500;
            head.seq = head.seq.max(head.epoch);
        }
        for entry in held {
            self.receive(entry, channel);
        }
    }
}

proptest! {
    /// With a history that reaches back far enough, a node delivers every published
    /// entry once and in order, whatever the link loses or repeats.
    #[test]
    fn lossy_link_is_repaired_from_history(steps in proptest::collection::vec((1_u32..4, 0_u8..6), 1..200)) {
        let mut channel = Channel::default();
        let mut node = Node::joined(None);
        let mut published = vec![];
        let mut last = None;
        for (count, fate) in steps {
            let entry = channel.append(count, 1_000);
            published.push(entry.id);
            match fate {
                0 => continue,
                1 => { node.receive(entry.clone(), &mut channel); node.receive(entry.clone(), &mut channel) }
                2 => { if let Some(last) = last.take() { node.receive(last, &mut channel) } node.receive(entry.clone(), &mut channel) }
                _ => node.receive(entry.clone(), &mut channel),
            }
            last = Some(entry);
        }
        if node.sequencer.begin_repair() { node.read(&mut channel) }
        prop_assert_eq!(node.delivered, published);
        prop_assert!(node.repairs.iter().all(|repair| *repair == Repair::Complete));
    }

    /// With a short history, unrepaired gaps are reported. No entry is delivered twice
    /// or out of order, and the newest one always arrives.
    #[test]
    fn gap_longer_than_history_is_reported_incomplete(lost in 0_usize..12, log_max in 1_usize..6) {
        let mut channel = Channel::default();
        let mut node = Node::joined(None);
        node.receive(channel.append(1, log_max), &mut channel);
        for _ in 0..lost { channel.append(1, log_max); }
        let last = channel.append(1, log_max);
        node.receive(last.clone(), &mut channel);
        prop_assert_eq!(node.delivered.last(), Some(&last.id));
        prop_assert!(node.delivered.windows(2).all(|pair| pair[0].as_bytes() < pair[1].as_bytes()));
        let complete = lost < log_max;
        prop_assert_eq!(node.repairs.iter().all(|r| *r == Repair::Complete), complete, "{:?}", node.repairs);
        prop_assert_eq!(node.delivered.len() == lost + 2, complete);
    }
}

#[test]
fn entry_in_flight_before_reset_is_a_duplicate() {
    let mut channel = Channel::default();
    let in_flight = channel.append(2, 10);
    let mut sequencer = Sequencer::default();
    assert_eq!(sequencer.accept(in_flight.clone(), Instant::now()), Decision::Held);
    let held = sequencer.reset_to(channel.head.expect("a published entry"));
    assert_eq!(held.len(), 1);
    assert_eq!(sequencer.accept(in_flight, Instant::now()), Decision::Duplicate);
    let next = channel.append(1, 10);
    assert_eq!(sequencer.accept(next.clone(), Instant::now()), Decision::Deliver(next));
}

#[test]
fn new_epoch_is_delivered_without_history_read() {
    let mut channel = Channel::default();
    let mut node = Node::joined(None);
    node.receive(channel.append(1, 10), &mut channel);
    channel.head = None;
    channel.log.clear();
    node.receive(channel.append(1, 10), &mut channel);
    assert_eq!((node.delivered.len(), node.repairs.len()), (2, 0));
    channel.head = None;
    channel.log.clear();
    channel.append(1, 10);
    node.receive(channel.append(1, 10), &mut channel);
    assert_eq!((node.delivered.len(), &node.repairs[..]), (4, &[Repair::NewEpoch][..]));
}

#[test]
fn failover_with_lost_writes_is_a_fork_whose_events_arrive() {
    for lost in 1..4 {
        let mut channel = Channel::default();
        let mut node = Node::joined(None);
        for _ in 0..5 {
            let entry = channel.append(1, 10);
            node.receive(entry, &mut channel);
        }
        let seen = node.sequencer.position().expect("a known position");
        for _ in 0..lost {
            channel.log.pop_back();
        }
        channel.head = channel.log.back().map(Entry::position);
        // The new master continues from its own, earlier head.
        let new: Vec<_> = (0..lost + 1).map(|_| channel.append(1, 10)).collect();
        node.receive(new.last().expect("at least one entry").clone(), &mut channel);
        assert_eq!(node.repairs, [Repair::Fork { epoch: seen.epoch }]);
        assert_eq!(node.delivered[5..], new.iter().map(|entry| entry.id).collect::<Vec<_>>());
        let after = channel.append(1, 10);
        assert!(after.first_seq > seen.seq, "no sequence number is used twice after a detected fork");
        node.receive(after.clone(), &mut channel);
        assert_eq!(node.delivered.last(), Some(&after.id));
    }
}

#[test]
fn missed_last_entry_is_found_by_history_read() {
    let mut channel = Channel::default();
    let mut node = Node::joined(None);
    node.receive(channel.append(1, 10), &mut channel);
    let missed = channel.append(1, 10);
    assert!(!node.sequencer.has_handled(missed.id));
    assert!(node.sequencer.begin_repair());
    node.read(&mut channel);
    assert_eq!(node.delivered.last(), Some(&missed.id));
}

#[test]
fn held_entries_are_bounded() {
    let mut channel = Channel::default();
    let mut sequencer = Sequencer::default();
    for _ in 0..limits::REPAIR_BUFFER_ENTRIES_MAX + 5 {
        assert_eq!(sequencer.accept(channel.append(1, 10), Instant::now()), Decision::Held);
    }
    assert_eq!(sequencer.reset_to(Position::default()).len(), limits::REPAIR_BUFFER_ENTRIES_MAX);
}

/// A node joins after entries that Redis has kept, and then receives some that Redis
/// loses. It delivers the entries after the failover, and none from before the join.
#[test]
fn fork_does_not_deliver_entries_from_before_the_join() {
    for received in 0..3 {
        let mut channel = Channel::default();
        let kept: Vec<_> = (0..4).map(|_| channel.append(1, 20)).collect();
        let lost_before: Vec<_> = (0..2).map(|_| channel.append(1, 20)).collect();
        let mut node = Node::joined(channel.head);
        for _ in 0..received {
            let entry = channel.append(1, 20);
            node.receive(entry, &mut channel);
        }
        channel.log.truncate(kept.len());
        channel.head = channel.log.back().map(Entry::position);
        let new: Vec<_> = (0..3).map(|_| channel.append(1, 20)).collect();
        for entry in &new {
            node.receive(entry.clone(), &mut channel);
        }
        assert_eq!(
            node.delivered[received..],
            new.iter().map(|entry| entry.id).collect::<Vec<_>>(),
            "{received} {lost_before:?}"
        );
    }
}

/// A link may be further behind than the history reaches back. Nothing is lost as long
/// as it continues from this node's position.
#[test]
fn slow_link_behind_the_history_loses_no_entry() {
    let mut channel = Channel::default();
    let mut node = Node::joined(None);
    let in_flight: Vec<_> = (0..50).map(|_| channel.append(1, 10)).collect();
    node.receive(in_flight[0].clone(), &mut channel);
    assert!(node.sequencer.begin_repair());
    node.receive(in_flight[1].clone(), &mut channel);
    node.read(&mut channel);
    for entry in &in_flight[2..] {
        node.receive(entry.clone(), &mut channel);
    }
    assert_eq!(node.delivered, in_flight.iter().map(|entry| entry.id).collect::<Vec<_>>());
    assert_eq!(node.repairs, [Repair::Complete]);
}

/// Entries that arrive after they were given up as lost are duplicates: sequence
/// numbers never go back.
#[test]
fn late_entry_after_incomplete_repair_is_a_duplicate() {
    let mut channel = Channel::default();
    let mut node = Node::joined(None);
    node.receive(channel.append(1, 3), &mut channel);
    let late: Vec<_> = (0..20).map(|_| channel.append(1, 3)).collect();
    assert!(node.sequencer.begin_repair());
    node.read(&mut channel);
    let delivered = node.delivered.clone();
    for entry in late {
        node.receive(entry, &mut channel);
    }
    assert_eq!((node.delivered, node.repairs), (delivered, vec![Repair::Incomplete]));
}
