//! `cargo xtask bench-check`: the instructions of the hot paths, against the
//! figures that are committed.
//!
//! Owns the order of work and what is said about the outcome. The paths are
//! `benches/hotpaths`; how they are counted is in `callgrind.rs`, and what is
//! too much in `figures.rs`.

mod callgrind;
mod figures;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::program::Program;
use crate::table;
use crate::workspace::{Profile, Workspace};
use figures::{Figures, Row, Verdict};

/// The committed figures, from the root.
const FIGURES: &str = "benches/instructions.tsv";

/// What to count, and what to do with it.
#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Commit to what is counted now: write the figures instead of comparing with them
    #[arg(long, conflicts_with = "slowed")]
    update: bool,
    /// Count this hot path only; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Make each operation cost a tenth more, which must make the check fail
    #[arg(long)]
    slowed: bool,
}

/// Builds the hot paths, counts, prints the table, and compares or writes.
///
/// # Errors
/// When a path is more than 5% above its figure, has none, or cannot be counted.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    ensure!(
        Program::Valgrind.is_present(),
        "valgrind, which counts, is not there: first run: {}",
        Program::Valgrind.install_line()
    );
    let program = workspace.build("causeway-hotpaths", "causeway-hotpaths", Profile::Release)?;
    let names = chosen(&callgrind::names(&program)?, &options.only)?;
    let tools = callgrind::tools()?;
    let path = workspace.root.join(FIGURES);
    let committed = Figures::read(&path)?;
    let folder = workspace.scratch("callgrind")?;
    let mut now = Figures { tools, paths: Vec::new() };
    for name in names {
        let figure = callgrind::count(&program, &name, &folder, options.slowed)?;
        now.paths.push((name, figure));
    }
    let is_part = !options.only.is_empty();
    let rows = figures::compare(&committed, &now, is_part);
    println!("{}", render(&rows));
    if options.update {
        figures::merged(&committed, now, is_part)?.write(&path)?;
        println!("written to {FIGURES}: commit it");
        return Ok(());
    }
    println!("Where the instructions of one went: callgrind_annotate {}", folder.join("NAME.out").display());
    for better in rows.iter().filter(|row| row.verdict() == Verdict::Better) {
        println!("{} got better: commit that with `cargo xtask bench-check --update`", better.shown());
    }
    let differences = committed.differences(&now.tools);
    for difference in &differences {
        println!("The figures were made with other tools: {difference}");
    }
    match complaint(&rows, &differences) {
        Some(complaint) => bail!(complaint),
        None => Ok(()),
    }
}

/// The named ones, or all.
fn chosen(names: &[String], only: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        bail!("no hot path is called {unknown}; there are {}", names.join(", "));
    }
    Ok(names.iter().filter(|name| only.is_empty() || only.contains(name)).cloned().collect())
}

fn render(rows: &[Row]) -> String {
    let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"));
    let cells = |row: &Row| {
        let change = row.change().map_or_else(String::new, |change| format!("{:+.1}%", change * 100.0));
        vec![row.name.clone(), figure(row.committed), figure(row.now), change, row.verdict().word().to_owned()]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table::render(&["hot path, instructions an operation", "committed", "now", "change", ""], &rows)
}

/// What is wrong, if anything, and what to do about it.
fn complaint(rows: &[Row], differences: &[String]) -> Option<String> {
    let shown = |verdict: Verdict| {
        let rows: Vec<String> = rows.iter().filter(|row| row.verdict() == verdict).map(Row::shown).collect();
        (!rows.is_empty()).then(|| format!("\n  {}", rows.join("\n  ")))
    };
    let mut said = Vec::new();
    if let Some(worse) = shown(Verdict::Worse) {
        said.push(format!("more than {:.0}% above the committed figure:{worse}", figures::TOLERANCE * 100.0));
    }
    if let Some(new) = shown(Verdict::New) {
        said.push(format!("without a committed figure:{new}"));
    }
    if let Some(gone) = shown(Verdict::Gone) {
        said.push(format!("committed, but there no more:{gone}"));
    }
    if said.is_empty() {
        return None;
    }
    if !differences.is_empty() {
        said.push(format!("this may be why, for the figures were made with other tools: {}", differences.join("; ")));
    }
    said.push("if it has to be, commit the figures of `cargo xtask bench-check --update`, and say why".to_owned());
    Some(said.join("\n"))
}

/// For the suite: all paths, compared.
///
/// # Errors
/// Like [`run`].
pub(crate) fn whole(workspace: &Workspace) -> Result<()> {
    run(workspace, &Options::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(committed: Option<f64>, now: Option<f64>) -> Row {
        Row { name: "deliver".to_owned(), committed, now }
    }

    #[test]
    fn what_is_worse_is_named_with_figures_and_the_way_out() {
        assert_eq!(complaint(&[row(Some(100.0), Some(105.0)), row(Some(100.0), Some(50.0))], &["rustc".into()]), None);
        let said = complaint(&[row(Some(100.0), Some(106.0))], &[]).unwrap();
        assert!(
            said.starts_with("more than 5% above the committed figure:\n  deliver (100.0 -> 106.0, +6.0%)"),
            "{said}"
        );
        assert!(said.contains("--update") && !said.contains("other tools"), "{said}");
    }

    #[test]
    fn other_tools_are_named_where_it_fails() {
        let said = complaint(&[row(Some(100.0), Some(106.0))], &["rustc 1 then, rustc 2 now".into()]).unwrap();
        assert!(said.contains("other tools: rustc 1 then, rustc 2 now"), "{said}");
    }

    #[test]
    fn a_path_without_a_figure_and_a_figure_without_a_path_fail() {
        let said = complaint(&[row(None, Some(1.0)), row(Some(1.0), None)], &[]).unwrap();
        assert!(said.contains("without a committed figure:\n  deliver"), "{said}");
        assert!(said.contains("there no more:\n  deliver"), "{said}");
    }

    #[test]
    fn an_unknown_path_is_refused() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(chosen(&names, &[]).unwrap(), names);
        assert_eq!(chosen(&names, &["b".to_owned()]).unwrap(), ["b"]);
        assert!(chosen(&names, &["c".to_owned()]).is_err());
    }
}
