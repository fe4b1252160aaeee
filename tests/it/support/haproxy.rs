//! A real `haproxy` in front of the nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::server::Server;

pub struct Haproxy {
    pub addr: SocketAddr,
    pub process: Process,
    dir: TempDir,
}

impl Haproxy {
    /// HAProxy takes several `-f`: `base` as it is committed, and the server
    /// list as this test writes it.
    pub async fn start(base: &[&Path], rest: &str, addr: SocketAddr) -> Haproxy {
        let dir = TempDir::new().unwrap();
        let list = dir.path().join("servers.cfg");
        std::fs::write(&list, rest).unwrap();
        let mut command = Command::new("haproxy");
        for file in base.iter().copied().chain([list.as_path()]) {
            command.arg("-f").arg(file);
        }
        command.env("FANFARE_HAPROXY_BIND", addr.to_string());
        let process = Process::spawn("haproxy", &mut command);
        let haproxy = Haproxy { addr, process, dir };
        super::eventually("haproxy listens", super::PATIENCE, async || {
            tokio::net::TcpStream::connect(addr).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        haproxy
    }

    /// One `server` line per node.
    pub fn server_lines(nodes: &[Server]) -> String {
        let line =
            |(number, node): (usize, &Server)| format!("    server node{number} {} check\n", node.addr());
        nodes.iter().enumerate().map(line).collect()
    }

    pub fn config_dir(&self) -> &Path {
        self.dir.path()
    }
}
