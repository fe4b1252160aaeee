//! `attacks`: the effect of attacks, by one app or by a stranger with its public key, on another app
//! of the same node. Each figure of the victim is measured twice in the same run: calm, and during the
//! attack.

mod attack;
mod receiver;
mod victim;

use std::time::Duration;

use attack::{Attack, Target};
use receiver::Receiver;
use victim::{Observed, Victim};

use crate::journal::Journal;
use crate::record::{Faults, Record};
use crate::redis::Redis;
use crate::run::{Figures, percentile};
use crate::servers::fanfare;
use crate::{Bench, Outcome};

const CALM_TIME: Duration = Duration::from_secs(5);
/// Time of the attack in which the victim is observed.
const ATTACK_TIME: Duration = Duration::from_secs(10);

/// Runs all attacks whose name contains `--only`, on one node with Redis, for each build.
pub async fn attacks(bench: &Bench, journal: &mut Journal) -> Outcome<()> {
    for repeat in 0..bench.options.repeats {
        for attack in Attack::ALL.into_iter().filter(|attack| attack.name().contains(&bench.options.only)) {
            for (name, program) in bench.options.builds() {
                let redis = Redis::start_with(attack.redis_arguments()).await?;
                let (receiver, hanging) = (Receiver::start(true).await?, Receiver::start(false).await?);
                let settings =
                    [victim::settings(receiver.address), attack.settings(hanging.address)].concat();
                let node =
                    fanfare::start_with(&program, Some(&redis.url()), bench.cores(), &settings).await?;
                let target = Target { address: node.address };
                let mut victim = Victim::connect(node.address, receiver).await?;
                let before_bytes = node.process.resident_bytes()?;
                let calm = victim.observe(CALM_TIME).await?;
                let flood = attack.start(target)?;
                let attacked = victim.observe(ATTACK_TIME).await?;
                flood.stop()?;
                let mut figures = figures(&calm, &attacked);
                let more_bytes = node.process.resident_bytes()? - before_bytes;
                figures.insert("node_mb_more".into(), more_bytes / 1e6);
                figures.insert("redis_mb".into(), redis.process.resident_bytes()? / 1e6);
                journal.add(Record {
                    table: "attacks".into(),
                    case: attack.name().into(),
                    server: name,
                    repeat,
                    at: None,
                    figures,
                    faults: Faults::default(),
                })?;
            }
        }
    }
    Ok(())
}

fn figures(calm: &Observed, attacked: &Observed) -> Figures {
    let mut figures = Figures::new();
    for (phase, observed) in [("calm", calm), ("attacked", attacked)] {
        let kinds = [
            ("response", &observed.responses),
            ("delivery", &observed.deliveries),
            ("subscribe", &observed.subscriptions),
            ("webhook", &observed.webhooks),
        ];
        for (name, times) in kinds {
            let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
            ms.sort_by(f64::total_cmp);
            figures.extend(percentile(&ms, 0.99).map(|value| (format!("{name}_ms_p99_{phase}"), value)));
        }
    }
    figures.insert("failed".into(), attacked.failed as f64);
    figures
}
