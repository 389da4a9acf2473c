//! A log on a disk: what is written, what a crash leaves, and what of it is noticed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use tempfile::TempDir;

use super::folder::{LogFile, files};
use super::line::NO_LINE;
use super::*;

/// Room for a few lines in each file.
const FILE_BYTES: u64 = 1000;

fn settings(folder: &Path) -> config::Audit {
    let directory = Some(folder.to_owned());
    config::Audit { directory, file_bytes_max: FILE_BYTES, files_kept: 0, ..config::Audit::default() }
}

fn open(settings: &config::Audit) -> Audit {
    Audit::open(settings, Arc::default()).unwrap()
}

fn change(number: usize) -> AuditEvent {
    AuditEvent { who: "operator:olga".into(), ..AuditEvent::new(What::Registry, Decision::Allow, format!("{number}")) }
}

/// A log of several files, closed.
fn written(lines: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&settings(folder.path()));
    (0..lines).for_each(|number| audit.record(change(number)));
    audit.close();
    folder
}

fn checked(folder: &Path) -> Checked {
    verify(folder, None).unwrap().unwrap()
}

fn broken(folder: &Path) -> Broken {
    verify(folder, None).unwrap().unwrap_err()
}

fn details(folder: &Path) -> Vec<String> {
    let mut details = Vec::new();
    each_line(folder, |line| {
        details.push(format!("{} {} {}", line.what, line.detail, line.count));
        Ok(())
    })
    .unwrap();
    details
}

#[test]
fn the_chain_goes_on_over_files_and_restarts() {
    let folder = written(10);
    let before = checked(folder.path());
    assert!(before.files > 2 && before.lines == 10 + before.files - 1, "{before:?}");
    let audit = open(&settings(folder.path()));
    audit.record(change(10));
    audit.close();
    let after = checked(folder.path());
    assert_eq!((after.first, after.torn, after.lost), (1, 0, 0));
    assert!(after.last > before.last && after.head != before.head);
    let expected = verify(folder.path(), Some(&before.head)).unwrap().unwrap();
    assert!(expected.has_expected, "the earlier head is in it");
    let unknown = verify(folder.path(), Some(&"1".repeat(64))).unwrap().unwrap();
    assert!(!unknown.has_expected);
}

#[test]
fn two_brokers_do_not_share_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&settings(folder.path()));
    assert!(is_in_use(folder.path()));
    let second = Audit::open(&settings(folder.path()), Arc::default());
    assert!(matches!(second, Err(AuditError::InUse(_))));
    audit.close();
    assert!(!is_in_use(folder.path()));
}

#[test]
fn every_changed_byte_is_found() {
    let folder = written(6);
    for file in files(folder.path()).unwrap() {
        let whole = fs::read(&file.path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&file.path, &changed).unwrap();
            let broken = broken(folder.path());
            let line = whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            assert_eq!((&*broken.file, broken.line), (&*file.name(), line), "byte {at}: {broken}");
        }
        fs::write(&file.path, whole).unwrap();
    }
    checked(folder.path());
}

