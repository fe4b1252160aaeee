//! What `scripts/bench` can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::crowd::PROCESS_SOCKETS_MAX;
use crate::servers::{Contender, Product};

/// What delivering a batch costs: CPU, time and memory, for Fanfare and for others
/// on the same machine.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench", bin_name = "scripts/bench")]
pub struct Options {
    #[command(subcommand)]
    pub command: Command,
    /// Said by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// The same loads on Fanfare, on its peers and on a program that only writes.
    Compare(RunOptions),
    /// What costs depend on: subscribers, channels, batch size, payload, nodes, and
    /// what batching is worth.
    Growth(RunOptions),
    /// What Redis does for a batch, and what joining, being cut off and being listed
    /// take.
    Members(RunOptions),
    /// The page and the charts of results that are there.
    Report {
        /// The file of JSON lines.
        file: PathBuf,
    },
    /// Be the program that only writes.
    #[command(hide = true)]
    Floor,
    /// Be thousands of subscribers.
    #[command(hide = true)]
    Crowd,
}

#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Subscribers, where they are not what grows.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(PROCESS_SOCKETS_MAX)))]
    pub sockets: u32,
    /// Batches of each measured run, ten events each.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batches: u32,
    /// How often everything is run; tables have medians.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeats: u32,
    /// Only cases or tables whose name contains this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Only servers whose name contains this.
    #[arg(long, default_value = "")]
    pub server: String,
    /// Milliseconds from batch to batch. Without, the next comes when everyone has
    /// the one before.
    #[arg(long)]
    pub beat_ms: Option<u64>,
    /// Sockets that are cut off at once, of `members`.
    #[arg(long, default_value_t = 15_000)]
    pub dropped: u32,
    /// Builds of Fanfare to be compared with each other, and with nobody else.
    /// Without any: that of this tree, with its peers.
    #[arg(long = "build", value_name = "NAME=PATH", value_parser = named)]
    builds: Vec<(String, PathBuf)>,
    /// Where scripts/bench-peers has put the others.
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// Where results go.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// The benchmark has put itself on its cores.
    #[arg(long, hide = true)]
    pub pinned: bool,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("must be NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

impl RunOptions {
    pub fn builds(&self) -> Vec<(String, PathBuf)> {
        match self.builds.as_slice() {
            [] => vec![("Fanfare".to_owned(), env!("CARGO_BIN_EXE_fanfare").into())],
            builds => builds.to_vec(),
        }
    }

    /// Everyone whose name is asked for, in the order of the tables.
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
