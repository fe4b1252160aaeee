//! A conversation as it stands in its file: who says what, and what comes back.

use std::path::{Path, PathBuf};

use crate::support::AppSpec;

/// One file of `tests/it/transcripts`.
pub struct Script {
    /// Below the root of the repository.
    pub path: String,
    pub lines: Vec<Line>,
}

/// A line with its number, and its text as it is written back.
pub struct Line {
    pub number: usize,
    pub raw: String,
    pub is: Is,
}

pub enum Is {
    /// A comment, nothing, or a setting.
    Aside,
    /// `ann> …`, with the indented lines below it.
    Said { actor: String, text: String, details: Vec<String> },
    /// `ann< …`
    Came { actor: String, text: String },
}

/// What stands before the first words: how the servers are started.
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
                let Some(Line { raw: above, is: Is::Said { details, .. }, .. }) = lines.last_mut() else {
                    panic!("{file:?}:{number}: nothing was said that this could be a detail of");
                };
                details.push(raw.trim().into());
                above.push('\n');
                above.push_str(raw);
                continue;
            }
            lines.push(Line { number, raw: raw.into(), is: Is::of(raw) });
        }
        Script { path: format!("tests/it/transcripts/{name}.txt"), lines }
    }

    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        for line in self.lines.iter().filter(|line| matches!(line.is, Is::Aside)) {
            if let Some(setting) = line.raw.strip_prefix("config ") {
                settings.config.push_str(setting);
                settings.config.push('\n');
            } else if let Some(setting) = line.raw.strip_prefix("app ") {
                let app = settings.app.take().unwrap_or_else(|| AppSpec::new("1"));
                let (key, value) = setting.split_once(" = ").expect("a setting is `key = value`");
                settings.app = Some(app.set(key, value));
            } else if !line.raw.is_empty() && !line.raw.starts_with('#') {
                panic!("{}:{}: what is this? {}", self.path, line.number, line.raw);
            }
        }
        settings
    }

    /// What is expected of `actor` right after the line at `at`.
    pub fn answer_to(&self, at: usize, actor: &str) -> Vec<&str> {
        let following = self.lines[at + 1..].iter();
        let came = following.map_while(|line| match &line.is {
            Is::Came { actor: whose, text } if whose == actor => Some(text.as_str()),
            _ => None,
        });
        came.collect()
    }

    /// Everything that the server is seen to say.
    pub fn all_that_came(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match &line.is {
            Is::Came { text, .. } => Some(text.as_str()),
            _ => None,
        })
    }
}

impl Is {
    fn of(raw: &str) -> Is {
        let name: String = raw.chars().take_while(char::is_ascii_lowercase).collect();
        let text = |sign: &str| raw[name.len()..].strip_prefix(sign).map(|text| text.trim().to_owned());
        if let Some(text) = text("> ").filter(|_| !name.is_empty()) {
            return Is::Said { actor: name, text, details: Vec::new() };
        }
        match text("< ").filter(|_| !name.is_empty()) {
            Some(text) => Is::Came { actor: name, text },
            None => Is::Aside,
        }
    }
}
