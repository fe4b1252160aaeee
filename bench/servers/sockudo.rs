//! Sockudo: one node that keeps everything in memory, or one of several that
//! share a Redis. What it does besides handing on events is switched off.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Node;
use crate::Outcome;
use crate::caller::APP;
use crate::process::Process;

/// It takes connections and reaches its Redis within this time.
const PATIENCE: Duration = Duration::from_secs(30);
const BETWEEN_PROBES: Duration = Duration::from_millis(50);

/// `redis` is where its other nodes are, if there are others.
pub async fn start(program: &Path, redis: Option<&str>, cores: Option<&str>) -> Outcome<Node> {
    // It does not say which port it was given, so it is told one.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), config(address, redis).to_string())?;
    let (program, path) = (program.to_string_lossy(), file.path().to_string_lossy());
    // Variables as common as PORT and REDIS_URL override its configuration,
    // and how much it logs is asked of one only.
    let arguments = ["-i", "SOCKUDO_LOG_PROD=error", &*program, "--config", &*path];
    let process = Process::start(Path::new("env"), &arguments, cores)?;
    let ready = tokio::time::timeout(PATIENCE, ready(address)).await;
    ready.map_err(|_| format!("{program} is not ready on {address}"))?;
    Ok(Node { address, process, metrics: None, _directory: None })
}

fn config(address: SocketAddr, redis: Option<&str>) -> Value {
    let app = json!({
        "id": APP.id,
        "key": APP.key,
        "secret": APP.secret,
        "enabled": true,
        // None and 0 are no limit.
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
        // With several nodes it would need a cache in Redis.
        "idempotency": { "enabled": false },
        "delta_compression": { "enabled": true, "algorithm": "fossil" },
        // Subscribers listen only. A ping would be one more frame to count.
        "activity_timeout": 3_600,
        "websocket": { "auto_ping": false, "idle_timeout": 0 },
    });
    if let Some(url) = redis {
        let options = json!({ "url": url });
        config["adapter"] = json!({
            "driver": "redis",
            "redis": { "redis_pub_options": options, "redis_sub_options": options },
            // Without its Redis it would be a node of its own, and not say so.
            "fallback_to_local": false,
        });
    }
    config
}

/// It logs that it listens before it does.
async fn ready(address: SocketAddr) {
    while !is_ready(address).await.unwrap_or(false) {
        tokio::time::sleep(BETWEEN_PROBES).await;
    }
}

async fn is_ready(address: SocketAddr) -> Outcome<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}
