//! Publishes the batches of a load over HTTP, or through the floor.

use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::Outcome;
use crate::http_client::{APP, HttpClient};
use crate::load::{Event, Load};
use crate::servers::{Cluster, Product, floor};

/// The requests that publish a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishMode {
    /// One request per batch, to the nodes in turn.
    Batch,
    /// One request per event, sequentially on one connection.
    Sequential,
    /// One request per event, concurrently on a connection each.
    Concurrent,
}

#[derive(Debug)]
pub enum Publisher {
    Http {
        http_clients: Vec<HttpClient>,
        /// By batch: the requests of each client, by the index of the client.
        batches: Vec<Vec<(usize, Vec<Vec<u8>>)>>,
    },
    Floor {
        load: Load,
        /// Size of a batch for one socket.
        bytes: usize,
        writes_each: bool,
    },
}

impl Publisher {
    /// Connects, and encodes and signs the requests of batches `0..batches`. `bytes` is the size
    /// of a batch for one socket, used by the floor only.
    pub async fn start(
        cluster: &Cluster,
        load: Load,
        mode: PublishMode,
        batches: u32,
        bytes: usize,
    ) -> Outcome<Publisher> {
        if let Product::Floor { writes_each } = cluster.contender.product {
            return Ok(Publisher::Floor { load, bytes, writes_each });
        }
        let mode = match cluster.contender.product {
            Product::Nchan { .. } => PublishMode::Sequential,
            _ => mode,
        };
        let connections = match mode {
            PublishMode::Batch => cluster.nodes.len(),
            PublishMode::Sequential => 1,
            PublishMode::Concurrent => (load.batch_channels * load.events) as usize,
        };
        let mut http_clients = Vec::new();
        for at in 0..connections {
            http_clients.push(HttpClient::connect(cluster.nodes[at % cluster.nodes.len()].address).await?);
        }
        let requests = |batch: u32| -> Outcome<_> {
            let events = load.batch(batch);
            let index = batch as usize % http_clients.len();
            let one = |index: usize, event: &Event| {
                request(&cluster.contender.product, &http_clients[index], event)
            };
            Ok(match mode {
                PublishMode::Batch => vec![(index, vec![batch_request(&http_clients[index], &events)?])],
                PublishMode::Sequential => {
                    vec![(0, events.iter().map(|event| one(0, event)).collect::<Outcome<_>>()?)]
                }
                PublishMode::Concurrent => {
                    let each = |(index, event)| Ok((index, vec![one(index, event)?]));
                    events.iter().enumerate().map(each).collect::<Outcome<_>>()?
                }
            })
        };
        let batches = (0..batches).map(requests).collect::<Outcome<_>>()?;
        Ok(Publisher::Http { http_clients, batches })
    }

    /// Publishes a batch. Completes with the last response.
    pub async fn publish(&mut self, cluster: &mut Cluster, batch: u32) -> Outcome<()> {
        match self {
            Publisher::Http { http_clients, batches } => {
                let requests = &batches[batch as usize];
                let sends = http_clients.iter_mut().enumerate().filter_map(|(index, http_client)| {
                    let (_, requests) = requests.iter().find(|(client, _)| *client == index)?;
                    Some(http_client.send_all(requests))
                });
                try_join_all(sends).await.map(drop)
            }
            Publisher::Floor { load, bytes, writes_each } => {
                let channels = load.channels_of(batch);
                let frames = load.events as usize;
                let batch = floor::Batch {
                    channels: load.channels as usize,
                    first: channels.start as usize,
                    batch_channels: channels.len(),
                    frames,
                    bytes: *bytes,
                    writes: if *writes_each { frames } else { 1 },
                };
                floor::write(&mut cluster.nodes[0].process, batch).await
            }
        }
    }

    /// Total size of the requests of a batch. 0 for the floor.
    pub fn http_bytes(&self, batch: u32) -> usize {
        match self {
            Publisher::Http { batches, .. } => {
                batches[batch as usize].iter().flat_map(|(_, requests)| requests).map(Vec::len).sum()
            }
            Publisher::Floor { .. } => 0,
        }
    }
}

fn request(product: &Product, http_client: &HttpClient, event: &Event) -> Outcome<Vec<u8>> {
    match product {
        Product::Nchan { .. } => {
            Ok(http_client.post(&format!("/publish/{}", event.channel), "application/json", &event.data))
        }
        _ => http_client.signed(&APP, "/events", &body(event).to_string()),
    }
}

pub fn batch_request(http_client: &HttpClient, events: &[Event]) -> Outcome<Vec<u8>> {
    let batch: Vec<Value> = events.iter().map(body).collect();
    http_client.signed(&APP, "/batch_events", &json!({ "batch": batch }).to_string())
}

fn body(event: &Event) -> Value {
    json!({ "name": "price-changed", "channel": event.channel, "data": event.data })
}
