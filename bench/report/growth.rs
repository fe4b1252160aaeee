//! Growth tables: costs as a function of one parameter.

use super::{
    Record, Section, lines,
    markdown::{Table, cell, escape, verdict},
    numbers::{number, words},
    spread::{self, Spread},
};

pub struct Growth {
    pub table: &'static str,
    pub title: &'static str,
    /// Unit of the parameter.
    pub unit: &'static str,
    /// The figure in the chart.
    pub drawn: &'static str,
}

pub const ALL: &[Growth] = &[
    growth("subscribers", "More subscribers", "subscribers of one channel", "cpu_us_per_event"),
    growth("channels", "More channels", "channels", "cpu_us_per_batch"),
    growth("batch", "Larger batches", "events in a batch", "cpu_us_per_event"),
    growth("payload", "Larger events", "bytes of an event", "cpu_us_per_event"),
    growth("nodes", "More nodes", "nodes", "cpu_us_per_batch"),
];

/// The first columns, in order. Other figures follow by name.
const FIRST: &[&str] = &[
    "cpu_us_per_event",
    "cpu_us_per_batch",
    "redis_cpu_us_per_batch",
    "answer_ms_median",
    "last_ms_median",
    "redis_messages_per_batch",
    "resident_mb",
];

/// Columns per table, for a readable page. Further servers get another table.
const COLUMNS_MAX: usize = 8;

const fn growth(table: &'static str, title: &'static str, unit: &'static str, drawn: &'static str) -> Growth {
    Growth { table, title, unit, drawn }
}

impl Growth {
    /// `None` without runs of this table. `all_servers` are the servers of the page in order, which
    /// determines their colours.
    pub fn section(&self, runs: &[&Record], all_servers: &[&str]) -> Option<Section> {
        if runs.is_empty() {
            return None;
        }
        let text = format!("## {}\n\n{}\n{}", self.title, verdict(runs), self.tables(runs));
        let chart = lines::chart(self, runs, all_servers).map(|drawing| (self.table.to_owned(), drawing));
        Some(Section { text, charts: chart.into_iter().collect() })
    }

    /// The tables, with up to [`COLUMNS_MAX`] columns each.
    fn tables(&self, runs: &[&Record]) -> String {
        let figures = spread::figures(runs, FIRST);
        let fit = (COLUMNS_MAX / figures.len().max(1)).max(1);
        let servers = spread::servers(runs);
        let tables = servers.chunks(fit).map(|servers| self.side_by_side(runs, servers));
        tables.collect::<Vec<_>>().join("\n")
    }

    fn side_by_side(&self, runs: &[&Record], servers: &[&str]) -> String {
        let of = |server: &str| runs.iter().copied().filter(|run| run.server == server).collect::<Vec<_>>();
        let groups = servers.iter().map(|server| (*server, of(server), spread::figures(&of(server), FIRST)));
        let groups: Vec<_> = groups.collect();
        let mut head = vec![self.unit.to_owned()];
        for (server, _, figures) in &groups {
            let name = |figure: &&str| format!("{}<br>{}", escape(server), escape(&words(figure)));
            head.extend(figures.iter().map(name));
        }
        let mut table = Table::new(&head);
        for at in points(groups.iter().flat_map(|(_, runs, _)| runs).copied()) {
            let mut cells = vec![number(at)];
            for (_, runs, figures) in &groups {
                let here: Vec<&Record> = runs.iter().copied().filter(|run| run.at == Some(at)).collect();
                let cell = |figure: &&str| cell(Spread::of_figure(here.iter().copied(), figure));
                cells.extend(figures.iter().map(cell));
            }
            table.row(&cells);
        }
        table.text()
    }
}

/// The measured parameter values, ascending.
pub fn points<'a>(runs: impl IntoIterator<Item = &'a Record>) -> Vec<f64> {
    let mut points: Vec<f64> = runs.into_iter().filter_map(|run| run.at).collect();
    points.sort_by(f64::total_cmp);
    points.dedup();
    points
}
