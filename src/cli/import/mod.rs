//! `fanfare import`: converts apps of soketi, Sockudo and Reverb.

mod draft;
mod reverb;
mod snake;
mod source;

use std::path::PathBuf;

use super::error::CliError;
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
        let text = String::from_utf8_lossy(&read_file(&self.file)?).into_owned();
        let failed = |error| CliError::Import { path: self.file.clone(), error };
        let source = source::read(&text).map_err(failed)?;
        let drafts: Vec<Draft> = source
            .apps
            .iter()
            .enumerate()
            .map(|(index, app)| match source.product {
                Product::Reverb => reverb::draft(index, app),
                product => snake::draft(index, product, app),
            })
            .collect();
        let toml: String = drafts.iter().map(Draft::to_string).collect::<Vec<_>>().join("\n");
        for note in source.notes.iter().chain(drafts.iter().flat_map(|draft| &draft.notes)) {
            output::error(&output::printable(note));
        }
        // The output has to be a valid configuration file.
        config::check_apps(&toml)?;
        let (product, count) = (source.product, drafts.len());
        let apps = if count == 1 { "app" } else { "apps" };
        Ok(output::line(&format!("# {count} {apps} of {product}\n\n{}", toml.trim_end()))?)
    }
}
