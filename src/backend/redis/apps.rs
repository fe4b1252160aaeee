//! Apps stored in Redis: nodes read them, `fanfare app` writes them, and a topic notifies nodes of
//! changes.
//!
//! Uses a connection of its own: nodes look up arbitrary keys of unauthenticated clients here, and
//! these lookups must not delay scripts.

use std::collections::HashMap;

use fred::interfaces::{
    ClientInterface, ClientLike, EventInterface, HashesInterface, KeysInterface, PubsubInterface,
};
use fred::prelude::{Client, Error, ErrorKind, Value};
use fred::types::Message;
use fred::types::config::{Config, Server};
use futures_util::stream::{self, Stream};
use thiserror::Error;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior};

use super::error::{CallError, ScriptError, read_error};
use super::keys::Keys;
use super::scripts::{self, Script};
use super::{ConnectError, SCHEMA, build, standalone};
use crate::backend::{AppChange, BackendError, StoredApp};
use crate::limits;

#[derive(Debug)]
pub struct AppStore {
    client: Client,
    keys: Keys,
    add: Script,
    replace: Script,
    remove: Script,
}

/// Why a change of an app failed.
#[derive(Debug, Error)]
pub enum ChangeError {
    #[error("there is an app of this id already")]
    Exists,
    #[error("another app has this key already")]
    KeyTaken,
    #[error("somebody else has changed the app just now")]
    Changed,
    #[error(transparent)]
    Backend(BackendError),
}

impl AppStore {
    /// Connects for a command of the CLI: it fails at once where a node would wait.
    pub async fn connect(url: &str, prefix: &str) -> Result<AppStore, ConnectError> {
        let config = Config { fail_fast: true, ..standalone(url)? };
        let keys = Keys::new(prefix, config.database);
        let client = build(config, limits::REDIS_EVENTS_MAX).map_err(ConnectError::Url)?;
        match tokio::time::timeout(limits::SCRIPT_DEADLINE, client.init()).await {
            Ok(connected) => connected.map_err(ConnectError::Refused)?,
            Err(_) => return Err(ConnectError::Refused(Error::new(ErrorKind::Timeout, "no answer"))),
        };
        let store = AppStore::new(client, keys);
        let schema: Result<Option<u64>, _> = store.client.get(store.keys.schema()).await;
        match schema {
            Ok(Some(found)) if found != SCHEMA => Err(ConnectError::Schema { found }),
            Ok(_) => Ok(store),
            Err(error) => Err(ConnectError::Answer { command: "GET schema", error: error.into() }),
        }
    }

    /// Uses a connected client.
    pub(super) fn new(client: Client, keys: Keys) -> AppStore {
        AppStore {
            client,
            keys,
            add: Script::new(include_str!("../../../lua/add_app.lua")),
            replace: Script::new(include_str!("../../../lua/replace_app.lua")),
            remove: Script::new(include_str!("../../../lua/remove_app.lua")),
        }
    }

    pub async fn find(&self, id: &str) -> Result<StoredApp, BackendError> {
        let text = self.read(self.keys.apps(), id).await?;
        Ok(match text {
            None => StoredApp::Nothing,
            Some(text) if text.is_empty() => StoredApp::Removed,
            Some(text) => StoredApp::Settings(text),
        })
    }

    /// The id of the app with this key.
    pub async fn find_id(&self, key: &str) -> Result<Option<String>, BackendError> {
        self.read(self.keys.app_keys(), key).await
    }

    async fn read(&self, hash: String, field: &str) -> Result<Option<String>, BackendError> {
        if !scripts::is_connected(&self.client) {
            return Err(BackendError::Unavailable);
        }
        self.client.with_options(&scripts::once()).hget(hash, field).await.map_err(read_error)
    }

    /// All apps by id, with their settings.
    pub async fn list(&self) -> Result<Vec<(String, String)>, BackendError> {
        let client = self.client.with_options(&scripts::once());
        let all: HashMap<String, String> = client.hgetall(self.keys.apps()).await.map_err(read_error)?;
        let mut apps: Vec<_> = all.into_iter().filter(|(_, settings)| !settings.is_empty()).collect();
        apps.sort();
        Ok(apps)
    }

