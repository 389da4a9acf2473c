//! Copies of what a shard keeps: of a folder nobody writes to, file by file, and of a running shard, through its readers.
//!
//! Owns that a copy is whole, or is not there under its name: everything is written and synced in a folder called `….partial`, which gets
//! its name last. It never changes what it copies, and never checks a record's meaning: see [`inspect::verify`](crate::inspect::verify).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, RealDisk};
use crate::inspect::STATE_FILE;
use crate::shard_store::LOG_FOLDER;
use crate::state::{FoldMark, RedbState, StateError, StateOptions, StateStore};
use crate::{
    Durability, Layout, LayoutError, Log, LogError, LogOptions, LogReader, ReadError, RecoverError, SegmentedLog,
    ShardOptions,
};

/// Read and written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Records are appended together up to about so many bytes.
const GROUP_BYTES: usize = 4 << 20;
/// A shard that changes too much while it is copied is tried so often.
const ATTEMPTS: usize = 8;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The target is not free.
    #[error("{} {why}", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What the data directory says about its shards cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The folded state cannot be read, or its copy not written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The copy of the log cannot be begun.
    #[error(transparent)]
    Open(#[from] RecoverError),
    /// The copy of the log cannot be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The shard was folded again and again while it was copied.
    #[error("the shard changed each time while it was copied: try again when there is less to do")]
    Busy,
    /// The copy would be lost with what it is a copy of.
    #[error("{} is in {}, of which it is to be a copy: name a folder elsewhere", to.display(), folder.display())]
    Inside {
        /// The target.
        to: PathBuf,
        /// What is copied.
        folder: PathBuf,
    },
    /// Whoever asked does not want it any more.
    #[error("stopped before the copy was complete")]
    Abandoned,
}

impl BackupError {
    /// Whether there is no room for the copy.
    pub fn is_full(&self) -> bool {
        let is_full = |error: &io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        match self {
            BackupError::File { source, .. } => is_full(source),
            BackupError::State(error) => error.is_full(),
            BackupError::Open(RecoverError::Io(error)) => is_full(error),
            BackupError::Log(LogError::Full { cause, .. } | LogError::Io(cause)) => is_full(cause),
            _ => false,
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}

/// A folder in the making. Dropped before [`Destination::finish`], it is removed.
#[derive(Debug)]
pub struct Destination {
    to: PathBuf,
    partial: PathBuf,
    finished: bool,
}

impl Destination {
    /// Begins what will be the folder `to`, a copy of `folder`: it must not exist, or be empty, and not be in that one.
    ///
    /// # Errors
    /// [`BackupError::Inside`], [`BackupError::Target`], [`BackupError::File`].
    pub fn begin(to: &Path, folder: &Path) -> Result<Destination, BackupError> {
        let target = |path: &Path, why: &str| BackupError::Target { path: path.to_owned(), why: why.to_owned() };
        // Without a `.` at its end, which is no name.
        let to = &to.components().collect::<PathBuf>();
        let source = std::fs::canonicalize(folder).map_err(at(folder))?;
        let inside = || BackupError::Inside { to: to.clone(), folder: folder.to_owned() };
        if nearest(to)?.starts_with(&source) {
            return Err(inside());
        }
        match std::fs::read_dir(to).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(target(to, "is not empty: name a folder that does not exist")),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(at(to)(error)),
        }
        let (Some(name), Some(parent)) = (to.file_name(), to.parent()) else {
            return Err(target(to, "has no name of its own: name a folder in it"));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        RealDisk::new(parent).map_err(at(parent))?;
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = parent.join(partial);
        match std::fs::create_dir(&partial) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let why = "is there already: another copy is being made, or one was cut short and can be removed";
                return Err(target(&partial, why));
            }
            Err(error) => return Err(at(&partial)(error)),
        }
        let destination = Destination { to: to.to_owned(), partial, finished: false };
        // The way there may have led through folders that were not there before.
        match nearest(&destination.partial)?.starts_with(&source) {
            true => Err(inside()),
            false => Ok(destination),
        }
    }

