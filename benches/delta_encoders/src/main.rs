//! Time and size of a delta, by encoder and kind of event: Fanfare's encoders compared with
//! published crates. Prints a Markdown table.
//!
//! Before the measurement, Fanfare's strict decoders decode every delta. Each must be valid
//! and yield the event.

mod encoders;
mod events;
mod measure;

use encoders::ENCODERS;
use events::{Kind, kinds};

fn main() {
    println!("| event | bytes | {} |", ENCODERS.map(|encoder| encoder.name).join(" | "));
    println!("|---|---:|{}", "---:|".repeat(ENCODERS.len()));
    for kind in kinds() {
        let cells = ENCODERS.map(|encoder| {
            check(&kind, &encoder);
            let nanos = measure::nanos_each(&kind.pairs, encoder.encode);
            let bytes = mean(kind.pairs.iter().map(|(base, target)| (encoder.encode)(base, target).len()));
            format!("{nanos} ns, {bytes} B")
        });
        let bytes = mean(kind.pairs.iter().map(|(_, target)| target.len()));
        println!("| {} | {bytes} | {} |", kind.name, cells.join(" | "));
    }
}

/// Panics if a delta does not decode to its event.
fn check(kind: &Kind, encoder: &encoders::Encoder) {
    for (base, target) in &kind.pairs {
        let decoded = (encoder.decode)(base, &(encoder.encode)(base, target));
        assert!(
            decoded == *target,
            "{}: a delta of {} does not decode to its event",
            encoder.name,
            kind.name
        );
    }
}

fn mean(of: impl ExactSizeIterator<Item = usize>) -> usize {
    let count = of.len();
    of.sum::<usize>() / count
}