    /// `lua/add_app.lua`
    pub async fn add(&self, id: &str, key: &str, settings: &str) -> Result<(), ChangeError> {
        let keys = vec![self.keys.apps(), self.keys.app_keys()];
        self.change(&self.add, keys, [id, key, settings]).await
    }

    /// `lua/replace_app.lua`
    pub async fn replace(&self, id: &str, before: &str, after: &str) -> Result<(), ChangeError> {
        self.change(&self.replace, vec![self.keys.apps()], [id, before, after]).await
    }

    /// `lua/remove_app.lua`
    pub async fn remove(&self, id: &str, before: &str, key: &str) -> Result<(), ChangeError> {
        let keys = vec![self.keys.apps(), self.keys.app_keys()];
        self.change(&self.remove, keys, [id, before, key]).await
    }

    async fn change(
        &self,
        script: &Script,
        keys: Vec<String>,
        arguments: [&str; 3],
    ) -> Result<(), ChangeError> {
        let topic = self.keys.apps_changed();
        let arguments = [&*topic].into_iter().chain(arguments).map(|it| Value::String(it.into()));
        match script.run(&self.client, keys, arguments.collect()).await {
            Ok(_) => Ok(()),
            Err(CallError::Script(ScriptError::Exists)) => Err(ChangeError::Exists),
            Err(CallError::Script(ScriptError::KeyTaken)) => Err(ChangeError::KeyTaken),
            Err(CallError::Script(ScriptError::Changed)) => Err(ChangeError::Changed),
            Err(error) => Err(ChangeError::Backend(error.into())),
        }
    }

    /// A stream of changes, for a single task of the node. The only queue is the message queue of
    /// the Redis client: when it overflows, the stream yields [`AppChange::Any`].
    pub(in crate::backend) fn changes(&self) -> impl Stream<Item = AppChange> + Send + use<> {
        let mut proof_interval = tokio::time::interval(limits::APP_CHANGES_PROOF_INTERVAL);
        proof_interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let subscription = ChangesSubscription {
            messages: self.client.message_rx(),
            reconnects: self.client.reconnect_rx(),
            client: self.client.clone(),
            topic: self.keys.apps_changed(),
            connection: None,
            proof_interval,
        };
        stream::unfold(subscription, async |mut subscription| {
            let change = subscription.next().await;
            Some((change, subscription))
        })
    }
}

/// A subscription to the topic of changed apps.
#[derive(Debug)]
struct ChangesSubscription {
    client: Client,
    topic: String,
    messages: Receiver<Message>,
    reconnects: Receiver<Server>,
    /// Redis's id of the connection on which the topic is subscribed.
    connection: Option<u64>,
    /// Interval at which the subscription is proved: a healthy connection may have lost it.
    proof_interval: Interval,
}

impl ChangesSubscription {
    /// Waits for the next change. Returns [`AppChange::Any`] after each new subscription, including
    /// the first one, because earlier notifications may have been lost.
    async fn next(&mut self) -> AppChange {
        loop {
            if self.connection.is_none() {
                self.connection = self.subscribe().await;
                match self.connection {
                    Some(_) => return AppChange::Any,
                    None => tokio::time::sleep(limits::RETRY_DELAY).await,
                }
                continue;
            }
            tokio::select! {
                message = self.messages.recv() => match message {
                    Ok(message) => {
                        if let Some(id) = message.value.into_string() {
                            return AppChange::One(id);
                        }
                    }
                    Err(RecvError::Lagged(_)) => return AppChange::Any,
                    // The client ends only with the node.
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                _ = self.reconnects.recv() => self.connection = None,
                _ = self.proof_interval.tick() => {
                    let connection = self.connection_id().await;
                    self.connection = self.connection.filter(|subscribed| Some(*subscribed) == connection);
                }
            }
        }
    }

    /// Subscribes, and returns the connection id. Connection ids are unique: equal ids before and
    /// after prove that this connection has carried the SUBSCRIBE.
    async fn subscribe(&self) -> Option<u64> {
        let before = self.connection_id().await?;
        self.client.with_options(&scripts::once()).subscribe(self.topic.as_str()).await.ok()?;
        self.connection_id().await.filter(|after| *after == before)
    }

    async fn connection_id(&self) -> Option<u64> {
        self.client.with_options(&scripts::once()).client_id().await.ok()
    }
}
