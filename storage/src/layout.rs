//! Which shards a data directory has.
//!
//! Owns the file that says so, and what is wrong where the folders are others. It opens no shard, and knows no other file.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::RunId;
use crate::disk::{Disk, named};

/// The file.
pub const LAYOUT_FILE: &str = "causeway.shards";
/// The file in the making. It never counts.
const UNFINISHED: &str = "causeway.shards.new";
/// What its first line says before the number of the format.
const HEAD: &str = "causeway data directory, format ";
const FORMAT: u32 = 1;
/// A file that is longer is none of ours.
const BYTES_MAX: u64 = 1 << 20;

/// Which shards a data directory has: they are of one broker, and none can go or come alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The run of each shard, by its number.
    pub runs: Vec<RunId>,
    /// Whether all shards have begun. From then on, one without a log has lost it.
    pub begun: bool,
}

/// Why a data directory cannot be taken for what it says it is.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// What the system says, with the name of the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not as it was written.
    #[error("{} is damaged: {detail}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file was written by another version.
    #[error("{} has format {format:?}, and this version reads {FORMAT}", file.display())]
    Version {
        /// The file.
        file: PathBuf,
        /// The format it has.
        format: String,
    },
    /// A shard's folder is not there.
    #[error("{} is missing: the data directory was made for {shards} {}", folder.display(), shards_word(*shards))]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// How many there should be.
        shards: usize,
    },
    /// There is a folder of a shard that the data directory does not have.
    #[error("{} is none of its shards: the data directory was made for {shards}", folder.display())]
    Surplus {
        /// The folder.
        folder: PathBuf,
        /// How many there should be.
        shards: usize,
    },
    /// There are folders of several shards, and nothing says which belong together.
    #[error("{} is missing, which says what shards there are; without it, shard-0 can be the only one", file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
    },
}

fn shards_word(shards: usize) -> &'static str {
    if shards == 1 { "shard" } else { "shards" }
}

/// The folder of a shard in a data directory.
pub fn shard_folder(data: &Path, shard: u32) -> PathBuf {
    data.join(format!("shard-{shard}"))
}

impl Layout {
    /// One with so many shards, of which none has begun.
    pub fn new(disk: &dyn Disk, shards: u32) -> Layout {
        Layout { runs: (0..shards).map(|_| RunId::new(disk)).collect(), begun: false }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u32 {
        self.runs.len() as u32
    }

    /// The run of a shard, once it has begun.
    pub fn run(&self, shard: u32) -> Option<RunId> {
        self.runs.get(shard as usize).copied().filter(|_| self.begun)
    }

    /// What the data directory `folder` says. None where it says nothing: it is a new one, or was made when there was one shard only.
    ///
    /// # Errors
    /// [`LayoutError::Io`], [`LayoutError::Damaged`], [`LayoutError::Version`].
    pub fn read(folder: &Path) -> Result<Option<Layout>, LayoutError> {
        let file = folder.join(LAYOUT_FILE);
        let damaged = |detail: &str| LayoutError::Damaged { file: file.clone(), detail: detail.to_owned() };
        match std::fs::metadata(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > BYTES_MAX => return Err(damaged("it is too long")),
            _ => {}
        }
        let bytes = std::fs::read(&file).map_err(named(&file))?;
        Layout::decode(&bytes).map(Some).map_err(|wrong| match wrong {
            Wrong::Format(format) => LayoutError::Version { file: file.clone(), format },
            Wrong::Damaged(detail) => damaged(detail),
        })
    }

    /// Makes it what the data directory says, durably. After a crash it is this, or what was said before.
    ///
    /// # Errors
    /// Whatever the device says.
    pub fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        if disk.names()?.iter().any(|name| name == UNFINISHED) {
            disk.remove(UNFINISHED)?;
        }
        let file = disk.create(UNFINISHED)?;
        file.write_at(self.encode().as_bytes(), 0)?;
        file.sync_all()?;
        disk.rename(UNFINISHED, LAYOUT_FILE)?;
        disk.sync_folder()
    }

