//! The binary as used in a shell: a command that exits by itself.

use std::process::{Command, Output};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare");

/// A command without the `FANFARE_` settings of the environment that runs the
/// tests.
pub fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// The output and exit code of a command.
pub struct CommandOutput {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn run(command: &mut Command) -> CommandOutput {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    CommandOutput { code: status.code(), out: text(stdout), err: text(stderr) }
}

pub fn fanfare(args: &[&str]) -> CommandOutput {
    run(bare(PROGRAM).args(args))
}

impl CommandOutput {
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// The command failed, and its stderr contains all of these words.
    #[track_caller]
    pub fn expect_failure(self, words: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self.err
    }
}

/// A file with a secret, for options such as `--secret-file`.
pub struct SecretFile(tempfile::NamedTempFile);

impl SecretFile {
    pub fn new(secret: &str) -> SecretFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), secret).unwrap();
        SecretFile(file)
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}
