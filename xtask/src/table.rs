//! Text tables for the terminal.
//!
//! Owns alignment. It never knows what the cells mean.

/// Lays out rows under a head, columns left-aligned and as wide as needed.
/// Numbers align better on the right: cells that parse as one are.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let mut text = String::new();
    for row in [&head, &rule].into_iter().chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| aligned(cell, *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn aligned(cell: &str, width: usize) -> String {
    if cell.parse::<f64>().is_ok() { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = vec![vec!["fmt".to_owned(), "1.2".to_owned()], vec!["clippy".to_owned(), "10.0".to_owned()]];
        assert_eq!(render(&["step", "s"], &rows), "step    s\n------  ----\nfmt      1.2\nclippy  10.0\n");
    }
}
