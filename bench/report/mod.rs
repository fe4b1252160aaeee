//! Results as a Markdown page with SVG charts. Depends on records only, so that tests can include
//! this module without a server, a load or a runtime.

mod head;
mod rows;

mod cases;
mod compare;
mod growth;

mod bars;
mod lines;

mod markdown;
mod numbers;
mod scale;
mod spread;
mod svg;

use std::{fs, path::Path};

use super::{
    Outcome,
    record::{Faults, Head, Record},
};

/// A heading with its tables and charts.
struct Section {
    text: String,
    /// Suffix of the file name, and SVG text.
    charts: Vec<(String, String)>,
}

/// Reads a file of JSON lines: the head, then the records. Errors name file and line.
pub fn read(path: &Path) -> Outcome<(Head, Vec<Record>)> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let wrong = |at: usize, error| format!("{}, line {}: {error}", path.display(), at + 1);
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let (at, first) = lines.next().ok_or_else(|| format!("{} is empty", path.display()))?;
    let head = serde_json::from_str(first).map_err(|error| wrong(at, error))?;
    let records = lines.map(|(at, line)| serde_json::from_str(line).map_err(|error| wrong(at, error)));
    Ok((head, records.collect::<Result<_, _>>()?))
}

/// Writes the page to `folder/name.md` and its charts to `folder/name-*.svg`.
pub fn write(head: &Head, records: &[Record], folder: &Path, name: &str) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    let mut page = head::text(head, records);
    for section in sections(records) {
        page.push('\n');
        page.push_str(&section.text);
        for (part, drawing) in section.charts {
            let file = format!("{name}-{part}.svg");
            fs::write(folder.join(&file), drawing)?;
            page.push_str(&format!("\n![Chart: {part}]({file})\n"));
        }
    }
    fs::write(folder.join(format!("{name}.md")), page)?;
    Ok(())
}

/// The tables with a section type, then all others in order of appearance.
fn sections(records: &[Record]) -> Vec<Section> {
    let servers = spread::distinct(records.iter().map(|record| record.server.as_str()));
    let of = |table: &str| records.iter().filter(|record| record.table == table).collect::<Vec<_>>();
    let mut sections = vec![compare::section(&of(compare::TABLE))];
    sections.extend(growth::ALL.iter().map(|growth| growth.section(&of(growth.table), &servers)));
    let others = spread::distinct(records.iter().map(|record| record.table.as_str()))
        .into_iter()
        .filter(|table| *table != compare::TABLE && growth::ALL.iter().all(|growth| growth.table != *table));
    sections.extend(others.map(|table| Some(cases::section(table, &of(table)))));
    sections.into_iter().flatten().collect()
}
