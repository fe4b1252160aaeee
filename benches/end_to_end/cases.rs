//! What is measured, in which order.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::caller::{APP, Caller, EVENTS_PER_BATCH, Payload};
use super::crowd::{Crowd, Hello};
use super::fanfare_server::Node;
use super::floor::Floor;
use super::machine::{self, Cores};
use super::measure::{Pace, Stage};
use super::redis::Redis;
use super::table::{Memory, Script, Tables};
use super::{Options, Outcome, members};

const CHANNEL: &str = "bench";
/// Batches before anything is measured.
const WARM_UP: u32 = 20;
/// Idle sockets are looked at when what connecting them took has been given back.
const SETTLE: Duration = Duration::from_secs(2);
/// Connections that publish at once, and batches of each, where scripts are measured.
const SCRIPT_CALLERS: u32 = 4;
const SCRIPT_BATCHES: u32 = 1_500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Memory,
    Redis { nodes: usize },
}

const BACKENDS: [Backend; 3] = [Backend::Memory, Backend::Redis { nodes: 1 }, Backend::Redis { nodes: 2 }];

/// What the events are, and whether everyone has deltas on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Deltas,
    Random,
    RandomDeltas,
}

/// What is done besides delivering, on two nodes with Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Members {
    Subscribe,
    Join,
    Drop,
    List,
}

impl Members {
    fn name(self) -> &'static str {
        match self {
            Members::Subscribe => "subscribe",
            Members::Join => "presence join",
            Members::Drop => "drop of a crowd",
            Members::List => "list of 100,000 channels",
        }
    }
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Backend::Memory => "memory",
            Backend::Redis { nodes: 1 } => "Redis",
            Backend::Redis { .. } => "Redis, two nodes",
        }
    }
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Plain => "200 B",
            Form::Deltas => "1 KB, deltas",
            Form::Random => "1 KB random",
            Form::RandomDeltas => "1 KB random, deltas",
        }
    }

    fn has_deltas(self) -> bool {
        matches!(self, Form::Deltas | Form::RandomDeltas)
    }

    /// The backend makes no difference to what is random.
    fn backends(self) -> &'static [Backend] {
        match self {
            Form::Plain | Form::Deltas => &BACKENDS,
            Form::Random | Form::RandomDeltas => &[Backend::Memory],
        }
    }

    fn payload(self) -> Payload {
        match self {
            Form::Plain => Payload::Small,
            Form::Deltas => Payload::Large,
            Form::Random | Form::RandomDeltas => Payload::Random,
        }
    }
}

pub async fn run(options: &Options, cores: &Cores) -> Outcome<()> {
    let machine = machine::describe(cores);
    let mut tables = Tables::default();
    for repeat in 0..options.repeats {
        say(&format!("repeat {} of {}", repeat + 1, options.repeats));
        let bench = Bench { options, repeat, cores: cores.server() };
        for form in [Form::Plain, Form::Deltas, Form::Random, Form::RandomDeltas] {
            bench.form(form, &mut tables).await?;
        }
        bench.scripts(&mut tables).await?;
        for what in [Members::Subscribe, Members::Join, Members::Drop, Members::List] {
            bench.members(what, &mut tables).await?;
        }
    }
    tables.print(options, &machine)
}

struct Bench<'a> {
    options: &'a Options,
    repeat: u32,
    cores: Option<String>,
}

