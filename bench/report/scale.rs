//! Maps values to pixels.

/// The scale of an axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    is_log: bool,
    low: f64,
    high: f64,
    /// Pixels of `low` and of `high`.
    pixels: (f64, f64),
}

impl Scale {
    /// A logarithmic scale between round numbers that include all values. Values are positive.
    pub fn log(values: &[f64], pixels: (f64, f64)) -> Scale {
        let (low, high) = ends(values);
        let low = *rounds(low).iter().rev().find(|round| **round <= low * 1.000_001).unwrap_or(&low);
        let high = *rounds(high).iter().find(|round| **round >= high * 0.999_999).unwrap_or(&high);
        let high = if high > low { high } else { low * 10.0 };
        Scale { is_log: true, low, high, pixels }
    }

    /// Like `log`, but exactly from the lowest to the highest value.
    pub fn tight_log(values: &[f64], pixels: (f64, f64)) -> Scale {
        let (low, high) = ends(values);
        let (low, high) = if high > low { (low, high) } else { (low / 2.0, low * 2.0) };
        Scale { is_log: true, low, high, pixels }
    }

    /// A linear scale from zero.
    pub fn linear(values: &[f64], pixels: (f64, f64)) -> Scale {
        let (_, high) = ends(values);
        let step = step(high);
        Scale { is_log: false, low: 0.0, high: (high / step).ceil() * step, pixels }
    }

    pub fn is_log(&self) -> bool {
        self.is_log
    }

    /// The pixel of a value. Values out of range map to the nearest end.
    pub fn pixel(&self, value: f64) -> f64 {
        let (from, to) = self.pixels;
        let value = value.clamp(self.low, self.high);
        let share = if self.is_log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        from + share * (to - from)
    }

    /// The labelled values of the axis.
    pub fn ticks(&self) -> Vec<f64> {
        if !self.is_log {
            let step = step(self.high);
            let count = (self.high / step).round() as usize;
            return (0..=count).map(|at| at as f64 * step).collect();
        }
        let is_wide = self.high / self.low > 1000.0;
        let inside = |tick: &f64| *tick >= self.low * 0.999_999 && *tick <= self.high * 1.000_001;
        let (low, high) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = (low..=high).map(|power| 10_f64.powi(power));
        let factors: &[f64] = if is_wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        decades.flat_map(|decade| factors.iter().map(move |factor| decade * factor)).filter(inside).collect()
    }
}

fn ends(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (low, high)
}

/// The round numbers around a value, ascending.
fn rounds(value: f64) -> [f64; 5] {
    let decade = 10_f64.powi(value.log10().floor() as i32);
    [0.5, 1.0, 2.0, 5.0, 10.0].map(|factor| decade * factor)
}

/// A round step for about five ticks up to `high`.
fn step(high: f64) -> f64 {
    let rough = if high > 0.0 { high / 5.0 } else { 1.0 };
    *rounds(rough).iter().find(|round| **round >= rough * 0.999_999).unwrap_or(&rough)
}
