//! Where things are in this repository, and how they are built.
//!
//! Owns the paths, git's list of files and the calls to cargo. It never
//! decides what to build when: the commands do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The repository's root and the place for everything generated.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder; nothing generated lives outside of it.
    pub(crate) target: PathBuf,
    /// Whether to take binaries from the build that the tests use. Cargo
    /// unites features over all it builds at once, so a binary that is built
    /// alone compiles its dependencies anew: a waste after the tests, but
    /// faster without them.
    pub(crate) shares_test_build: bool,
}

/// Which of cargo's profiles to build with. Checks use [`Profile::Dev`]
/// throughout, so that one build serves them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// The profile of the tests.
    Dev,
    /// The profile of what is shipped; for measurements.
    Release,
}

/// Built together for release: alone, each would have the features of fewer crates, and their dependencies be built twice.
const MEASURED: [&str; 2] = ["causeway-broker", "causeway-bench"];

impl Workspace {
    /// Finds the workspace this toolbox belongs to.
    ///
    /// # Errors
    /// When the toolbox's own folder has no parent.
    pub(crate) fn find() -> Result<Self> {
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir.parent().context("the folder of xtask has no parent")?.to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target, shares_test_build: false })
    }

    /// The cargo that runs this toolbox, started in the root.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }

    /// The files git tracks or would track, relative to the root, sorted.
    ///
    /// # Errors
    /// When git cannot be run or says no.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&self.root)
            .output()
            .context("cannot run git")?;
        ensure!(output.status.success(), "git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let mut files: Vec<PathBuf> = String::from_utf8(output.stdout)?
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            // A file deleted but not yet committed is still listed.
            .filter(|path| self.root.join(path).is_file())
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// Builds the binary `name` of `package` and returns its path.
    ///
    /// # Errors
    /// When cargo fails or the binary is not where it should be.
    pub(crate) fn build(&self, package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--quiet"]);
        match profile {
            Profile::Dev if self.shares_test_build => cargo.args(["--workspace", "--bins", "--tests"]),
            Profile::Dev => cargo.args(["--package", package, "--bin", name]),
            Profile::Release if MEASURED.contains(&package) => {
                cargo.args(["--release", "--bins"]).args(MEASURED.iter().flat_map(|package| ["--package", package]))
            }
            Profile::Release => cargo.args(["--release", "--package", package, "--bin", name]),
        };
        run(&mut cargo).with_context(|| format!("cannot build {name}"))?;
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        };
        let path = self.target.join(folder).join(name);
        ensure!(path.is_file(), "cargo built no {}", path.display());
        Ok(path)
    }

    /// A folder under the target folder, created when missing.
    ///
    /// # Errors
    /// When it cannot be created.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.target.join(name);
        create_dir(&path)?;
        Ok(path)
    }
}

/// Creates a folder and its parents.
///
/// # Errors
/// When it cannot be created.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Runs a command to its end with this program's output, and fails when it does.
///
/// # Errors
/// When it cannot be started or exits with anything but 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// The command as a user would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
