//! Pictures of figures, as SVG.
//!
//! Owns how every picture looks: its size, its colours and the writing of text. Bars are drawn in [`bars`], curves in [`curves`]. It never
//! knows what the figures mean.

use std::fmt::{Display, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

pub(crate) mod bars;
pub(crate) mod curves;

const WIDTH: f64 = 960.0;
/// Free at the left and at the right.
const MARGIN: f64 = 20.0;
/// What can be told apart by everybody, on white; after Okabe and Ito. The yellow is left out: nobody sees it as a line.
const COLOURS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#6b6b6b"];
const INK: &str = "#1a1a1a";
const PALE_INK: &str = "#595959";
const GRID: &str = "#dddddd";
/// Of a letter, in parts of its height: on the safe side with most typefaces.
const LETTER_WIDTH: f64 = 0.62;
const TEXT_HEIGHT: f64 = 12.0;

/// Writes a picture to a file.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(path: &Path, svg: &str) -> Result<()> {
    std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

/// Where a text stands.
#[derive(Debug, Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture under way: its parts, in the order they are drawn.
#[derive(Debug, Default)]
struct Canvas {
    parts: String,
}

impl Canvas {
    /// A line of text that begins, is centred or ends at `x`, and stands on `y`.
    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, text: impl Display) {
        self.styled((x, y), anchor, &format!("fill=\"{INK}\""), text);
    }

    /// Likewise in a heading's weight.
    fn bold(&mut self, (x, y): (f64, f64), anchor: Anchor, text: impl Display) {
        self.styled((x, y), anchor, &format!("fill=\"{INK}\" font-weight=\"bold\""), text);
    }

    /// Likewise for what is said besides.
    fn pale(&mut self, (x, y): (f64, f64), anchor: Anchor, text: impl Display) {
        self.styled((x, y), anchor, &format!("fill=\"{PALE_INK}\""), text);
    }

    fn styled(&mut self, (x, y): (f64, f64), anchor: Anchor, style: &str, text: impl Display) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escaped(&text.to_string());
        self.push(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{text}</text>"));
    }

    /// A stroke along an SVG path.
    fn stroke(&mut self, path: impl Display, colour: &str, width: f64) {
        self.push(format_args!("<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"{width}\" fill=\"none\"/>"));
    }

    /// A filled rectangle.
    fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
        self.push(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        ));
    }

    fn push(&mut self, part: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.parts, "{part}");
    }

    /// The whole picture, so high. Its ground is opaque: what shows it may be dark.
    fn finish(self, title: &str, height: f64) -> String {
        let title = escaped(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             role=\"img\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"{TEXT_HEIGHT}\">\n\
             <title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"{MARGIN}\" y=\"30\" font-size=\"18\" font-weight=\"bold\" fill=\"{INK}\">{title}</text>\n{}</svg>\n",
            self.parts
        )
    }
}

/// Text that means nothing to a reader of XML; without what such a reader takes for an error.
fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How wide a text is in most typefaces, at the most.
fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * TEXT_HEIGHT * LETTER_WIDTH
}

/// As much of a text as fits into so many pixels.
fn fitted(text: &str, width: f64) -> String {
    let letters_max = (width / (TEXT_HEIGHT * LETTER_WIDTH)) as usize;
    if text.chars().count() <= letters_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(letters_max.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A figure with as many digits as say something.
pub(crate) fn shown(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        1e3.. => thousands(figure),
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        0.1.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        let is_third = (digits.len() - at).is_multiple_of(3);
        if is_third && text.ends_with(|last: char| last.is_ascii_digit()) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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
    fn figures_have_the_digits_that_matter() {
        let texts = [0.0, 0.0361, 0.444, 3.5, 13.64, 987.6, 1_820.4, 1_234_567.0].map(shown);
        assert_eq!(texts, ["0", "0.036", "0.44", "3.50", "13.6", "988", "1,820", "1,234,567"]);
    }

    #[test]
    fn texts_cannot_break_the_picture() {
        let mut canvas = Canvas::default();
        canvas.text((1.0, 2.0), Anchor::Start, "a<b>&\n");
        let svg = canvas.finish("<&>", 100.0);
        assert!(svg.contains(">a&lt;b&gt;&amp; </text>") && svg.contains("<title>&lt;&amp;&gt;</title>"), "{svg}");
        assert_eq!(fitted("abcdefghij", 40.0), "abcd…");
        assert_eq!(fitted("abc", 40.0), "abc");
    }
}
