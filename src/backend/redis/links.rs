//! Probes of the connections to Redis: a small write on each of them, every second. A connection
//! without an answer is made anew. fred's own check does not suffice: each write postpones it.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::prelude::{Client, Error, ErrorKind};

use super::{RedisCore, scripts};
use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

/// A connection of this node to Redis.
#[derive(Debug)]
pub(super) struct Link {
    name: LinkName,
    client: Client,
    core: Arc<RedisCore>,
    /// The key that the probes write.
    key: String,
}

/// The use of a connection, for the log.
#[derive(Debug, Clone, Copy)]
enum LinkName {
    Scripts(usize),
    Topics,
    Apps,
}

impl Link {
    /// Spawns the tasks that probe the connections.
    pub(super) fn start_all(core: &Arc<RedisCore>, topics: &Client, apps: &Client) {
        let key = core.keys.probe(&format!("{:016x}", rand::random::<u64>()));
        let scripts = core.clients.iter().enumerate();
        let links = scripts.map(|(number, client)| (LinkName::Scripts(number), client));
        for (name, client) in links.chain([(LinkName::Topics, topics), (LinkName::Apps, apps)]) {
            let link = Link { name, client: client.clone(), core: core.clone(), key: key.clone() };
            Task::RedisLinks.spawn(link.probe_regularly());
        }
    }

    async fn probe_regularly(self) {
        let interval = self.core.times.link_interval;
        let mut is_stalled = false;
        loop {
            tokio::time::sleep(interval).await;
            if !scripts::is_connected(&self.client) {
                continue;
            }
            match answer_within(limits::LINK_INTERVALS_MAX, interval, self.answer()).await {
                Some(Ok(())) if is_stalled => {
                    tracing::info!(link = %self.name, "the connection to Redis answers again");
                    is_stalled = false;
                }
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::debug!(link = %self.name, %error, "probe not answered"),
                None if scripts::is_connected(&self.client) => {
                    if !is_stalled {
                        tracing::warn!(link = %self.name, "a connection to Redis does not answer: reconnecting");
                        is_stalled = true;
                    }
                    self.reconnect().await;
                }
                // Lost meanwhile: fred connects again.
                None => {}
            }
        }
    }

    /// The answer to a probe (`lua/probe_link.lua`). It is owed also while the queue of the connection
    /// is full, and when the attempt has timed out.
    async fn answer(&self) -> Result<(), Error> {
        let expiry_ms = limits::LINK_PROBE_TTL.as_millis() as u64;
        let inputs = || (vec![self.key.clone()], vec![scripts::number(expiry_ms)]);
        let script = &self.core.scripts.probe_link;
        loop {
            match script.attempt(limits::SCRIPT_ATTEMPT_TIMEOUT, &self.client, inputs).await {
                Err(error) if matches!(error.kind(), ErrorKind::Backpressure | ErrorKind::Timeout) => {
                    tokio::time::sleep(limits::RECONNECT_PAUSE).await;
                }
                answer => return answer.map(drop),
            }
        }
    }

    /// Makes the connection anew. Returns when there is one.
    async fn reconnect(&self) {
        metrics().redis_links_reconnected.increment(1);
        // Without the client's task there is no connection any more, which is reported elsewhere.
        let _ = self.client.force_reconnection().await;
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkName::Scripts(number) => write!(f, "scripts {number}"),
            LinkName::Topics => f.write_str("topics"),
            LinkName::Apps => f.write_str("apps"),
        }
    }
}

/// Waits `count` intervals for the answer. Each one is waited for anew, because time in which the
/// process itself was paused is not the fault of the connection.
async fn answer_within<T>(count: u32, interval: Duration, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    for _ in 0..count {
        if let Ok(answer) = tokio::time::timeout(interval, answer.as_mut()).await {
            return Some(answer);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fred::interfaces::{ClientLike, EventInterface, KeysInterface};
    use fred::prelude::Options;

    use crate::backend::redis::error::tests::connect;
    use crate::limits;

    /// The client waits until it has written, and reconnects only afterwards.
    #[tokio::test]
    async fn connection_that_does_not_take_bytes_ends() {
        let (client, _stream) = connect().await;
        let mut errors = client.error_rx();
        let value = "x".repeat(1024 * 1024);
        // More than the buffers of both sides.
        let writer = client.with_options(&Options { max_attempts: Some(1), ..Options::default() });
        let writes = futures_util::future::join_all(
            (0..32).map(|_| writer.set::<(), _, _>("key", value.clone(), None, None, false)),
        );
        let _ = writes.await;
        let ended =
            tokio::time::timeout(limits::LINK_RECEIPT_TIMEOUT + Duration::from_secs(10), errors.recv());
        assert!(ended.await.is_ok(), "the connection is still open");
    }
}
