//! A real `nginx` in front of one node, with the configuration of a test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::Port;
use super::process::Process;

pub struct Nginx {
    port: Port,
    // Ends before its directory is removed.
    _process: Process,
    _dir: TempDir,
}

impl Nginx {
    /// `directives` go into the `server` block, where `up` is the upstream of the
    /// node and `$connection_upgrade` is the `Connection` header to send to it.
    pub async fn start(node: SocketAddr, directives: &str) -> Nginx {
        let dir = TempDir::new().unwrap();
        let port = Port::hold();
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config(dir.path(), port.addr(), node, directives)).unwrap();
        let mut command = Command::new(program());
        command.arg("-p").arg(dir.path()).arg("-c").arg(file);
        let process = Process::spawn("nginx", &mut command);
        // nginx logs its version once it listens.
        let version = |line: &str| (line.contains("[notice]") && line.contains("nginx/")).then_some(());
        let Some(()) = process.find("version of nginx", version).await else {
            panic!("nginx ended before it listened:\n{}", process.output());
        };
        Nginx { port, _process: process, _dir: dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}

/// One process without a master, which ends with its pid and leaves no workers. It
/// writes below `dir` only, as root and as an ordinary user.
fn config(dir: &Path, listen: SocketAddr, node: SocketAddr, directives: &str) -> String {
    let dir = dir.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temp_paths: String =
        kinds.iter().map(|kind| format!("    {kind}_temp_path {dir}/{kind};\n")).collect();
    format!(
        "daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log stderr notice;
events {{
    worker_connections 512;
}}
http {{
    access_log off;
{temp_paths}
    map $http_upgrade $connection_upgrade {{
        default upgrade;
        ''      close;
    }}
    upstream up {{
        server {node};
        keepalive 8;
    }}
    server {{
        listen {listen};
{directives}
    }}
}}
"
    )
}

/// On Debian, nginx is outside the `PATH` of ordinary users.
fn program() -> &'static str {
    let on_path = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join("nginx").exists()));
    let known = ["nginx", "/usr/sbin/nginx"];
    let found = if on_path { known[0] } else { known[1] };
    assert!(on_path || Path::new(found).exists(), "nginx is not installed: run scripts/setup");
    found
}
