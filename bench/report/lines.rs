//! Line chart of a growth table: one line per server.

use super::{
    Record,
    growth::{Growth, points},
    numbers::{round, words},
    scale::Scale,
    spread::{self, Spread},
    svg::{AXIS, Anchor, Drawing, FAINT, Style, WIDTH, fitted, width},
};

const LEFT: f64 = 90.0;
const RIGHT: f64 = WIDTH - 30.0;
const TOP: f64 = 54.0;
const BOTTOM: f64 = 350.0;
/// Height of one line of the legend, below the plot.
const LEGEND: f64 = 24.0;
const LEGEND_TOP: f64 = BOTTOM + 76.0;
/// Width of a line sample in the legend.
const SAMPLE: f64 = 44.0;
/// Ratio of highest to lowest value above which the scale is logarithmic. On a linear scale the
/// lower lines would be indistinguishable from zero.
const LINEAR_MAX: f64 = 10.0;

struct Line<'a> {
    server: &'a str,
    style: Style,
    points: Vec<(f64, Spread)>,
}

/// The SVG text. `None` if no run has the figure.
pub fn chart(growth: &Growth, runs: &[&Record], all_servers: &[&str]) -> Option<String> {
    let lines = lines(growth.drawn, runs, all_servers);
    if lines.is_empty() {
        return None;
    }
    let xs: Vec<f64> = lines.iter().flat_map(|line| &line.points).map(|(at, _)| *at).collect();
    let x = Scale::tight_log(&xs, (LEFT + 20.0, RIGHT - 20.0));
    let y = vertical(&lines);
    let positions = legend(&lines);
    let rows = positions.last().map_or(0.0, |(_, y)| y - LEGEND_TOP);
    let title = format!("{}: {}", growth.title, words(growth.drawn));
    let mut drawing = Drawing::new(&title, LEGEND_TOP + rows + LEGEND);
    y_axis(&mut drawing, y, growth);
    x_axis(&mut drawing, x, &xs, growth);
    for (line, position) in lines.iter().zip(positions) {
        line.draw(&mut drawing, x, y);
        line.draw_legend(&mut drawing, position);
    }
    Some(drawing.finish())
}

fn lines<'a>(figure: &str, runs: &[&'a Record], all_servers: &[&str]) -> Vec<Line<'a>> {
    let lines = spread::servers(runs).into_iter().map(|server| {
        let own = || runs.iter().copied().filter(move |run| run.server == server);
        let at = |at| Spread::of_figure(own().filter(|run| run.at == Some(at)), figure);
        // A logarithmic scale has no zero.
        let points = points(own()).into_iter().filter(|at| *at > 0.0);
        let points = points.filter_map(|x| Some((x, at(x).filter(|spread| spread.low > 0.0)?)));
        let index = all_servers.iter().position(|other| *other == server);
        Line { server, style: Style(index.unwrap_or(0)), points: points.collect() }
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn vertical(lines: &[Line<'_>]) -> Scale {
    let spreads = lines.iter().flat_map(|line| &line.points).map(|(_, spread)| spread);
    let values: Vec<f64> = spreads.flat_map(|spread| [spread.low, spread.high]).collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let is_wide = values.iter().any(|value| value / low > LINEAR_MAX);
    if is_wide { Scale::log(&values, (BOTTOM, TOP)) } else { Scale::linear(&values, (BOTTOM, TOP)) }
}

impl Line<'_> {
    fn draw(&self, drawing: &mut Drawing, x: Scale, y: Scale) {
        let medians = self.points.iter().map(|(at, spread)| (x.pixel(*at), y.pixel(spread.median)));
        let medians: Vec<(f64, f64)> = medians.collect();
        drawing.curve(&medians, self.style);
        for ((at, spread), median) in self.points.iter().zip(medians) {
            let (low, high) = (y.pixel(spread.low), y.pixel(spread.high));
            drawing.line((x.pixel(*at), low), (x.pixel(*at), high), self.style.colour(), "none");
            drawing.marker(median, self.style);
        }
    }

    fn draw_legend(&self, drawing: &mut Drawing, (x, y): (f64, f64)) {
        drawing.curve(&[(x, y - 4.0), (x + SAMPLE - 8.0, y - 4.0)], self.style);
        drawing.marker((x + (SAMPLE - 8.0) / 2.0, y - 4.0), self.style);
        drawing.text((x + SAMPLE, y), Anchor::Start, &fitted(self.server, RIGHT - LEFT - SAMPLE));
    }
}

/// The position of each legend entry. Entries wrap into lines like words.
fn legend(lines: &[Line<'_>]) -> Vec<(f64, f64)> {
    let (mut x, mut y) = (LEFT, LEGEND_TOP);
    let mut positions = Vec::new();
    for line in lines {
        let entry_width = SAMPLE + width(line.server);
        if x > LEFT && x + entry_width > RIGHT {
            (x, y) = (LEFT, y + LEGEND);
        }
        positions.push((x, y));
        x += entry_width + 24.0;
    }
    positions
}

fn y_axis(drawing: &mut Drawing, scale: Scale, growth: &Growth) {
    for tick in scale.ticks() {
        let y = scale.pixel(tick);
        drawing.line((LEFT, y), (RIGHT, y), FAINT, "none");
        drawing.text((LEFT - 8.0, y + 4.0), Anchor::End, &round(tick));
    }
    drawing.line((LEFT, TOP), (LEFT, BOTTOM), AXIS, "none");
    let log = if scale.is_log() { " (log scale)" } else { "" };
    drawing.upright((26.0, f64::midpoint(TOP, BOTTOM)), &format!("{}{log}", words(growth.drawn)));
}

/// Labels the measured values, from the greatest down. Labels that would overlap are omitted.
fn x_axis(drawing: &mut Drawing, scale: Scale, measured: &[f64], growth: &Growth) {
    drawing.line((LEFT, BOTTOM), (RIGHT, BOTTOM), AXIS, "none");
    let mut ticks = measured.to_vec();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    let mut free_until = WIDTH;
    for tick in ticks.into_iter().rev() {
        let (x, text) = (scale.pixel(tick), round(tick));
        drawing.line((x, BOTTOM), (x, BOTTOM + 5.0), AXIS, "none");
        if x + width(&text) / 2.0 < free_until {
            drawing.text((x, BOTTOM + 20.0), Anchor::Middle, &text);
            free_until = x - width(&text) / 2.0 - 6.0;
        }
    }
    let title = format!("{} (log scale)", growth.unit);
    drawing.text((f64::midpoint(LEFT, RIGHT), BOTTOM + 44.0), Anchor::Middle, &title);
}
