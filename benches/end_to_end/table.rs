//! Medians over the repeats, as Markdown.

use std::io::Write;

use super::cases::floor_name;
use super::measure::{Pace, Run};
use super::{Options, Outcome};

#[derive(Debug, Default)]
pub struct Tables {
    runs: Vec<Row<RunKey, Run>>,
    memory: Vec<Row<String, Memory>>,
    scripts: Vec<Row<String, Script>>,
    beside: Vec<Row<BesideKey, Beside>>,
}

/// All repeats of one thing.
#[derive(Debug)]
struct Row<K, T> {
    key: K,
    repeats: Vec<T>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RunKey {
    case: String,
    form: &'static str,
    pace: Pace,
}

/// Of all nodes together.
#[derive(Debug)]
pub struct Memory {
    pub before_bytes: f64,
    pub idle_bytes: f64,
    pub after_bytes: f64,
    /// Seconds to connect and subscribe one socket.
    pub connect_cpu: f64,
    pub sockets: f64,
}

#[derive(Debug)]
pub struct Script {
    pub usec_per_call: f64,
    pub redis_cpu: f64,
    pub server_cpu: f64,
    pub batches_per_second: f64,
}

#[derive(Debug, PartialEq, Eq)]
struct BesideKey {
    case: String,
    what: &'static str,
}

/// A figure, and one measured in the same minute that says what it means here.
#[derive(Debug)]
pub struct Beside {
    what: &'static str,
    value: f64,
    other: &'static str,
    other_value: f64,
}

impl Beside {
    pub fn new(what: &'static str, value: f64, other: &'static str, other_value: f64) -> Beside {
        Beside { what, value, other, other_value }
    }
}

impl Pace {
    pub fn name(self) -> &'static str {
        match self {
            Pace::OneByOne => "one by one",
            Pace::Clock => "20 per second",
        }
    }
}

impl Tables {
    pub fn add_run(&mut self, case: &str, form: &'static str, pace: Pace, run: Run) {
        add(&mut self.runs, RunKey { case: case.into(), form, pace }, run);
    }

    pub fn add_memory(&mut self, case: &str, memory: Memory) {
        add(&mut self.memory, case.into(), memory);
    }

    pub fn add_script(&mut self, case: &str, script: Script) {
        add(&mut self.scripts, case.into(), script);
    }

    pub fn add_beside(&mut self, case: &str, beside: Beside) {
        add(&mut self.beside, BesideKey { case: case.into(), what: beside.what }, beside);
    }

    pub fn print(&self, options: &Options, machine: &str) -> Outcome<()> {
        let mut out = std::io::stdout().lock();
        let Options { sockets, batches, repeats, .. } = options;
        writeln!(out, "\n{machine}\n")?;
        writeln!(
            out,
            "{repeats} repeats: medians, in parentheses lowest and highest. What is delivered: {batches} batches of \
             ten events to {sockets} sockets on one channel.\n"
        )?;
        if !self.runs.is_empty() {
            self.print_runs(&mut out)?;
            self.print_memory(&mut out)?;
        }
        self.print_scripts(&mut out)?;
        self.print_beside(&mut out)?;
        Ok(())
    }

    fn print_runs(&self, out: &mut impl Write) -> Outcome<()> {
        writeln!(
            out,
            "| case | batches | CPU µs per delivered event | × floor | in user space | CPU µs per batch | \
             answer, ms: median, p99 | last socket has it, ms: median, p99 | writes per socket and batch | \
             bytes per socket and batch | Redis CPU µs per batch |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for Row { key, repeats } in &self.runs {
            let each = |figure: &dyn Fn(&Run) -> f64| median(&repeats.iter().map(figure).collect::<Vec<_>>());
            let is_floor = key.case == floor_name(key.form);
            let per_event = |run: &Run| run.cpu.total() * 1e6 / run.deliveries();
            let answers = |share: f64| each(&|run| percentile(&run.answers, share) * 1e3);
            let lasts = |share: f64| each(&|run| percentile(&run.lasts, share) * 1e3);
            let if_served = |text: String| if is_floor { "–".to_owned() } else { text };
            let redis: Vec<f64> =
                repeats.iter().filter_map(|run| Some(run.redis_cpu? * 1e6 / run.batches)).collect();
            writeln!(
                out,
                "| {} | {} | {} | {} | {:.2} | {:.0} | {} | {:.1}, {:.1} | {} | {:.0} | {} |",
                key.case,
                key.pace.name(),
                range(&repeats.iter().map(per_event).collect::<Vec<_>>()),
                range(&self.ratios(key, repeats)),
                each(&|run| run.cpu.user * 1e6 / run.deliveries()),
                each(&|run| run.cpu.total() * 1e6 / run.batches),
                if_served(format!("{:.2}, {:.2}", answers(0.5), answers(0.99))),
                lasts(0.5),
                lasts(0.99),
                if_served(format!(
                    "{:.4}",
                    each(&|run| run.writes.unwrap_or(f64::NAN) / run.sockets / run.batches)
                )),
                each(&|run| run.bytes / run.sockets / run.batches),
                optional(&redis),
            )?;
        }
        Ok(())
    }