    /// Write into this folder.
    pub fn folder(&self) -> &Path {
        &self.partial
    }

    /// Gives the folder its name, durably.
    ///
    /// # Errors
    /// [`BackupError::File`].
    pub fn finish(mut self) -> Result<(), BackupError> {
        sync_folder(&self.partial)?;
        std::fs::rename(&self.partial, &self.to).map_err(at(&self.to))?;
        self.finished = true;
        match self.to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => sync_folder(parent),
            None => sync_folder(Path::new(".")),
        }
    }
}

/// The deepest folder of a path that exists, without symbolic links.
fn nearest(path: &Path) -> Result<PathBuf, BackupError> {
    for folder in path.ancestors() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        match std::fs::canonicalize(folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            outcome => return outcome.map_err(at(folder)),
        }
    }
    Ok(PathBuf::from("/"))
}

impl Drop for Destination {
    fn drop(&mut self) {
        if !self.finished {
            // Made by this value, and of no use.
            let _ = std::fs::remove_dir_all(&self.partial);
        }
    }
}

fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at(path))
}

/// Whether the copy of a log has room set aside, as a log that is written to must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Only what is not zero takes room: for a backup.
    Holes,
    /// All of it: for a data directory.
    SetAside,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files of the log.
    pub segments: u64,
    /// Bytes that were written, those of holes not counted.
    pub bytes: u64,
}

/// Copies what the data directory `from` says about its shards, if it says anything; returns that.
///
/// # Errors
/// [`BackupError::Layout`], [`BackupError::File`].
pub fn copy_layout(from: &Path, to: &Path) -> Result<Option<Layout>, BackupError> {
    let layout = Layout::read(from)?;
    if let Some(layout) = &layout {
        RealDisk::new(to).and_then(|disk| layout.write(&disk)).map_err(at(to))?;
    }
    Ok(layout)
}

/// Copies the folder of a shard that nobody writes to: log and state, byte by byte, all of it synced. `progress` is told bytes as
/// they are read.
///
/// # Errors
/// [`BackupError::File`].
pub fn copy_shard(from: &Path, to: &Path, room: Room, progress: &mut dyn FnMut(u64)) -> Result<Copied, BackupError> {
    let mut copied = Copied::default();
    let log = RealDisk::new(to.join(LOG_FOLDER)).map_err(at(to))?;
    let source = from.join(LOG_FOLDER);
    for entry in std::fs::read_dir(&source).map_err(at(&source))? {
        let name = entry.map_err(at(&source))?.file_name();
        if name.as_encoded_bytes().ends_with(b".log") {
            copied.bytes += copy_file(&source.join(&name), &to.join(LOG_FOLDER).join(&name), room, progress)?;
            copied.segments += 1;
        }
    }
    log.sync_folder().map_err(at(&to.join(LOG_FOLDER)))?;
    let state = from.join(STATE_FILE);
    if state.exists() {
        copied.bytes += copy_file(&state, &to.join(STATE_FILE), Room::Holes, progress)?;
    }
    sync_folder(to)?;
    Ok(copied)
}

/// Copies a file of the data directory `from` that belongs to no shard, if it is there, and syncs it. Nobody writes to it meanwhile. Returns
/// the bytes that were written.
///
/// # Errors
/// [`BackupError::File`].
pub fn copy_beside(from: &Path, to: &Path, name: &str, progress: &mut dyn FnMut(u64)) -> Result<u64, BackupError> {
    match from.join(name).exists() {
        true => copy_file(&from.join(name), &to.join(name), Room::Holes, progress),
        false => Ok(0),
    }
}

