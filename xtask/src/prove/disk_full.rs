//! The proof of `disk-full`: a disk that others fill to the last byte costs no acknowledged message, and the broker gets out of it.
//!
//! Owns the small disk, which is in memory and ends with the load, the broker's configuration and the verdict. The steps and the
//! books are `causeway-bench disk-full`.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::load::{Folder, words};
use crate::table;
use crate::workspace::{Profile, Workspace};

/// Bytes of the disk.
const DISK_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 1 << 20;

/// The last line of the load.
#[derive(Debug, Default, Deserialize)]
struct Figures {
    acknowledged: u64,
    acknowledged_on_the_full_disk: u64,
    refused: u64,
    unanswered: u64,
    refused_after_ms: u64,
    qos0_on_the_full_disk: u64,
    restart_on_the_full_disk_ms: u64,
    room_again_after_ms: u64,
    drained: u64,
    acknowledged_afterwards: u64,
    lost: u64,
    duplicates: u64,
    wrong: u64,
}

/// Runs the steps on a disk of their own, and prints the figures.
///
/// # Errors
/// When there is no such disk to be had, something cannot be started, or a promise is broken.
pub(super) fn prove(workspace: &Workspace) -> Result<()> {
    let bench = workspace.build("causeway-bench", "causeway-bench", Profile::Release)?;
    let broker = workspace.build("causeway-broker", "causewayd", Profile::Release)?;
    let folder = Folder::new(workspace)?;
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk)?;
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mqtt = held.local_addr()?;
    drop(held);
    let config = folder.path().join("causeway.toml");
    let text = format!(
        "[[listener]]\nname = \"tcp\"\nbind = \"{mqtt}\"\ntransport = \"tcp\"\n[authentication]\nanonymous = \"loopback\"\n\
         [storage]\ndata_directory = \"{}\"\nsegment_bytes = {SEGMENT_BYTES}\nfree_space_floor_bytes = 0\n\
         [limits]\nsession_queue_messages_max = 1000000\nsession_queue_bytes_max = 1000000000\n",
        disk.join("data").display()
    );
    std::fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let log = workspace.scratch("daemon-logs")?.join("disk-full-causeway.log");
    std::fs::write(&log, "")?;
    let run = format!("'{}' run --config '{}' >>'{}' 2>&1", broker.display(), config.display(), log.display());
    let arguments = words(&[
        &"disk-full",
        &"--json",
        &"--target",
        &mqtt,
        &"--broker-command",
        &run,
        &"--filler",
        &disk.join("filler").display(),
    ]);
    let output = on_small_disk(&disk, &bench, &arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run unshare (util-linux)")?;
    println!("broker log: {}\n", log.display());
    ensure!(
        output.status.success(),
        "causeway-bench or its disk failed ({}). The disk is a tmpfs in a mount namespace: that needs root, or user namespaces",
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("causeway-bench said nothing")?;
    let figures: Figures = serde_json::from_str(line).with_context(|| format!("causeway-bench said {line}"))?;
    println!("{}", render(&figures));
    verdict(&figures)
}

/// A command in a mount namespace of its own, where the folder is a small disk. It is gone once the command and its children are.
fn on_small_disk(disk: &Path, program: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new("unshare");
    // Whoever is not root becomes it, in there only.
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(format!("mount -t tmpfs -o size={DISK_BYTES} causeway \"$0\" && exec \"$@\""));
    command.arg(disk).arg(program).args(arguments);
    command
}

fn render(figures: &Figures) -> String {
    let rows = [
        ("bytes of the disk", DISK_BYTES),
        ("messages acknowledged", figures.acknowledged),
        ("of them once the disk was full", figures.acknowledged_on_the_full_disk),
        ("from the full disk to the first refusal, ms", figures.refused_after_ms),
        ("refused with 0x97", figures.refused),
        ("not answered", figures.unanswered),
        ("QoS 0 delivered on the full disk", figures.qos0_on_the_full_disk),
        ("SIGKILL and restart on the full disk, ms", figures.restart_on_the_full_disk_ms),
        ("delivered before there was room", figures.drained),
        ("from the first queue drained to room again, ms", figures.room_again_after_ms),
        ("acknowledged afterwards", figures.acknowledged_afterwards),
        ("delivered twice (allowed)", figures.duplicates),
        ("wrong: refused, out of order or to a stranger", figures.wrong),
        ("acknowledged and lost", figures.lost),
    ];
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value.to_string()]).collect();
    table::render(&["a disk full to the last byte", "figure"], &rows)
}

fn verdict(figures: &Figures) -> Result<()> {
    let mut broken = Vec::new();
    for (count, what) in [
        (figures.lost, "acknowledged messages lost"),
        (figures.wrong, "messages that should not have come"),
        (figures.unanswered, "messages without an answer"),
    ] {
        if count > 0 {
            broken.push(format!("{count} {what}"));
        }
    }
    if !broken.is_empty() {
        bail!("the broker breaks its promise: {}", broken.join("; "));
    }
    ensure!(
        figures.acknowledged > 0 && figures.refused > 0 && figures.drained > 0 && figures.acknowledged_afterwards > 0,
        "the load did not do its work"
    );
    println!(
        "holds: {} messages acknowledged, none lost; the full disk was refused with 0x97 and left again",
        figures.acknowledged
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_broken_promise_counts() {
        let good =
            || Figures { acknowledged: 9, refused: 1, drained: 5, acknowledged_afterwards: 4, ..Figures::default() };
        assert!(verdict(&good()).is_ok());
        assert!(verdict(&Figures { lost: 1, ..good() }).is_err());
        assert!(verdict(&Figures { wrong: 1, ..good() }).is_err());
        assert!(verdict(&Figures { unanswered: 1, ..good() }).is_err());
        assert!(verdict(&Figures { refused: 0, ..good() }).is_err(), "nothing was shown");
        assert!(verdict(&Figures { acknowledged_afterwards: 0, ..good() }).is_err(), "it never got out");
    }
}
