//! What is written, held against its limit. No file system on every host can do that for us.
//!
//! A thread looks how much was written since the sandbox started and tells when it is too much; whoever serves the frames
//! then ends everything inside. What was written is what the kernel says has changed since: its time of change cannot be
//! chosen by a program. So what a base brought along costs nothing until it is changed.
//!
//! Looking takes time, so it is done seldom when that is much; but when the file system's free space falls quickly, it is
//! done at once. While nothing runs inside, nothing is looked at.

use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::sys::{
    self,
    space::{self, Weight},
};

/// How often the free space is looked at, which costs next to nothing.
const TICK: Duration = Duration::from_millis(100);
/// How often the files are looked at, at the most; and with how much of the time in between as a rule.
const INTERVAL: Duration = Duration::from_secs(1);
const REST: u32 = 19;
/// The same when the free space falls.
const HURRIED_REST: u32 = 3;
/// The kernel's clock for files may lag behind the one that we read.
const CLOCK_LAG: Duration = Duration::from_millis(20);
/// What a name in a directory costs at least: the kernel keeps an inode for it.
const ENTRY_BYTES: u64 = 4096;
/// What counts as processes and is not in the list of them: the guest's other threads, its launcher; and one at the door.
const UNLISTED: u64 = 4;
/// Directories that are opened to their owner for a look, at the most: each takes a descriptor.
const MAX_UNLOCKED: usize = 1000;
/// A path longer than this is looked at from a directory on the way, so that it fits any system call.
const MAX_RELATIVE: usize = 1024;

/// The watcher, as the rest of the guest sees it.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    is_awake: bool,
    crowd: u64,
    /// Readable each time that too much was written.
    pub(crate) alarm: PipeReader,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_awake: bool,
    /// How often nearly all processes that may be there were there.
    n_crowded: u64,
    /// How often everything inside was ended since too much was written. What was seen before that is not held against
    /// whoever makes room after it.
    n_ended: u64,
}

