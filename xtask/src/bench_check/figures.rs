//! The figures that are committed, and the comparison with those of now.
//!
//! Owns the file's layout and the threshold. It never counts anything.
//!
//! The file is text, so that a change is read in its diff: `#` begins a
//! comment, `@tool`, a tab and a version say what the figures were made with,
//! and every other line is a hot path, a tab and its instructions.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// How much above its figure a path may be, and below it without a word.
pub(super) const TOLERANCE: f64 = 0.05;

const HEAD: &str = "\
# Instructions of one operation of each hot path, as counted by callgrind.
# Written by `cargo xtask bench-check --update`; see docs/performance.md.
";

/// What was counted, and with what.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    /// Name and version of all that has a say in the figures.
    pub(super) tools: Vec<(String, String)>,
    /// Name of each path and its instructions for one operation, in order.
    pub(super) paths: Vec<(String, f64)>,
}

impl Figures {
    /// The committed ones; none where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or a line makes no sense.
    pub(super) fn read(path: &Path) -> Result<Figures> {
        if !path.exists() {
            return Ok(Figures::default());
        }
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Figures::parse(&text).with_context(|| format!("{} makes no sense", path.display()))
    }

    /// Commits to them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.render()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn parse(text: &str) -> Result<Figures> {
        let mut figures = Figures::default();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let Some((name, value)) = line.split_once('\t') else { bail!("line {}: no tab", index + 1) };
            match name.strip_prefix('@') {
                Some(tool) => figures.tools.push((tool.to_owned(), value.to_owned())),
                None => {
                    let figure = value.parse().ok().filter(|figure: &f64| figure.is_finite() && *figure > 0.0);
                    let figure = figure.with_context(|| format!("line {}: {value:?} is no figure", index + 1))?;
                    if figures.of(name).is_some() {
                        bail!("line {}: {name} is there twice", index + 1);
                    }
                    figures.paths.push((name.to_owned(), figure));
                }
            }
        }
        Ok(figures)
    }

    fn render(&self) -> String {
        let tools = self.tools.iter().map(|(tool, version)| format!("@{tool}\t{version}\n"));
        let paths = self.paths.iter().map(|(name, figure)| format!("{name}\t{figure:.1}\n"));
        std::iter::once(HEAD.to_owned()).chain(tools).chain(paths).collect()
    }

    fn of(&self, name: &str) -> Option<f64> {
        self.paths.iter().find(|(known, _)| known == name).map(|(_, figure)| *figure)
    }

    /// Which of the tools are not those the figures were made with.
    pub(super) fn differences(&self, tools: &[(String, String)]) -> Vec<String> {
        let then = |tool: &str| self.tools.iter().find(|(known, _)| known == tool).map(|(_, version)| version.as_str());
        tools
            .iter()
            .filter(|(tool, version)| then(tool).is_some_and(|then| then != version))
            .map(|(tool, version)| format!("{tool} was {:?}, and is {version:?}", then(tool).unwrap_or_default()))
            .collect()
    }
}

/// What to say about one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As committed, give or take the tolerance.
    Within,
    /// More than the tolerance above: fails.
    Worse,
    /// More than the tolerance below: a figure to commit, lest it be lost again unseen.
    Better,
    /// It has no committed figure.
    New,
    /// There is only the figure.
    Gone,
}

impl Verdict {
    /// For the table.
    pub(super) fn word(self) -> &'static str {
        match self {
            Verdict::Within => "",
            Verdict::Worse => "WORSE",
            Verdict::Better => "better",
            Verdict::New => "new",
            Verdict::Gone => "gone",
        }
    }
}

/// One path, then and now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) committed: Option<f64>,
    pub(super) now: Option<f64>,
}

impl Row {
    /// As a share of the committed figure.
    pub(super) fn change(&self) -> Option<f64> {
        Some(self.now? / self.committed? - 1.0)
    }

    pub(super) fn verdict(&self) -> Verdict {
        // A figure has one digit behind the point: exactly at the threshold is within it.
        const ROUNDING: f64 = 1e-9;
        match (self.committed, self.now, self.change()) {
            (_, _, Some(change)) if change > TOLERANCE + ROUNDING => Verdict::Worse,
            (_, _, Some(change)) if change < -TOLERANCE - ROUNDING => Verdict::Better,
            (_, _, Some(_)) => Verdict::Within,
            (None, _, None) => Verdict::New,
            (Some(_), _, None) => Verdict::Gone,
        }
    }

