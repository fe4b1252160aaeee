//! `scripts/bench`: the cost of delivering a batch, from the signed request to the last of
//! thousands of sockets, for Fanfare and other servers on the same machine.
//!
//! Servers run on two cores, everything else on the others. CPU time is that of the
//! server's processes, from `/proc`: other load on the machine affects it less than
//! wall-clock time. For comparison, each repeat measures the kernel time for the same bytes
//! on the same sockets ([`servers::floor`]). The ratio of the two is comparable between
//! machines; the figures themselves are not.

#![allow(unreachable_pub, reason = "a program: items are public to its other modules only")]

mod attacks;
mod compare;
mod crowd;
mod frames;
mod growth;
mod http_client;
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
mod ws_client;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use journal::Journal;
use machine::Cores;
use options::{Command, Options, RunOptions};
use servers::{Contender, Product};

/// Every error ends the benchmark, with a message on standard error.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The options of a run, and the core lists of servers and load generator.
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
        Command::Report { file } => rewrite_report(&file),
        Command::Compare(options) => bench("compare", options),
        Command::Growth(options) => bench("growth", options),
        Command::Members(options) => bench("members", options),
        Command::Attacks(options) => bench("attacks", options),
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

/// Writes the page and the charts of existing results.
fn rewrite_report(file: &std::path::Path) -> Outcome<()> {
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
        // On a signal, dropping the future ends the child processes.
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
        "attacks" => attacks::attacks(&bench, &mut journal).await?,
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

    /// A Fanfare cluster of `nodes` nodes on Redis, from the first `--build` or from this tree.
    fn fanfare(&self, nodes: usize) -> Contender {
        let (_, program) = &self.options.builds()[0];
        let name = match nodes {
            1 => "Fanfare, Redis".to_owned(),
            _ => format!("Fanfare, Redis, {nodes} nodes"),
        };
        Contender { name, product: Product::Fanfare { program: program.clone() }, nodes, has_redis: true }
    }
}