    /// Each repeat with the floor of the same repeat.
    fn ratios(&self, key: &RunKey, repeats: &[Run]) -> Vec<f64> {
        let floor = RunKey { case: floor_name(key.form), ..key.clone() };
        let floors = self.runs.iter().find(|row| row.key == floor).map(|row| row.repeats.as_slice());
        let per_event = |run: &Run| run.cpu.total() / run.deliveries();
        repeats
            .iter()
            .zip(floors.unwrap_or_default())
            .map(|(run, floor)| per_event(run) / per_event(floor))
            .collect()
    }

    fn print_memory(&self, out: &mut impl Write) -> Outcome<()> {
        writeln!(
            out,
            "\n| case | resident KB per idle socket | MB without sockets | MB after the run | \
             CPU µs per connect and subscribe |\n| --- | --- | --- | --- | --- |"
        )?;
        for Row { key, repeats } in &self.memory {
            let each =
                |figure: &dyn Fn(&Memory) -> f64| median(&repeats.iter().map(figure).collect::<Vec<_>>());
            let per_socket = |memory: &Memory| (memory.idle_bytes - memory.before_bytes) / memory.sockets;
            writeln!(
                out,
                "| {key} | {} | {:.1} | {:.1} | {:.0} |",
                range(&repeats.iter().map(|memory| per_socket(memory) / 1024.0).collect::<Vec<_>>()),
                each(&|memory| memory.before_bytes / 1024.0 / 1024.0),
                each(&|memory| memory.after_bytes / 1024.0 / 1024.0),
                each(&|memory| memory.connect_cpu * 1e6),
            )?;
        }
        Ok(())
    }

    fn print_scripts(&self, out: &mut impl Write) -> Outcome<()> {
        if self.scripts.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n| four callers, one subscriber each | µs in Redis per script | Redis CPU µs per batch | \
             server CPU µs per batch | batches per second |\n| --- | --- | --- | --- | --- |"
        )?;
        for Row { key, repeats } in &self.scripts {
            let each =
                |figure: &dyn Fn(&Script) -> f64| median(&repeats.iter().map(figure).collect::<Vec<_>>());
            writeln!(
                out,
                "| {key} | {} | {:.0} | {:.0} | {:.0} |",
                range(&repeats.iter().map(|script| script.usec_per_call).collect::<Vec<_>>()),
                each(&|script| script.redis_cpu * 1e6),
                each(&|script| script.server_cpu * 1e6),
                each(&|script| script.batches_per_second),
            )?;
        }
        Ok(())
    }
}

impl Tables {
    fn print_beside(&self, out: &mut impl Write) -> Outcome<()> {
        if self.beside.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n| two nodes on Redis | figure | measured | beside | measured | ratio |\n\
             | --- | --- | --- | --- | --- | --- |"
        )?;
        for Row { key: BesideKey { case, what }, repeats } in &self.beside {
            let each = |figure: &dyn Fn(&Beside) -> f64| repeats.iter().map(figure).collect::<Vec<_>>();
            writeln!(
                out,
                "| {case} | {what} | {} | {} | {} | {} |",
                range(&each(&|it| it.value)),
                repeats[0].other,
                range(&each(&|it| it.other_value)),
                range(&each(&|it| it.value / it.other_value)),
            )?;
        }
        Ok(())
    }
}

fn add<K: PartialEq, T>(rows: &mut Vec<Row<K, T>>, key: K, value: T) {
    match rows.iter_mut().find(|row| row.key == key) {
        Some(row) => row.repeats.push(value),
        None => rows.push(Row { key, repeats: vec![value] }),
    }
}

fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// Of no values: not a number.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn range(values: &[f64]) -> String {
    if values.is_empty() {
        return "–".into();
    }
    let (lowest, highest) = (percentile(values, 0.0), percentile(values, 1.0));
    let digits = if highest < 10.0 { 2 } else { 1 };
    format!("{:.digits$} ({lowest:.digits$}–{highest:.digits$})", median(values))
}

fn optional(values: &[f64]) -> String {
    if values.is_empty() { "–".into() } else { format!("{:.0}", median(values)) }
}
