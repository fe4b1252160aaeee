//! Unmodified client libraries in Node, Python and a browser.

mod browser_page;
mod fanfare_js;
mod handshake;
mod official_libraries;
mod refusals;
mod sockudo_python;
mod users;
