//! Replays a transcript: sends its lines to the server and compares the messages that arrive.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::event_prefix::{PrefixMode, is_sockudo};
use super::placeholders::Placeholders;
use super::request;
use super::script::{Kind, Line, Script};
use super::socket::Socket;
use crate::support::{Backend, Cluster, STEP_TIMEOUT, Signal};

/// The interval between two requests that are repeated until the response is the expected one.
const REPEAT_INTERVAL: Duration = Duration::from_millis(20);

pub struct Play {
    cluster: Cluster,
    prefix_mode: PrefixMode,
    placeholders: Placeholders,
    sockets: BTreeMap<String, Socket>,
    /// The path of each socket's handshake, which selects its event prefix.
    paths: BTreeMap<String, String>,
    /// Lines of HTTP responses that have not been compared yet, by actor.
    responses: BTreeMap<String, VecDeque<String>>,
}

impl Play {
    pub async fn begin(script: &Script, backend: Backend, prefix_mode: PrefixMode) -> Play {
        let settings = script.settings();
        let mut cluster = Cluster::builder(backend).config(&settings.config);
        if let Some(app) = settings.app {
            cluster = cluster.app(app);
        }
        let cluster = cluster.start().await;
        let (placeholders, sockets, paths, responses) = Default::default();
        Play { cluster, prefix_mode, placeholders, sockets, paths, responses }
    }

    /// Replays the whole transcript. `Err` contains the first line that differs.
    pub async fn replay(&mut self, script: &Script) -> Result<(), String> {
        for (at, line) in script.lines.iter().enumerate() {
            let played = match &line.kind {
                Kind::Other => Ok(()),
                Kind::Sent { actor, details, .. } if details.iter().any(|detail| detail == "until") => {
                    self.send_until_expected(line, &script.expected_after(at, actor)).await
                }
                Kind::Sent { .. } => self.send(line).await,
                Kind::Received { actor, text } => self.expect(actor, text).await,
            };
            played.map_err(|error| format!("{}:{}:\n    {}\n{error}", script.path, line.number, line.raw))?;
        }
        self.expect_nothing_more().await.map_err(|error| format!("{}: at the end: {error}", script.path))
    }

    /// Sends a line with `>`; ignores any other line.
    pub async fn send(&mut self, line: &Line) -> Result<(), String> {
        let Kind::Sent { actor, text, details } = &line.kind else { return Ok(()) };
        let text = self.placeholders.expand(text)?;
        let details: Result<Vec<String>, String> =
            details.iter().map(|detail| self.placeholders.expand(detail)).collect();
        let details = details?;
        if let Some(unread) = self.responses.get_mut(actor).and_then(VecDeque::pop_front) {
            return Err(format!("an unexpected line arrived before this one: {unread}"));
        }
        match actor.as_str() {
            "backend" => {
                let lines = request::send(self.cluster.first(), &text, &details).await?;
                self.responses.entry(actor.clone()).or_default().extend(lines);
                Ok(())
            }
            "operator" => self.operate(&text).await,
            _ => self.send_on_socket(actor, &text, &details).await,
        }
    }

    /// Waits for the next line that `actor` receives. `None` after `within`.
    pub async fn next(&mut self, actor: &str, within: Duration) -> Option<String> {
        if let Some(line) = self.responses.get_mut(actor).and_then(VecDeque::pop_front) {
            return Some(line);
        }
        let text = self.sockets.get_mut(actor)?.receive(within).await?;
        self.placeholders.on_received(actor, &text);
        if text.starts_with("close ") || text.starts_with("end") {
            let socket = self.sockets.remove(actor).expect("the socket of the received text");
            socket.finish_close().await;
        }
        Some(text)
    }

    pub fn placeholders(&mut self) -> &mut Placeholders {
        &mut self.placeholders
    }

    pub fn actors(&self) -> Vec<String> {
        self.responses.keys().chain(self.sockets.keys()).cloned().collect()
    }

