//! A document whose commands are run.
//!
//! Owns which of its blocks are commands, which start a program of their own and which say what is printed. It runs nothing.
//!
//! A block that begins with ` ```sh ` is run by a shell in one folder, and must succeed. One that begins with ` ```sh broker ` is started and
//! goes on beside the others. A ` ```text ` block that follows a command says what it prints, all of it.

use anyhow::{Context as _, Result, bail, ensure};

/// One block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Where its fence is, counted from 1.
    pub(crate) line: usize,
    /// The commands.
    pub(crate) script: String,
    /// Whether it goes on beside the others.
    pub(crate) is_beside: bool,
    /// What it prints, if the document says so.
    pub(crate) printed: Option<String>,
}

/// The steps of a document, in order.
///
/// # Errors
/// A block has no end, or says what is printed by no command.
pub(crate) fn steps(document: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let mut body = String::new();
        loop {
            let (_, line) = lines.next().with_context(|| format!("the block at line {} has no end", index + 1))?;
            if line == "```" {
                break;
            }
            body.push_str(line);
            body.push('\n');
        }
        let mut words = info.split_whitespace();
        match (words.next(), words.next()) {
            (Some("sh"), None) => {
                steps.push(Step { line: index + 1, script: body, is_beside: false, printed: None });
            }
            (Some("sh"), Some("broker")) => {
                steps.push(Step { line: index + 1, script: body, is_beside: true, printed: None });
            }
            (Some("sh"), Some(other)) => bail!("line {}: `sh {other}` means nothing here", index + 1),
            (Some("text"), _) => {
                let step = steps.last_mut().with_context(|| format!("line {}: no command prints this", index + 1))?;
                ensure!(step.printed.is_none() && !step.is_beside, "line {}: what does this belong to?", index + 1);
                step.printed = Some(body);
            }
            // Shown, not run.
            _ => {}
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart() {
        let document = "# A\n```sh\na\nb\n```\n```text\nfine\n```\ntext\n```sh broker\nc\n```\n```toml\nx = 1\n```\n```sh\nd\n```\n";
        let step = |line, script: &str, is_beside, printed: Option<&str>| Step {
            line,
            script: script.to_owned(),
            is_beside,
            printed: printed.map(str::to_owned),
        };
        assert_eq!(
            steps(document).unwrap(),
            [step(2, "a\nb\n", false, Some("fine\n")), step(10, "c\n", true, None), step(16, "d\n", false, None)]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in
            ["```sh\na\n", "```text\na\n```\n", "```sh brokre\na\n```\n", "```sh broker\na\n```\n```text\nb\n```\n"]
        {
            assert!(steps(wrong).is_err(), "{wrong}");
        }
    }
}
