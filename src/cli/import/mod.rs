//! `fanfare import`: apps of soketi, Sockudo and Reverb, in our words.

mod draft;
mod reverb;
mod snake;
mod source;

use std::path::PathBuf;

use super::error::CliError;
use super::output;
use super::sign::read_file;
use crate::config;

use draft::Draft;
use source::Product;

pub use source::ImportError;

/// Turn the apps of a soketi, Sockudo or Reverb configuration into [[apps]].
///
/// The result goes to stdout. What has no equal is named on stderr, a line each.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// JSON or TOML of the other server, JSON of config/reverb.php, or a .env with REVERB_APP_…; - is stdin
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
        // Whoever puts it into a file gets one that is good.
        config::check_apps(&toml)?;
        let (product, count) = (source.product, drafts.len());
        let apps = if count == 1 { "app" } else { "apps" };
        Ok(output::line(&format!("# {count} {apps} of {product}\n\n{}", toml.trim_end()))?)
    }
}
