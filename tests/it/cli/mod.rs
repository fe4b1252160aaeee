//! The command line: first steps, `fanfare import`, and `fanfare app`.

mod apps;
mod command_line;
mod import;
mod log;
