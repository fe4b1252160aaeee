//! Files that commands read.

use std::io::Read;
use std::path::Path;

use super::error::CliError;

/// Reads a file; `-` is stdin.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| CliError::File { path: path.to_owned(), error })
}
