//! The page and the charts of `scripts/bench`, from synthetic records.

use std::{collections::BTreeMap, error::Error, fs};

#[path = "../../../bench/record.rs"]
mod record;
#[path = "../../../bench/report/mod.rs"]
mod report;

use record::{Faults, Head, Record};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const FLOOR: &str = "kernel floor";

fn head() -> Head {
    Head {
        machine: "4 cores, Linux 6".into(),
        command: "scripts/bench --repeats 3".into(),
        versions: BTreeMap::from([("redis".into(), "7.0".into())]),
        // A leap day.
        started: 1_709_210_040,
        is_pinned: true,
    }
}

fn run(table: &str, case: &str, server: &str, repeat: u32, figures: &[(&str, f64)]) -> Record {
    let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let (table, case, server) = (table.to_owned(), case.to_owned(), server.to_owned());
    Record { table, case, server, repeat, at: None, figures, faults: Faults::default() }
}

/// One run per value, each a repeat.
fn runs(table: &str, case: &str, server: &str, figure: &str, values: &[f64]) -> Vec<Record> {
    let runs = values.iter().zip(0..);
    runs.map(|(value, repeat)| run(table, case, server, repeat, &[(figure, *value)])).collect()
}

fn compared(server: &str, values: &[f64]) -> Vec<Record> {
    runs("compare", "one-channel", server, "cpu_us_per_event", values)
}

fn at(at: f64, mut runs: Vec<Record>) -> Vec<Record> {
    runs.iter_mut().for_each(|run| run.at = Some(at));
    runs
}

/// All files, by name.
fn written(head: &Head, records: &[Record]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    report::write(head, records, &folder.path().join("new"), "run").unwrap();
    let files = fs::read_dir(folder.path().join("new")).unwrap().map(|file| file.unwrap());
    files
        .map(|file| (file.file_name().into_string().unwrap(), fs::read_to_string(file.path()).unwrap()))
        .collect()
}

fn page(records: &[Record]) -> String {
    written(&head(), records).remove("run.md").unwrap()
}

