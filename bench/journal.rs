//! Writes results as JSON lines during a run, and the Markdown page at its end.

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
        let arguments: Vec<String> =
            std::env::args().skip(1).filter(|argument| !is_hidden(argument)).collect();
        let head = Head {
            machine: machine::describe(cores),
            command: format!("scripts/bench {}", arguments.join(" ")).trim_end().to_owned(),
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

    /// Appends a record to the JSON lines and prints a summary to standard error.
    pub fn add(&mut self, record: Record) -> Outcome<()> {
        progress(&format!(
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

    /// Writes the page and its charts, and prints the page to standard output.
    pub fn finish(self) -> Outcome<()> {
        report::write(&self.head, &self.records, &self.folder, self.name)?;
        let page = self.folder.join(format!("{}.md", self.name));
        Ok(std::io::stdout().write_all(&fs::read(page)?)?)
    }

    fn line(&mut self, line: &impl Serialize) -> Outcome<()> {
        Ok(writeln!(self.lines, "{}", serde_json::to_string(line)?)?)
    }
}

fn is_hidden(argument: &str) -> bool {
    ["--pinned", "--bench"].contains(&argument)
}

/// The figures of a progress line: all but a few of minor interest.
fn brief(figures: &Figures) -> String {
    let shown = figures.iter().filter(|(name, _)| {
        !["batches", "user_share", "bytes_per_event", "answer_ms_p99", "last_ms_p99"].contains(&name.as_str())
    });
    let shown: Vec<String> = shown.map(|(name, value)| format!("{name} {value:.3}")).collect();
    shown.join(", ")
}

/// Prints a progress line to standard error. Tables are printed at the end of a run.
pub fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
