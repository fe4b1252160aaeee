//! Sockudo: a node with its state in memory, or one of several nodes that share a Redis.
//! Everything but the delivery of events is disabled.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Node;
use crate::Outcome;
use crate::http_client::APP;
use crate::process::Process;

/// Time to accept connections and to reach Redis.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// Starts a node. `redis` is the URL of the Redis that it shares with other nodes.
pub async fn start(program: &Path, redis: Option<&str>, cores: Option<&str>) -> Outcome<Node> {
    // Sockudo does not report the port that it bound, so the configuration names a free one.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), config(address, redis).to_string())?;
    let (program, path) = (program.to_string_lossy(), file.path().to_string_lossy());
    // An empty environment, because variables such as PORT and REDIS_URL override the
    // configuration. The log level has no other setting than this variable.
    let arguments = ["-i", "SOCKUDO_LOG_PROD=error", &*program, "--config", &*path];
    let process = Process::start(Path::new("env"), &arguments, cores)?;
    let ready = tokio::time::timeout(READY_TIMEOUT, ready(address)).await;
    ready.map_err(|_| format!("{program} is not ready on {address}"))?;
    Ok(Node { address, process, metrics: None, _directory: None })
}

fn config(address: SocketAddr, redis: Option<&str>) -> Value {
    let app = json!({
        "id": APP.id,
        "key": APP.key,
        "secret": APP.secret,
        "enabled": true,
        // `null` and 0 mean no limit.
        "max_connections": 0,
        "max_event_batch_size": null,
        "max_event_payload_in_kb": null,
    });
    let mut config = json!({
        "host": address.ip(),
        "port": address.port(),
        "mode": "production",
        "app_manager": { "driver": "memory", "array": { "apps": [app] } },
        "adapter": { "driver": "local" },
        "cache": { "driver": "memory" },
        "queue": { "driver": "none" },
        "metrics": { "enabled": false },
        "rate_limiter": { "enabled": false },
        // Several nodes would need a cache in Redis.
        "idempotency": { "enabled": false },
        "delta_compression": { "enabled": true, "algorithm": "fossil" },
        // Subscribers send nothing. Pings would add to the bytes per event.
        "activity_timeout": 3_600,
        "websocket": { "auto_ping": false, "idle_timeout": 0 },
    });
    if let Some(url) = redis {
        let options = json!({ "url": url });
        config["adapter"] = json!({
            "driver": "redis",
            "redis": { "redis_pub_options": options, "redis_sub_options": options },
            // Otherwise a node without Redis would run alone, without an error.
            "fallback_to_local": false,
        });
    }
    config
}

/// Polls `/ready`: the log line of Sockudo comes before it listens.
async fn ready(address: SocketAddr) {
    while !is_ready(address).await.unwrap_or(false) {
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn is_ready(address: SocketAddr) -> Outcome<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    Ok(response.starts_with(b"HTTP/1.1 200 "))
}
