//! The binary as people type it: a command that ends by itself.

use std::process::{Command, Output};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_fanfare");

/// A command without the settings of whoever runs the tests.
pub fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// What a command that ends by itself said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn run(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

pub fn fanfare(args: &[&str]) -> Said {
    run(bare(PROGRAM).args(args))
}

impl Said {
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    /// It failed, and said all of this on stderr.
    #[track_caller]
    pub fn expect_failure(self, words: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        self.err
    }
}