fn copy_file(from: &Path, to: &Path, room: Room, progress: &mut dyn FnMut(u64)) -> Result<u64, BackupError> {
    let source = File::open(from).map_err(at(from))?;
    let size = source.metadata().map_err(at(from))?.len();
    let target = OpenOptions::new().write(true).create_new(true).open(to).map_err(at(to))?;
    match room {
        Room::Holes => target.set_len(size).map_err(at(to))?,
        Room::SetAside => set_aside(&target, size).map_err(at(to))?,
    }
    let (mut chunk, zeros) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let (mut offset, mut written) = (0, 0);
    while offset < size {
        let wanted = chunk.len().min((size - offset) as usize);
        source.read_exact_at(&mut chunk[..wanted], offset).map_err(at(from))?;
        if chunk[..wanted] != zeros[..wanted] {
            target.write_all_at(&chunk[..wanted], offset).map_err(at(to))?;
            written += wanted as u64;
        }
        offset += wanted as u64;
        progress(wanted as u64);
    }
    target.sync_all().map_err(at(to))?;
    Ok(written)
}

/// Sets room aside where the file system can. Where it cannot, the file has its size.
fn set_aside(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    if size == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return file.set_len(size),
            outcome => return Ok(outcome?),
        }
    }
}

/// A shard that is copied while it goes on.
#[derive(Debug, Clone)]
pub struct RunningShard {
    /// Its folded state.
    pub state: Arc<dyn StateStore>,
    /// Its log.
    pub log: LogReader,
    /// The newest record that is durable, at least that of the last fold's `through`. Zero where there is none.
    pub durable: u64,
    /// As those of the shard's own store.
    pub options: ShardOptions,
}

/// What the copy of a running shard holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackedUp {
    /// The folded state's mark.
    pub mark: Option<FoldMark>,
    /// Its entries.
    pub entries: u64,
    /// Its bodies.
    pub bodies: u64,
    /// The first record of the log; zero where it has none.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Bytes of entries, bodies and records.
    pub bytes: u64,
}

/// Copies a running shard into the folder `to`, which must not exist: the state as some fold left it, and the whole log up to
/// `durable`, all of it synced. The log is copied from its beginning, not from the mark: messages that wait in queues may lie before it.
///
/// Where a fold is committed, or a segment removed, in between, it begins anew. So call it where no fold is committed meanwhile: on the
/// thread that folds. `goes_on` is told how many more bytes were copied, and says whether to go on.
///
/// # Errors
/// [`BackupError::Busy`] where it had to begin anew too often; those of reading and writing. `to` is of no use then.
pub fn backup(shard: &RunningShard, to: &Path, goes_on: &mut dyn FnMut(u64) -> bool) -> Result<BackedUp, BackupError> {
    for _ in 0..ATTEMPTS {
        std::fs::create_dir(to).map_err(at(to))?;
        if let Some(done) = attempt(shard, to, goes_on)? {
            sync_folder(to)?;
            return Ok(done);
        }
        std::fs::remove_dir_all(to).map_err(at(to))?;
    }
    Err(BackupError::Busy)
}

