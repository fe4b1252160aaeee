//! Bar chart of CPU time per delivered event, for all servers.

use super::{
    Record,
    numbers::{range, round},
    rows::{CASES, Case},
    scale::Scale,
    spread::{self, Spread},
    svg::{AXIS, Anchor, Drawing, FAINT, Style, WIDTH, fitted, width},
};

const FIGURE: &str = "cpu_us_per_event";
const TOP: f64 = 50.0;
/// Height of one bar, and of the title above the bars of a case.
const BAR: f64 = 24.0;
const CASE: f64 = 34.0;
const BOTTOM: f64 = 62.0;
/// Widest name, left of the bars. Values are to the right of `RIGHT`.
const NAMES_MAX: f64 = 260.0;
const RIGHT: f64 = WIDTH - 180.0;
const VALUES_AT: f64 = RIGHT + 10.0;

struct Group<'a> {
    title: &'a str,
    goal: Option<f64>,
    /// Style, name and value of each server with the figure.
    bars: Vec<(Style, &'a str, Spread)>,
}

/// The SVG text. `None` if no run has the figure.
pub fn chart(runs: &[&Record]) -> Option<String> {
    let groups = groups(runs);
    let spreads = || groups.iter().flat_map(|group| &group.bars).map(|(_, _, spread)| *spread);
    let mut values: Vec<f64> = spreads().flat_map(|spread| [spread.low, spread.high]).collect();
    values.extend(groups.iter().filter_map(|group| group.goal));
    if spreads().count() == 0 {
        return None;
    }
    let names = groups.iter().flat_map(|group| &group.bars).map(|(_, name, _)| width(name));
    let left = 30.0 + names.fold(0.0, f64::max).min(NAMES_MAX);
    // Leaves room below the lowest value, so that its bar is visible.
    values.push(values.iter().copied().fold(f64::INFINITY, f64::min) / 2.0);
    let scale = Scale::log(&values, (left, RIGHT));
    let height = groups.iter().map(|group| CASE + BAR * group.bars.len() as f64).sum::<f64>();
    let mut drawing = Drawing::new("CPU time per delivered event", TOP + height + BOTTOM);
    axis(&mut drawing, scale, TOP + height);
    let mut y = TOP;
    for group in &groups {
        group.draw(&mut drawing, scale, left, y);
        y += CASE + BAR * group.bars.len() as f64;
    }
    Some(drawing.finish())
}

/// The known cases in their order, then all others in order of appearance.
fn groups<'a>(runs: &[&'a Record]) -> Vec<Group<'a>> {
    let known = CASES.iter().map(|case| case.name);
    let names = spread::distinct(known.chain(runs.iter().map(|run| run.case.as_str())));
    let groups = names.into_iter().map(|name| group(name, runs));
    groups.filter(|group| !group.bars.is_empty()).collect()
}

fn group<'a>(name: &'a str, runs: &[&'a Record]) -> Group<'a> {
    let case = CASES.iter().find(|case| case.name == name);
    let row = case.and_then(|case| case.rows.iter().find(|row| row.figure == FIGURE));
    let bars = spread::servers(runs).into_iter().enumerate().filter_map(|(index, server)| {
        let own = runs.iter().copied().filter(|run| run.case == name && run.server == server);
        let spread = Spread::of_figure(own, FIGURE).filter(|spread| spread.low > 0.0)?;
        Some((Style(index), server, spread))
    });
    let title = case.map_or(name, |Case { title, .. }| title);
    Group { title, goal: row.and_then(|row| row.goal), bars: bars.collect() }
}

impl Group<'_> {
    fn draw(&self, drawing: &mut Drawing, scale: Scale, left: f64, top: f64) {
        drawing.bold((20.0, top + CASE - 11.0), self.title);
        let bars = top + CASE;
        for (at, (style, name, spread)) in self.bars.iter().enumerate() {
            let y = bars + BAR * at as f64;
            let name = fitted(name, NAMES_MAX);
            drawing.text((left - 8.0, y + 16.0), Anchor::End, &name);
            let end = scale.pixel(spread.median);
            drawing.bar((left, y + 3.0), (end - left, BAR - 6.0), style.colour());
            let (low, high) = (scale.pixel(spread.low), scale.pixel(spread.high));
            let middle = y + BAR / 2.0;
            drawing.line((low, middle), (high, middle), "#000000", "none");
            drawing.text((VALUES_AT, y + 16.0), Anchor::Start, &range(*spread));
        }
        if let Some(goal) = self.goal {
            let (x, bottom) = (scale.pixel(goal), bars + BAR * self.bars.len() as f64);
            drawing.line((x, bars - 4.0), (x, bottom), "#000000", "5 3");
            drawing.text((VALUES_AT, top + CASE - 11.0), Anchor::Start, &format!("goal ≤ {goal}"));
        }
    }
}

fn axis(drawing: &mut Drawing, scale: Scale, bottom: f64) {
    for tick in scale.ticks() {
        let x = scale.pixel(tick);
        drawing.line((x, TOP), (x, bottom + 4.0), FAINT, "none");
        drawing.text((x, bottom + 20.0), Anchor::Middle, &round(tick));
    }
    let (left, right) = (scale.pixel(0.0), RIGHT);
    drawing.line((left, bottom), (right, bottom), AXIS, "none");
    let title = "µs of CPU time per delivered event (log scale); thin: lowest to highest, dashed: goal";
    drawing.text((WIDTH / 2.0, bottom + 46.0), Anchor::Middle, title);
}