impl Watch {
    /// Starts watching. `everywhere`: programs may be able to write elsewhere than to the usual directories. `crowd`: with
    /// so many processes the sandbox is full, where the kernel does not count that itself.
    pub(crate) fn start(roots: &'static [&'static str], everywhere: bool, limit: u64, crowd: u64) -> io::Result<Self> {
        let (alarm, bell) = io::pipe()?;
        sys::set_blocking(std::os::fd::AsRawFd::as_raw_fd(&alarm), false)?;
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let scale = Scale::new(roots, everywhere);
        let watcher = Watcher { shared: Arc::clone(&shared), scale, limit, crowd, bell };
        thread::Builder::new().name("disk".into()).spawn(move || watcher.run())?;
        Ok(Self { shared, is_awake: false, crowd, alarm })
    }

    /// Told whether anything runs inside.
    pub(crate) fn set_awake(&mut self, is_awake: bool) {
        if std::mem::replace(&mut self.is_awake, is_awake) != is_awake {
            self.shared.lock().is_awake = is_awake;
            self.shared.changed.notify_one();
        }
    }

    /// Everything inside was ended: what comes next has a while to make room.
    pub(crate) fn start_over(&mut self) {
        let mut state = self.shared.lock();
        state.n_ended += 1;
        while self.alarm.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
    }

    /// How often the sandbox was found full of processes.
    pub(crate) fn n_crowded(&self) -> u64 {
        self.shared.lock().n_crowded
    }

    /// Whether it is full of processes now.
    pub(crate) fn is_crowded_now(&self) -> bool {
        n_processes().saturating_add(UNLISTED) >= self.crowd
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watcher {
    shared: Arc<Shared>,
    scale: Scale,
    limit: u64,
    crowd: u64,
    bell: PipeWriter,
}

impl Watcher {
    fn run(mut self) {
        let free_at_start = self.scale.free_bytes();
        let (mut looked_at, mut took, mut free_then) = (Instant::now(), Duration::ZERO, free_at_start);
        let mut n_ended = 0;
        loop {
            if self.sleep_until_awake() {
                looked_at = Instant::now();
            }
            thread::sleep(TICK);
            let n_ended_now = self.shared.lock().n_ended;
            if std::mem::replace(&mut n_ended, n_ended_now) != n_ended_now {
                (looked_at, free_then) = (Instant::now(), self.scale.free_bytes());
            }
            if self.crowd < u64::MAX && n_processes().saturating_add(UNLISTED) >= self.crowd {
                self.shared.lock().n_crowded += 1;
            }
            let free = self.scale.free_bytes();
            let falls = free_then.saturating_sub(free) > (self.limit / 16).max(1 << 20);
            let since = looked_at.elapsed();
            let due = since >= INTERVAL.max(took * REST) || (falls && since >= took * HURRIED_REST);
            if !due {
                continue;
            }
            looked_at = Instant::now();
            let fell = free_at_start.saturating_sub(free);
            let found = self.scale.weigh(fell, self.limit);
            (took, free_then) = (looked_at.elapsed(), free);
            looked_at = Instant::now();
            // What hides how much it holds is believed to hold what nothing else explains.
            let hidden = if found.is_hidden { fell.saturating_sub(found.bytes) } else { 0 };
            if found.bytes.max(hidden) > self.limit && self.ring(n_ended).is_err() {
                return;
            }
        }
    }

    /// Unless everything was ended while it looked.
    fn ring(&mut self, n_ended: u64) -> io::Result<()> {
        let state = self.shared.lock();
        if state.n_ended == n_ended { self.bell.write_all(&[1]) } else { Ok(()) }
    }

    /// True when it slept.
    fn sleep_until_awake(&self) -> bool {
        let mut state = self.shared.lock();
        let slept = !state.is_awake;
        while !state.is_awake {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        slept
    }
}

/// What was found.
#[derive(Default, Debug)]
pub(crate) struct Found {
    bytes: u64,
    /// Some directory, or what some process holds open, could not be looked at.
    is_hidden: bool,
}

/// Weighs what was written since it was made.
pub(crate) struct Scale {
    roots: &'static [&'static str],
    everywhere: bool,
    since: (i64, u32),
    /// File systems in memory, whose files are limited by their own size and by that of the memory.
    in_memory: HashSet<u64>,
}

impl Scale {
    pub(crate) fn new(roots: &'static [&'static str], everywhere: bool) -> Self {
        let since = SystemTime::now() - CLOCK_LAG;
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let places = ["/tmp", "/run", "/dev/shm", "/var/tmp"].map(Path::new);
        let device = |place: &Path| {
            let opened = space::open_anywhere(place).ok().filter(|opened| space::is_in_memory(opened.as_fd()));
            opened.and_then(|opened| space::weigh(opened.as_fd(), c"", false).ok()).map(|weight| weight.device)
        };
        let mut in_memory: HashSet<u64> = places.into_iter().filter_map(device).collect();
        in_memory
            .extend(space::memory_file().and_then(|file| space::weigh(file.as_fd(), c"", false)).map(|w| w.device));
        Self { roots, everywhere, since: (since.as_secs() as i64, since.subsec_nanos()), in_memory }
    }

    /// What is free where the workspace lies.
    fn free_bytes(&self) -> u64 {
        self.roots.first().and_then(|root| space::free_bytes(root.as_ref()).ok()).unwrap_or(0)
    }

    /// Looks at everything. Beyond the usual directories only when `fell`, what became less on the file system, is a good
    /// part of the limit and not explained by what is in them.
    ///
    /// Directories that are closed to their own owner are left alone, unless too much is missing.
    fn weigh(&self, fell: u64, limit: u64) -> Found {
        let found = self.look(fell, limit, false);
        let is_suspicious = found.is_hidden && fell.saturating_sub(found.bytes) > limit;
        if is_suspicious { self.look(fell, limit, true) } else { found }
    }

    fn look(&self, fell: u64, limit: u64, opens_closed: bool) -> Found {
        let (found, seen, skip, unlocked) = (Found::default(), HashSet::new(), HashSet::new(), Vec::new());
        let mut look = Look { scale: self, opens_closed, found, seen, skip, unlocked };
        for root in self.roots {
            look.descend(root.as_ref(), false);
        }
        look.open_files();
        let unexplained = fell.saturating_sub(look.found.bytes);
        if self.everywhere && unexplained > limit / 4 {
            for root in self.roots {
                let root = space::open_anywhere(root.as_ref()).and_then(|root| space::weigh(root.as_fd(), c"", false));
                look.skip.extend(root.map(|weight| (weight.device, weight.inode)));
            }
            look.descend("/".as_ref(), true);
        }
        std::mem::take(&mut look.found)
    }
}

/// One look at all files.
struct Look<'a> {
    scale: &'a Scale,
    opens_closed: bool,
    found: Found,
    /// Files with several names, and files that are open: each counts once.
    seen: HashSet<(u64, u64)>,
    /// Directories not to enter.
    skip: HashSet<(u64, u64)>,
    /// Directories that were closed to their owner, and how they were.
    unlocked: Vec<(OwnedFd, u16)>,
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        // Those below first, as if they had never been opened.
        for (directory, mode) in self.unlocked.drain(..).rev() {
            let _ = space::set_mode(directory.as_fd(), mode);
        }
    }
}

