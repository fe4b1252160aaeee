//! Records a transcript: replaces the expected lines by the received ones. Only the lines with
//! `>` have to be written by hand. Expected lines that still match stay as they are written.

use std::time::Duration;

use super::play::Play;
use super::script::{Kind, Script, directory};
use crate::support::STEP_TIMEOUT;

/// After this long without a message, a recording assumes that no more will arrive. A replay
/// has expected lines to wait for instead.
const QUIET: Duration = Duration::from_millis(150);

/// Sends the lines of a transcript and rewrites its file.
pub async fn record(name: &str, script: &Script, play: &mut Play) {
    let mut out: Vec<String> = Vec::new();
    let mut others: Vec<String> = Vec::new();
    for (at, line) in script.lines.iter().enumerate() {
        match &line.kind {
            Kind::Other => others.push(line.raw.clone()),
            Kind::Sent { actor, details, .. } => {
                write_rest(play, &mut out).await;
                out.append(&mut others);
                out.push(line.raw.clone());
                let sent = match details.iter().any(|detail| detail == "until") {
                    true => play.send_until_expected(line, &script.expected_after(at, actor)).await,
                    false => play.send(line).await,
                };
                sent.unwrap_or_else(|error| panic!("{}:{}: {}\n{error}", script.path, line.number, line.raw));
            }
            Kind::Received { actor, text } => {
                let Some(got) = play.next(actor, STEP_TIMEOUT).await else { continue };
                out.append(&mut others);
                match play.placeholders().matches(text, &got) {
                    Ok(()) => out.push(line.raw.clone()),
                    Err(_) => out.push(format!("{actor}< {}", play.placeholders().generalize(&got))),
                }
            }
        }
    }
    write_rest(play, &mut out).await;
    out.append(&mut others);
    std::fs::write(directory().join(name).with_extension("txt"), out.join("\n") + "\n").unwrap();
}

/// Records the messages that arrive in addition to the expected ones.
async fn write_rest(play: &mut Play, out: &mut Vec<String>) {
    for actor in play.actors() {
        while let Some(got) = play.next(&actor, QUIET).await {
            out.push(format!("{actor}< {}", play.placeholders().generalize(&got)));
        }
    }
}
