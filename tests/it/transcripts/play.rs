//! Plays a conversation: says what the file says, and compares what comes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::answer;
use super::script::{Is, Line, Script};
use super::socket::Socket;
use super::voice::{Voice, is_sockudo};
use super::words::Words;
use crate::support::{Backend, Cluster, PATIENCE, Signal};

/// Between two questions of one who asks until the answer is as expected.
const PACE: Duration = Duration::from_millis(20);

pub struct Play {
    cluster: Cluster,
    voice: Voice,
    words: Words,
    sockets: BTreeMap<String, Socket>,
    /// Where each has connected to: it says in which dialect it is spoken to.
    paths: BTreeMap<String, String>,
    /// What has come over HTTP and was not looked at yet.
    answers: BTreeMap<String, VecDeque<String>>,
}

impl Play {
    pub async fn begin(script: &Script, backend: Backend, voice: Voice) -> Play {
        let settings = script.settings();
        let mut cluster = Cluster::builder(backend).config(&settings.config);
        if let Some(app) = settings.app {
            cluster = cluster.app(app);
        }
        let cluster = cluster.start().await;
        let (words, sockets, paths, answers) = Default::default();
        Play { cluster, voice, words, sockets, paths, answers }
    }

    /// All of it. `Err` says where it went another way.
    pub async fn replay(&mut self, script: &Script) -> Result<(), String> {
        for (at, line) in script.lines.iter().enumerate() {
            let played = match &line.is {
                Is::Aside => Ok(()),
                Is::Said { actor, details, .. } if details.iter().any(|detail| detail == "until") => {
                    self.ask_until(line, &script.answer_to(at, actor)).await
                }
                Is::Said { .. } => self.say(line).await,
                Is::Came { actor, text } => self.expect(actor, text).await,
            };
            played.map_err(|why| format!("{}:{}:\n    {}\n{why}", script.path, line.number, line.raw))?;
        }
        self.expect_nothing_more().await.map_err(|why| format!("{}: at the end: {why}", script.path))
    }

    /// The line must be one of what is said.
    pub async fn say(&mut self, line: &Line) -> Result<(), String> {
        let Is::Said { actor, text, details } = &line.is else { return Ok(()) };
        let text = self.words.spell(text)?;
        let details: Result<Vec<String>, String> =
            details.iter().map(|detail| self.words.spell(detail)).collect();
        let details = details?;
        if let Some(unread) = self.answers.get_mut(actor).and_then(VecDeque::pop_front) {
            return Err(format!("nobody expected what came before this: {unread}"));
        }
        match actor.as_str() {
            "backend" => {
                let lines = answer::ask(self.cluster.first(), &text, &details).await?;
                self.answers.entry(actor.clone()).or_default().extend(lines);
                Ok(())
            }
            "operator" => self.operate(&text).await,
            _ => self.speak(actor, &text, &details).await,
        }
    }

    /// Waits for the next thing that comes to `actor`.
    pub async fn next(&mut self, actor: &str, within: Duration) -> Option<String> {
        if let Some(line) = self.answers.get_mut(actor).and_then(VecDeque::pop_front) {
            return Some(line);
        }
        let text = self.sockets.get_mut(actor)?.hear(within).await?;
        self.words.heard(actor, &text);
        if text.starts_with("close ") || text.starts_with("end") {
            let socket = self.sockets.remove(actor).expect("it was heard");
            socket.see_off().await;
        }
        Some(text)
    }

    pub fn words(&mut self) -> &mut Words {
        &mut self.words
    }

    pub fn actors(&self) -> Vec<String> {
        self.answers.keys().chain(self.sockets.keys()).cloned().collect()
    }

    /// Asks again, for what is told to nobody when it has happened.
    pub async fn ask_until(&mut self, line: &Line, expected: &[&str]) -> Result<(), String> {
        let Is::Said { actor, .. } = &line.is else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.say(line).await?;
            let came: Vec<&str> = self.answers[actor].iter().map(String::as_str).collect();
            let mut words = self.words.clone();
            let fits = came.len() == expected.len()
                && expected.iter().zip(&came).all(|(expected, got)| words.fits(expected, got).is_ok());
            if fits || tokio::time::Instant::now() > deadline {
                return Ok(());
            }
            self.answers.remove(actor);
            tokio::time::sleep(PACE).await;
        }
    }

    async fn speak(&mut self, actor: &str, text: &str, details: &[String]) -> Result<(), String> {
        if let Some(path) = text.strip_prefix("connect ") {
            return self.connect(actor, path, details).await;
        }
        if text == "hang up" {
            self.sockets.remove(actor);
            return Ok(());
        }
        let socket = self.sockets.get_mut(actor).ok_or_else(|| format!("{actor} is not connected"))?;
        socket.say(&self.voice.said(&self.paths[actor], text)).await
    }

    /// The first socket on the last node, the second on the first, and so on:
    /// what is said to one is heard on the other.
    async fn connect(&mut self, actor: &str, path: &str, details: &[String]) -> Result<(), String> {
        let nodes = self.cluster.nodes();
        let node = &nodes[nodes.len() - 1 - self.sockets.len() % nodes.len()];
        let headers: Result<Vec<_>, String> = details
            .iter()
            .map(|detail| answer::header(detail.strip_prefix("header ").ok_or("only a header can be added")?))
            .collect();
        let path = self.voice.path(path);
        match Socket::connect(node.addr(), &path, &headers?).await {
            Ok(socket) => {
                self.words.connects(actor, &path);
                self.paths.insert(actor.into(), path);
                self.sockets.insert(actor.into(), socket);
            }
            Err(lines) => self.answers.entry(actor.into()).or_default().extend(lines),
        }
        Ok(())
    }

    async fn operate(&mut self, text: &str) -> Result<(), String> {
        match text {
            "stop the nodes" => {
                for node in self.cluster.nodes() {
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
        let nothing = || format!("nothing came to {actor} within {PATIENCE:?}");
        let got = self.next(actor, PATIENCE).await.ok_or_else(nothing)?;
        let expected = match self.paths.get(actor) {
            Some(path) => self.voice.heard(path, expected),
            None => expected.to_owned(),
        };
        self.words.fits(&expected, &got).map_err(|why| format!("but {actor} got\n    {got}\n{why}"))
    }

    /// Every socket that is open is asked for a pong, and has nothing else to say.
    async fn expect_nothing_more(&mut self) -> Result<(), String> {
        for (actor, lines) in &self.answers {
            if let Some(line) = lines.front() {
                return Err(format!("{actor} got {line}"));
            }
        }
        for (actor, socket) in &mut self.sockets {
            let prefix = if is_sockudo(&self.paths[actor]) { "sockudo" } else { "pusher" };
            socket.say(&format!(r#"{{"event":"{prefix}:ping"}}"#)).await?;
            match socket.hear(PATIENCE).await {
                Some(pong) if pong == format!(r#"{{"event":"{prefix}:pong","data":"{{}}"}}"#) => {}
                other => return Err(format!("{actor} got {}", other.as_deref().unwrap_or("nothing"))),
            }
        }
        Ok(())
    }
}
