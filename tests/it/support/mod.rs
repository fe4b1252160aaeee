//! The fixtures of the tests: servers, clients, backends, proxies. A test connects
//! them:
//!
//! ```ignore
//! let cluster = Cluster::start(backend).await;
//! let mut subscriber = cluster.second().browser("key1").await;
//! subscriber.subscribe("news").await;
//! cluster.caller("1").post_events(json!({"name": "hello", "channel": "news", "data": "x"})).await;
//! subscriber.expect_event("news", "hello").await;
//! ```
//!
//! Every fixture is real: processes, sockets, Redis. Every wait is for an event and
//! has a timeout; nothing sleeps. Every process is ended by its pid.

pub mod browser;
pub mod bulk_client;
pub mod caller;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod delta_client;
pub mod frame;
pub mod haproxy;
pub mod http;
pub mod invalid;
pub mod json_lines;
pub mod nginx;
pub mod observer;
pub mod port;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod recorder;
pub mod redis;
pub mod resp;
pub mod resuming_client;
pub mod seed;
pub mod server;
pub mod user;
pub mod web_app;
pub mod websocket;

use std::time::Duration;

use fanfare::entry::{Body, Entry};
use fanfare::event::Event;

pub use browser::{Browser, Incoming};
pub use bulk_client::BulkClient;
pub use caller::Caller;
pub use cluster::{Backend, Cluster, Subscribers};
pub use frame::Frame;
pub use http::Answer;
pub use invalid::invalid_events;
pub use observer::{Change, Observer, View};
pub use port::Port;
pub use process::Signal;
pub use proxy::{Direction, Links, Proxy};
pub use raw::RawConnection;
pub use receiver::{Receiver, Reply};
pub use redis::Redis;
pub use resuming_client::{FrameKind, ResumeState, ResumingClient};
pub use seed::Seed;
pub use server::{AppSpec, Server};

/// The events of an entry.
pub fn events_of(entry: &Entry) -> Vec<Event> {
    match entry.read() {
        Ok(Body::Events(events)) => events,
        other => panic!("not events: {other:?}"),
    }
}

/// Timeout of a single step. No awaited event takes this long, even on a busy
/// machine.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a whole test. A test that exceeds it fails and prints the logs of its
/// servers.
pub const TEST_TIME_MAX: Duration = Duration::from_secs(120);

/// Runs a test within [`TEST_TIME_MAX`].
pub fn bounded(test: impl Future<Output = ()>) -> impl Future<Output = ()> {
    within(TEST_TIME_MAX, test)
}

/// Runs a test within `limit`. The panic is raised while the test is still alive, so that
/// its fixtures are dropped during the panic and print their logs.
pub async fn within(limit: Duration, test: impl Future<Output = ()>) {
    let mut test = Box::pin(test);
    tokio::select! {
        () = &mut test => {}
        () = tokio::time::sleep(limit) => panic!("the test took longer than {limit:?}"),
    }
}

/// Polls `check` until it returns `Ok`. Only for a state without an event of its
/// own, such as a count that falls after a socket was cut; where there is an event,
/// await the event.
pub async fn eventually<T>(what: &str, within: Duration, check: impl AsyncFn() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + within;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    loop {
        pace.tick().await;
        match check().await {
            Ok(value) => return value,
            Err(why) if tokio::time::Instant::now() > deadline => {
                panic!("{what}: not within {within:?}; the last result was {why}")
            }
            Err(_) => {}
        }
    }
}

/// Runs `test` once per backend: as `memory::test` on one server, and as
/// `redis::test` on two nodes that share a Redis.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                crate::support::bounded(super::$test(crate::support::Backend::Memory)).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                crate::support::bounded(super::$test(crate::support::Backend::Redis)).await;
            })+
        }
    };
}

pub(crate) use on_both_backends;
