//! What delivering a batch costs, from the signed request to the last of
//! thousands of sockets: `scripts/bench`.
//!
//! Server processes run on two cores, everything else on the others. CPU time is
//! that of the server's processes, from `/proc`, so that a busy machine disturbs
//! it less than a clock. Beside it stands what the kernel alone takes for the
//! same bytes on the same sockets, in one write per batch and socket ([`floor`]),
//! measured in the same minute: the ratio of the two can be compared between
//! machines, the numbers themselves cannot.

#![allow(unreachable_pub, reason = "one program: what a module shows is for its neighbours")]

#[path = "end_to_end/caller.rs"]
mod caller;
#[path = "end_to_end/cases.rs"]
mod cases;
#[path = "end_to_end/crowd.rs"]
mod crowd;
#[path = "end_to_end/fanfare.rs"]
mod fanfare_server;
#[path = "end_to_end/floor.rs"]
mod floor;
#[path = "end_to_end/frames.rs"]
mod frames;
#[path = "end_to_end/machine.rs"]
mod machine;
#[path = "end_to_end/measure.rs"]
mod measure;
#[path = "end_to_end/members.rs"]
mod members;
#[path = "end_to_end/process.rs"]
mod process;
#[path = "end_to_end/redis.rs"]
mod redis;
#[path = "end_to_end/table.rs"]
mod table;
#[path = "end_to_end/visitor.rs"]
mod visitor;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use machine::Cores;

/// What can go wrong is said and ends the benchmark.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What delivering a batch costs: CPU, time and memory of the server; and what
/// joining, being cut off and being listed take.
#[derive(Debug, Clone, Parser)]
#[command(name = "scripts/bench", bin_name = "scripts/bench")]
struct Options {
    /// Subscribers of the one channel.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    sockets: u32,
    /// Batches of each measured run; ten events each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batches: u32,
    /// Sockets that are cut off at once.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    dropped: u32,
    /// How often each case is run; the table has the medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeats: u32,
    /// Only cases whose name contains this, such as `memory`, `deltas`, `random`,
    /// `join`, `drop` or `list`.
    #[arg(long, default_value = "")]
    only: String,
    /// A server built elsewhere, to be run in turn with the others. Without any:
    /// the one built from this tree.
    #[arg(long = "server", value_name = "NAME=PATH", value_parser = named)]
    servers: Vec<(String, PathBuf)>,
    /// The benchmark has put itself on its cores.
    #[arg(long, hide = true)]
    pinned: bool,
    /// Be the program that only writes.
    #[arg(long, hide = true)]
    floor: bool,
    /// Said by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("must be NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.floor {
        true => floor::run(),
        false => bench(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(mut options: Options) -> Outcome<()> {
    let cores = Cores::find()?;
    if let Some(generator) = cores.generator().filter(|_| !options.pinned) {
        return Err(machine::run_again_on(generator).into());
    }
    let sockets_max = machine::sockets_max()?;
    if options.sockets > sockets_max {
        return Err(
            format!("`ulimit -n` is enough for {sockets_max} sockets, not {}", options.sockets).into()
        );
    }
    options.dropped = options.dropped.min(sockets_max.saturating_sub(members::NEWCOMERS as u32));
    if options.servers.is_empty() {
        options.servers.push(("fanfare".into(), env!("CARGO_BIN_EXE_fanfare").into()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // Dropped with the work, child processes end with it.
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = cases::run(&options, &cores) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminated.recv() => Err("terminated".into()),
        }
    })
}
