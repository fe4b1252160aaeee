//! `scripts/bench-deltas`: savings and costs of deltas, in bytes on the wire and CPU time per
//! event, for five kinds of generated events.
//!
//! Events pass through [`fanfare::subscribers::fan_out`], as on a node, with default settings and
//! one event per delivery. A node encodes a frame once per group, however large the group is,
//! so that one subscriber is enough.

#![allow(unreachable_pub, reason = "a program: items are public to its other modules only")]

#[path = "delta_savings/channel.rs"]
mod channel;
#[path = "delta_savings/corpora/mod.rs"]
mod corpora;
#[path = "delta_savings/deflate.rs"]
mod deflate;
#[path = "delta_savings/measure.rs"]
mod measure;
#[path = "delta_savings/table.rs"]
mod table;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match table::print(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench-deltas: {error}");
            ExitCode::FAILURE
        }
    }
}
