//! The workspace as a tree of names, reached part by part from its open root and never through a symbolic link.
//!
//! What runs in the sandbox may swap a directory for a link between any two of our calls. So no path is ever handed to
//! the system whole: each part is opened relative to the one before, and the system refuses the part that is a link.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use guest::protocol::{FileKind, Found, MAX_PATH, RACY};

use crate::sys::{self, Look, Moment};

/// From so many racy entries on, waiting until they are not is cheaper than carrying all of them.
const MANY_RACY: usize = 64;
/// More paths than this are not a repository any more.
const MAX_ENTRIES: usize = 4_000_000;

/// A reason for a person, without the path.
pub(crate) type Reason = String;

/// A path of the workspace, taken apart and found harmless.
pub(crate) struct TreePath {
    parents: Vec<CString>,
    name: CString,
}

impl TreePath {
    pub(crate) fn parse(path: &[u8]) -> Result<Self, Reason> {
        if path.len() > MAX_PATH {
            return Err("the path is too long".into());
        }
        let part = |part: &[u8]| match part {
            b"" | b"." | b".." => Err("the path must be relative, without empty parts, `.` and `..`".to_owned()),
            _ => CString::new(part).map_err(|_| "the path holds a zero byte".to_owned()),
        };
        let mut parents = path.split(|byte| *byte == b'/').map(part).collect::<Result<Vec<_>, _>>()?;
        let name = parents.pop().ok_or("the path is empty")?;
        Ok(Self { parents, name })
    }
}

/// What is taken for the same file at the next look.
type Snapshot = BTreeMap<Vec<u8>, Look>;

/// The workspace.
pub(crate) struct Tree {
    root: OwnedFd,
    marked: Snapshot,
    marked_at: SystemTime,
    /// The directories with a `.git` at the mark: known, so looked into like any other.
    nested: BTreeSet<Vec<u8>>,
}

impl Tree {
    pub(crate) fn open(path: &str) -> io::Result<Self> {
        let root = OwnedFd::from(std::fs::File::open(path)?);
        Ok(Self { root, marked: Snapshot::new(), marked_at: UNIX_EPOCH, nested: BTreeSet::new() })
    }

    /// The directory that holds the path's last part; made with its own parents if `make` says so.
    fn parent(&self, path: &TreePath, make: bool) -> Result<OwnedFd, Reason> {
        let mut directory = self.root.try_clone().map_err(reason)?;
        for part in &path.parents {
            directory = match sys::open_directory(directory.as_fd(), part) {
                Err(error) if make && error.raw_os_error() == Some(sys::ENOENT) => {
                    sys::make_directory(directory.as_fd(), part).or_else(already).map_err(reason)?;
                    sys::open_directory(directory.as_fd(), part)
                }
                opened => opened,
            }
            .map_err(reason)?;
        }
        Ok(directory)
    }

    /// Makes a file in place of what is there.
    pub(crate) fn create(&self, path: &TreePath, executable: bool) -> Result<std::fs::File, Reason> {
        let parent = self.parent(path, true)?;
        clear(&parent, path)?;
        sys::create_file(parent.as_fd(), &path.name, if executable { 0o755 } else { 0o644 }).map_err(reason)
    }

    /// Makes a symbolic link in place of what is there.
    pub(crate) fn link(&self, path: &TreePath, target: Vec<u8>) -> Result<(), Reason> {
        let target = CString::new(target).map_err(|_| "the link's target holds a zero byte")?;
        let parent = self.parent(path, true)?;
        clear(&parent, path)?;
        sys::make_link(&target, parent.as_fd(), &path.name).map_err(reason)
    }

    /// Deletes a file, and the directories that this leaves empty. What is not there is deleted already.
    pub(crate) fn delete(&self, path: &TreePath) -> Result<(), Reason> {
        let parent = match self.parent(path, false) {
            Err(_) if !self.exists(path)? => return Ok(()),
            parent => parent?,
        };
        clear(&parent, path)?;
        for depth in (0..path.parents.len()).rev() {
            let above = TreePath { parents: path.parents[..depth].to_vec(), name: path.parents[depth].clone() };
            let removed = self.parent(&above, false).map(|parent| sys::remove_directory(parent.as_fd(), &above.name));
            if !matches!(removed, Ok(Ok(()))) {
                break;
            }
        }
        Ok(())
    }

