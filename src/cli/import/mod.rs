//! `fanfare import`: converts apps of soketi, Sockudo and Reverb.

mod draft;
mod reverb;
mod snake;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use super::error::{CliError, ImportError};
use super::input::read_file;
use super::output;
use crate::config;

use draft::Draft;
use source::Product;

/// Convert the apps of a soketi, Sockudo or Reverb configuration to [[apps]].
///
/// The result goes to stdout. Settings without an equivalent are listed on stderr, one per line.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// Configuration in JSON or TOML, config/reverb.php as JSON, or a .env with
    /// REVERB_APP_…; - is stdin
    file: PathBuf,
}

impl Import {
    pub(super) fn run(self) -> Result<(), CliError> {
        let failed = |error| CliError::Import { path: self.file.clone(), error };
        let Imported { toml, notes } = convert(&read_file(&self.file)?).map_err(failed)?;
        notes.iter().for_each(|note| output::error(&output::printable(note)));
        Ok(output::line(&toml)?)
    }
}

/// A configuration with the apps of another one.
#[derive(Debug)]
pub struct Imported {
    pub toml: String,
    /// Settings that are not converted, or only in part.
    pub notes: Vec<String>,
}

/// Converts the bytes of a configuration file.
pub fn convert(file: &[u8]) -> Result<Imported, ImportError> {
    let source = source::read(&String::from_utf8_lossy(file))?;
    let mut drafts = Vec::new();
    for (index, app) in source.apps.iter().enumerate() {
        drafts.push(match source.product {
            Product::Reverb => reverb::draft(index, app),
            product => snake::draft(index, product, app),
        });
    }
    let toml: String = drafts.iter().map(Draft::to_string).collect::<Vec<_>>().join("\n");
    // The output has to be a valid configuration file.
    config::check_apps(&toml).map_err(ImportError::Refused)?;
    let (product, count) = (source.product, drafts.len());
    let apps = if count == 1 { "app" } else { "apps" };
    let notes = source.notes.into_iter().chain(drafts.into_iter().flat_map(|draft| draft.notes)).collect();
    Ok(Imported { toml: format!("# {count} {apps} of {product}\n\n{}", toml.trim_end()), notes })
}
