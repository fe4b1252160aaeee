//! The command line of `scripts/bench`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::crowd::PROCESS_SOCKETS_MAX;
use crate::servers::{Contender, Product};

/// Measures the cost of delivering a batch in CPU time, latency and memory, for Fanfare and
/// other servers on the same machine.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench", bin_name = "scripts/bench")]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The same loads on Fanfare, on its peers and on a program that only writes to sockets.
    Compare(RunOptions),
    /// Costs by number of subscribers, channels and nodes, by batch size and payload; the value
    /// of batches.
    Growth(RunOptions),
    /// The CPU time of Redis for a batch; subscribing, presence joins, mass disconnects and
    /// channel lists.
    Members(RunOptions),
    /// The effect of attacks, by one app or a stranger, on the subscribers of another app.
    Attacks(RunOptions),
    /// Write the page and the charts of existing results.
    Report {
        /// File of JSON lines.
        file: PathBuf,
    },
    /// Run as the program that only writes to sockets.
    #[command(hide = true)]
    Floor,
    /// Run as a load generator process with thousands of subscribers.
    #[command(hide = true)]
    Crowd,
}

#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Number of subscribers, except in tables where it varies.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(PROCESS_SOCKETS_MAX)))]
    pub sockets: u32,
    /// Batches per measured run, of ten events each.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batches: u32,
    /// Repeats of each run. Tables show the median.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// Run only cases or tables whose name contains this text.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Run only servers whose name contains this text.
    #[arg(long, default_value = "")]
    pub server: String,
    /// Milliseconds between batches. Default: send a batch when every subscriber has the
    /// previous one.
    #[arg(long)]
    pub beat_ms: Option<u64>,
    /// Connections that `members` drops at once.
    #[arg(long, default_value_t = 15_000)]
    pub dropped: u32,
    /// Builds of Fanfare to compare with each other only. Default: the build of this tree, and
    /// its peers.
    #[arg(long = "build", value_name = "NAME=PATH", value_parser = named)]
    builds: Vec<(String, PathBuf)>,
    /// Directory of the peers that scripts/bench-peers installs.
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// Directory of the results.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// Set by the benchmark when it has pinned itself to its cores.
    #[arg(long, hide = true)]
    pub pinned: bool,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("must be NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

impl RunOptions {
    /// Name and path of each build of Fanfare to measure.
    pub fn builds(&self) -> Vec<(String, PathBuf)> {
        match self.builds.as_slice() {
            [] => vec![("Fanfare".to_owned(), env!("CARGO_BIN_EXE_fanfare").into())],
            builds => builds.to_vec(),
        }
    }

    /// The servers whose name contains `--server`, and the floor, in table order.
    pub fn contenders(&self) -> Vec<Contender> {
        let mut all = Vec::new();
        let mut put = |name: String, product: Product, nodes: usize, has_redis: bool| {
            all.push(Contender { name, product, nodes, has_redis });
        };
        for (name, program) in self.builds() {
            let product = || Product::Fanfare { program: program.clone() };
            put(format!("{name}, memory"), product(), 1, false);
            put(format!("{name}, Redis"), product(), 1, true);
            put(format!("{name}, Redis, 2 nodes"), product(), 2, true);
        }
        if self.builds.is_empty() {
            self.peers(&mut put);
        }
        put("kernel floor".into(), Product::Floor { writes_each: false }, 1, false);
        put("kernel floor, a write per event".into(), Product::Floor { writes_each: true }, 1, false);
        all.retain(|contender| contender.name.contains(&self.server) || contender.is_floor());
        all
    }

    fn peers(&self, put: &mut impl FnMut(String, Product, usize, bool)) {
        let product = || Product::Sockudo { program: self.peers.join("bin/sockudo") };
        put("Sockudo".into(), product(), 1, false);
        put("Sockudo, Redis, 2 nodes".into(), product(), 2, true);
        put("nchan".into(), Product::Nchan { root: self.peers.clone() }, 1, false);
    }
}
