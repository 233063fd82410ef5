//! What is there: of this process, and of its boxes on the whole machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{installation, is_docker_skipped};

/// What boxes had while they lived.
#[derive(Default)]
pub(crate) struct Seen {
    /// Control groups.
    groups: Mutex<BTreeSet<PathBuf>>,
    /// The files by which an engine holds network namespaces. Without one, a namespace goes with its last process.
    spaces: Mutex<BTreeSet<PathBuf>>,
    n_boxes: AtomicU64,
}

impl Seen {
    /// Looks at a process of a box.
    pub(crate) fn look(&self, pid: &str) {
        let process = Path::new("/proc").join(pid);
        if fs::read_link(process.join("ns/net")).is_ok_and(|space| fs::read_link("/proc/self/ns/net").unwrap() != space)
        {
            self.n_boxes.fetch_add(1, Ordering::Relaxed);
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for line in fs::read_to_string(process.join("cgroup")).unwrap_or_default().lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            // Only groups of its own.
            if !own.contains(line) && path.len() > 1 {
                let mount = if controllers.is_empty() { "unified" } else { controllers };
                for mount in [mount, controllers.split(',').next().unwrap_or_default(), ""] {
                    let dir = Path::new("/sys/fs/cgroup").join(mount.trim_start_matches("name=")).join(&path[1..]);
                    if dir.is_dir() {
                        self.groups.lock().unwrap().insert(dir);
                    }
                }
            }
        }
    }

    /// Remembers the file by which the engine holds a network namespace.
    pub(crate) fn hold(&self, space: &str) {
        if !space.is_empty() {
            self.spaces.lock().unwrap().insert(space.into());
        }
    }

    /// (boxes that were looked at in a network namespace of their own, control groups)
    pub(crate) fn counts(&self) -> (u64, usize) {
        (self.n_boxes.load(Ordering::Relaxed), self.groups.lock().unwrap().len())
    }
}

/// Counts, by what is counted.
#[derive(Debug, Clone)]
pub(crate) struct Inventory {
    counts: BTreeMap<&'static str, usize>,
    resident_kib: usize,
}

impl Inventory {
    pub(crate) fn take(dir: &Path, seen: &Seen) -> Self {
        let mut counts = BTreeMap::new();
        let descriptors: Vec<String> = fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
            .collect();
        counts.insert("descriptors", descriptors.len());
        counts.insert("files in memory", descriptors.iter().filter(|target| target.starts_with("/memfd:")).count());
        let root = dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        counts.insert("mounts", mounts.lines().filter(|line| line.contains(&root)).count());
        counts.insert("box directories", entries(&dir.join("boxes")));
        counts.insert("children", children().len());
        let mut n_processes = 0;
        for pid in processes() {
            let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            n_processes += usize::from(seen.groups.lock().unwrap().iter().any(|dir| {
                let name = dir.file_name().unwrap_or_default().to_string_lossy();
                group.lines().any(|line| line.ends_with(&*name))
            }));
        }
        counts.insert("processes of boxes", n_processes);
        counts.insert("network namespaces", seen.spaces.lock().unwrap().iter().filter(|file| file.exists()).count());
        counts.insert("control groups", seen.groups.lock().unwrap().iter().filter(|dir| dir.exists()).count());
        let named = format!("{}*", installation());
        let find = ["/sys/fs/cgroup", "-type", "d", "-name", &named];
        counts.insert("control groups by name", lines_of(Command::new("find").args(find)));
        if !is_docker_skipped() {
            let label = format!("label=onramp.installation={}", installation());
            counts.insert("containers", lines_of(Command::new("docker").args(["ps", "-aq", "--filter", &label])));
            counts.insert("images", lines_of(Command::new("docker").args(["images", "-q", "--filter", &label])));
        }
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap_or(0);
        Self { counts, resident_kib }
    }

    /// What must be the same before and after.
    pub(crate) fn comparable(&self) -> &BTreeMap<&'static str, usize> {
        &self.counts
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, n)| write!(f, "{what} {n}, "))?;
        write!(f, "resident {} KiB", self.resident_kib)
    }
}

/// The whole machine, with what everybody else does on it: to be read, not compared.
pub(crate) fn of_the_machine() -> String {
    let spaces = |pid: &String| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let n_spaces = processes().iter().filter_map(spaces).collect::<BTreeSet<_>>().len();
    let n_mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
    let n_groups = lines_of(Command::new("find").args(["/sys/fs/cgroup", "-type", "d"]));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(2).collect::<Vec<_>>().join(" ");
    format!("network namespaces {n_spaces}, mounts {n_mounts}, control groups {n_groups}, load {load}")
}

/// What is there when nothing changes any more: connections that nobody needs close a moment later.
pub(crate) async fn when_calm(dir: &Path, seen: &Seen, patience: Duration) -> Inventory {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    ticks.tick().await;
    let mut last = Inventory::take(dir, seen);
    loop {
        ticks.tick().await;
        let now = Inventory::take(dir, seen);
        let is_empty = now.counts.iter().all(|(what, n)| *n == 0 || matches!(*what, "descriptors" | "files in memory"));
        if is_empty && now.comparable() == last.comparable() {
            return now;
        }
        assert!(began.elapsed() < patience, "the first boxes leave something: {now}");
        last = now;
    }
}

/// Looks until it is as it was before, or patience ends.
pub(crate) async fn until_equal(dir: &Path, seen: &Seen, before: &Inventory, patience: Duration) -> Inventory {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let mut told = BTreeMap::new();
    loop {
        ticks.tick().await;
        let now = Inventory::take(dir, seen);
        let more = now.counts.iter().filter(|(what, n)| **n > before.counts[*what]).map(|(what, n)| (*what, *n));
        let more: BTreeMap<_, _> = more.collect();
        if more != told {
            println!("still there after {:?}: {more:?}", began.elapsed());
            told = more;
        }
        if now.comparable() == before.comparable() || began.elapsed() > patience {
            return now;
        }
    }
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, |entries| {
        // The guest's own program may be kept there where memory files cannot be executed.
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("onramp")).count()
    })
}

fn lines_of(command: &mut Command) -> usize {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).lines().count()
}

pub(crate) fn processes() -> Vec<String> {
    let names = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// The processes that this one started: launchers of boxes, workers.
pub(crate) fn children() -> Vec<String> {
    children_of("self")
}

pub(crate) fn children_of(pid: &str) -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().map(str::to_owned));
    }
    found
}