impl Bench<'_> {
    /// Everything with events of this form; the floor comes in between, with as
    /// many bytes as the servers have sent.
    async fn form(&self, form: Form, tables: &mut Tables) -> Outcome<()> {
        let mut floor_is_due = true;
        for &backend in form.backends() {
            for (server, program) in self.servers() {
                let name = self.name(server, &format!("{}, {}", backend.name(), form.name()));
                if !name.contains(&self.options.only) {
                    continue;
                }
                let stage = self.stage(backend, program).await?;
                let bytes = self.case(&name, form, stage, tables).await?;
                if std::mem::take(&mut floor_is_due) {
                    let floor = Floor::start(self.cores.as_deref()).await?;
                    self.case(&floor_name(form.name()), form, Stage::Floor { floor, bytes }, tables).await?;
                }
            }
        }
        Ok(())
    }

    /// Another first in each repeat: what comes first may find another machine.
    fn servers(&self) -> impl Iterator<Item = &(String, PathBuf)> {
        let servers = &self.options.servers;
        servers.iter().cycle().skip(self.repeat as usize % servers.len()).take(servers.len())
    }

    fn name(&self, server: &str, case: &str) -> String {
        match self.options.servers.len() {
            1 => case.to_owned(),
            _ => format!("{case}: {server}"),
        }
    }

    async fn stage(&self, backend: Backend, program: &Path) -> Outcome<Stage> {
        let (redis, count) = match backend {
            Backend::Memory => (None, 1),
            Backend::Redis { nodes } => (Some(Redis::start().await?), nodes),
        };
        let url = redis.as_ref().map(Redis::url);
        let (mut nodes, mut callers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let node = Node::start(program, url.as_deref(), self.cores.as_deref()).await?;
            callers.push(Caller::connect(node.address).await?);
            nodes.push(node);
        }
        Ok(Stage::Fanfare { nodes, redis, callers, requests: Vec::new() })
    }

    /// One server with its sockets: how much they take, what batches cost.
    /// Returns the bytes of a batch for one socket.
    async fn case(&self, name: &str, form: Form, mut stage: Stage, tables: &mut Tables) -> Outcome<usize> {
        let (sockets, count) = (self.options.sockets, self.options.batches);
        let batches = WARM_UP + 2 * count;
        stage.prepare(form.payload(), CHANNEL, batches)?;
        let (before_bytes, before_cpu) = (stage.resident_bytes()?, stage.cpu()?);
        let crowd = self.gather(&mut stage, form, batches).await?;
        sleep(SETTLE).await;
        let connecting = stage.cpu()? - before_cpu;
        let idle_bytes = stage.resident_bytes()?;

        stage.run(&crowd, sockets, 0, WARM_UP, Pace::OneByOne).await?;
        let mut bytes = 0.0;
        for (at, pace) in [Pace::OneByOne, Pace::Clock].into_iter().enumerate() {
            let run = stage.run(&crowd, sockets, WARM_UP + at as u32 * count, count, pace).await?;
            bytes = run.bytes / run.batches / run.sockets;
            say(&format!(
                "  {name}, {}: {:.3} µs per event",
                pace.name(),
                run.cpu.total() * 1e6 / run.deliveries()
            ));
            tables.add_run(name, form.name(), pace, run);
        }
        sleep(SETTLE).await;
        tables.add_memory(
            name,
            Memory {
                before_bytes,
                idle_bytes,
                after_bytes: stage.resident_bytes()?,
                connect_cpu: connecting.total() / f64::from(sockets),
                sockets: sockets.into(),
            },
        );
        Ok(bytes.round() as usize)
    }

    async fn gather(&self, stage: &mut Stage, form: Form, batches: u32) -> Outcome<Crowd> {
        let sockets = self.options.sockets;
        match stage {
            Stage::Fanfare { nodes, .. } => {
                let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
                let (key, channel) = (APP.key, CHANNEL.to_owned());
                let hello = Hello::Subscribe { key, channel, deltas: form.has_deltas() };
                Crowd::gather(&addresses, sockets, &hello, batches, EVENTS_PER_BATCH).await
            }
            Stage::Floor { floor, .. } => {
                let address = [floor.address];
                let gathered = Crowd::gather(&address, sockets, &Hello::Nothing, batches, EVENTS_PER_BATCH);
                let (crowd, ()) = tokio::try_join!(gathered, floor.accept(sockets))?;
                Ok(crowd)
            }
        }
    }

    async fn members(&self, what: Members, tables: &mut Tables) -> Outcome<()> {
        for (server, program) in self.servers() {
            let name = self.name(server, what.name());
            if !name.contains(&self.options.only) {
                continue;
            }
            let stage = self.stage(Backend::Redis { nodes: 2 }, program).await?;
            let Stage::Fanfare { nodes, redis: Some(redis), .. } = &stage else {
                return Err("the stage has no Redis".into());
            };
            say(&format!("  {name}"));
            let figures = match what {
                Members::Subscribe => members::subscribe(nodes, redis).await?,
                Members::Join => members::join(nodes, redis).await?,
                Members::Drop => members::rush(nodes, self.options.dropped as usize).await?,
                Members::List => members::list(nodes, redis).await?,
            };
            figures.into_iter().for_each(|figure| tables.add_beside(&name, figure));
        }
        Ok(())
    }

    /// What a batch takes of Redis, where hardly anybody is there to hear it.
    async fn scripts(&self, tables: &mut Tables) -> Outcome<()> {
        for payload in [Payload::Small, Payload::Large] {
            for (server, program) in self.servers() {
                let name = self.name(server, &format!("script, ten events of {} B", payload.bytes()));
                if name.contains(&self.options.only) {
                    let script = self.script(payload, program).await?;
                    say(&format!("  {name}: {:.1} µs", script.usec_per_call));
                    tables.add_script(&name, script);
                }
            }
        }
        Ok(())
    }

    async fn script(&self, payload: Payload, program: &Path) -> Outcome<Script> {
        let stage = self.stage(Backend::Redis { nodes: 1 }, program).await?;
        let Stage::Fanfare { nodes, redis: Some(redis), .. } = &stage else {
            return Err("the stage has no Redis".into());
        };
        let (mut callers, mut crowds) = (JoinSet::new(), Vec::new());
        let mut ready = Vec::new();
        for at in 0..SCRIPT_CALLERS {
            let (key, channel) = (APP.key, format!("{CHANNEL}-{at}"));
            let hello = Hello::Subscribe { key, channel: channel.clone(), deltas: false };
            crowds
                .push(Crowd::gather(&[nodes[0].address], 1, &hello, SCRIPT_BATCHES, EVENTS_PER_BATCH).await?);
            let caller = Caller::connect(nodes[0].address).await?;
            let bodies = (0..SCRIPT_BATCHES).map(|batch| payload.batch(&channel, batch.into()));
            let requests = bodies.map(|body| caller.request(&APP, &body)).collect::<Outcome<Vec<_>>>()?;
            ready.push((caller, requests));
        }
        let (scripts, redis_cpu, cpu) = (redis.scripts().await?, redis.process.cpu()?, stage.cpu()?);
        let started = Instant::now();
        for (mut caller, requests) in ready {
            callers.spawn(async move {
                for request in &requests {
                    caller.send(request).await?;
                }
                Outcome::Ok(())
            });
        }
        while let Some(sent) = callers.join_next().await {
            sent??;
        }
        let seconds = started.elapsed().as_secs_f64();
        let scripts = redis.scripts().await? - scripts;
        let batches = f64::from(SCRIPT_CALLERS * SCRIPT_BATCHES);
        Ok(Script {
            usec_per_call: scripts.usec / scripts.calls,
            redis_cpu: (redis.process.cpu()? - redis_cpu).total() / batches,
            server_cpu: (stage.cpu()? - cpu).total() / batches,
            batches_per_second: batches / seconds,
        })
    }
}

pub fn floor_name(form: &str) -> String {
    format!("kernel floor, {form}")
}

/// How it goes, for whoever waits: the tables come at the end.
fn say(what: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{what}");
}