#[test]
fn every_removed_repeated_or_exchanged_line_is_found() {
    let folder = written(10);
    let files = files(folder.path()).unwrap();
    for (index, file) in files.iter().enumerate() {
        let whole = fs::read_to_string(&file.path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        for at in 0..lines.len() {
            let is_tail = index + 1 == files.len() && at + 1 == lines.len();
            let mut removed = lines.clone();
            removed.remove(at);
            let mut repeated = lines.clone();
            repeated.insert(at, lines[at]);
            let mut exchanged = lines.clone();
            exchanged.swap(at, (at + 1) % lines.len());
            for (what, changed) in [("removed", removed), ("repeated", repeated), ("exchanged", exchanged)] {
                let is_same = changed == lines || (what == "removed" && is_tail);
                fs::write(&file.path, changed.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
                assert_eq!(
                    verify(folder.path(), None).unwrap().is_ok(),
                    is_same,
                    "{what} line {at} of {}",
                    file.name()
                );
            }
        }
        fs::write(&file.path, whole).unwrap();
    }
    checked(folder.path());
}

#[test]
fn every_removed_renamed_or_repeated_file_is_found() {
    let folder = written(10);
    let files = files(folder.path()).unwrap();
    let aside = folder.path().join("aside");
    for (index, file) in files.iter().enumerate() {
        fs::rename(&file.path, &aside).unwrap();
        let is_tail = index + 1 == files.len();
        assert_eq!(verify(folder.path(), None).unwrap().is_ok(), is_tail, "{} is removed", file.name());
        let other = LogFile::new(folder.path(), file.first + 1);
        fs::copy(&aside, &other.path).unwrap();
        assert!(verify(folder.path(), None).unwrap().is_err(), "{} is renamed", file.name());
        fs::rename(&aside, &file.path).unwrap();
        assert!(verify(folder.path(), None).unwrap().is_err(), "{} is there twice", file.name());
        fs::remove_file(&other.path).unwrap();
    }
    checked(folder.path());
}

#[test]
fn a_shorter_log_is_noticed_by_its_head() {
    let folder = written(10);
    let head = checked(folder.path()).head;
    let newest = files(folder.path()).unwrap().pop().unwrap();
    let text = fs::read_to_string(&newest.path).unwrap();
    let end = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    fs::write(&newest.path, &text[..end]).unwrap();
    assert!(!verify(folder.path(), Some(&head)).unwrap().unwrap().has_expected);
}

#[test]
fn what_a_crash_tore_is_closed_with_a_line() {
    for rest in ["", "{\"seq\":9", "{\"seq\":9}\n", "\0\0\0\n\0", "\n"] {
        let folder = written(3);
        let newest = files(folder.path()).unwrap().pop().unwrap();
        OpenOptions::new().append(true).open(&newest.path).unwrap().write_all(rest.as_bytes()).unwrap();
        assert_eq!(verify(folder.path(), None).unwrap().is_err(), !rest.is_empty(), "{rest:?}");
        let audit = open(&settings(folder.path()));
        audit.record(change(3));
        audit.close();
        let after = checked(folder.path());
        assert_eq!(after.torn, u64::from(!rest.is_empty()), "{rest:?}");
        // Neither what was torn nor the line that says so may change.
        if !rest.is_empty() {
            let text = fs::read_to_string(&newest.path).unwrap();
            let at = text.find(&format!("{rest}\n")).unwrap();
            fs::write(&newest.path, format!("{}x{}", &text[..at], &text[at + 1..])).unwrap();
            assert!(verify(folder.path(), None).unwrap().is_err(), "{rest:?}");
        }
    }
}

#[test]
fn every_prefix_of_a_log_is_gone_on_with() {
    let folder = written(2);
    let file = files(folder.path()).unwrap().pop().unwrap();
    let whole = fs::read(&file.path).unwrap();
    let settings = settings(folder.path());
    for end in (0..whole.len()).step_by(7) {
        for file in files(folder.path()).unwrap() {
            fs::remove_file(file.path).unwrap();
        }
        fs::write(&file.path, &whole[..end]).unwrap();
        let audit = open(&settings);
        audit.record(change(9));
        audit.close();
        let after = checked(folder.path());
        let is_torn = end > 0 && whole[end - 1] != b'\n';
        assert_eq!(after.torn, u64::from(is_torn), "cut at {end}");
    }
}

#[test]
fn a_file_that_had_only_begun_is_gone_on_with() {
    let folder = written(3);
    let before = checked(folder.path());
    let new = LogFile::new(folder.path(), before.last + 1);
    fs::write(&new.path, "").unwrap();
    assert_eq!(checked(folder.path()).last, before.last);
    let audit = open(&settings(folder.path()));
    audit.record(change(3));
    audit.close();
    assert_eq!(checked(folder.path()).last, before.last + 1);
    assert!(fs::read(&new.path).unwrap().len() > 100);
}

#[test]
fn old_files_are_removed_and_the_log_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = config::Audit { files_kept: 3, ..settings(folder.path()) };
    let audit = open(&settings);
    (0..30).for_each(|number| audit.record(change(number)));
    audit.close();
    let after = checked(folder.path());
    assert_eq!(after.files, 3);
    assert!(after.first > 1 && after.lines < 30);
    let oldest = files(folder.path()).unwrap().remove(0);
    fs::remove_file(oldest.path).unwrap();
    assert!(broken(folder.path()).what.contains("files before it are missing"));
}

#[test]
fn a_log_whose_lines_are_gone_is_gone_on_with_but_never_whole() {
    let folder = written(10);
    for file in files(folder.path()).unwrap() {
        fs::write(&file.path, "nonsense\n").unwrap();
    }
    let audit = open(&settings(folder.path()));
    audit.record(change(10));
    audit.close();
    broken(folder.path());
    assert!(
        details(folder.path()).iter().any(|line| line.starts_with("lost the lines")),
        "{:?}",
        details(folder.path())
    );
}

#[test]
fn refusals_are_counted_and_changes_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    let audit = open(&settings(folder.path()));
    for _ in 0..1000 {
        audit.record(AuditEvent { client: "car".into(), ..AuditEvent::new(What::Publish, Decision::Deny, "no") });
    }
    audit.record(change(1));
    audit.close();
    let lines = details(folder.path());
    let refused: u64 = lines.iter().filter_map(|line| line.strip_prefix("publish no ")?.parse::<u64>().ok()).sum();
    assert_eq!(refused, 1000, "{lines:?}");
    assert!(lines.len() < 20 && lines.iter().any(|line| line == "registry 1 1"), "{lines:?}");
}

#[test]
fn what_cannot_be_written_is_counted_in_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let counts: Arc<AuditCounts> = Arc::default();
    // Each line begins a file, which a folder keeps from being made.
    let settings = config::Audit { file_bytes_max: 1, ..settings(folder.path()) };
    let audit = Audit::open(&settings, counts.clone()).unwrap();
    audit.record(change(0));
    audit.flush();
    let last = checked(folder.path()).last;
    let in_the_way = LogFile::new(folder.path(), last + 1).path;
    fs::create_dir(&in_the_way).unwrap();
    audit.record(change(1));
    audit.flush();
    assert_eq!(counts.lost.load(Ordering::Relaxed), 1);
    assert!(counts.failures.load(Ordering::Relaxed) > 0);
    fs::remove_dir(&in_the_way).unwrap();
    audit.record(change(2));
    audit.close();
    let after = checked(folder.path());
    assert!(after.lost >= 1, "{:?}", details(folder.path()));
    assert_eq!(after.lost, counts.lost.load(Ordering::Relaxed));
}

#[test]
fn without_a_folder_nothing_is_recorded() {
    let audit = Audit::open(&config::Audit::default(), Arc::default()).unwrap();
    assert!(!audit.is_on() && !audit.wants_connect(&Principal::operator("olga")));
    audit.record(change(1));
    audit.close();
    assert_eq!(verify(Path::new("/nowhere"), None).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(NO_LINE.len(), 64);
}
