//! Files that commands read.

use std::io::{self, Read};
use std::path::Path;

use super::error::CliError;
use crate::app::Secret;

/// Reads a file; `-` is stdin.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| CliError::File { path: path.to_owned(), error })
}

/// Reads a text; `-` is stdin.
pub(super) fn read_text(path: &Path) -> Result<String, CliError> {
    let not_utf8 = |error| CliError::File { path: path.to_owned(), error: io::Error::other(error) };
    String::from_utf8(read_file(path)?).map_err(not_utf8)
}

/// Reads a file that contains a secret; `-` is stdin. A secret in an argument could be read by
/// other users of the machine, and would be in the history of the shell.
pub(super) fn read_secret(path: &Path) -> Result<Secret, CliError> {
    Secret::parse(&read_text(path)?).ok_or_else(|| CliError::BadSecret { path: path.to_owned() })
}
