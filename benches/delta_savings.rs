//! What deltas save, and what they cost: bytes on the wire and CPU time per event,
//! for five kinds of events that are generated here: `scripts/bench-deltas`.
//!
//! Everything goes through [`fanfare::fan_out::encode`], as on a node, with the
//! settings that hold where nothing is said, one event per delivery. The frames are
//! made once per event, however many sockets get them, so there is one subscriber.

#![allow(unreachable_pub, reason = "one program: what a module shows is for its neighbours")]

#[path = "delta_savings/corpora/mod.rs"]
mod corpora;
#[path = "delta_savings/deflate.rs"]
mod deflate;
#[path = "delta_savings/measure.rs"]
mod measure;
#[path = "delta_savings/room.rs"]
mod room;
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
