//! Starts a Fanfare node and reads its metrics.

use std::net::SocketAddr;
use std::path::Path;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Node;
use crate::Outcome;
use crate::http_client::APP;
use crate::process::Process;

pub async fn start(program: &Path, redis: Option<&str>, cores: Option<&str>) -> Outcome<Node> {
    start_with(program, redis, cores, "").await
}

/// As [`start`], with further configuration.
pub async fn start_with(
    program: &Path,
    redis: Option<&str>,
    cores: Option<&str>,
    settings: &str,
) -> Outcome<Node> {
    let file = tempfile::NamedTempFile::new()?;
    let redis = redis.map(|url| format!("redis = \"{url}\"\n")).unwrap_or_default();
    let config = format!(
        "listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n{redis}\
         {settings}\
         [[apps]]\nid = \"{}\"\nkey = \"{}\"\nsecret = \"{}\"\nmax_event_batch_size = 1000\n",
        APP.id, APP.key, APP.secret
    );
    std::fs::write(file.path(), config)?;
    let path = file.path().to_string_lossy().into_owned();
    let mut process = Process::start(program, &["--config", &path], cores)?;
    let (address, metrics) = process.wait_for_line(listening).await?;
    Ok(Node { address, process, metrics: Some(metrics), _directory: None })
}

/// The value of a counter, summed over all label sets.
pub async fn counter(metrics: SocketAddr, name: &str) -> Outcome<f64> {
    let mut stream = TcpStream::connect(metrics).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    let body = memmem::find(&response, b"\r\n\r\n").ok_or("/metrics has no response")? + 4;
    let text = String::from_utf8_lossy(&response[body..]);
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
    };
    Ok(text.lines().filter_map(value).sum())
}

/// The API and metrics addresses, from the log line `listening`.
fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    let address = |name: &str| fields[name].as_str()?.parse().ok();
    (fields["message"] == "listening").then_some(())?;
    Some((address("listen")?, address("metrics_listen")?))
}