    fn encode(&self) -> String {
        let mut text = format!("{HEAD}{FORMAT}\nshards {}\n", self.runs.len());
        for (shard, run) in self.runs.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "shard-{shard} {run}");
        }
        text.push_str(if self.begun { "begun\n" } else { "beginning\n" });
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}crc32c {checksum:08x}\n")
    }

    fn decode(bytes: &[u8]) -> Result<Layout, Wrong> {
        let text = std::str::from_utf8(bytes).map_err(|_| Wrong::Damaged("it is no text"))?;
        let format = text.lines().next().and_then(|line| line.strip_prefix(HEAD));
        let format = format.ok_or(Wrong::Damaged("its first line is another"))?;
        if format != FORMAT.to_string() {
            return Err(Wrong::Format(format.to_owned()));
        }
        let mut words = text.split_ascii_whitespace().skip(HEAD.split_ascii_whitespace().count() + 1);
        let layout = read_words(&mut words).ok_or(Wrong::Damaged("it breaks off, or has a line that is none"))?;
        // What is written again and is the same was intact, to the last byte.
        match layout.encode() == text {
            true => Ok(layout),
            false => Err(Wrong::Damaged("its checksum is wrong")),
        }
    }
}

enum Wrong {
    Format(String),
    Damaged(&'static str),
}

fn read_words<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Layout> {
    let shards: usize = words.nth(1)?.parse().ok()?;
    let mut runs = Vec::new();
    for _ in 0..shards {
        runs.push(RunId(u128::from_str_radix(words.nth(1)?, 16).ok()?));
    }
    let begun = words.next()? == "begun";
    (shards > 0).then_some(Layout { runs, begun })
}

/// What is in a data directory, as far as it can be told without opening a shard.
#[derive(Debug)]
pub struct Found {
    folder: PathBuf,
    /// What it says. None where it is new, or was made when there was one shard only.
    pub layout: Option<Layout>,
    /// The shards whose folders are there, in order.
    pub folders: Vec<u32>,
}

impl Found {
    /// Looks at the data directory `folder`.
    ///
    /// # Errors
    /// As [`Layout::read`]; the folder cannot be listed.
    pub fn in_folder(folder: &Path) -> Result<Found, LayoutError> {
        let layout = Layout::read(folder)?;
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(named(folder))? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("shard-"));
            let number = digits.and_then(|digits| digits.parse::<u32>().ok().filter(|n| n.to_string() == digits));
            folders.extend(number);
        }
        folders.sort_unstable();
        Ok(Found { folder: folder.to_owned(), layout, folders })
    }

    /// How many shards it has; `None` where it is new.
    pub fn shards(&self) -> Option<u32> {
        let before_layouts = (!self.folders.is_empty()).then_some(1);
        self.layout.as_ref().map(Layout::shards).or(before_layouts)
    }

    /// The run of a shard, where that is known and the shard has begun.
    pub fn run(&self, shard: u32) -> Option<RunId> {
        self.layout.as_ref()?.run(shard)
    }

    /// Whether the folders are those of its shards.
    ///
    /// # Errors
    /// [`LayoutError::Unknown`], [`LayoutError::Missing`], [`LayoutError::Surplus`].
    pub fn check(&self) -> Result<(), LayoutError> {
        let Some(layout) = &self.layout else {
            return match self.folders[..] {
                [] | [0] => Ok(()),
                _ => Err(LayoutError::Unknown { file: self.folder.join(LAYOUT_FILE) }),
            };
        };
        let (shards, folder) = (layout.runs.len(), |shard| shard_folder(&self.folder, shard));
        if let Some(surplus) = self.folders.iter().find(|shard| **shard >= layout.shards()) {
            return Err(LayoutError::Surplus { folder: folder(*surplus), shards });
        }
        let missing = (0..layout.shards()).find(|shard| !self.folders.contains(shard));
        match missing.filter(|_| layout.begun) {
            Some(missing) => Err(LayoutError::Missing { folder: folder(missing), shards }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::fault::{Failure, FaultyDisk};

    fn content(disk: &FaultyDisk) -> Option<Vec<u8>> {
        let file = disk.open(LAYOUT_FILE).ok()?;
        let mut bytes = vec![0; file.size().unwrap() as usize];
        let read = file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(read, bytes.len());
        Some(bytes)
    }

    fn decoded(bytes: &[u8]) -> Option<Layout> {
        Layout::decode(bytes).ok()
    }

    #[test]
    fn what_was_written_is_read_and_a_wrong_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Layout::read(folder.path()).unwrap(), None);
        let disk = RealDisk::new(folder.path()).unwrap();
        let mut layout = Layout::new(&disk, 3);
        assert!(layout.runs[0] != layout.runs[1]);
        layout.write(&disk).unwrap();
        assert_eq!(Layout::read(folder.path()).unwrap().as_ref(), Some(&layout));
        layout.begun = true;
        layout.write(&disk).unwrap();
        assert_eq!(Layout::read(folder.path()).unwrap().as_ref(), Some(&layout));

        let text = layout.encode();
        for at in 0..text.len() {
            assert_eq!(decoded(&text.as_bytes()[..at]), None, "cut at {at}");
            let mut wrong = text.clone().into_bytes();
            wrong[at] ^= 1;
            assert_eq!(decoded(&wrong), None, "byte {at}");
        }
        for wrong in [String::new(), format!("{text}x"), text.replace("shards 3", "shards 99999999999")] {
            assert_eq!(decoded(wrong.as_bytes()), None, "{wrong}");
        }
        std::fs::write(folder.path().join(LAYOUT_FILE), text.replace("format 1", "format 2")).unwrap();
        let newer = Layout::read(folder.path()).unwrap_err().to_string();
        assert!(newer.ends_with("causeway.shards has format \"2\", and this version reads 1"), "{newer}");
    }

    #[test]
    fn a_power_cut_leaves_the_old_or_the_new() {
        for seed in 0..200 {
            for cut in 0..12 {
                let disk = FaultyDisk::new(seed);
                let first = Layout::new(&disk, 2);
                first.write(&disk).unwrap();
                let second = Layout { begun: true, ..first.clone() };
                disk.fail_after(cut, Failure::PowerOff);
                let outcome = second.write(&disk);
                disk.plan_nothing();
                disk.power_cut(seed);
                let left = content(&disk).and_then(|bytes| decoded(&bytes));
                match outcome {
                    Ok(()) => assert_eq!(left.as_ref(), Some(&second)),
                    Err(_) => assert!(left.as_ref() == Some(&first) || left.as_ref() == Some(&second), "{left:?}"),
                }
                // Whatever was left over does not stand in the way.
                second.write(&disk).unwrap();
            }
        }
    }

    #[test]
    fn folders_must_be_those_of_the_shards() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path()).unwrap();
        let make = |shard| std::fs::create_dir(shard_folder(folder.path(), shard)).unwrap();
        let found = || Found::in_folder(folder.path()).unwrap();
        assert_eq!((found().shards(), found().check().is_ok()), (None, true));
        make(0);
        for other in ["shard-0.old", "shard-00", "shard-x", "shard-"] {
            std::fs::create_dir(folder.path().join(other)).unwrap();
        }
        assert_eq!((found().shards(), found().folders, found().check().is_ok()), (Some(1), vec![0], true));
        make(2);
        assert!(matches!(found().check(), Err(LayoutError::Unknown { .. })));

        let mut layout = Layout::new(&disk, 3);
        layout.write(&disk).unwrap();
        assert_eq!((found().shards(), found().run(0), found().check().is_ok()), (Some(3), None, true));
        layout.begun = true;
        layout.write(&disk).unwrap();
        let missing = found().check().unwrap_err().to_string();
        assert!(missing.ends_with("shard-1 is missing: the data directory was made for 3 shards"), "{missing}");
        make(1);
        assert_eq!((found().run(2), found().check().is_ok()), (Some(layout.runs[2]), true));
        make(3);
        let surplus = found().check().unwrap_err().to_string();
        assert!(surplus.ends_with("shard-3 is none of its shards: the data directory was made for 3"), "{surplus}");
    }
}
