//! A real `haproxy` with the committed configuration, in front of real nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::browser::Browser;
use super::caller::Caller;
use super::process::Process;
use super::redis::Redis;
use super::server::{AppSpec, Builder, Server};
use super::websocket::pusher_path;
use super::{Port, STEP_TIMEOUT, eventually};

pub struct Haproxy {
    port: Port,
    process: Process,
    dir: TempDir,
}

impl Haproxy {
    /// Uses `haproxy/base.cfg` unchanged, and the list of nodes in a second file.
    pub async fn start(nodes: &[SocketAddr]) -> Haproxy {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("haproxy/base.cfg");
        let dir = TempDir::new().unwrap();
        let list = dir.path().join("nodes.cfg");
        std::fs::write(&list, server_list(nodes, &stats_socket(&dir))).unwrap();
        let port = Port::hold();
        let mut command = Command::new(program());
        command.arg("-f").arg(base).arg("-f").arg(list).env("BIND", port.addr().to_string());
        let process = Process::spawn("haproxy", &mut command);
        let haproxy = Haproxy { port, process, dir };
        haproxy.become_ready(nodes.len()).await;
        haproxy
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Waits until exactly this many nodes receive traffic.
    pub async fn become_ready(&self, count: usize) {
        let what = format!("HAProxy sees {count} nodes");
        eventually(&what, STEP_TIMEOUT, async || match self.ready().await {
            Ok(ready) if ready.len() == count => Ok(()),
            other => Err(format!("{other:?}: {}", self.process.output())),
        })
        .await;
    }

    /// The nodes that passed their last checks. HAProxy regards all nodes as
    /// healthy at its start, before the first check: those do not count.
    async fn ready(&self) -> std::io::Result<Vec<String>> {
        let table = self.send_command("show stat nodes 4 -1").await?;
        let mut lines = table.lines();
        let names: Vec<&str> = lines.next().unwrap_or("").trim_start_matches("# ").split(',').collect();
        let rows = lines.filter(|line| !line.is_empty()).map(|line| line.split(',').collect::<Vec<_>>());
        let cell = |row: &[&str], name: &str| {
            let at = names.iter().position(|other| *other == name).expect("a column of HAProxy's table");
            row[at].to_owned()
        };
        let is_ready = |row: &Vec<&str>| cell(row, "status") == "UP" && cell(row, "check_status") == "L7OK";
        Ok(rows.filter(is_ready).map(|row| cell(&row, "svname")).collect())
    }

    /// Sends one command to HAProxy's stats socket.
    async fn send_command(&self, command: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(stats_socket(&self.dir)).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

fn stats_socket(dir: &TempDir) -> String {
    dir.path().join("stats.sock").display().to_string()
}

fn server_list(nodes: &[SocketAddr], stats_socket: &str) -> String {
    let mut list =
        format!("global\n    stats socket {stats_socket} mode 600 level operator\n\nbackend nodes\n");
    for (number, addr) in nodes.iter().enumerate() {
        list.push_str(&format!("    server node-{number} {addr}\n"));
    }
    list
}

/// On Debian, haproxy is outside the `PATH` of ordinary users.
fn program() -> &'static str {
    let on_path = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join("haproxy").exists()));
    let known = ["haproxy", "/usr/sbin/haproxy"];
    let found = if on_path { known[0] } else { known[1] };
    assert!(on_path || Path::new(found).exists(), "haproxy is not installed: run scripts/setup");
    found
}

/// Three nodes on one Redis, behind HAProxy.
pub struct Site {
    // Dropped in this order, so that none logs the loss of another one.
    pub haproxy: Haproxy,
    pub nodes: Vec<Server>,
    app_id: String,
    builders: Vec<Builder>,
    /// The ports of the nodes, held also while a node is down.
    _ports: Vec<Port>,
    _redis: Redis,
}

impl Site {
    /// `config`: further lines of every node's configuration.
    pub async fn start(config: &str) -> Site {
        Site::start_with(AppSpec::new("1"), config).await
    }

    /// The same for a given app.
    pub async fn start_with(app: AppSpec, config: &str) -> Site {
        let redis = Redis::start().await;
        let ports: Vec<Port> = (0..3).map(|_| Port::hold()).collect();
        let addrs: Vec<SocketAddr> = ports.iter().map(Port::addr).collect();
        let builders: Vec<Builder> = (addrs.iter().enumerate())
            .map(|(number, addr)| {
                let node = Server::builder().name(&format!("node-{number}")).redis(&redis).config(config);
                let node = node.app(app.clone());
                node.arg("--listen").arg(&addr.to_string())
            })
            .collect();
        let nodes = futures_util::future::join_all(builders.iter().cloned().map(Builder::start)).await;
        let haproxy = Haproxy::start(&addrs).await;
        Site { haproxy, nodes, app_id: app.id, builders, _ports: ports, _redis: redis }
    }

    pub fn app(&self) -> AppSpec {
        self.nodes[0].app(&self.app_id).clone()
    }

    /// A backend that connects to HAProxy only.
    pub fn caller(&self) -> Caller {
        Caller::new(self.haproxy.addr(), self.app())
    }

    /// A browser that connects through HAProxy.
    pub async fn browser(&self) -> Browser {
        let path = pusher_path(&self.app().key);
        let connected = Browser::connect(self.haproxy.addr(), &path, Some(self.app())).await;
        let mut browser = connected.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        browser.expect_greeting().await;
        browser
    }

    /// The number of sockets on each node.
    pub async fn sockets(&self) -> Vec<usize> {
        let count = async |node: &Server| node.metrics().await.sum("fanfare_connections") as usize;
        futures_util::future::join_all(self.nodes.iter().map(count)).await
    }

    /// Waits for a node that was signalled to exit, and starts it again at its
    /// address.
    pub async fn restart(&mut self, number: usize) {
        let status = self.nodes[number].wait_exit(Duration::from_secs(30)).await;
        assert_eq!(status.code(), Some(0), "{}", self.nodes[number].log());
        self.nodes[number] = self.builders[number].clone().start().await;
        self.haproxy.become_ready(self.nodes.len()).await;
    }
}
