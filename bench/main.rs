//! What delivering a batch costs, from the signed request to the last of thousands
//! of sockets: `scripts/bench`, for Fanfare and for others on the same machine.
//!
//! Servers run on two cores, everything else on the others. CPU time is that of the
//! server's processes, from `/proc`, so that a busy machine disturbs it less than a
//! clock. Beside it stands what the kernel alone takes for the same bytes on the
//! same sockets ([`servers::floor`]), measured in the same minutes: the ratio of the
//! two can be compared between machines, the numbers themselves cannot.

#![allow(unreachable_pub, reason = "one program: what a module shows is for its neighbours")]

mod caller;
mod compare;
mod crowd;
mod frames;
mod growth;
mod journal;
mod load;
mod machine;
mod members;
mod options;
mod process;
mod publisher;
mod record;
mod redis;
mod report;
mod run;
mod script;
mod servers;
mod visitor;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use journal::Journal;
use machine::Cores;
use options::{Command, Options, RunOptions};
use servers::{Contender, Product};

/// What can go wrong is said and ends the benchmark.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What was asked for, and where it runs.
#[derive(Debug)]
struct Bench {
    options: RunOptions,
    server_cores: Option<String>,
    generator_cores: Option<String>,
}

fn main() -> ExitCode {
    let Options { command, .. } = Options::parse();
    let outcome = match command {
        Command::Floor => servers::floor::run(),
        Command::Crowd => threads().and_then(|runtime| runtime.block_on(crowd::program::run())),
        Command::Report { file } => again(&file),
        Command::Compare(options) => bench("compare", options),
        Command::Growth(options) => bench("growth", options),
        Command::Members(options) => bench("members", options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn threads() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The page and the charts of results that are there.
fn again(file: &std::path::Path) -> Outcome<()> {
    let (head, records) = report::read(file)?;
    let name = file.file_stem().ok_or("results are in a file")?.to_string_lossy();
    report::write(&head, &records, file.parent().unwrap_or(std::path::Path::new(".")), &name)
}

fn bench(name: &'static str, options: RunOptions) -> Outcome<()> {
    let cores = Cores::find()?;
    if let Some(generator) = cores.generator().filter(|_| !options.pinned) {
        return Err(machine::run_again_on(generator).into());
    }
    let sockets_max = machine::sockets_max()?.min(crowd::PROCESS_SOCKETS_MAX);
    if options.sockets > sockets_max {
        return Err(format!(
            "one process has descriptors for {sockets_max} sockets, not {}",
            options.sockets
        )
        .into());
    }
    threads()?.block_on(async {
        // Dropped with the work, child processes end with it.
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = run_all(name, options, &cores) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminated.recv() => Err("terminated".into()),
        }
    })
}

async fn run_all(name: &'static str, options: RunOptions, cores: &Cores) -> Outcome<()> {
    let mut contenders = options.contenders();
    contenders.retain(|contender| name == "compare" || contender.is_fanfare());
    let versions = servers::versions(&contenders)?;
    let mut journal = Journal::start(&options.out, name, cores, versions)?;
    let bench = Bench { options, server_cores: cores.server(), generator_cores: cores.generator() };
    match name {
        "compare" => compare::compare(&bench, &contenders, &mut journal).await?,
        "growth" => growth::growth(&bench, &mut journal).await?,
        _ => {
            script::scripts(&bench, &mut journal).await?;
            members::members(&bench, &mut journal).await?;
        }
    }
    journal.finish()
}

impl Bench {
    fn cores(&self) -> Option<&str> {
        self.server_cores.as_deref()
    }

    /// Our own, of the first build that is named, with Redis between so many nodes.
    fn fanfare(&self, nodes: usize) -> Contender {
        let (_, program) = &self.options.builds()[0];
        let name = match nodes {
            1 => "Fanfare, Redis".to_owned(),
            _ => format!("Fanfare, Redis, {nodes} nodes"),
        };
        Contender { name, product: Product::Fanfare { program: program.clone() }, nodes, has_redis: true }
    }
}
