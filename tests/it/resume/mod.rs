//! Resuming subscriptions (protocol.md 2.13, docs/resume.md).

mod haproxy;
mod losses;
mod recovery;
mod tokens;
