//! The command line: first steps, `fanfare import`, `fanfare app`, and signals.

mod apps;
mod command_line;
mod import;
mod log;
mod signals;
