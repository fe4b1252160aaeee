//! The comparison table: one column per server, with the goals.

use super::{
    Record, Section, bars,
    markdown::{FAULTS, Table, cell, escape, faults},
    numbers::words,
    rows::{CASES, Row, is_ours},
    spread::{self, Spread},
};

pub const TABLE: &str = "compare";

/// `None` without runs of the comparison.
pub fn section(runs: &[&Record]) -> Option<Section> {
    if runs.is_empty() {
        return None;
    }
    let text = format!("## All servers\n\n{}", table(runs));
    let chart = bars::chart(runs).map(|drawing| (TABLE.to_owned(), drawing));
    Some(Section { text, charts: chart.into_iter().collect() })
}

fn table(runs: &[&Record]) -> String {
    let servers = spread::servers(runs);
    let mut head = vec![String::new(), "goal".to_owned()];
    head.extend(servers.iter().map(|server| escape(server)));
    let mut table = Table::new(&head);
    for case in CASES {
        let runs: Vec<&Record> = runs.iter().copied().filter(|run| run.case == case.name).collect();
        if !runs.is_empty() {
            table.row(&[format!("**{}**", case.title)]);
            case.rows.iter().for_each(|row| table.row(&cells(row, &runs, &servers)));
        }
    }
    let others = others(runs);
    if !others.is_empty() {
        table.row(&["**Also measured**".to_owned()]);
    }
    others.iter().for_each(|(case, figure)| table.row(&other_cells(case, figure, runs, &servers)));
    table.row(&fault_cells(runs, &servers));
    table.text()
}

fn cells(row: &Row, runs: &[&Record], servers: &[&str]) -> Vec<String> {
    let goal = row.goal.map_or_else(String::new, |goal| format!("≤ {goal}"));
    let mut cells = vec![row.title.to_owned(), goal];
    cells.extend(servers.iter().map(|server| {
        let own = runs.iter().filter(|run| run.server == *server);
        let spread = Spread::of(own.filter_map(|run| row.value(run, runs)));
        format!("{}{}", cell(spread), mark(row, server, spread))
    }));
    cells
}

/// Whether the median of a Fanfare server meets the goal. Empty for other servers.
fn mark(row: &Row, server: &str, spread: Option<Spread>) -> &'static str {
    match (row.goal, spread) {
        (Some(goal), Some(spread)) if is_ours(server) && spread.median <= goal => " met",
        (Some(_), Some(_)) if is_ours(server) => " **MISSED**",
        _ => "",
    }
}

fn fault_cells(runs: &[&Record], servers: &[&str]) -> Vec<String> {
    let mut cells = vec![format!("**{FAULTS}**, all runs"), "0".to_owned()];
    cells.extend(servers.iter().map(|server| {
        let own = runs.iter().copied().filter(|run| run.server == *server);
        faults(spread::faults(own))
    }));
    cells
}

/// Case and figure of every measurement without a row in [`CASES`].
fn others<'a>(runs: &[&'a Record]) -> Vec<(&'a str, &'a str)> {
    let is_known = |case: &str, figure: &str| {
        let mut rows = CASES.iter().filter(|known| known.name == case).flat_map(|known| known.rows);
        rows.any(|row| row.figure == figure)
    };
    let measured =
        runs.iter().flat_map(|run| run.figures.keys().map(|figure| (run.case.as_str(), figure.as_str())));
    spread::distinct(measured.filter(|(case, figure)| !is_known(case, figure)))
}

fn other_cells(case: &str, figure: &str, runs: &[&Record], servers: &[&str]) -> Vec<String> {
    let mut cells = vec![escape(&format!("{case}: {}", words(figure))), String::new()];
    cells.extend(servers.iter().map(|server| {
        let own = runs.iter().copied().filter(|run| run.case == case && run.server == *server);
        cell(Spread::of_figure(own, figure))
    }));
    cells
}
