//! SVG drawings without scripts or embedded fonts, readable on any background.

pub const WIDTH: f64 = 800.0;
const SIZE: f64 = 13.0;
/// Average width of a letter in pixels, rounded up.
const LETTER: f64 = 7.2;

const INK: &str = "#222222";
pub const FAINT: &str = "#dddddd";
pub const AXIS: &str = "#666666";

/// Distinguishable with colour vision deficiency, with enough contrast on white.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#00805c", "#b0508a", "#4a4a4a", "#a87400", "#3aa0d8"];
const DASHES: [&str; 4] = ["none", "8 4", "2 4", "10 4 2 4"];

/// Colour, dash and marker of a server, by its index among all servers.
#[derive(Debug, Clone, Copy)]
pub struct Style(pub usize);

impl Style {
    pub fn colour(self) -> &'static str {
        COLOURS[self.0 % COLOURS.len()]
    }

    fn dash(self) -> &'static str {
        DASHES[self.0 % DASHES.len()]
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

pub struct Drawing {
    body: String,
    height: f64,
}

impl Drawing {
    pub fn new(title: &str, height: f64) -> Drawing {
        let mut drawing = Drawing { body: format!("<title>{}</title>\n", escape(title)), height };
        drawing.body.push_str(&format!(
            "<rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"#ffffff\"/>\n\
             <text x=\"20\" y=\"30\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
            escape(title)
        ));
        drawing
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.body
            .push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"));
    }

    pub fn bold(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.body.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-weight=\"bold\">{text}</text>\n"));
    }

    /// Text rotated to read upwards, centred at the point.
    pub fn upright(&mut self, (x, y): (f64, f64), text: &str) {
        let text = escape(text);
        self.body.push_str(&format!(
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\">{text}</text>\n"
        ));
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), colour: &str, dash: &str) {
        self.body.push_str(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
             stroke-dasharray=\"{dash}\"/>\n"
        ));
    }

    pub fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        self.body.push_str(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
        ));
    }

    pub fn curve(&mut self, points: &[(f64, f64)], style: Style) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.body.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-dasharray=\"{}\"/>\n",
            points.join(" "),
            style.colour(),
            style.dash()
        ));
    }

    /// A marker in one of five shapes.
    pub fn marker(&mut self, (x, y): (f64, f64), style: Style) {
        let shape = match style.0 % 5 {
            0 => "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
            1 => "M-4 -4H4V4H-4Z",
            2 => "M0 -5.5L5 4H-5Z",
            3 => "M0 -6L6 0L0 6L-6 0Z",
            _ => "M0 5.5L5 -4H-5Z",
        };
        self.body.push_str(&format!(
            "<path transform=\"translate({x:.1} {y:.1})\" d=\"{shape}\" fill=\"{}\" stroke=\"#ffffff\"/>\n",
            style.colour()
        ));
    }

    pub fn finish(self) -> String {
        let (body, height) = (self.body, self.height);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\" \
             font-size=\"{SIZE}\" fill=\"{INK}\">\n{body}</svg>\n"
        )
    }
}

/// Approximate width of a text in pixels.
pub fn width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

/// Truncates a text to `pixels`, with an ellipsis.
pub fn fitted(text: &str, pixels: f64) -> String {
    if width(text) <= pixels {
        return text.to_owned();
    }
    let letters = (pixels / LETTER) as usize;
    let mut cut: String = text.chars().take(letters.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Escapes text for XML. Control characters, which XML 1.0 does not allow, become spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