/// None where the shard changed meanwhile.
fn attempt(
    shard: &RunningShard,
    to: &Path,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<BackedUp>, BackupError> {
    let mark = shard.state.mark()?;
    let mut done = BackedUp { mark, ..BackedUp::default() };
    copy_state(shard, to, &mut done, goes_on)?;
    if !copy_log(shard, to, &mut done, goes_on)? {
        return Ok(None);
    }
    // Every fold moves the mark: with the same mark, all that was read is of one state.
    Ok((shard.state.mark()? == mark).then_some(done))
}

fn copy_state(
    shard: &RunningShard,
    to: &Path,
    done: &mut BackedUp,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<(), BackupError> {
    let (number, cache_bytes) = (shard.options.log.shard, shard.options.state_cache_bytes);
    let run = shard.state.run()?;
    let copy = RedbState::open(to, StateOptions { shard: number, cache_bytes, run })?;
    let Some(mark) = done.mark else { return Ok(()) };
    let mut fold = copy.fold()?;
    let mut outcome = Ok(());
    shard.state.entries(&mut |key, value| {
        let bytes = (key.len() + value.len()) as u64;
        outcome = fold.put(key, value).map_err(BackupError::State);
        if outcome.is_ok() && !goes_on(bytes) {
            outcome = Err(BackupError::Abandoned);
        }
        done.entries += 1;
        done.bytes += bytes;
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    let mut bodies = Vec::new();
    shard.state.bodies(&mut |lsn, _| {
        bodies.push(lsn);
        ControlFlow::Continue(())
    })?;
    for lsn in bodies {
        // One that is gone went with a fold, which shows in the mark.
        let Some(body) = shard.state.body(lsn)? else { continue };
        fold.put_body(lsn, &body)?;
        done.bodies += 1;
        done.bytes += body.len() as u64;
        if !goes_on(body.len() as u64) {
            return Err(BackupError::Abandoned);
        }
    }
    Ok(fold.commit(mark)?)
}

/// False where a record went before it was read.
fn copy_log(
    shard: &RunningShard,
    to: &Path,
    done: &mut BackedUp,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, BackupError> {
    // Each segment is synced when it is full, and the last by `close`.
    let options = LogOptions { durability: Durability::Os, keep_spare: false, ..shard.options.log.clone() };
    let mut copy = SegmentedLog::open(to.join(LOG_FOLDER), options)?;
    let through = done.mark.map_or(0, |mark| mark.through);
    // What a fold shows is durable.
    let durable = shard.durable.max(through);
    let Some((run, first, _)) = shard.log.bounds() else { return Ok(true) };
    copy.begin(first, run)?;
    let (mut group, mut group_first, mut bytes) = (Vec::new(), first, 0);
    for lsn in first..=durable {
        let Some(record) = shard.log.read_lsn(lsn)? else { return Ok(false) };
        bytes += record.bytes.len();
        group.push(record.bytes);
        if bytes >= GROUP_BYTES || lsn == durable {
            copy.append(group_first, &mut group.iter().map(|record| record.as_ref()))?;
            done.bytes += bytes as u64;
            if !goes_on(bytes as u64) {
                return Err(BackupError::Abandoned);
            }
            group.clear();
            (group_first, bytes) = (lsn + 1, 0);
        }
    }
    if first <= durable {
        (done.first, done.last) = (first, durable);
    }
    copy.close()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::inspect::{Decoder, open_read_only, verify};
    use crate::{Fold, ShardStore};

    struct Anything;

    impl Decoder for Anything {
        fn record(&mut self, _: u64, _: &[u8]) -> Result<(), String> {
            Ok(())
        }

        fn entry(&mut self, _: &[u8], _: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    fn options() -> ShardOptions {
        let mut options = ShardOptions::new(0);
        options.log.segment_bytes = 16 << 10;
        options
    }

    fn content(lsn: u64) -> Vec<u8> {
        format!("record {lsn} ").repeat(10).into_bytes()
    }

    fn append(store: &mut ShardStore, records: u64) -> u64 {
        let first = store.log.next().unwrap_or(1);
        let contents: Vec<Vec<u8>> = (first..first + records).map(content).collect();
        store.log.append(first, &mut contents.iter().map(Vec::as_slice)).unwrap();
        store.log.sync().unwrap()
    }

    /// Folds up to `applied`: a count, one entry for each hundred records, and the bodies of `kept`.
    fn fold(state: &dyn StateStore, applied: u64, kept: &[u64]) {
        let mut fold: Box<dyn Fold> = state.fold().unwrap();
        fold.put(b"count", &applied.to_be_bytes()).unwrap();
        for number in 0..applied / 100 {
            fold.put(&[b"e".as_slice(), &number.to_be_bytes()].concat(), &applied.to_be_bytes()).unwrap();
        }
        for lsn in kept {
            fold.put_body(*lsn, &content(*lsn)).unwrap();
        }
        fold.commit(FoldMark { applied, through: applied }).unwrap();
    }

    fn running(store: &ShardStore, durable: u64) -> RunningShard {
        RunningShard { state: store.state.clone(), log: store.log.reader().unwrap(), durable, options: options() }
    }

    fn check_copy(path: &Path, done: &BackedUp) {
        assert_eq!(verify(path, 0, None, &mut Anything).unwrap().damage, []);
        let store = open_read_only(path, 0, None).unwrap();
        assert_eq!(store.mark, done.mark);
        assert_eq!((store.log.first(), store.log.next()), (Some(done.first), Some(done.last + 1)));
        store
            .log
            .recover(done.first, |record| {
                assert_eq!(record.bytes, content(record.lsn));
                Ok::<(), RecoverError>(())
            })
            .unwrap();
        if let Some(mark) = done.mark {
            // All of one fold, and not a bit of another.
            store
                .state
                .entries(&mut |_, value| {
                    assert_eq!(value, mark.applied.to_be_bytes());
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
    }

    #[test]
    fn a_copy_has_what_was_relocated_and_what_is_still_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = ShardStore::open(folder.path().join("a"), options()).unwrap();
        append(&mut store, 300);
        append(&mut store, 300);
        fold(store.state.as_ref(), 600, &[7, 8]);
        store.log.truncate_before(350).unwrap();
        let durable = append(&mut store, 50);
        let to = folder.path().join("b");
        let done = backup(&running(&store, durable), &to, &mut |_| true).unwrap();
        assert_eq!((done.bodies, done.last), (2, 650));
        assert!(done.first <= 350, "{done:?}");
        check_copy(&to, &done);
        let copy = ShardStore::open(&to, options()).unwrap();
        assert_eq!(copy.bodies.read(7).unwrap().unwrap(), content(7));
        assert_eq!(copy.bodies.read(400).unwrap().unwrap(), content(400));
        assert_eq!(copy.bodies.read(9).unwrap(), None);
    }

    #[test]
    fn an_empty_shard_and_one_that_is_folded_to_its_end_can_be_copied() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = ShardStore::open(folder.path().join("a"), options()).unwrap();
        let empty = folder.path().join("empty");
        assert_eq!(backup(&running(&store, 0), &empty, &mut |_| true).unwrap(), BackedUp::default());
        assert_eq!(ShardStore::open(&empty, options()).unwrap().log.run(), store.log.run());
        let durable = append(&mut store, 500);
        fold(store.state.as_ref(), durable, &[]);
        store.log.truncate_before(durable + 1).unwrap();
        let to = folder.path().join("b");
        let done = backup(&running(&store, durable), &to, &mut |_| true).unwrap();
        check_copy(&to, &done);
        assert_eq!(ShardStore::open(&to, options()).unwrap().log.next(), Some(501));
    }

    #[test]
    fn whoever_does_not_want_it_any_more_gets_an_answer() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = ShardStore::open(folder.path().join("a"), options()).unwrap();
        let durable = append(&mut store, 10);
        let outcome = backup(&running(&store, durable), &folder.path().join("b"), &mut |_| false);
        assert!(matches!(outcome, Err(BackupError::Abandoned)));
    }

    #[test]
    fn copies_are_of_one_moment_while_the_shard_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = ShardStore::open(folder.path().join("a"), options()).unwrap();
        let mut durable = append(&mut store, 100);
        let (stop, mut made) = (Arc::new(AtomicBool::new(false)), 0);
        let shard = running(&store, durable);
        let (target, stopped) = (folder.path().to_owned(), stop.clone());
        let copier = std::thread::spawn(move || {
            let mut copies = Vec::new();
            while !stopped.load(Ordering::Relaxed) || copies.is_empty() {
                let to = target.join(format!("copy-{made}"));
                match backup(&shard, &to, &mut |_| true) {
                    Ok(done) => copies.push((to, done)),
                    Err(BackupError::Busy) => {}
                    Err(error) => panic!("{error}"),
                }
                made += 1;
            }
            copies
        });
        for round in 0..60 {
            durable = append(&mut store, 40);
            fold(store.state.as_ref(), durable - 5, &[round + 1]);
            store.log.truncate_before(durable - 60).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for (path, done) in copier.join().unwrap() {
            check_copy(&path, &done);
        }
    }

    #[test]
    fn a_destination_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let (to, data) = (folder.path().join("deep/to"), folder.path().join("data"));
        std::fs::create_dir(&data).unwrap();
        let begun = Destination::begin(&to, &data).unwrap();
        std::fs::write(begun.folder().join("x"), "x").unwrap();
        assert!(Destination::begin(&to, &data).unwrap_err().to_string().contains("to.partial is there already"));
        drop(begun);
        assert!(!to.exists() && !to.with_file_name("to.partial").exists());
        let begun = Destination::begin(&to, &data).unwrap();
        std::fs::write(begun.folder().join("x"), "x").unwrap();
        begun.finish().unwrap();
        assert_eq!(std::fs::read(to.join("x")).unwrap(), b"x");
        assert!(Destination::begin(&to, &data).unwrap_err().to_string().contains("is not empty"));
    }

    #[test]
    fn a_destination_is_not_in_what_it_is_a_copy_of_however_it_is_called() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, folder.path().join("link")).unwrap();
        for to in ["data", "data/in", "data/a/b/in", "data/../data/in", "link/in", "new/../data/in"] {
            let refused = Destination::begin(&folder.path().join(to), &data);
            assert!(matches!(refused, Err(BackupError::Inside { .. })), "{to}: {refused:?}");
        }
        assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
        for to in ["to/.", "to/./"] {
            let begun = Destination::begin(&folder.path().join(to), &data).unwrap();
            begun.finish().unwrap();
            assert!(folder.path().join("to").is_dir() && !folder.path().join("to.partial").exists());
        }
    }

    #[test]
    fn looking_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut store = ShardStore::open(&path, options()).unwrap();
        append(&mut store, 100);
        fold(store.state.as_ref(), 50, &[]);
        append(&mut store, 3);
        drop(store);
        // A torn end, as a crash leaves it.
        let segment = std::fs::read_dir(path.join("log")).unwrap().map(|entry| entry.unwrap().path());
        let segment = segment.filter(|path| path.extension().is_some_and(|e| e == "log")).max().unwrap();
        let mut bytes = std::fs::read(&segment).unwrap();
        let end = bytes.len();
        bytes[end - 64..].fill(7);
        std::fs::write(&segment, bytes).unwrap();
        let all = || {
            let mut files = Vec::new();
            for folder in [path.clone(), path.join("log")] {
                for entry in std::fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    files.extend(path.is_file().then(|| (path.clone(), std::fs::read(&path).unwrap())));
                }
            }
            files.sort();
            files
        };
        let before = all();
        let seen = open_read_only(&path, 0, None).unwrap();
        assert_eq!((seen.log.next(), seen.mark.map(|mark| mark.applied)), (Some(104), Some(50)));
        assert!(seen.log.repair().is_some());
        // Others may look, too; nobody may write.
        drop(open_read_only(&path, 0, None).unwrap());
        assert!(ShardStore::open(&path, options()).is_err());
        drop(seen);
        assert_eq!(verify(&path, 0, None, &mut Anything).unwrap().damage, []);
        assert!(all() == before, "a file has changed");
        assert_eq!(ShardStore::open(&path, options()).unwrap().log.next(), Some(104));
    }

    #[test]
    fn every_damaged_segment_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut store = ShardStore::open(&path, options()).unwrap();
        for _ in 0..20 {
            append(&mut store, 40);
        }
        store.log.close().unwrap();
        let segments = store.log.stats().segments;
        assert!(segments.len() > 4, "{segments:?}");
        drop(store);
        let mut damaged = Vec::new();
        for index in [1, 3, segments.len() - 1] {
            let file = path.join(format!("log/{:020}.log", segments[index].first));
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[4096 + 60] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            damaged.push((file.display().to_string(), Some(4096 + 40)));
        }
        let verified = verify(&path, 0, None, &mut Anything).unwrap();
        let mut found: Vec<_> = verified.damage.into_iter().map(|damage| (damage.file, damage.offset)).collect();
        found.sort();
        assert_eq!(found, damaged);
    }
}
