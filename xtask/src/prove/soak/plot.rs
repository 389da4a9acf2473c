//! Curves over time, as an SVG.
//!
//! Owns the drawing: panels below each other with a common axis of time. It never knows what the curves mean.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const PANEL_HEIGHT: f64 = 170.0;
const GAP: f64 = 50.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
/// More points than this cannot be told apart.
const POINTS_MAX: usize = 1_200;
const COLOURS: [&str; 3] = ["#1f5fa8", "#c4501b", "#3a7d34"];

/// A curve.
pub(super) struct Line {
    pub(super) name: &'static str,
    /// Seconds and values.
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves that share an axis, which begins at zero.
pub(super) struct Panel {
    pub(super) unit: &'static str,
    pub(super) lines: Vec<Line>,
}

/// The whole picture.
pub(super) fn draw(title: &str, panels: &[Panel]) -> String {
    let height = TOP + panels.len() as f64 * (PANEL_HEIGHT + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"16\">{title}</text>\n"
    );
    let seconds = panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let seconds = seconds.map(|point| point.0).fold(1.0, f64::max);
    for (index, panel) in panels.iter().enumerate() {
        draw_panel(&mut svg, panel, TOP + index as f64 * (PANEL_HEIGHT + GAP), seconds);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, top: f64, seconds: f64) {
    let most = panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
    let step = nice_step(most / 4.0);
    let most = (most / step).ceil().max(1.0) * step;
    let bottom = top + PANEL_HEIGHT;
    let x = |second: f64| LEFT + second / seconds * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| bottom - value / most * PANEL_HEIGHT;
    for tick in 0..=(most / step).round() as u32 {
        let value = f64::from(tick) * step;
        let (at, text_at) = (y(value), y(value) + 4.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{text_at:.1}\" text-anchor=\"end\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0
        );
    }
    // Steps that people count time in.
    let wanted = seconds / 8.0;
    let time_step = [1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0];
    let time_step = time_step.into_iter().find(|step| *step >= wanted).unwrap_or_else(|| nice_step(wanted));
    let (unit, divisor) = if seconds > 600.0 { ("min", 60.0) } else { ("s", 1.0) };
    for tick in 0..=(seconds / time_step) as u32 {
        let second = f64::from(tick) * time_step;
        let (at, text) = (x(second), second / divisor);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {bottom}v4\" stroke=\"#444\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text} {unit}</text>",
            bottom + 18.0
        );
    }
    let _ = writeln!(svg, "<path d=\"M{LEFT} {top}V{bottom}H{}\" stroke=\"#444\" fill=\"none\"/>", WIDTH - RIGHT);
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>", top - 8.0, panel.unit);
    for (index, line) in panel.lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let name_at = WIDTH - RIGHT - 110.0 * (panel.lines.len() - index) as f64;
        let _ = writeln!(svg, "<text x=\"{name_at}\" y=\"{}\" fill=\"{colour}\">— {}</text>", top - 8.0, line.name);
        let each = line.points.len().div_ceil(POINTS_MAX).max(1);
        let points: Vec<String> = line
            .points
            .iter()
            .step_by(each)
            .map(|(second, value)| format!("{:.1},{:.1}", x(*second), y(*value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            points.join(" ")
        );
    }
}

/// The next larger of 1, 2 or 5 times a power of ten.
fn nice_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!([0.0, 0.3, 1.0, 3.0, 60.0].map(nice_step), [1.0, 0.5, 1.0, 5.0, 100.0]);
    }

    #[test]
    fn every_curve_is_drawn() {
        let line = |name| Line { name, points: vec![(0.0, 1.0), (10.0, 3.0)] };
        let svg = draw("title", &[Panel { unit: "MB", lines: vec![line("a"), line("b")] }]);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