impl Look<'_> {
    fn count(&mut self, weight: &Weight) {
        let is_new = weight.changed >= self.scale.since;
        if is_new && (weight.links == 1 || self.seen.insert((weight.device, weight.inode))) {
            self.found.bytes = self.found.bytes.saturating_add(weight.bytes.max(ENTRY_BYTES));
        }
    }

    /// Everything below a directory, however deep. `is_far`: what is in memory or in the kernel is not entered.
    fn descend(&mut self, root: &Path, is_far: bool) {
        let Ok(root) = space::open_anywhere(root) else { return };
        let Ok(device) = space::weigh(root.as_fd(), c"", false).map(|weight| weight.device) else { return };
        // Each directory is opened by its path from one above it that is still open.
        let mut directories = vec![(Arc::new(root), Vec::new(), device)];
        while let Some((above, path, device)) = directories.pop() {
            let opened = match path.is_empty() {
                true => above.try_clone(),
                false => CString::new(path.as_slice())
                    .map_err(io::Error::from)
                    .and_then(|path| self.open(above.as_fd(), &path)),
            };
            let directory = match opened {
                Ok(directory) => directory,
                Err(error) => {
                    self.found.is_hidden |= matches!(error.raw_os_error(), Some(sys::EACCES));
                    continue;
                }
            };
            let Ok(here) = space::weigh(directory.as_fd(), c"", false) else { continue };
            let is_elsewhere = is_far && here.device != device && space::is_not_on_disk(directory.as_fd());
            if is_elsewhere || self.skip.contains(&(here.device, here.inode)) {
                continue;
            }
            let Ok(names) = sys::list_directory(directory.as_fd()) else {
                self.found.is_hidden = true;
                continue;
            };
            self.enter(directory, &above, &path, here.device, names, &mut directories);
        }
    }

    fn open(&mut self, above: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
        let unlocks = self.opens_closed && self.unlocked.len() < MAX_UNLOCKED;
        let was = if unlocks { space::unlock(above, path).ok().flatten() } else { None };
        let opened = sys::open_directory(above, path)?;
        if let Some(mode) = was {
            self.unlocked.push((opened.try_clone()?, mode));
        }
        Ok(opened)
    }

    fn enter(
        &mut self,
        directory: OwnedFd,
        above: &Arc<OwnedFd>,
        path: &[u8],
        device: u64,
        names: Vec<Vec<u8>>,
        directories: &mut Vec<(Arc<OwnedFd>, Vec<u8>, u64)>,
    ) {
        let directory = Arc::new(directory);
        for name in names {
            let Ok(c_name) = CString::new(name.as_slice()) else { continue };
            let weight = match space::weigh(directory.as_fd(), &c_name, false) {
                Ok(weight) => weight,
                Err(error) => {
                    self.found.is_hidden |= error.raw_os_error() == Some(sys::EACCES);
                    continue;
                }
            };
            if !weight.is_directory {
                self.count(&weight);
                continue;
            }
            if weight.changed >= self.scale.since {
                self.found.bytes = self.found.bytes.saturating_add(weight.bytes.max(ENTRY_BYTES));
            }
            if path.len() + name.len() < MAX_RELATIVE {
                let path = if path.is_empty() { name } else { [path, name.as_slice()].join(&b'/') };
                directories.push((Arc::clone(above), path, device));
            } else {
                directories.push((Arc::clone(&directory), name, device));
            }
        }
    }

    /// Files that have no name any more and are held open.
    fn open_files(&mut self) {
        let Ok(proc) = space::open_anywhere("/proc".as_ref()) else { return };
        let own = std::process::id().to_string();
        let names = sys::list_directory(proc.as_fd()).unwrap_or_default();
        for process in names.into_iter().filter(|name| name.first().is_some_and(u8::is_ascii_digit)) {
            if process == own.as_bytes() {
                continue;
            }
            let text = String::from_utf8_lossy(&process).into_owned();
            let Ok(path) = CString::new(format!("{text}/fd")) else { continue };
            let listed = sys::open_directory(proc.as_fd(), &path).and_then(|fds| {
                let names = sys::list_directory(fds.as_fd())?;
                Ok((fds, names))
            });
            match listed {
                Ok((fds, names)) => {
                    for name in names.into_iter().filter_map(|name| CString::new(name).ok()) {
                        let Ok(weight) = space::weigh(fds.as_fd(), &name, true) else { continue };
                        if weight.is_regular && weight.links == 0 && !self.scale.in_memory.contains(&weight.device) {
                            self.count(&weight);
                        }
                    }
                }
                Err(error) => {
                    let is_dead = || is_dead(&text);
                    self.found.is_hidden |= matches!(error.raw_os_error(), Some(sys::EACCES)) && !is_dead();
                }
            }
        }
    }
}

/// The processes inside, this one included.
fn n_processes() -> u64 {
    let listed = space::open_anywhere("/proc".as_ref()).and_then(|proc| sys::list_directory(proc.as_fd()));
    listed.map_or(0, |names| names.iter().filter(|name| name.first().is_some_and(u8::is_ascii_digit)).count() as u64)
}

/// A process that has ended and waits to be reaped, or is gone by now, holds nothing.
fn is_dead(process: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return true };
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
