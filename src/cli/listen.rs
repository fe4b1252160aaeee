//! `fanfare listen`: subscribes to channels and prints received frames.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::decode::Chains;
use super::error::CliError;
use super::frame::Frame;
use super::sign::encode;
use super::target::{Credentials, Server, Target};
use super::{StopSignals, output};
use crate::config::Environment;
use crate::{auth, tls};

/// Time limit of the handshake, and of the reply to a ping.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Subscribe to channels and print every received frame: event, channel, data.
#[derive(Debug, clap::Args)]
pub struct Listen {
    /// Channel names; subscriptions to private channels are signed with the secret
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// User id on presence channels
    #[arg(long, value_name = "ID", default_value = "listener")]
    user: String,
    /// Enable deltas, and print for each event whether it was full or a delta, and its bytes
    #[arg(long)]
    delta: bool,
    /// Number of events after which to stop
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    target: Target,
}

/// Data of `pusher:connection_established`.
#[derive(Deserialize)]
struct Established {
    socket_id: String,
    activity_timeout: u64,
}

/// Data of `pusher:subscription_error`.
#[derive(Deserialize)]
struct SubscriptionError {
    error: String,
}

/// Totals of the received events.
#[derive(Debug, Default)]
struct Tally {
    full: u64,
    deltas: u64,
    /// Bytes of the frames received.
    received_bytes: usize,
    /// Bytes of the same events as full frames.
    full_bytes: usize,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One connection and the options of the command.
struct Listener {
    authority: String,
    app: Credentials,
    channels: Vec<String>,
    user: String,
    count: Option<u64>,
    /// With `--delta` only.
    chains: Option<Chains>,
    tally: Tally,
    socket: Socket,
    /// Silence after which a ping is sent: the server's `activity_timeout`.
    silence_max: Duration,
}

impl Listen {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), CliError> {
        let server = self.target.server(environment)?;
        let app = self.target.credentials(environment)?;
        let mut listener = Listener {
            socket: connect(&server, &app.key).await?,
            authority: server.authority,
            app,
            channels: self.channels,
            user: self.user,
            count: self.count,
            chains: self.delta.then(Chains::default),
            tally: Tally::default(),
            silence_max: TIMEOUT,
        };
        let mut stop = StopSignals::new().map_err(CliError::Runtime)?;
        let outcome = tokio::select! {
            outcome = listener.read() => outcome,
            () = stop.next() => Ok(()),
        };
        listener.end(outcome).await
    }
}

async fn connect(server: &Server, key: &str) -> Result<Socket, CliError> {
    let authority = &server.authority;
    let unconnected =
        |error: std::io::Error| CliError::Connect { authority: authority.clone(), cause: error.to_string() };
    let stream = TcpStream::connect(authority).await.map_err(unconnected)?;
    let version = env!("CARGO_PKG_VERSION");
    let url = server.websocket_url(&format!(
        "/app/{}?protocol=7&client=fanfare&version={version}&flash=false",
        encode(key)
    ));
    let connector = Connector::Rustls(Arc::new(tls::client_config()));
    let handshake = client_async_tls_with_config(url, stream, None, Some(connector));
    match timeout(TIMEOUT, handshake).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(answer))) => {
            let body = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Err(CliError::Refused { status: answer.status(), body: body.into_owned() })
        }
        Ok(Err(tungstenite::Error::Io(error))) => Err(unconnected(error)),
        Ok(Err(error)) => Err(broken(authority, error)),
        Err(_) => Err(CliError::Timeout { authority: authority.clone(), after: TIMEOUT }),
    }
}

fn broken(authority: &str, error: tungstenite::Error) -> CliError {
    CliError::WebSocket { authority: authority.to_owned(), error: Box::new(error) }
}