    /// False when a part of the path is missing; a part that is a link or a file counts as there.
    fn exists(&self, path: &TreePath) -> Result<bool, Reason> {
        let mut directory = self.root.try_clone().map_err(reason)?;
        for part in &path.parents {
            directory = match sys::open_directory(directory.as_fd(), part) {
                Err(error) if error.raw_os_error() == Some(sys::ENOENT) => return Ok(false),
                Err(_) => return Ok(true),
                Ok(directory) => directory,
            };
        }
        Ok(true)
    }

    /// Opens a file to read, or reads a link.
    pub(crate) fn read(&self, path: &TreePath) -> Result<(FileKind, Content), Reason> {
        let parent = self.parent(path, false)?;
        let look = sys::look(parent.as_fd(), &path.name).map_err(reason)?;
        if look.is_link() {
            let target = sys::read_link(parent.as_fd(), &path.name).map_err(reason)?;
            return Ok((FileKind::Symlink, Content::Target(target)));
        }
        // Looked at again through the open file: the name may mean something else by now.
        let file =
            if look.is_regular() { Some(sys::open_to_read(parent.as_fd(), &path.name).map_err(reason)?) } else { None };
        let opened =
            file.map(|file| Ok::<_, io::Error>((sys::look(file.as_fd(), c"")?, file))).transpose().map_err(reason)?;
        match opened.filter(|(look, _)| look.is_regular()) {
            Some((look, file)) => Ok((kind_of(&look), Content::File(file))),
            None => Err("it is neither a file nor a link".into()),
        }
    }

    // --- what changed ---

    /// Remembers how the workspace looks now.
    pub(crate) fn mark(&mut self) -> Result<(), Reason> {
        let now = SystemTime::now();
        let mut walk = Walk::new(self, None)?;
        if walk.snapshot.values().filter(|look| is_racy(look, now)).count() > MANY_RACY {
            std::thread::sleep(RACY);
            self.marked_at = SystemTime::now();
            walk = Walk::new(self, None)?;
        } else {
            self.marked_at = now;
        }
        (self.marked, self.nested) = (walk.snapshot, walk.nested);
        Ok(())
    }

    /// Remembers how one path looks now. It is younger than the mark, so it stays a candidate until the next whole mark;
    /// whoever compares the bytes finds it equal.
    pub(crate) fn mark_path(&mut self, path: &[u8], parsed: &TreePath) -> Result<(), Reason> {
        let look = match self.parent(parsed, false) {
            Ok(parent) => match sys::look(parent.as_fd(), &parsed.name) {
                Ok(look) => Some(look),
                Err(error) if is_gone(&error) => None,
                Err(error) => return Err(reason(error)),
            },
            Err(_) => None,
        };
        match look.filter(|look| !look.is_directory()) {
            Some(look) => drop(self.marked.insert(path.to_vec(), look)),
            None => drop(self.marked.remove(path)),
        }
        Ok(())
    }

    /// What looks different from the mark: new, changed, gone. In no order.
    pub(crate) fn changes(&self) -> Result<Vec<(Vec<u8>, Found)>, Reason> {
        let walk = Walk::new(self, Some(&self.nested))?;
        let under_nested = |path: &[u8]| {
            let cuts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at]);
            !walk.nested.is_empty() && cuts.into_iter().any(|parent| walk.nested.contains(parent))
        };
        let changed = walk.snapshot.iter().filter(|(path, look)| {
            self.marked.get(*path).is_none_or(|then| then != *look || is_racy(then, self.marked_at))
        });
        let mut changes: Vec<_> = changed.map(|(path, look)| (path.clone(), found(look))).collect();
        let gone = self.marked.keys().filter(|path| !walk.snapshot.contains_key(*path) && !under_nested(path));
        changes.extend(gone.map(|path| (path.clone(), Found::Nothing)));
        changes.extend(walk.nested.iter().map(|path| (path.clone(), Found::NestedRepository)));
        Ok(changes)
    }
}

/// The bytes of something in the tree.
pub(crate) enum Content {
    File(std::fs::File),
    Target(Vec<u8>),
}

/// One look at everything in the workspace but its own `.git`.
struct Walk {
    snapshot: Snapshot,
    /// The directories with a `.git` that were not known before.
    nested: BTreeSet<Vec<u8>>,
}

impl Walk {
    /// With the nested repositories that are `known` given, any other is listed and not entered; without, all are entered.
    fn new(tree: &Tree, known: Option<&BTreeSet<Vec<u8>>>) -> Result<Self, Reason> {
        let mut walk = Self { snapshot: Snapshot::new(), nested: BTreeSet::new() };
        let mut directories = vec![Vec::new()];
        while let Some(path) = directories.pop() {
            walk.enter(tree, path, known, &mut directories)?;
        }
        Ok(walk)
    }

