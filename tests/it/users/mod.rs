//! Users (protocol.md 1.7, 2.9, 2.10): sign-in, watchlists, termination of connections.

mod signin;
mod terminate_connections;
mod watchlist;