impl Listener {
    /// Prints frames until `count` events have arrived or the connection fails.
    async fn read(&mut self) -> Result<(), CliError> {
        loop {
            match self.next().await? {
                Message::Text(text) => self.take(text.as_str()).await?,
                Message::Close(close) => return Err(closed(close)),
                // The library answers pings. Protocol 7 has no other messages.
                _ => {}
            }
            if self.count.is_some_and(|count| self.tally.full + self.tally.deltas >= count) {
                return Ok(());
            }
        }
    }

    /// The next message. After `silence_max` it sends a ping; without any message after
    /// another [`TIMEOUT`], it fails.
    async fn next(&mut self) -> Result<Message, CliError> {
        let mut time_limit = self.silence_max;
        for has_pinged in [false, true] {
            match timeout(time_limit, self.socket.next()).await {
                Ok(Some(message)) => return message.map_err(|error| broken(&self.authority, error)),
                Ok(None) => return Err(CliError::Gone),
                Err(_) if has_pinged => break,
                Err(_) => {
                    self.send(&json!({ "event": "pusher:ping", "data": {} })).await?;
                    time_limit = TIMEOUT;
                }
            }
        }
        Err(CliError::Timeout { authority: self.authority.clone(), after: TIMEOUT })
    }

    async fn take(&mut self, text: &str) -> Result<(), CliError> {
        let frame = Frame::parse(text).map_err(|error| bad_frame(text, error))?;
        match frame.event.as_str() {
            "pusher:delta" => return self.take_delta(&frame, text).await,
            _ if frame.is_event() => return self.take_event(&frame, text),
            _ => self.print("-", text, &frame.columns())?,
        }
        match frame.event.as_str() {
            "pusher:connection_established" => {
                self.subscribe(frame.data_as().map_err(|error| bad_frame(text, error))?).await
            }
            "pusher:ping" => self.send(&json!({ "event": "pusher:pong", "data": {} })).await,
            "pusher:subscription_error" => Err(refused(&frame)),
            _ => Ok(()),
        }
    }

    async fn subscribe(&mut self, established: Established) -> Result<(), CliError> {
        self.silence_max = Duration::from_secs(established.activity_timeout.max(1));
        for channel in self.channels.clone() {
            let mut data = json!({ "channel": channel });
            let is_presence = channel.starts_with("presence-");
            let member = is_presence.then(|| json!({ "user_id": self.user }).to_string());
            if is_presence || channel.starts_with("private-") {
                let text = auth::subscription_text(&established.socket_id, &channel, member.as_deref());
                let signature = auth::sign(&self.app.secret, &text);
                data["auth"] = format!("{}:{signature}", self.app.key).into();
            }
            if let Some(member) = member {
                data["channel_data"] = member.into();
            }
            if self.chains.is_some() {
                data["delta"] = "fossil".into();
            }
            self.send(&json!({ "event": "pusher:subscribe", "data": data })).await?;
        }
        Ok(())
    }

    fn take_event(&mut self, frame: &Frame<'_>, text: &str) -> Result<(), CliError> {
        if let Some(chains) = &mut self.chains {
            chains.keep(frame, text);
        }
        self.tally.full += 1;
        self.tally.received_bytes += text.len();
        self.tally.full_bytes += text.len();
        self.print("full", text, &frame.columns())
    }

    async fn take_delta(&mut self, frame: &Frame<'_>, text: &str) -> Result<(), CliError> {
        let Some(chains) = &mut self.chains else { return self.print("-", text, &frame.columns()) };
        match chains.apply(frame) {
            Ok(decoded) => {
                let mut event =
                    Frame::parse(&decoded.text).map_err(|error| bad_frame(&decoded.text, error))?;
                event.event = decoded.event;
                self.tally.deltas += 1;
                self.tally.received_bytes += text.len();
                self.tally.full_bytes += decoded.text.len();
                self.print("delta", text, &event.columns())
            }
            Err(error) => {
                let channel = frame.channel.as_deref().unwrap_or_default();
                let lost = format!("a delta on `{channel}` is lost: {error}");
                output::error(&output::printable(&lost));
                self.send(&json!({ "event": "pusher:delta_sync_error", "data": { "channel": channel } }))
                    .await
            }
        }
    }

