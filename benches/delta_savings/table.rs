//! The Markdown.

use std::hint::black_box;
use std::io::{self, Write};

use fanfare::delta::Algorithm;
use fanfare::delta::conflation::KeyPath;
use fanfare::event::Event;

use super::corpora::{self, Corpus, EVENTS};
use super::deflate::Socket;
use super::measure::best_of_each;
use super::room::{Room, Way};

/// Bytes and CPU time of a corpus that goes out one way.
struct Cost {
    bytes: usize,
    seconds: f64,
}

pub fn print(out: &mut impl Write) -> io::Result<()> {
    let corpora = corpora::corpora();
    writeln!(
        out,
        "{EVENTS} events of each kind, on one channel; keys are the events' own. Of each way: bytes of a WebSocket \
         frame that a subscriber gets, in the mean, their part of those with deltas off, and CPU time per event. That \
         is taken once per event on a node, however many subscribers there are, but for deflate, where every socket \
         takes it again.\n"
    )?;
    writeln!(
        out,
        "| events | off | Fossil | Fossil, keys | VCDIFF | VCDIFF, keys | deflate |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for corpus in &corpora {
        print_corpus(out, corpus)?;
    }
    let [.., random] = &corpora;
    print_policy(out, random)
}

fn print_corpus(out: &mut impl Write, corpus: &Corpus) -> io::Result<()> {
    let key = corpus.key.and_then(KeyPath::parse);
    let way = |algorithm, key| Way { algorithm: Some(algorithm), key, without_policy: false };
    let mut ways = vec![Way::default()];
    for algorithm in Algorithm::ALL {
        ways.push(way(algorithm, None));
        ways.extend(key.iter().map(|key| way(algorithm, Some(key.clone()))));
    }
    let costs = costs(&events(corpus), &ways, true);
    let (off, deltas) = (&costs[0], &costs[1..]);
    write!(out, "| {} | {} |", corpus.name, cell(off, None))?;
    for cost in deltas {
        write!(out, " {} |", cell(cost, Some(off)))?;
        if key.is_none() && !std::ptr::eq(cost, &deltas[deltas.len() - 1]) {
            write!(out, " – |")?;
        }
    }
    writeln!(out)
}

/// What the automatic policy is there for.
fn print_policy(out: &mut impl Write, random: &Corpus) -> io::Result<()> {
    writeln!(
        out,
        "\nRandom payloads, beside deltas off:\n\n\
         | deltas | switched after events | bytes | CPU time of encoding |\n| --- | ---: | ---: | ---: |"
    )?;
    let events = events(random);
    let mut ways = vec![Way::default()];
    for algorithm in Algorithm::ALL {
        for without_policy in [false, true] {
            ways.push(Way { algorithm: Some(algorithm), key: None, without_policy });
        }
    }
    let costs = costs(&events, &ways, false);
    for (way, cost) in ways.iter().zip(&costs).skip(1) {
        let mut room = Room::new(way.clone());
        events.iter().for_each(|event| drop(room.publish(event)));
        let switches: Vec<String> = room.switches.iter().map(u64::to_string).collect();
        writeln!(
            out,
            "| {}{} | {} | {:+.1} % | {:+.1} %, {:+.2} µs |",
            way.algorithm.map_or("off", Algorithm::name),
            if way.without_policy { ", never off" } else { "" },
            if switches.is_empty() { "–".to_owned() } else { switches.join(", ") },
            (cost.bytes as f64 / costs[0].bytes as f64 - 1.0) * 100.0,
            (cost.seconds / costs[0].seconds - 1.0) * 100.0,
            (cost.seconds - costs[0].seconds) / EVENTS as f64 * 1e6,
        )?;
    }
    Ok(())
}

fn events(corpus: &Corpus) -> Vec<Event> {
    corpus.events.iter().map(|data| Event::new("update", data.clone())).collect()
}

/// Of each way; last, if wanted, of deflate over the frames of the first.
fn costs(events: &[Event], ways: &[Way], with_deflate: bool) -> Vec<Cost> {
    let mut bytes: Vec<usize> = Vec::new();
    for way in ways {
        let mut room = Room::new(way.clone());
        bytes.push(events.iter().map(|event| room.publish(event).len()).sum());
    }
    let texts = if with_deflate { texts(events) } else { Vec::new() };
    let mut runs: Vec<Box<dyn FnMut()>> = Vec::new();
    for way in ways {
        runs.push(Box::new(move || {
            let mut room = Room::new(way.clone());
            events.iter().for_each(|event| drop(black_box(room.publish(event))));
        }));
    }
    if with_deflate {
        let mut socket = Socket::new();
        bytes.push(texts.iter().map(|text| socket.send(text)).sum());
        runs.push(Box::new(|| {
            let mut socket = Socket::new();
            texts.iter().for_each(|text| _ = black_box(socket.send(text)));
        }));
    }
    let seconds = best_of_each(&mut runs);
    bytes.into_iter().zip(seconds).map(|(bytes, seconds)| Cost { bytes, seconds }).collect()
}

/// The messages that Pusher would send.
fn texts(events: &[Event]) -> Vec<Vec<u8>> {
    let text = |event| fanfare::wire::envelope::plain(super::room::CHANNEL, event, Default::default());
    events.iter().map(text).collect()
}

fn cell(cost: &Cost, off: Option<&Cost>) -> String {
    let (bytes, micros) = (cost.bytes as f64 / EVENTS as f64, cost.seconds / EVENTS as f64 * 1e6);
    match off {
        Some(off) => {
            let part = cost.bytes as f64 / off.bytes as f64 * 100.0;
            format!("{bytes:.0} B, {part:.0} %, {micros:.2} µs")
        }
        None => format!("{bytes:.0} B, {micros:.2} µs"),
    }
}
