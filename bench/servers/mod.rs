//! What is compared: how each server is started, and what is asked of it.

pub mod fanfare;
pub mod floor;
pub mod nchan;
pub mod sockudo;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Outcome;
use crate::caller::APP;
use crate::crowd::{Dialect, Speech};
use crate::process::{Cpu, Process};
use crate::redis::Redis;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Product {
    Fanfare {
        program: PathBuf,
    },
    Sockudo {
        program: PathBuf,
    },
    Nchan {
        root: PathBuf,
    },
    /// Writes per socket are one for a batch, or one for each of its events.
    Floor {
        writes_each: bool,
    },
}

/// A server as it takes part in a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    pub name: String,
    pub product: Product,
    pub nodes: usize,
    /// Between the nodes; without, there is one.
    pub has_redis: bool,
}

#[derive(Debug)]
pub struct Node {
    pub address: SocketAddr,
    pub process: Process,
    /// Where it tells what it has counted.
    pub metrics: Option<SocketAddr>,
    /// What its processes have open there is needed as long as they run.
    pub(super) _directory: Option<TempDir>,
}

/// A contender that has been started. Its processes end with it.
#[derive(Debug)]
pub struct Fleet {
    pub contender: Contender,
    pub nodes: Vec<Node>,
    pub redis: Option<Redis>,
}

impl Contender {
    pub fn is_fanfare(&self) -> bool {
        matches!(self.product, Product::Fanfare { .. })
    }

    pub fn is_floor(&self) -> bool {
        matches!(self.product, Product::Floor { .. })
    }

    pub fn has_deltas(&self) -> bool {
        !matches!(self.product, Product::Nchan { .. })
    }

    /// What its subscribers speak.
    pub fn speech(&self, subscribes: bool, deltas: bool) -> Speech {
        match self.product {
            Product::Floor { .. } => Speech::Floor,
            Product::Nchan { .. } => Speech::Nchan,
            Product::Fanfare { .. } | Product::Sockudo { .. } => {
                let is_sockudo = matches!(self.product, Product::Sockudo { .. });
                let dialect = if is_sockudo && deltas { Dialect::Sockudo } else { Dialect::Pusher };
                Speech::Pusher { key: APP.key.to_owned(), dialect, subscribes, deltas }
            }
        }
    }
}

/// Of every program that takes part, as it says itself.
pub fn versions(contenders: &[Contender]) -> Outcome<BTreeMap<String, String>> {
    let mut versions = BTreeMap::from([("Redis".to_owned(), said(Path::new("redis-server"))?)]);
    for contender in contenders {
        let build = contender.name.split(',').next().unwrap_or_default().to_owned();
        match &contender.product {
            Product::Fanfare { program } | Product::Sockudo { program } => {
                versions.insert(build, said(program)?)
            }
            Product::Nchan { root } => versions.insert(build, nchan::version(root)?),
            Product::Floor { .. } => None,
        };
    }
    Ok(versions)
}

fn said(program: &Path) -> Outcome<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Fleet {
    pub async fn start(contender: &Contender, cores: Option<&str>) -> Outcome<Fleet> {
        let redis = match contender.has_redis {
            true => Some(Redis::start().await?),
            false => None,
        };
        let url = redis.as_ref().map(Redis::url);
        let mut nodes = Vec::new();
        for _ in 0..contender.nodes {
            nodes.push(match &contender.product {
                Product::Fanfare { program } => fanfare::start(program, url.as_deref(), cores).await?,
                Product::Sockudo { program } => sockudo::start(program, url.as_deref(), cores).await?,
                Product::Nchan { root } => nchan::start(root, cores).await?,
                Product::Floor { .. } => floor::start(cores).await?,
            });
        }
        Ok(Fleet { contender: contender.clone(), nodes, redis })
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// Of all server processes together, in seconds.
    pub fn cpu(&self) -> Outcome<Cpu> {
        self.nodes.iter().map(|node| node.process.cpu()).sum()
    }

    pub fn resident_bytes(&self) -> Outcome<f64> {
        self.nodes.iter().map(|node| node.process.resident_bytes()).sum()
    }

    /// Redis executes everything on its first thread.
    pub fn redis_cpu(&self) -> Outcome<Option<f64>> {
        self.redis.as_ref().map(|redis| redis.process.first_thread_cpu()).transpose()
    }

    /// What Fanfare's nodes have counted, together; None of the others.
    pub async fn counter(&self, name: &str) -> Outcome<Option<f64>> {
        let mut sum = None;
        for metrics in self.nodes.iter().filter_map(|node| node.metrics) {
            *sum.get_or_insert(0.0) += fanfare::counter(metrics, name).await?;
        }
        Ok(sum)
    }
}
