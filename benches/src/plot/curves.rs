//! Curves, as a picture.
//!
//! Owns the layout: panels below each other with a common axis, of time or of percentiles. It never knows what the curves mean.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::{Anchor, COLOURS, Canvas, GRID, MARGIN, PALE_INK, WIDTH, nice_step, shown, text_width};

const PANEL_HEIGHT: f64 = 170.0;
/// Of a panel that has no others below it.
const LONE_PANEL_HEIGHT: f64 = 320.0;
const GAP: f64 = 56.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 74.0;
/// What shows the colour beside a curve's name.
const KEY_WIDTH: f64 = 16.0;
/// More points than this cannot be told apart.
const POINTS_MAX: usize = 1_200;
/// Points between one percentile and the one with a nine more.
const POINTS_A_NINE: u32 = 20;

/// A curve.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// What it is drawn over, and values.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Curves that share both axes.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) unit: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// What curves are drawn over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Seconds from the beginning; values begin at zero.
    Time,
    /// How many there are for each that is beyond: 100 is the 99th percentile. Values are in powers of ten.
    Percentiles,
}

/// Where to draw how latencies are spread.
#[derive(Debug, Clone, Args)]
pub(crate) struct Spreads {
    /// Draw all percentiles of the latency, in an SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl Spreads {
    /// Draws curves made by [`percentiles`], in milliseconds; where none is asked for, it does nothing.
    ///
    /// # Errors
    /// When there are no points, or the file cannot be written.
    pub(crate) fn draw(&self, title: &str, subtitle: &str, lines: Vec<Line>) -> Result<()> {
        let Some(path) = &self.plot else { return Ok(()) };
        ensure!(
            lines.iter().any(|line| !line.points.is_empty()),
            "no latency was measured, so there is nothing to draw"
        );
        let panel = Panel { unit: "latency in ms, by percentile", lines };
        super::write(path, &draw(title, subtitle, Over::Percentiles, &[panel]))
    }
}

/// Points of a curve over percentiles, from the median to the last that so many samples can tell. `value_at` knows the value at a
/// quantile between 0 and 1.
pub(crate) fn percentiles(samples: u64, mut value_at: impl FnMut(f64) -> f64) -> Vec<(f64, f64)> {
    let one_in = (0..).map(|step| 2.0 * 10_f64.powf(f64::from(step) / f64::from(POINTS_A_NINE)));
    let last = samples as f64;
    let told = one_in.take_while(|one_in| *one_in < last).chain((samples > 1).then_some(last));
    told.map(|one_in| (one_in, value_at(1.0 - 1.0 / one_in))).collect()
}

/// The whole picture.
pub(crate) fn draw(title: &str, subtitle: &str, over: Over, panels: &[Panel]) -> String {
    let mut canvas = Canvas::default();
    canvas.pale((MARGIN, 50.0), Anchor::Start, subtitle);
    let points = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let most = points().map(|point| point.0).fold(1.0, f64::max);
    let across = match over {
        Over::Time => Axis::time(most),
        Over::Percentiles => Axis::percentiles(most),
    };
    let mut top = TOP;
    let height = if panels.len() == 1 { LONE_PANEL_HEIGHT } else { PANEL_HEIGHT };
    for panel in panels {
        panel.draw(&mut canvas, over, &across, (top + 12.0, height));
        top += height + GAP;
    }
    canvas.finish(title, top)
}

impl Panel {
    fn draw(&self, canvas: &mut Canvas, over: Over, across: &Axis, (top, height): (f64, f64)) {
        let values = self.lines.iter().flat_map(|line| &line.points).map(|point| point.1);
        let up = match over {
            Over::Time => Axis::from_zero(values.fold(0.0, f64::max)),
            Over::Percentiles => Axis::powers(values),
        };
        let (right, bottom) = (WIDTH - MARGIN, top + height);
        let x = |value: f64| LEFT + across.part(value) * (right - LEFT);
        let y = |value: f64| bottom - up.part(value) * height;
        for (value, text) in &up.ticks {
            canvas.stroke(format_args!("M{LEFT} {:.1}H{right}", y(*value)), GRID, 1.0);
            canvas.text((LEFT - 8.0, y(*value) + 4.0), Anchor::End, text);
        }
        for (value, text) in &across.ticks {
            canvas.stroke(format_args!("M{:.1} {bottom}v4", x(*value)), PALE_INK, 1.0);
            canvas.text((x(*value), bottom + 18.0), Anchor::Middle, text);
        }
        canvas.stroke(format_args!("M{LEFT} {top}V{bottom}H{right}"), PALE_INK, 1.0);
        canvas.bold((LEFT, top - 8.0), Anchor::Start, self.unit);
        self.draw_names(canvas, (right, top - 8.0));
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let each = line.points.len().div_ceil(POINTS_MAX).max(1);
            let kept = line.points.iter().step_by(each);
            let points: Vec<String> = kept.map(|(over, value)| format!("{:.1} {:.1}", x(*over), y(*value))).collect();
            if !points.is_empty() {
                canvas.stroke(format_args!("M{}", points.join("L")), colour, 2.0);
            }
        }
    }

    /// Says which colour is whose, from the right.
    fn draw_names(&self, canvas: &mut Canvas, (right, y): (f64, f64)) {
        let mut end = right;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()).collect::<Vec<_>>().into_iter().rev() {
            let start = end - text_width(&line.name);
            canvas.text((start, y), Anchor::Start, &line.name);
            canvas.bar((start - KEY_WIDTH - 6.0, y - 6.0), (KEY_WIDTH, 4.0), colour);
            end = start - 2.0 * KEY_WIDTH;
        }
    }
}

