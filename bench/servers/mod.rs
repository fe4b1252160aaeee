//! The servers of the comparison: how to start each of them, and their clients' protocol.

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
use crate::crowd::{EventPrefix, Protocol};
use crate::http_client::APP;
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
    /// One write per batch and socket, or one per event.
    Floor {
        writes_each: bool,
    },
}

/// A server of the comparison, with its number of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    pub name: String,
    pub product: Product,
    pub nodes: usize,
    /// Whether the nodes share a Redis. Without Redis there is one node.
    pub has_redis: bool,
}

#[derive(Debug)]
pub struct Node {
    pub address: SocketAddr,
    pub process: Process,
    /// The address of `/metrics`, of Fanfare only.
    pub metrics: Option<SocketAddr>,
    /// Files that the processes of the node use. Removed on drop.
    pub(super) _directory: Option<TempDir>,
}

/// The running nodes of a contender. Dropping it ends their processes.
#[derive(Debug)]
pub struct Cluster {
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

    /// The protocol of its subscribers.
    pub fn protocol(&self, subscribes: bool, deltas: bool) -> Protocol {
        match self.product {
            Product::Floor { .. } => Protocol::Floor,
            Product::Nchan { .. } => Protocol::Nchan,
            Product::Fanfare { .. } | Product::Sockudo { .. } => {
                let is_sockudo = matches!(self.product, Product::Sockudo { .. });
                let event_prefix =
                    if is_sockudo && deltas { EventPrefix::Sockudo } else { EventPrefix::Pusher };
                Protocol::Pusher { key: APP.key.to_owned(), event_prefix, subscribes, deltas }
            }
        }
    }
}

/// The version that each program reports, by name.
pub fn versions(contenders: &[Contender]) -> Outcome<BTreeMap<String, String>> {
    let mut versions = BTreeMap::from([("Redis".to_owned(), version_of(Path::new("redis-server"))?)]);
    for contender in contenders {
        let build = contender.name.split(',').next().unwrap_or_default().to_owned();
        match &contender.product {
            Product::Fanfare { program } | Product::Sockudo { program } => {
                versions.insert(build, version_of(program)?)
            }
            Product::Nchan { root } => versions.insert(build, nchan::version(root)?),
            Product::Floor { .. } => None,
        };
    }
    Ok(versions)
}

fn version_of(program: &Path) -> Outcome<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Cluster {
    pub async fn start(contender: &Contender, cores: Option<&str>) -> Outcome<Cluster> {
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
        Ok(Cluster { contender: contender.clone(), nodes, redis })
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// CPU time of all server processes, in seconds.
    pub fn cpu(&self) -> Outcome<Cpu> {
        self.nodes.iter().map(|node| node.process.cpu()).sum()
    }

    pub fn resident_bytes(&self) -> Outcome<f64> {
        self.nodes.iter().map(|node| node.process.resident_bytes()).sum()
    }

    /// CPU seconds of Redis: of its first thread, which executes all commands.
    pub fn redis_cpu(&self) -> Outcome<Option<f64>> {
        self.redis.as_ref().map(|redis| redis.process.first_thread_cpu()).transpose()
    }

    /// A counter of Fanfare, summed over all nodes. `None` for other servers.
    pub async fn counter(&self, name: &str) -> Outcome<Option<f64>> {
        let mut sum = None;
        for metrics in self.nodes.iter().filter_map(|node| node.metrics) {
            *sum.get_or_insert(0.0) += fanfare::counter(metrics, name).await?;
        }
        Ok(sum)
    }
}