    /// Repeats a request until the response is the expected one, for changes of state that no
    /// frame reports.
    pub async fn send_until_expected(&mut self, line: &Line, expected: &[&str]) -> Result<(), String> {
        let Kind::Sent { actor, .. } = &line.kind else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + STEP_TIMEOUT;
        loop {
            self.send(line).await?;
            let received: Vec<&str> = self.responses[actor].iter().map(String::as_str).collect();
            let mut placeholders = self.placeholders.clone();
            let mut pairs = expected.iter().zip(&received);
            let is_expected = received.len() == expected.len()
                && pairs.all(|(expected, got)| placeholders.matches(expected, got).is_ok());
            if is_expected || tokio::time::Instant::now() > deadline {
                return Ok(());
            }
            self.responses.remove(actor);
            tokio::time::sleep(REPEAT_INTERVAL).await;
        }
    }

    async fn send_on_socket(&mut self, actor: &str, text: &str, details: &[String]) -> Result<(), String> {
        if let Some(path) = text.strip_prefix("connect ") {
            return self.connect(actor, path, details).await;
        }
        if text == "hang up" {
            self.sockets.remove(actor);
            return Ok(());
        }
        let socket = self.sockets.get_mut(actor).ok_or_else(|| format!("{actor} is not connected"))?;
        socket.send(&self.prefix_mode.rename_sent(&self.paths[actor], text)).await
    }

    /// Connects the first socket to the last node, the second to the first node, and so on, so
    /// that events cross nodes.
    async fn connect(&mut self, actor: &str, path: &str, details: &[String]) -> Result<(), String> {
        let nodes = &self.cluster.nodes;
        let node = &nodes[nodes.len() - 1 - self.sockets.len() % nodes.len()];
        let headers: Result<Vec<_>, String> = details
            .iter()
            .map(|detail| {
                request::header(detail.strip_prefix("header ").ok_or("only a header can be added")?)
            })
            .collect();
        let path = self.prefix_mode.path(path);
        match Socket::connect(node.addr(), &path, &headers?).await {
            Ok(socket) => {
                self.placeholders.on_connect(actor, &path);
                self.paths.insert(actor.into(), path);
                self.sockets.insert(actor.into(), socket);
            }
            // The HTTP response that refused the upgrade.
            Err(lines) => self.responses.entry(actor.into()).or_default().extend(lines),
        }
        Ok(())
    }

    async fn operate(&mut self, text: &str) -> Result<(), String> {
        match text {
            "stop the nodes" => {
                for node in &self.cluster.nodes {
                    node.signal(Signal::Terminate);
                }
            }
            "fill redis" => {
                self.cluster.redis().command(&["CONFIG", "SET", "maxmemory", "1"]).await;
            }
            "freeze redis" => self.cluster.redis().signal(Signal::Stop),
            "kill redis" => self.cluster.redis_mut().kill(),
            _ => return Err(format!("an operator cannot {text:?}")),
        }
        Ok(())
    }

    async fn expect(&mut self, actor: &str, expected: &str) -> Result<(), String> {
        let nothing = || format!("{actor} received nothing within {STEP_TIMEOUT:?}");
        let got = self.next(actor, STEP_TIMEOUT).await.ok_or_else(nothing)?;
        let expected = match self.paths.get(actor) {
            Some(path) => self.prefix_mode.rename_expected(path, expected),
            None => expected.to_owned(),
        };
        self.placeholders
            .matches(&expected, &got)
            .map_err(|error| format!("but {actor} got\n    {got}\n{error}"))
    }

    /// Pings every open socket. The pong must be the next message that it receives.
    async fn expect_nothing_more(&mut self) -> Result<(), String> {
        for (actor, lines) in &self.responses {
            if let Some(line) = lines.front() {
                return Err(format!("{actor} got {line}"));
            }
        }
        for (actor, socket) in &mut self.sockets {
            let prefix = if is_sockudo(&self.paths[actor]) { "sockudo" } else { "pusher" };
            socket.send(&format!(r#"{{"event":"{prefix}:ping"}}"#)).await?;
            match socket.receive(STEP_TIMEOUT).await {
                Some(pong) if pong == format!(r#"{{"event":"{prefix}:pong","data":"{{}}"}}"#) => {}
                other => return Err(format!("{actor} got {}", other.as_deref().unwrap_or("nothing"))),
            }
        }
        Ok(())
    }
}