/// From where to where, and what is written beside it.
#[derive(Debug)]
struct Axis {
    least: f64,
    most: f64,
    is_logarithmic: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Where a value lies: 0 at the beginning, 1 at the end.
    fn part(&self, value: f64) -> f64 {
        let part = match self.is_logarithmic {
            true => (value / self.least).ln() / (self.most / self.least).ln(),
            false => (value - self.least) / (self.most - self.least),
        };
        part.clamp(0.0, 1.0)
    }

    /// In round steps, a little beyond `most`.
    fn from_zero(most: f64) -> Self {
        let step = nice_step(most / 4.0);
        let steps = (most / step).ceil().max(1.0);
        let ticks = (0..=steps as u32).map(|tick| f64::from(tick) * step);
        let ticks = ticks.map(|value| (value, tick_shown(value))).collect();
        Self { least: 0.0, most: steps * step, is_logarithmic: false, ticks }
    }

    /// From a power of ten to another.
    fn powers(values: impl Iterator<Item = f64>) -> Self {
        let (mut least, mut most) = (f64::MAX, f64::MIN);
        values.filter(|value| *value > 0.0).for_each(|value| (least, most) = (least.min(value), most.max(value)));
        let (least, most) = if least <= most { (least, most) } else { (1.0, 10.0) };
        let from = least.log10().floor() as i32;
        let to = (most.log10().ceil() as i32).max(from + 1);
        let ticks = (from..=to).map(|power| (10_f64.powi(power), power_shown(power))).collect();
        Self { least: 10_f64.powi(from), most: 10_f64.powi(to), is_logarithmic: true, ticks }
    }

    fn time(seconds: f64) -> Self {
        // Steps that people count time in.
        let wanted = seconds / 8.0;
        let step = [1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0];
        let step = step.into_iter().find(|step| *step >= wanted).unwrap_or_else(|| nice_step(wanted));
        let (unit, divisor) = if seconds > 600.0 { ("min", 60.0) } else { ("s", 1.0) };
        let ticks = (0..=(seconds / step) as u32).map(|tick| f64::from(tick) * step);
        let ticks = ticks.map(|second| (second, format!("{} {unit}", second / divisor))).collect();
        Self { least: 0.0, most: seconds, is_logarithmic: false, ticks }
    }

    fn percentiles(most: f64) -> Self {
        let most = most.max(10.0);
        let nines = (1..).map(|power| 10_f64.powi(power)).take_while(|one_in| *one_in <= most).zip(0_usize..);
        let nines = nines.map(|(one_in, further)| match further {
            0 => (one_in, "90%".to_owned()),
            1 => (one_in, "99%".to_owned()),
            _ => (one_in, format!("99.{}%", "9".repeat(further - 1))),
        });
        let ticks = std::iter::once((2.0, "50%".to_owned())).chain(nines).collect();
        Self { least: 2.0, most, is_logarithmic: true, ticks }
    }
}

/// A power of ten, written out.
fn power_shown(power: i32) -> String {
    match usize::try_from(-power) {
        Ok(decimals) => format!("{:.decimals$}", 10_f64.powi(power)),
        Err(_) => tick_shown(10_f64.powi(power)),
    }
}

/// A round figure, without digits that say nothing.
fn tick_shown(value: f64) -> String {
    let text = shown(value);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_is_drawn() {
        let line = |name: &str| Line { name: name.to_owned(), points: vec![(0.0, 1.0), (10.0, 3.0)] };
        let svg = draw("title", "", Over::Time, &[Panel { unit: "MB", lines: vec![line("a"), line("b")] }]);
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 2);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn a_curve_ends_where_samples_end() {
        let points = percentiles(1_000, |quantile| quantile);
        assert_eq!(points[0], (2.0, 0.5));
        let (one_in, value) = *points.last().unwrap();
        assert_eq!((one_in, value), (1_000.0, 0.999));
        assert!(percentiles(1, |quantile| quantile).is_empty());
    }

    #[test]
    fn axes_say_where_they_are() {
        let texts = |axis: Axis| axis.ticks.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(texts(Axis::percentiles(20_000.0)), ["50%", "90%", "99%", "99.9%", "99.99%"]);
        assert_eq!(texts(Axis::powers([0.05, 30.0].into_iter())), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(texts(Axis::from_zero(7.0)), ["0", "2", "4", "6", "8"]);
        assert_eq!(texts(Axis::time(3_600.0))[1], "10 min");
        assert_eq!(Axis::powers([1.0, 100.0].into_iter()).part(10.0), 0.5);
        assert_eq!(Axis::powers(std::iter::empty()).ticks.len(), 2);
    }
}
