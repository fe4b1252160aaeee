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
#![allow(dead_code, reason = "the actors may offer methods that no test uses yet")]

mod support;

mod apps;
mod bad_input;
mod batch_events;
mod bench_report;
mod cache;
mod channel_state;
mod client_events;
mod conflation;
mod connect;
mod connection_quota;
mod contract;
mod delta_optin;
mod delta_policy;
mod encrypted;
mod filters;
mod handshake;
mod http_auth;
mod http_channels;
mod http_events;
mod import;
mod keepalive;
mod limits;
mod lua;
mod message_limits;
mod module_graph;
mod origins;
mod path_prefix;
mod paths;
mod presence;
mod private;
mod proxied;
mod public;
mod queries;
mod rate_limits;
mod signin;
mod slow_client;
mod subscription_counts;
mod tidy;
mod transcripts;
mod users_api;
mod watchlist;
mod writers;

#[path = "support/witness.rs"]
mod witness;

mod costs;
mod crowd;
mod fork;
mod join_race;
mod lease;
mod many_channels;
mod mass_drop;
mod presence_cluster;
mod presence_deaths;
mod redis_away;
mod repair;
mod resume;
mod resume_cluster;
mod resume_haproxy;
mod run_once;
mod two_nodes;
mod webhook_faults;
mod webhooks;

mod browser_page;
mod client_families;
mod client_handshake;
mod client_refusals;
mod client_users;
mod command_line;
mod delta_clients;
mod delta_decoders;
mod delta_fuzz;
mod documents;
mod drain;
mod fanfare_js;
mod haproxy_cluster;
mod keep_alive;
mod nginx;
mod real_clients;
mod reference;
mod sockudo_python;
