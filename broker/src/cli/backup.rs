//! `causewayd backup` and `causewayd restore`: a data directory, copied whole.
//!
//! Owns the order: check, copy, sync, and only then the name. A backup is a data directory without its lock. The copy of a running broker is
//! the broker's own work: it is only asked here.

use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use causeway_storage::backup::{Copied, Destination, Room, copy_beside, copy_layout, copy_shard};
use causeway_storage::inspect::Verified;
use causeway_storage::{Found, shard_folder};
use clap::Args;

use super::http::{Client, Credentials};
use super::inspect::{Progress, check, check_registry, open, print_damage, size};
use crate::jobs::JOBS_FILE;
use crate::registry::REGISTRY_FILE;

#[derive(Debug, Args)]
#[command(after_help = "\
Without --admin the broker must be stopped. With it, the running broker is asked to make the backup, in a folder of its own machine.

The backup is checked before it gets its name: until then it is called TO.partial.

Examples:
  causewayd backup /var/lib/causeway /backup/monday
  causewayd backup /var/lib/causeway /backup/monday --admin http://127.0.0.1:9883")]
pub(super) struct Options {
    /// The data directory
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The backup: a folder that does not exist, or is empty
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// The administration listener of the broker that runs; it makes the backup of its own data directory, whatever DIR is
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The backup is checked first; one that is damaged is not restored. Run it as the user that the broker runs as, who must own the folder.

Example:
  causewayd restore /backup/monday /var/lib/causeway")]
pub(super) struct RestoreOptions {
    /// The backup
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// The data directory: a folder that does not exist, or is empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    if let Some(url) = &options.admin {
        return ask(url, &options.credentials, &options.to, out);
    }
    let (found, _lock) = open(&options.folder).map_err(|error| {
        let hint = if error.to_string().contains("in use by") {
            ", or give --admin with the URL of its administration listener to back it up while it runs"
        } else {
            ""
        };
        anyhow::anyhow!("{error:#}{hint}")
    })?;
    found.check()?;
    let destination = Destination::begin(&options.to, &options.folder)?;
    let copied = copy(&options.folder, destination.folder(), &found, Room::Holes)?;
    let checked = check_all(destination.folder(), &found)?;
    if !checked.damage.is_empty() {
        print_damage(&checked, &mut stderr())?;
        bail!("{} is damaged, and no backup was made of it", options.folder.display());
    }
    destination.finish()?;
    tell("backed up", &options.to, copied, &checked, out)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restore(options: &RestoreOptions, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let (found, _lock) = open(&options.from)?;
    found.check()?;
    // Said before a long check.
    let destination = Destination::begin(&options.folder, &options.from)?;
    let checked = check_all(&options.from, &found)?;
    if !checked.damage.is_empty() {
        print_damage(&checked, &mut stderr())?;
        bail!("{} is damaged, and nothing was restored", options.from.display());
    }
    let copied = copy(&options.from, destination.folder(), &found, Room::SetAside)?;
    destination.finish()?;
    tell("restored", &options.folder, copied, &checked, out)?;
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &Path, to: &Path, found: &Found, room: Room) -> anyhow::Result<Copied> {
    copy_layout(from, to)?;
    let mut copied = Copied::default();
    let mut progress = Progress::new(format!("copying {}", from.display()));
    for &shard in &found.folders {
        let [from, to] = [from, to].map(|data| shard_folder(data, shard));
        let one = copy_shard(&from, &to, room, &mut |bytes| progress.add(bytes))?;
        copied.segments += one.segments;
        copied.bytes += one.bytes;
    }
    copied.bytes += copy_beside(from, to, JOBS_FILE, &mut |bytes| progress.add(bytes))?;
    copied.bytes += copy_beside(from, to, REGISTRY_FILE, &mut |bytes| progress.add(bytes))?;
    Ok(copied)
}

fn check_all(folder: &Path, found: &Found) -> anyhow::Result<Verified> {
    let mut all = Verified::default();
    for &shard in &found.folders {
        let path = shard_folder(folder, shard);
        let one = check(&path, shard, found.run(shard)).with_context(|| path.display().to_string())?;
        all.records += one.records;
        all.record_bytes += one.record_bytes;
        all.entries += one.entries;
        all.bodies += one.bodies;
        all.body_bytes += one.body_bytes;
        all.damage.extend(one.damage);
    }
    all.damage.extend(check_registry(folder).err());
    Ok(all)
}

fn tell(done: &str, to: &Path, copied: Copied, checked: &Verified, out: &mut dyn Write) -> std::io::Result<()> {
    let Verified { records, entries, bodies, .. } = checked;
    writeln!(
        out,
        "{done} to {}: {} segments with {records} records, {entries} entries and {bodies} bodies of the folded state, {}; \
         all of it is intact",
        to.display(),
        copied.segments,
        size(copied.bytes)
    )
}

/// Asks a running broker for a backup, and waits for as long as it takes.
fn ask(url: &str, credentials: &Credentials, to: &Path, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let client = Client::new(url, credentials)?;
    let to = std::path::absolute(to).context("TO")?;
    let Some(shown) = to.to_str() else { bail!("{} is not UTF-8, which --admin needs", to.display()) };
    let body = serde_json::json!({ "to": shown }).to_string();
    let reply = client.ask("POST", "/v1/backup", Some(&body))?;
    match reply.status {
        200..=299 => {
            writeln!(out, "backed up to {shown} {}", reply.body().trim())?;
            Ok(ExitCode::SUCCESS)
        }
        404 | 405 => bail!("the broker at {url} makes no backups: stop it, and back up without --admin"),
        status => bail!("the broker at {url} made no backup (status {status}): {}", reply.detail()),
    }
}
