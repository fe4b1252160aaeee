//! Fanfare is a self-hosted realtime server for the Pusher protocol. Its unit of work is the
//! batch: the events of one HTTP request, published as a whole and delivered to the WebSocket
//! connections of every node.
//!
//! # The pipeline
//!
//! A batch passes through seven stages. To read the code, follow them in this order:
//!
//! | stage | module | |
//! | --- | --- | --- |
//! | 1 | [`http`] | verifies the signature and the limits of a request |
//! | 2 | [`batch`] | parses and validates the events, all or none |
//! | 3 | [`publish`] | encodes one publication per channel |
//! | 4 | [`backend`] | numbers, stores and publishes the entries in one script call |
//! | 5 | [`channels`] | orders the entries of each channel and repairs gaps |
//! | 6 | [`subscribers`] | has [`encode`] encode each event once per group, and pushes one buffer for each subscription |
//! | 7 | [`sockets`] | writes once per connection |
//!
//! Stages 1 to 4 run in the task of the HTTP connection. [`backend_events`] is the bounded queue
//! from the backend to stage 5 of every node, that of the publisher included. Stages 5 and 6 run
//! in the channels actor, one task per node.
//!
//! # Around the pipeline
//!
//! - [`server`] builds the parts of a [`node`], serves and drains it; [`cli`], [`config`],
//!   [`logging`] and [`reload`] belong to the binary.
//! - [`ws`] serves WebSocket connections: it parses messages of clients and sends commands to
//!   the channels actor. [`apps`] and [`sockets::connection_limit`] admit a connection.
//! - [`wire`] is the protocol as data, [`delta`] encodes deltas, [`filter`] evaluates tag
//!   filters. They do no IO.
//! - [`webhook`] delivers webhook events to the endpoints of an app.
//! - [`app`], [`channel`], [`event`], [`entry`], [`presence`] and [`webhook_event`] are the data
//!   types of all modules; [`limits`] contains the bounds, [`metrics`] the counters.
//!
//! # Documents
//!
//! The links lead from `target/doc` to the `docs` folder of the repository.
//!
//! - [Architecture]: the pipeline, the modules and the invariants of the code.
//! - [Design]: the promises P1 to P8, and how the code keeps them. Comments cite its sections as
//!   `design.md 4`.
//! - [Protocol]: the wire protocol in numbered clauses. Comments cite them as `protocol.md 2.4`.
//! - [Glossary]: one term per concept, with its type.
//! - [Decisions]: design choices and their price.
//!
//! [Architecture]: ../../../docs/explanation/architecture.md
//! [Design]: ../../../docs/design.md
//! [Protocol]: ../../../docs/protocol.md
//! [Glossary]: ../../../docs/glossary.md
//! [Decisions]: ../../../docs/decisions

// Construction.
pub mod listener;
pub mod node;
pub mod server;

// The edges, the pipeline, and the parts that these use.
pub mod apps;
pub mod backend;
pub mod backend_events;
pub mod batch;
pub mod channels;
pub mod delta;
pub mod encode;
pub mod http;
pub mod publish;
pub mod sockets;
pub mod subscribers;
pub mod webhook;
pub mod wire;
pub mod ws;

// Data types and functions that all modules share.
pub mod app;
pub mod auth;
pub mod capacity;
pub mod channel;
pub mod entry;
pub mod event;
pub mod files;
pub mod filter;
pub mod json;
pub mod limits;
pub mod log_limit;
pub mod metrics;
pub mod presence;
pub mod resume_tokens;
pub mod task;
pub mod tls;
pub mod webhook_event;

// The binary.
pub mod cli;
pub mod config;
pub mod logging;
pub mod reload;
