//! The Markdown tables.

use std::hint::black_box;
use std::io::{self, Write};

use fanfare::delta::Algorithm;
use fanfare::delta::conflation::KeyPath;
use fanfare::event::Event;

use super::channel::{Channel, Mode};
use super::corpora::{self, Corpus, EVENTS};
use super::deflate::Socket;
use super::measure::best_of_each;

/// Bytes and CPU time of a corpus in one mode.
struct Cost {
    bytes: usize,
    seconds: f64,
}

pub fn print(out: &mut impl Write) -> io::Result<()> {
    let corpora = corpora::corpora();
    writeln!(
        out,
        "{EVENTS} events of each kind, on one channel, with their own conflation keys. Cells: mean bytes of a \
         WebSocket frame, their share of the bytes with deltas off, and CPU time per event. A node spends this time \
         once per event, however many subscribers there are; with deflate it spends it for every socket.\n"
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
    let mode = |algorithm, key| Mode { algorithm: Some(algorithm), key, without_policy: false };
    let mut modes = vec![Mode::default()];
    for algorithm in Algorithm::ALL {
        modes.push(mode(algorithm, None));
        modes.extend(key.iter().map(|key| mode(algorithm, Some(key.clone()))));
    }
    let costs = costs(&events(corpus), &modes, true);
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

/// Random payloads, with and without the automatic policy.
fn print_policy(out: &mut impl Write, random: &Corpus) -> io::Result<()> {
    writeln!(
        out,
        "\nRandom payloads, compared with deltas off:\n\n\
         | deltas | switched after events | bytes | CPU time of encoding |\n| --- | ---: | ---: | ---: |"
    )?;
    let events = events(random);
    let mut modes = vec![Mode::default()];
    for algorithm in Algorithm::ALL {
        for without_policy in [false, true] {
            modes.push(Mode { algorithm: Some(algorithm), key: None, without_policy });
        }
    }
    let costs = costs(&events, &modes, false);
    for (mode, cost) in modes.iter().zip(&costs).skip(1) {
        let mut channel = Channel::new(mode.clone());
        events.iter().for_each(|event| drop(channel.publish(event)));
        let switches: Vec<String> = channel.switches.iter().map(u64::to_string).collect();
        writeln!(
            out,
            "| {}{} | {} | {:+.1} % | {:+.1} %, {:+.2} µs |",
            mode.algorithm.map_or("off", Algorithm::name),
            if mode.without_policy { ", never off" } else { "" },
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

/// The costs of each mode and, with `with_deflate`, of deflate over the frames of the first.
fn costs(events: &[Event], modes: &[Mode], with_deflate: bool) -> Vec<Cost> {
    let mut bytes: Vec<usize> = Vec::new();
    for mode in modes {
        let mut channel = Channel::new(mode.clone());
        bytes.push(events.iter().map(|event| channel.publish(event).len()).sum());
    }
    let texts = if with_deflate { texts(events) } else { Vec::new() };
    let mut runs: Vec<Box<dyn FnMut()>> = Vec::new();
    for mode in modes {
        runs.push(Box::new(move || {
            let mut channel = Channel::new(mode.clone());
            events.iter().for_each(|event| drop(black_box(channel.publish(event))));
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

/// The messages without deltas, in Pusher's format.
fn texts(events: &[Event]) -> Vec<Vec<u8>> {
    let text = |event| fanfare::wire::envelope::plain(super::channel::CHANNEL, event, Default::default());
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
