//! nchan, a module of nginx: a channel is a path, an event is a POST request, and subscribers
//! receive its bare body.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::Node;
use crate::Outcome;
use crate::process::Process;

/// One worker per server core.
const WORKERS: usize = 2;

/// The versions of the unpacked packages.
pub fn version(root: &Path) -> Outcome<String> {
    Ok(std::fs::read_to_string(root.join("versions"))?.trim().replace('\n', ", "))
}

/// Starts nginx from `root`, the directory with the unpacked packages of nginx and nchan.
pub async fn start(root: &Path, cores: Option<&str>) -> Outcome<Node> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (root, directory) = (root.canonicalize()?, tempfile::tempdir()?);
    let path = directory.path().join("nginx.conf");
    let module = root.join("usr/lib/nginx/modules/ngx_nchan_module.so");
    std::fs::write(&path, config(address, &module, directory.path()))?;
    let (path, prefix) = (path.to_string_lossy(), directory.path().to_string_lossy());
    let arguments = ["-e", "stderr", "-p", &*prefix, "-c", &*path];
    let mut process = Process::start(&root.join("usr/sbin/nginx"), &arguments, cores)?;
    // nginx listens before it starts its workers.
    for _ in 0..WORKERS {
        process.wait_for_line(|line| line.contains("start worker process ").then_some(())).await?;
    }
    Ok(Node { address, process, metrics: None, _directory: Some(directory) })
}

fn config(address: SocketAddr, module: &Path, directory: &Path) -> String {
    let (module, directory) = (module.display(), directory.display());
    // Later subscribers receive no buffered messages (`newest`), so that nchan can free a
    // message after its delivery. `reuseport` distributes the sockets among the workers.
    format!(
        r#"load_module {module};
daemon off;
worker_processes {WORKERS};
worker_rlimit_nofile 20000;
pid {directory}/pid;
error_log stderr notice;
events {{
    worker_connections 16384;
}}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_buffer_size 64k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    nchan_shared_memory_size 512m;
    nchan_message_buffer_length 1000;
    nchan_message_timeout 1m;
    server {{
        listen {address} reuseport backlog=4096;
        location ~ ^/publish/(.+)$ {{
            nchan_publisher http;
            nchan_channel_id $1;
        }}
        location ~ ^/subscribe/(.+)$ {{
            nchan_subscriber websocket;
            nchan_subscriber_first_message newest;
            nchan_channel_id $1;
        }}
    }}
}}
"#
    )
}
