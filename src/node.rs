//! The parts of this process behind one cheap handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::apps::Apps;
use crate::backend::Backend;
use crate::delta::settings::DeltaConfig;
use crate::hub::connections::Connections;
use crate::inbox::Inbox;

pub type Node = Arc<Parts>;

#[derive(Debug)]
pub struct Parts {
    pub apps: Arc<Apps>,
    pub backend: Arc<Backend>,
    pub inbox: Inbox,
    pub connections: Arc<Connections>,
    pub delta: DeltaConfig,
    pub activity_timeout: Duration,
    draining: AtomicBool,
}

impl Parts {
    pub fn new(
        apps: Arc<Apps>,
        backend: Arc<Backend>,
        inbox: Inbox,
        delta: DeltaConfig,
        activity_timeout: Duration,
    ) -> Parts {
        let (connections, draining) = (Arc::default(), AtomicBool::new(false));
        Parts { apps, backend, inbox, connections, delta, activity_timeout, draining }
    }

    /// From now on this node is not ready, and takes no new sockets.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why this node should get no traffic, if so.
    pub fn unready(&self) -> Option<&'static str> {
        match self.is_draining() {
            true => Some("draining"),
            false => self.backend.unready(),
        }
    }
}