    /// Prints a frame. With `--delta`, its kind and its bytes precede it.
    fn print(&self, kind: &str, text: &str, columns: &str) -> Result<(), CliError> {
        match self.chains {
            Some(_) => Ok(output::line(&format!("{kind}\t{}\t{columns}", text.len()))?),
            None => Ok(output::line(columns)?),
        }
    }

    async fn send(&mut self, frame: &serde_json::Value) -> Result<(), CliError> {
        let sent = self.socket.send(Message::text(frame.to_string())).await;
        sent.map_err(|error| broken(&self.authority, error))
    }

    async fn end(mut self, outcome: Result<(), CliError>) -> Result<(), CliError> {
        if outcome.is_ok() {
            // With a close frame, the server removes the connection at once.
            let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
        }
        if self.chains.is_some() {
            output::line(&self.tally.to_string())?;
        }
        outcome
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally { full, deltas, received_bytes, full_bytes } = self;
        // A delta is never longer than its event, unless the server is broken.
        let saved = full_bytes.saturating_sub(*received_bytes);
        let percent = if *full_bytes == 0 { 0 } else { saved * 100 / full_bytes };
        write!(f, "{} events: {full} full, {deltas} deltas; {received_bytes} bytes", full + deltas)?;
        write!(f, " instead of {full_bytes}: {saved} bytes saved ({percent} %)")
    }
}

fn bad_frame(frame: &str, error: serde_json::Error) -> CliError {
    CliError::BadFrame { frame: output::printable(frame), error }
}

fn refused(frame: &Frame<'_>) -> CliError {
    let reason = frame.data_as().map_or_else(|_| frame.data_text(), |data: SubscriptionError| data.error);
    let channel = frame.channel.as_deref().unwrap_or_default();
    CliError::Subscription { channel: output::printable(channel), reason: output::printable(&reason) }
}

fn closed(close: Option<CloseFrame>) -> CliError {
    let Some(close) = close else { return CliError::Gone };
    let code = u16::from(close.code);
    CliError::Closed { code, meaning: meaning(code), reason: output::printable(&close.reason) }
}

/// The meaning of a close code of protocol.md 2.3.
fn meaning(code: u16) -> &'static str {
    match code {
        1000 => "a normal end",
        1001 => "the server goes away",
        1009 => "a message was too large",
        4000 => "only TLS is allowed",
        4001 => "there is no app with this key",
        4003 => "the app is disabled",
        4004 => "the app has too many connections",
        4005 => "there is no such path",
        4006 => "the protocol version is invalid",
        4007 => "the protocol version is not supported",
        4008 => "the protocol version is missing",
        4009 => "the connection is not authorized",
        4100 => "the server is over capacity, or this client too slow: reconnect later",
        4200 => "the server is restarting: reconnect at once",
        4201 => "a ping was not answered",
        4202 => "the connection was idle for too long",
        _ if code / 100 == 40 => "do not reconnect",
        _ if code / 100 == 41 => "reconnect later",
        _ if code / 100 == 42 => "reconnect at once",
        _ => "which the Pusher protocol does not name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_contains_the_bytes_saved_by_deltas() {
        let tally = Tally { full: 2, deltas: 8, received_bytes: 250, full_bytes: 1000 };
        assert_eq!(
            tally.to_string(),
            "10 events: 2 full, 8 deltas; 250 bytes instead of 1000: 750 bytes saved (75 %)"
        );
        assert!(Tally::default().to_string().ends_with("0 bytes saved (0 %)"));
    }

    #[test]
    fn subscription_error_is_formatted_with_channel_and_reason() {
        let text = r#"{"event":"pusher:subscription_error","channel":"private-x","data":{"type":"AuthError","error":"bad signature","status":401}}"#;
        let error = refused(&Frame::parse(text).expect("a frame"));
        assert_eq!(error.to_string(), "subscription to `private-x` refused: bad signature");
    }
}
