//! Bars, as a picture.
//!
//! Owns the layout: a section below the other; in each, groups of rows, one row for each of those who are compared, and a column for
//! each figure. Bars of a group have one scale in each column and begin at zero, so that lengths tell ratios.

use super::{Anchor, COLOURS, Canvas, GRID, INK, MARGIN, PALE_INK, WIDTH, fitted, shown, text_width};
use crate::spread::Spread;

const HEAD_HEIGHT: f64 = 62.0;
const COLUMN_HEAD_HEIGHT: f64 = 46.0;
const GROUP_HEAD_HEIGHT: f64 = 24.0;
const ROW_HEIGHT: f64 = 20.0;
const NOTE_HEIGHT: f64 = 16.0;
const GROUP_GAP: f64 = 12.0;
const BAR_HEIGHT: f64 = 12.0;
/// Of the caps at both ends of a range.
const CAP_HEIGHT: f64 = 6.0;
const COLUMN_GAP: f64 = 20.0;
/// Between a name or a bar and what stands beside it.
const SPACE: f64 = 8.0;
/// Names longer than this are cut.
const NAME_WIDTH_MAX: f64 = 200.0;
const FOOT: &str =
    "Bars begin at zero and have one scale in each group and column; the thin line is the range of the rounds.";

/// A picture of bars.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    pub(crate) sections: Vec<Section>,
}

/// Groups that have the same columns.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) columns: Vec<Column>,
    pub(crate) groups: Vec<Group>,
}

/// What the bars of a column are.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// With its unit.
    pub(crate) title: String,
    /// Which way is good.
    pub(crate) hint: &'static str,
}

/// Those who are compared in one thing.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) rows: Vec<Row>,
}

/// One of those who are compared.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Which of the colours it has everywhere.
    pub(crate) colour: usize,
    /// Whether it is the one that the picture is about.
    pub(crate) is_own: bool,
    /// For each column; `None` where nothing was measured.
    pub(crate) figures: Vec<Option<Spread>>,
    /// What is to be known about its figures, or why there are none.
    pub(crate) note: String,
}

impl Row {
    fn is_empty(&self) -> bool {
        self.figures.iter().all(Option::is_none)
    }

    /// With a note below the bars, or else in their place.
    fn height(&self) -> f64 {
        if self.note.is_empty() || self.is_empty() { ROW_HEIGHT } else { ROW_HEIGHT + NOTE_HEIGHT }
    }
}

/// Where a column's bars may be.
#[derive(Debug, Clone, Copy)]
struct Place {
    x: f64,
    /// Without the room for the figure behind the longest bar.
    width: f64,
}

impl Chart {
    /// The whole picture, as an SVG.
    pub(crate) fn draw(&self) -> String {
        let mut canvas = Canvas::default();
        canvas.pale((MARGIN, 50.0), Anchor::Start, fitted(&self.subtitle, WIDTH - 2.0 * MARGIN));
        let rows = self.sections.iter().flat_map(|section| &section.groups).flat_map(|group| &group.rows);
        let longest = rows.map(|row| text_width(&row.name)).fold(0.0, f64::max);
        let left = 2.0 * MARGIN + longest.min(NAME_WIDTH_MAX) + SPACE;
        let mut y = HEAD_HEIGHT;
        for section in self.sections.iter().filter(|section| !section.groups.is_empty()) {
            y = section.draw(&mut canvas, left, y);
        }
        canvas.pale((MARGIN, y + 16.0), Anchor::Start, FOOT);
        canvas.finish(&self.title, y + 32.0)
    }
}

impl Section {
    /// Draws it at this height; where the next may begin.
    fn draw(&self, canvas: &mut Canvas, left: f64, top: f64) -> f64 {
        let each = (WIDTH - MARGIN - left) / self.columns.len() as f64;
        let places: Vec<Place> = (0..self.columns.len())
            .map(|index| Place {
                x: left + index as f64 * each,
                width: each - COLUMN_GAP - SPACE - self.figure_width(index),
            })
            .collect();
        for (column, place) in self.columns.iter().zip(&places) {
            canvas.bold((place.x, top + 20.0), Anchor::Start, fitted(&column.title, each - SPACE));
            canvas.pale((place.x, top + 35.0), Anchor::Start, column.hint);
        }
        let mut y = top + COLUMN_HEAD_HEIGHT;
        for group in &self.groups {
            y = group.draw(canvas, &places, y);
        }
        y
    }

    /// The room that the longest figure of a column takes.
    fn figure_width(&self, column: usize) -> f64 {
        let rows = self.groups.iter().flat_map(|group| &group.rows);
        rows.filter_map(|row| row.figures.get(column).copied().flatten())
            .map(|figure| text_width(&shown(figure.median)))
            .fold(0.0, f64::max)
    }
}

