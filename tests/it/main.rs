//! All tests that need a running server, in one binary.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic fails the test, and its output explains the failure"
)]
#![allow(
    unreachable_pub,
    reason = "a test binary exports nothing, so narrower visibility would only be noise"
)]

mod backend;
mod cli;
mod clients;
mod cluster;
mod connections;
mod deltas;
mod http;
mod limits;
mod presence;
mod proxies;
mod repository;
mod resume;
mod subscriptions;
mod support;
mod transcripts;
mod users;
mod webhooks;