    /// For a sentence.
    pub(super) fn shown(&self) -> String {
        match (self.committed, self.now, self.change()) {
            (Some(committed), Some(now), Some(change)) => {
                format!("{} ({committed:.1} -> {now:.1}, {:+.1}%)", self.name, change * 100.0)
            }
            _ => self.name.clone(),
        }
    }
}

/// All paths of now, then those that are only committed. Where only a part was counted, nothing is missed.
pub(super) fn compare(committed: &Figures, now: &Figures, is_part: bool) -> Vec<Row> {
    let counted = now.paths.iter().map(|(name, figure)| Row {
        name: name.clone(),
        committed: committed.of(name),
        // As it would be committed.
        now: Some((figure * 10.0).round() / 10.0),
    });
    let gone = committed.paths.iter().filter(|(name, _)| !is_part && now.of(name).is_none());
    counted.chain(gone.map(|(name, figure)| Row { name: name.clone(), committed: Some(*figure), now: None })).collect()
}

/// What to commit: the figures of now, and where only a part was counted, the rest as it was.
///
/// # Errors
/// When a part was counted with other tools than the rest.
pub(super) fn merged(committed: &Figures, now: Figures, is_part: bool) -> Result<Figures> {
    if !is_part {
        return Ok(now);
    }
    let differences = committed.differences(&now.tools);
    if !differences.is_empty() {
        bail!("the other figures were made with other tools ({}): update them all", differences.join("; "));
    }
    let mut merged = Figures { tools: now.tools, paths: committed.paths.clone() };
    for (name, figure) in now.paths {
        match merged.paths.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = figure,
            None => merged.paths.push((name, figure)),
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(rustc: &str, paths: &[(&str, f64)]) -> Figures {
        Figures {
            tools: vec![("rustc".to_owned(), rustc.to_owned())],
            paths: paths.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect(),
        }
    }

    fn verdict(committed: f64, now: f64) -> Verdict {
        compare(&figures("1", &[("a", committed)]), &figures("1", &[("a", now)]), false)[0].verdict()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let figures = figures("rustc 1.95.0 (5980761 2026-04-14)", &[("decode", 376.4), ("deliver", 2864.0)]);
        assert_eq!(Figures::parse(&figures.render()).unwrap(), figures);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for (text, line) in [("a 1", "line 1"), ("# x\na\tone", "line 2"), ("a\t1\na\t2", "line 2"), ("a\t0", "line 1")]
        {
            let error = Figures::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(line), "{text:?}: {error}");
        }
    }

    #[test]
    fn more_than_five_percent_above_is_worse() {
        assert_eq!(verdict(100.0, 105.0), Verdict::Within);
        assert_eq!(verdict(100.0, 105.04), Verdict::Within);
        assert_eq!(verdict(100.0, 105.1), Verdict::Worse);
        assert_eq!(verdict(1000.0, 1100.0), Verdict::Worse);
    }

    #[test]
    fn more_than_five_percent_below_is_better() {
        assert_eq!(verdict(100.0, 95.0), Verdict::Within);
        assert_eq!(verdict(100.0, 94.9), Verdict::Better);
    }

    #[test]
    fn nothing_is_gone_where_only_a_part_is_counted() {
        let (committed, now) = (figures("1", &[("a", 1.0), ("b", 2.0)]), figures("1", &[("b", 2.0), ("c", 3.0)]));
        let verdicts = |is_part| compare(&committed, &now, is_part).iter().map(Row::verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(true), [Verdict::Within, Verdict::New]);
        assert_eq!(verdicts(false), [Verdict::Within, Verdict::New, Verdict::Gone]);
    }

    #[test]
    fn a_part_is_merged_into_the_rest() {
        let (committed, now) = (figures("1", &[("a", 1.0), ("b", 2.0)]), figures("1", &[("b", 3.0), ("c", 4.0)]));
        let expected = figures("1", &[("a", 1.0), ("b", 3.0), ("c", 4.0)]);
        assert_eq!(merged(&committed, now.clone(), true).unwrap(), expected);
        assert_eq!(merged(&committed, now, false).unwrap(), figures("1", &[("b", 3.0), ("c", 4.0)]));
    }

    #[test]
    fn figures_of_two_compilers_are_not_mixed() {
        let (committed, now) = (figures("1", &[("a", 1.0)]), figures("2", &[("a", 1.0)]));
        assert_eq!(committed.differences(&now.tools), ["rustc was \"1\", and is \"2\""]);
        assert!(merged(&committed, now.clone(), true).is_err());
        assert_eq!(merged(&committed, now.clone(), false).unwrap(), now);
    }
}
