//! Text tables for the terminal.
//!
//! Owns alignment: the first column to the left, all others to the right. It never knows what the cells mean.

/// A row without figures: who, and in the last column why.
pub(crate) fn unmeasured(head: &[&str], who: &str, why: &str) -> Vec<String> {
    let figures = std::iter::repeat_n("-", head.len().saturating_sub(2));
    std::iter::once(who).chain(figures).chain([why]).map(str::to_owned).collect()
}

/// Lays out rows under a head.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let mut widths = vec![0; head.len()];
    for row in rows.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for row in [&head, &rule].into_iter().chain(rows) {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_aligned_to_the_right() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["name".to_owned(), "9".to_owned()]];
        assert_eq!(render(&["who", "n"], &rows), "who    n\n----  --\na     10\nname   9\n");
        assert_eq!(unmeasured(&["who", "n", ""], "a", "gone"), ["a", "-", "gone"]);
    }
}
