//! The backend that publishes a load, batch by batch.

use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::Outcome;
use crate::caller::{APP, Caller};
use crate::load::{Event, Load};
use crate::servers::{Fleet, Product, floor};

/// How a batch is told to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In one request, to each node in turn.
    Batch,
    /// In a request for each event, on one connection.
    OneByOne,
    /// The same, each on a connection of its own.
    AtOnce,
}

#[derive(Debug)]
pub enum Publisher {
    Http {
        callers: Vec<Caller>,
        /// By batch: the requests of each caller.
        batches: Vec<Vec<(usize, Vec<Vec<u8>>)>>,
    },
    Floor {
        load: Load,
        /// Of a batch, for one socket.
        bytes: usize,
        writes_each: bool,
    },
}

impl Publisher {
    /// For batches `0..batches`, which are made ready. `bytes` is what the floor
    /// writes to a socket.
    pub async fn start(
        fleet: &Fleet,
        load: Load,
        way: Way,
        batches: u32,
        bytes: usize,
    ) -> Outcome<Publisher> {
        if let Product::Floor { writes_each } = fleet.contender.product {
            return Ok(Publisher::Floor { load, bytes, writes_each });
        }
        let way = match fleet.contender.product {
            Product::Nchan { .. } => Way::OneByOne,
            _ => way,
        };
        let connections = match way {
            Way::Batch => fleet.nodes.len(),
            Way::OneByOne => 1,
            Way::AtOnce => (load.batch_channels * load.events) as usize,
        };
        let mut callers = Vec::new();
        for at in 0..connections {
            callers.push(Caller::connect(fleet.nodes[at % fleet.nodes.len()].address).await?);
        }
        let requests = |batch: u32| -> Outcome<_> {
            let events = load.batch(batch);
            let caller = batch as usize % callers.len();
            let one =
                |caller: usize, event: &Event| request(&fleet.contender.product, &callers[caller], event);
            Ok(match way {
                Way::Batch => vec![(caller, vec![batch_request(&callers[caller], &events)?])],
                Way::OneByOne => {
                    vec![(0, events.iter().map(|event| one(0, event)).collect::<Outcome<_>>()?)]
                }
                Way::AtOnce => {
                    let each = |(at, event)| Ok((at, vec![one(at, event)?]));
                    events.iter().enumerate().map(each).collect::<Outcome<_>>()?
                }
            })
        };
        let batches = (0..batches).map(requests).collect::<Outcome<_>>()?;
        Ok(Publisher::Http { callers, batches })
    }

    /// Until all answers are there.
    pub async fn publish(&mut self, fleet: &mut Fleet, batch: u32) -> Outcome<()> {
        match self {
            Publisher::Http { callers, batches } => {
                let requests = &batches[batch as usize];
                let sends = callers.iter_mut().enumerate().filter_map(|(at, caller)| {
                    let (_, requests) = requests.iter().find(|(of, _)| *of == at)?;
                    Some(caller.send_all(requests))
                });
                try_join_all(sends).await.map(drop)
            }
            Publisher::Floor { load, bytes, writes_each } => {
                let channels = load.channels_of(batch);
                let frames = load.events as usize;
                let batch = floor::Batch {
                    of: load.channels as usize,
                    first: channels.start as usize,
                    channels: channels.len(),
                    frames,
                    bytes: *bytes,
                    writes: if *writes_each { frames } else { 1 },
                };
                floor::write(&mut fleet.nodes[0].process, batch).await
            }
        }
    }

    /// Of the requests of a batch.
    pub fn http_bytes(&self, batch: u32) -> usize {
        match self {
            Publisher::Http { batches, .. } => {
                batches[batch as usize].iter().flat_map(|(_, requests)| requests).map(Vec::len).sum()
            }
            Publisher::Floor { .. } => 0,
        }
    }
}

fn request(product: &Product, caller: &Caller, event: &Event) -> Outcome<Vec<u8>> {
    match product {
        Product::Nchan { .. } => {
            Ok(caller.post(&format!("/publish/{}", event.channel), "application/json", &event.data))
        }
        _ => caller.signed(&APP, "/events", &body(event).to_string()),
    }
}

pub fn batch_request(caller: &Caller, events: &[Event]) -> Outcome<Vec<u8>> {
    let batch: Vec<Value> = events.iter().map(body).collect();
    caller.signed(&APP, "/batch_events", &json!({ "batch": batch }).to_string())
}

fn body(event: &Event) -> Value {
    json!({ "name": "price-changed", "channel": event.channel, "data": event.data })
}
