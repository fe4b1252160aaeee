//! Nodes behind HAProxy and nginx: paths, prefixes, client addresses.

mod changed_paths;
mod client_address;
mod haproxy;
mod nginx;
mod path_prefix;
