//! The parser of transcripts: lines to send, with their details, and expected lines.

use std::path::{Path, PathBuf};

use crate::support::AppSpec;

/// One file of `tests/it/transcripts`.
pub struct Script {
    /// Relative to the root of the repository.
    pub path: String,
    pub lines: Vec<Line>,
}

/// A line with its number, and its text as the recorder writes it back.
pub struct Line {
    pub number: usize,
    pub raw: String,
    pub kind: Kind,
}

pub enum Kind {
    /// A comment, an empty line, or a setting.
    Other,
    /// `ann> …`, with the indented lines below it.
    Sent { actor: String, text: String, details: Vec<String> },
    /// `ann< …`
    Received { actor: String, text: String },
}

/// The settings of the servers, from the lines with `app` and `config`.
#[derive(Default)]
pub struct Settings {
    /// Lines of the configuration.
    pub config: String,
    pub app: Option<AppSpec>,
}

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts")
}

impl Script {
    pub fn read(name: &str) -> Script {
        let file = directory().join(name).with_extension("txt");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let mut lines: Vec<Line> = Vec::new();
        for (number, raw) in (1..).zip(text.lines()) {
            if raw.starts_with(' ') {
                let Some(Line { raw: above, kind: Kind::Sent { details, .. }, .. }) = lines.last_mut() else {
                    panic!("{file:?}:{number}: a detail must follow a line with `>`");
                };
                details.push(raw.trim().into());
                above.push('\n');
                above.push_str(raw);
                continue;
            }
            lines.push(Line { number, raw: raw.into(), kind: Kind::of(raw) });
        }
        Script { path: format!("tests/it/transcripts/{name}.txt"), lines }
    }

    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        for line in self.lines.iter().filter(|line| matches!(line.kind, Kind::Other)) {
            if let Some(setting) = line.raw.strip_prefix("config ") {
                settings.config.push_str(setting);
                settings.config.push('\n');
            } else if let Some(setting) = line.raw.strip_prefix("app ") {
                let app = settings.app.take().unwrap_or_else(|| AppSpec::new("1"));
                let (key, value) = setting.split_once(" = ").expect("a setting is `key = value`");
                settings.app = Some(app.set(key, value));
            } else if !line.raw.is_empty() && !line.raw.starts_with('#') {
                panic!("{}:{}: not a line of a transcript: {}", self.path, line.number, line.raw);
            }
        }
        settings
    }

    /// The lines that `actor` is expected to receive directly after the line at index `at`.
    pub fn expected_after(&self, at: usize, actor: &str) -> Vec<&str> {
        let following = self.lines[at + 1..].iter();
        let expected = following.map_while(|line| match &line.kind {
            Kind::Received { actor: receiver, text } if receiver == actor => Some(text.as_str()),
            _ => None,
        });
        expected.collect()
    }

    /// The texts of all expected lines.
    pub fn received_texts(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match &line.kind {
            Kind::Received { text, .. } => Some(text.as_str()),
            _ => None,
        })
    }
}

impl Kind {
    fn of(raw: &str) -> Kind {
        let name: String = raw.chars().take_while(char::is_ascii_lowercase).collect();
        let text = |sign: &str| raw[name.len()..].strip_prefix(sign).map(|text| text.trim().to_owned());
        if let Some(text) = text("> ").filter(|_| !name.is_empty()) {
            return Kind::Sent { actor: name, text, details: Vec::new() };
        }
        match text("< ").filter(|_| !name.is_empty()) {
            Some(text) => Kind::Received { actor: name, text },
            None => Kind::Other,
        }
    }
}