impl Group {
    fn draw(&self, canvas: &mut Canvas, places: &[Place], top: f64) -> f64 {
        canvas.stroke(format_args!("M{MARGIN} {top:.1}H{}", WIDTH - MARGIN), GRID, 1.0);
        canvas.bold((MARGIN, top + 17.0), Anchor::Start, &self.title);
        let room = WIDTH - 2.0 * MARGIN - text_width(&self.title) - 2.0 * SPACE;
        canvas.pale((WIDTH - MARGIN, top + 17.0), Anchor::End, fitted(&self.note, room));
        let most: Vec<f64> = (0..places.len())
            .map(|column| {
                let figures = self.rows.iter().filter_map(|row| row.figures.get(column).copied().flatten());
                figures.map(|figure| figure.max).fold(0.0, f64::max)
            })
            .collect();
        let mut y = top + GROUP_HEAD_HEIGHT;
        for row in &self.rows {
            row.draw(canvas, places, &most, y);
            y += row.height();
        }
        y + GROUP_GAP
    }
}

impl Row {
    fn draw(&self, canvas: &mut Canvas, places: &[Place], most: &[f64], top: f64) {
        let Some(first) = places.first() else { return };
        let line = top + ROW_HEIGHT / 2.0 + 4.0;
        let name_at = (first.x - SPACE, line);
        let name = fitted(&self.name, NAME_WIDTH_MAX);
        match self.is_own {
            true => canvas.bold(name_at, Anchor::End, name),
            false => canvas.text(name_at, Anchor::End, name),
        }
        let note = fitted(&self.note, WIDTH - MARGIN - first.x);
        if self.is_empty() {
            canvas.pale((first.x, line), Anchor::Start, note);
            return;
        }
        canvas.pale((first.x, line + NOTE_HEIGHT), Anchor::Start, note);
        for ((figure, place), most) in self.figures.iter().zip(places).zip(most) {
            match figure {
                Some(figure) => self.draw_figure(canvas, *figure, *place, *most, top),
                None => canvas.pale((place.x, line), Anchor::Start, "–"),
            }
        }
    }

    fn draw_figure(&self, canvas: &mut Canvas, figure: Spread, place: Place, most: f64, top: f64) {
        let pixels = |value: f64| if most > 0.0 { value / most * place.width } else { 0.0 };
        let middle = top + ROW_HEIGHT / 2.0;
        // What is hardly anything is to be seen, too.
        let length = pixels(figure.median).max(1.5);
        let colour = COLOURS[self.colour % COLOURS.len()];
        canvas.bar((place.x, middle - BAR_HEIGHT / 2.0), (length, BAR_HEIGHT), colour);
        let mut end = length;
        if figure.max > figure.min {
            let (from, to) = (place.x + pixels(figure.min), place.x + pixels(figure.max));
            let path = |cap: f64| {
                let above = middle - cap / 2.0;
                format!("M{from:.1} {above:.1}v{cap}M{from:.1} {middle:.1}H{to:.1}M{to:.1} {above:.1}v{cap}")
            };
            // On a rim of its own it is to be seen on any colour.
            canvas.stroke(path(CAP_HEIGHT + 1.0), "#ffffff", 3.0);
            canvas.stroke(path(CAP_HEIGHT), INK, 1.2);
            end = end.max(pixels(figure.max));
        }
        let colour = if self.is_own { INK } else { PALE_INK };
        let weight = if self.is_own { "bold" } else { "normal" };
        let style = format!("fill=\"{colour}\" font-weight=\"{weight}\"");
        canvas.styled((place.x + end + SPACE - 2.0, middle + 4.0), Anchor::Start, &style, shown(figure.median));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, figures: Vec<Option<Spread>>, note: &str) -> Row {
        Row { name: name.to_owned(), colour: 0, is_own: true, figures, note: note.to_owned() }
    }

    fn chart(rows: Vec<Row>) -> Chart {
        let column = |title: &str| Column { title: title.to_owned(), hint: "less is better" };
        let group = Group { title: "group".to_owned(), note: String::new(), rows };
        let section = Section { columns: vec![column("first"), column("second")], groups: vec![group] };
        Chart { title: "title".to_owned(), subtitle: String::new(), sections: vec![section] }
    }

    #[test]
    fn each_figure_has_a_bar_and_each_spread_a_range() {
        let spread = |min, max| Some(Spread { median: 1.0, min, max });
        let rows = vec![
            row("a", vec![spread(0.9, 1.1), spread(1.0, 1.0)], ""),
            row("b", vec![spread(1.0, 1.0), None], "a note"),
            row("c", vec![None, None], "it did not start"),
        ];
        let svg = chart(rows).draw();
        assert_eq!(svg.matches("height=\"12.0\"").count(), 3, "{svg}");
        assert_eq!(svg.matches("stroke-width=\"3\"").count(), 1);
        for text in ["a note", "it did not start", "–"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn lengths_tell_ratios() {
        let spread = |median| Some(Spread { median, min: median, max: median });
        let svg = chart(vec![row("a", vec![spread(1.0), None], ""), row("b", vec![spread(4.0), None], "")]).draw();
        let bars = svg.lines().filter(|line| line.contains("height=\"12.0\""));
        let widths: Vec<f64> = bars
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
    }
}
