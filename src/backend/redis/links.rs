//! Probes of the connections to Redis: a small write on each of them, every second. A connection
//! without an answer is closed and opened again, and a refused write makes the node unready. fred's own check of
//! connections does not suffice: each write postpones it.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::interfaces::ClientLike;
use fred::prelude::{Client, Error, ErrorKind};
use parking_lot::Mutex;

use super::error::reply_code;
use super::{RedisCore, scripts};
use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

/// The connections of this node to Redis.
#[derive(Debug)]
pub(super) struct Links {
    links: Vec<Arc<Link>>,
    /// Time without an answer after which a link makes the node unready.
    silence_max: Duration,
}

#[derive(Debug)]
struct Link {
    name: LinkName,
    client: Client,
    core: Arc<RedisCore>,
    /// The key that the probes write.
    key: String,
    state: Mutex<State>,
}

/// The use of a connection, for the log.
#[derive(Debug, Clone, Copy)]
enum LinkName {
    Scripts(usize),
    Topics,
    Apps,
}

/// The result of the last probe with an answer.
#[derive(Debug)]
struct State {
    answered: Instant,
    refusal: Option<Refusal>,
}

/// Why Redis has refused the write of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    reason: Cow<'static, str>,
    /// A new connection may lead to another Redis, which accepts writes.
    is_of_process: bool,
}

impl Links {
    /// Spawns the tasks that probe the connections.
    pub(super) fn start(core: &Arc<RedisCore>, topics: &Client, apps: &Client) -> Links {
        let key = core.keys.probe(&format!("{:016x}", rand::random::<u64>()));
        let scripts = core.clients.iter().enumerate();
        let clients = scripts.map(|(number, client)| (LinkName::Scripts(number), client));
        let clients = clients.chain([(LinkName::Topics, topics), (LinkName::Apps, apps)]);
        let link = |(name, client): (LinkName, &Client)| {
            let (client, core, key) = (client.clone(), core.clone(), key.clone());
            let state = Mutex::new(State { answered: Instant::now(), refusal: None });
            Arc::new(Link { name, client, core, key, state })
        };
        let links: Vec<Arc<Link>> = clients.map(link).collect();
        for link in &links {
            Task::RedisLinks.spawn(link.clone().probe_regularly());
        }
        Links { links, silence_max: core.times.probe_interval + core.times.ready_grace }
    }

    /// The reason why this node cannot write, as of the last probes.
    pub(super) fn unready(&self) -> Option<Cow<'static, str>> {
        let is_silent = |link: &Arc<Link>| link.state.lock().answered.elapsed() >= self.silence_max;
        if self.links.iter().any(is_silent) {
            return Some(match self.links.iter().all(|link| scripts::is_connected(&link.client)) {
                true => "a connection to Redis does not answer".into(),
                false => "Redis is unavailable".into(),
            });
        }
        self.links.iter().find_map(|link| Some(link.state.lock().refusal.as_ref()?.reason.clone()))
    }
}

impl Link {
    async fn probe_regularly(self: Arc<Link>) {
        let interval = self.core.times.link_interval;
        let mut is_stalled = false;
        let mut left: Option<Instant> = None;
        loop {
            tokio::time::sleep(interval).await;
            if !scripts::is_connected(&self.client) {
                continue;
            }
            let answer = answer_within(limits::LINK_INTERVALS_MAX, interval, self.answer()).await;
            let refusal = match answer {
                Some(Ok(())) => None,
                Some(Err(error)) => match Refusal::of(&error) {
                    Some(refusal) => Some(refusal),
                    // Lost meanwhile: fred connects again.
                    None => continue,
                },
                None if scripts::is_connected(&self.client) => {
                    if !std::mem::replace(&mut is_stalled, true) {
                        tracing::warn!(link = %self.name, "a connection to Redis does not answer: reconnecting");
                    }
                    self.reconnect().await;
                    continue;
                }
                None => continue,
            };
            if std::mem::take(&mut is_stalled) {
                tracing::info!(link = %self.name, "the connection to Redis answers again");
            }
            let leaves = refusal.as_ref().is_some_and(|refusal| refusal.is_of_process)
                && left.is_none_or(|left| left.elapsed() >= limits::LINK_REFUSAL_PAUSE);
            *self.state.lock() = State { answered: Instant::now(), refusal };
            if leaves {
                left = Some(Instant::now());
                self.reconnect().await;
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

    /// Opens the connection again. Returns when there is one.
    async fn reconnect(&self) {
        metrics().redis_links_reconnected.increment(1);
        // Without the client's task there is no connection any more, which is reported elsewhere.
        let _ = self.client.force_reconnection().await;
    }
}

impl Refusal {
    /// `None` if the error is not an answer, or passes soon.
    fn of(error: &Error) -> Option<Refusal> {
        let (reason, is_of_process) = match reply_code(error)? {
            "READONLY" => ("Redis is a replica and accepts no writes".into(), true),
            "MISCONF" => ("Redis cannot save its data and accepts no writes".into(), true),
            "NOREPLICAS" => ("Redis has too few replicas and accepts no writes".into(), false),
            "OOM" => ("Redis is out of memory".into(), false),
            "LOADING" | "MASTERDOWN" | "BUSY" => return None,
            _ => {
                let details: String = error.details().chars().take(limits::LINK_REFUSAL_CHARS_MAX).collect();
                (format!("Redis refused a write: {details}").into(), false)
            }
        };
        Some(Refusal { reason, is_of_process })
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

/// Waits `count` intervals for the answer. The wait starts again with each, because time in which the
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
