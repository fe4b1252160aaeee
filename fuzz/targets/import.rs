//! A file for `fanfare import`: any bytes are converted to a valid configuration, or refused with
//! an error.

#![no_main]

use fanfare::cli::convert_apps;
use fanfare::config::check_apps;

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    match convert_apps(file) {
        Ok(imported) => check_apps(&imported.toml).expect("a valid configuration"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