    fn enter(
        &mut self,
        tree: &Tree,
        path: Vec<u8>,
        known: Option<&BTreeSet<Vec<u8>>>,
        directories: &mut Vec<Vec<u8>>,
    ) -> Result<(), Reason> {
        let directory = match open(tree, &path) {
            Ok(directory) => directory,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(format!("{}: {}", path.escape_ascii(), reason(error))),
        };
        // A list made anew each time: what is read first may be read again after a change, and must not be taken twice.
        let mut names = sys::list_directory(directory.as_fd()).map_err(reason)?;
        if let Some(git) = names.iter().position(|name| name == b".git") {
            names.swap_remove(git);
            if !path.is_empty() {
                let is_known = known.is_none_or(|known| known.contains(&path));
                if known.is_none() || !is_known {
                    self.nested.insert(path.clone());
                }
                if !is_known {
                    return Ok(());
                }
            }
        }
        for name in names {
            let Ok(c_name) = CString::new(name.as_slice()) else { continue };
            let look = match sys::look(directory.as_fd(), &c_name) {
                Ok(look) => look,
                Err(error) if is_gone(&error) => continue,
                // It can be listed and not entered, which is as good as closed.
                Err(error) if error.raw_os_error() == Some(sys::EACCES) && !path.is_empty() => {
                    let look = sys::look(directory.as_fd(), c"").map_err(reason)?;
                    self.snapshot.insert(path, look);
                    return Ok(());
                }
                Err(error) => return Err(format!("{}: {}", name.escape_ascii(), reason(error))),
            };
            let full = if path.is_empty() { name } else { [path.as_slice(), name.as_slice()].join(&b'/') };
            if full.len() > MAX_PATH {
                return Err(format!("a path in {} is too long", path[..path.len().min(80)].escape_ascii()));
            }
            // A directory that cannot be read is nothing that git could carry, so it is told like a device.
            let readable = look.is_directory() && sys::open_directory(directory.as_fd(), &c_name).is_ok();
            if readable {
                directories.push(full);
            } else {
                self.snapshot.insert(full, look);
            }
            if self.snapshot.len() + directories.len() > MAX_ENTRIES {
                return Err(format!("there are more than {MAX_ENTRIES} files"));
            }
        }
        Ok(())
    }
}

fn open(tree: &Tree, path: &[u8]) -> io::Result<OwnedFd> {
    let mut directory = sys::open_directory(tree.root.as_fd(), c".")?;
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        directory = sys::open_directory(directory.as_fd(), &CString::new(part)?)?;
    }
    Ok(directory)
}

/// Makes room for something new at the path.
fn clear(parent: &OwnedFd, path: &TreePath) -> Result<(), Reason> {
    let removed = sys::remove_file(parent.as_fd(), &path.name).or_else(|error| match error.raw_os_error() {
        Some(sys::ENOENT) => Ok(()),
        Some(sys::EISDIR | sys::EPERM) => sys::remove_directory(parent.as_fd(), &path.name),
        _ => Err(error),
    });
    removed.map_err(reason)
}

fn already(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(sys::EEXIST) { Ok(()) } else { Err(error) }
}

/// Something else in the sandbox was faster.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(sys::ENOENT | sys::ENOTDIR | sys::ELOOP))
}

fn is_racy(look: &Look, marked_at: SystemTime) -> bool {
    let Moment { seconds, nanos, .. } = look.changed;
    let Ok(seconds) = u64::try_from(seconds) else { return false };
    UNIX_EPOCH + Duration::new(seconds, nanos) + RACY >= marked_at
}

fn kind_of(look: &Look) -> FileKind {
    if look.is_executable() { FileKind::Executable } else { FileKind::Regular }
}

fn found(look: &Look) -> Found {
    match (look.is_regular(), look.is_link()) {
        (true, _) => Found::File(kind_of(look), look.size),
        (_, true) => Found::File(FileKind::Symlink, look.size),
        _ => Found::Special,
    }
}

fn reason(error: io::Error) -> Reason {
    match error.raw_os_error() {
        Some(sys::ENOTDIR | sys::ELOOP) => "a part of the path is a symbolic link or not a directory".into(),
        Some(sys::ENOTEMPTY) => "a directory that is not empty is in its place".into(),
        _ => error.to_string(),
    }
}
