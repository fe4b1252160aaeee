//! Results, line by line as they come, and the page that is made of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::machine::{self, Cores};
use crate::record::{Head, Record};
use crate::run::Figures;
use crate::{Outcome, report};

#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    name: &'static str,
    lines: File,
    head: Head,
    records: Vec<Record>,
}

impl Journal {
    pub fn start(
        folder: &Path,
        name: &'static str,
        cores: &Cores,
        versions: BTreeMap<String, String>,
    ) -> Outcome<Journal> {
        fs::create_dir_all(folder)?;
        let typed: Vec<String> = std::env::args().skip(1).filter(|word| !is_hidden(word)).collect();
        let head = Head {
            machine: machine::describe(cores),
            command: format!("scripts/bench {}", typed.join(" ")).trim_end().to_owned(),
            versions,
            started: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
            is_pinned: cores.server().is_some(),
        };
        let lines = File::create(folder.join(format!("{name}.jsonl")))?;
        let mut journal = Journal { folder: folder.to_owned(), name, lines, head, records: Vec::new() };
        let head = journal.head.clone();
        journal.line(&head)?;
        Ok(journal)
    }

    /// Also says on standard error how it goes.
    pub fn add(&mut self, record: Record) -> Outcome<()> {
        say(&format!(
            "  {}, {}{}: {}{}",
            record.case,
            record.server,
            record.at.map_or(String::new(), |at| format!(", {at}")),
            brief(&record.figures),
            if record.faults == Default::default() {
                String::new()
            } else {
                format!("; {:?}", record.faults)
            }
        ));
        self.line(&record)?;
        self.records.push(record);
        Ok(())
    }

    /// Writes the page and prints it.
    pub fn finish(self) -> Outcome<()> {
        report::write(&self.head, &self.records, &self.folder, self.name)?;
        let page = self.folder.join(format!("{}.md", self.name));
        Ok(std::io::stdout().write_all(&fs::read(page)?)?)
    }

    fn line(&mut self, line: &impl Serialize) -> Outcome<()> {
        Ok(writeln!(self.lines, "{}", serde_json::to_string(line)?)?)
    }
}

fn is_hidden(word: &str) -> bool {
    ["--pinned", "--bench"].contains(&word)
}

/// What one wants to see while waiting.
fn brief(figures: &Figures) -> String {
    let shown = figures.iter().filter(|(name, _)| {
        !["batches", "user_share", "bytes_per_event", "answer_ms_p99", "last_ms_p99"].contains(&name.as_str())
    });
    let shown: Vec<String> = shown.map(|(name, value)| format!("{name} {value:.3}")).collect();
    shown.join(", ")
}

/// How it goes, for whoever waits: the tables come at the end.
pub fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
