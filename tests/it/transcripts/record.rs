//! Writes down what comes, in place of what was expected: a conversation needs
//! only what is said to be recorded. What still fits stays as it is written.

use std::time::Duration;

use super::play::Play;
use super::script::{Is, Script, directory};
use crate::support::PATIENCE;

/// After this long without a word, nothing more is thought to come. Only a
/// recording guesses so; a replay knows what it waits for.
const QUIET: Duration = Duration::from_millis(150);

/// Plays the conversation and writes its file anew.
pub async fn record(name: &str, script: &Script, play: &mut Play) {
    let mut out: Vec<String> = Vec::new();
    let mut asides: Vec<String> = Vec::new();
    for (at, line) in script.lines.iter().enumerate() {
        match &line.is {
            Is::Aside => asides.push(line.raw.clone()),
            Is::Said { actor, details, .. } => {
                write_rest(play, &mut out).await;
                out.append(&mut asides);
                out.push(line.raw.clone());
                let said = match details.iter().any(|detail| detail == "until") {
                    true => play.ask_until(line, &script.answer_to(at, actor)).await,
                    false => play.say(line).await,
                };
                said.unwrap_or_else(|why| panic!("{}:{}: {}\n{why}", script.path, line.number, line.raw));
            }
            Is::Came { actor, text } => {
                let Some(got) = play.next(actor, PATIENCE).await else { continue };
                out.append(&mut asides);
                match play.words().fits(text, &got) {
                    Ok(()) => out.push(line.raw.clone()),
                    Err(_) => out.push(format!("{actor}< {}", play.words().generalize(&got))),
                }
            }
        }
    }
    write_rest(play, &mut out).await;
    out.append(&mut asides);
    std::fs::write(directory().join(name).with_extension("txt"), out.join("\n") + "\n").unwrap();
}

/// What came beyond what was expected.
async fn write_rest(play: &mut Play, out: &mut Vec<String>) {
    for actor in play.actors() {
        while let Some(got) = play.next(&actor, QUIET).await {
            out.push(format!("{actor}< {}", play.words().generalize(&got)));
        }
    }
}