/// The cells of the row with this beginning.
fn row(page: &str, beginning: &str) -> Vec<String> {
    let line = page.lines().find(|line| line.starts_with(&format!("| {beginning}")));
    let line = line.unwrap_or_else(|| panic!("no row {beginning} in\n{page}"));
    line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn report_cell_shows_median_and_range_of_repeats() {
    let records =
        [compared(FLOOR, &[0.5, 0.4]), compared("Sockudo", &[7.5, 6.0, 6.25]), compared("nchan", &[5.0])];
    let page = page(&records.concat());
    assert_eq!(row(&page, " |")[2..], [FLOOR, "Sockudo", "nchan"]);
    let cells = row(&page, "CPU µs per delivered event");
    assert_eq!(cells[1..], ["≤ 0.7", "0.450 (0.400 to 0.500)", "6.25 (6 to 7.50)", "5"]);
    assert_eq!(row(&page, "HTTP answer to a batch, ms, 99th")[2..], ["–", "–", "–"]);
}

#[test]
fn report_ratio_is_computed_within_each_repeat() {
    // The floor doubled in the second repeat, and so did the server.
    let page = page(&[compared(FLOOR, &[0.4, 0.8]), compared("Fanfare, memory", &[0.5, 1.0, 9.0])].concat());
    assert_eq!(row(&page, "the same, × kernel floor")[1..], ["≤ 1.3", "1", "1.25 met"]);
}

#[test]
fn report_goals_apply_to_fanfare_only() {
    let records =
        [compared("Fanfare, memory", &[0.7]), compared("Fanfare, Redis", &[0.71]), compared("nchan", &[0.1])];
    let page = page(&records.concat());
    assert_eq!(row(&page, "CPU µs per delivered event")[2..], ["0.700 met", "0.710 **MISSED**", "0.100"]);
}

#[test]
fn report_sums_and_marks_faults_in_every_table() {
    let mut records = [compared("Fanfare, memory", &[0.5, 0.5]), compared("nchan", &[5.0])].concat();
    records[0].faults.lost = 1;
    records[1].faults = Faults { lost: 2, closed: 4, ..Faults::default() };
    records.extend(at(10.0, runs("nodes", "nodes", "Fanfare, Redis", "cpu_us_per_batch", &[900.0])));
    records.extend(runs("script", "100 events", "Fanfare, Redis", "redis_cpu_us", &[55.0]));
    records.last_mut().unwrap().faults.reordered = 7;
    let page = page(&records);
    let cells = row(&page, "**lost / duplicated");
    assert_eq!(cells[2..], ["**3** / 0 / 0 / 0 / **4** **FAULT**", "0 / 0 / 0 / 0 / 0"]);
    assert!(page.contains("## More nodes\n\nRepeats: 1. Nothing lost"), "{page}");
    assert!(page.contains("0 / 0 / **7** / 0 / 0 **FAULT**"), "{page}");
}

#[test]
fn report_shows_unknown_names_escaped() {
    let mut records = compared("a|b <i>&*", &[1.0]);
    records.extend(runs("compare", "new_case", "nchan", "new_us_per_thing", &[3.0]));
    records.extend(runs("new-table", "x|y", "nchan", "cpu_us_per_dream", &[4.0]));
    let mut files = written(&head(), &records);
    let page = files.remove("run.md").unwrap();
    assert!(page.contains("a\\|b &lt;i&gt;&amp;\\*"), "{page}");
    assert_eq!(row(&page, "new\\_case: new µs per thing")[2..], ["–", "3"]);
    assert!(page.contains("## New table\n") && page.contains("| nchan | CPU µs per dream |"), "{page}");
    assert!(page.contains("| x\\|y | 4 |"), "{page}");
    let chart = &files["run-compare.svg"];
    assert!(chart.contains("a|b &lt;i&gt;&amp;*") && !chart.contains("<i>"), "{chart}");
}

#[test]
fn report_has_table_and_chart_for_scaling_runs() {
    let grown = |at_, values: &[f64]| {
        at(at_, runs("subscribers", "subscribers", "Fanfare, memory", "cpu_us_per_event", values))
    };
    let mut files = written(&head(), &[grown(15_000.0, &[0.5, 0.6, 0.7]), grown(1.0, &[40.0])].concat());
    let page = files.remove("run.md").unwrap();
    assert_eq!(row(&page, "subscribers of one channel")[1], "Fanfare, memory<br>CPU µs per event");
    let (first, second) =
        (page.find("| 1 | 40 |").unwrap(), page.find("| 15,000 | 0.600 (0.500 to 0.700) |").unwrap());
    assert!(first < second, "{page}");
    assert!(page.contains("](run-subscribers.svg)"), "{page}");
    let chart = &files["run-subscribers.svg"];
    assert!(
        chart.contains("Fanfare, memory") && chart.contains("log scale") && !chart.contains("NaN"),
        "{chart}"
    );
}

#[test]
fn report_head_shows_command_date_and_versions() {
    let records = compared("nchan", &[5.0]);
    let text = page(&records);
    assert!(text.contains("    scripts/bench --repeats 3\n") && text.contains("- redis: 7.0\n"), "{text}");
    assert!(text.contains("- Date: 2024-02-29 12:34 UTC\n"), "{text}");
    assert!(!text.contains("Not comparable"), "{text}");
    let unpinned = written(&Head { is_pinned: false, ..head() }, &records);
    assert!(unpinned["run.md"].contains("**Not comparable"), "{unpinned:?}");
}

#[test]
fn report_records_round_trip_through_file() {
    let records = [compared(FLOOR, &[0.5, 0.4]), at(3.0, compared("nchan", &[5.0]))].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let lines = records.iter().map(|record| serde_json::to_string(record).unwrap());
    let lines: Vec<String> = std::iter::once(serde_json::to_string(&head()).unwrap()).chain(lines).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    assert_eq!(report::read(&path).unwrap(), (head(), records));
    fs::write(&path, format!("{}\n{{\"table\":\n", lines[0])).unwrap();
    assert!(report::read(&path).unwrap_err().to_string().contains("line 2"));
}
