//! Every sample configuration is one the broker accepts.
//!
//! Owns asking `causewayd check`, or `causewayd policy check`, about each. It never judges one itself.

use std::process::Command;

use anyhow::Result;

use super::{Finding, TextFile, arrows};
use crate::workspace::{Profile, Workspace};

/// Checks every TOML file of `config/` and its folders.
///
/// # Errors
/// When the broker cannot be built or started.
pub(super) fn check(workspace: &Workspace, files: &[TextFile]) -> Result<Vec<Finding>> {
    let samples: Vec<&TextFile> = files
        .iter()
        .filter(|file| arrows::folder(&file.path) == Some("config") && file.has_extension("toml"))
        .collect();
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    let causewayd = workspace.build("causeway-broker", "causewayd", Profile::Dev)?;
    let mut findings = Vec::new();
    for sample in samples {
        // A sample names certificates and users that only its reader can make.
        let is_policy = sample.path.file_name().is_some_and(|name| name == "policy.toml");
        let check = if is_policy { ["policy", "check"] } else { ["check", "--without-files"] };
        let output = Command::new(&causewayd).args(check).arg(&sample.path).current_dir(&workspace.root).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("nothing").trim().to_owned();
            findings.push(Finding::new(
                &sample.path,
                1,
                format!("causewayd check refuses it: mend the sample or the broker; it says: {said}"),
            ));
        }
    }
    Ok(findings)
}
