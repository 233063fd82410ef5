//! What the kernel counts for this sandbox: how often it ran into a limit, and how long it waited for the CPUs.
//!
//! The counters are files of the sandbox's control groups, of either generation. They are opened before anything foreign
//! runs, and in an embedded sandbox before the host's file system is left.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Where a container sees its own control groups: version 2, then the usual places of version 1.
const IN_A_CONTAINER: &[&str] = &[
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/memory",
    "/sys/fs/cgroup/pids",
    "/sys/fs/cgroup/cpu",
    "/sys/fs/cgroup/cpu,cpuacct",
];

/// The counters of this sandbox, as far as its system has them.
#[derive(Default)]
pub(crate) struct Gauges {
    memory: Option<File>,
    pids: Option<File>,
    cpu: Option<File>,
}

/// What they showed at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    /// Processes killed for want of memory.
    pub(crate) killed: u64,
    /// Processes and threads that were not started.
    pub(crate) refused: u64,
    /// Time that processes waited for their share of the CPUs, in microseconds.
    pub(crate) throttled_us: u64,
}

impl Gauges {
    /// Those of the container that this process runs in.
    pub(crate) fn of_container() -> Self {
        Self::below(IN_A_CONTAINER.iter().map(PathBuf::from))
    }

    /// Those in the first directory that has each.
    pub(crate) fn below(dirs: impl Iterator<Item = PathBuf>) -> Self {
        let mut gauges = Self::default();
        for dir in dirs {
            let open = |name: &str| File::open(dir.join(name)).ok();
            gauges.memory = gauges.memory.or_else(|| open("memory.events")).or_else(|| open("memory.oom_control"));
            gauges.pids = gauges.pids.or_else(|| open("pids.events"));
            gauges.cpu = gauges.cpu.or_else(|| open("cpu.stat"));
        }
        gauges
    }

    /// Those of the groups that these `cgroup.procs` files belong to.
    pub(crate) fn of_groups(entrances: &[PathBuf]) -> Self {
        Self::below(entrances.iter().filter_map(|entrance| entrance.parent()).map(Path::to_path_buf))
    }

    /// Whether the kernel counts processes that it does not start.
    pub(crate) fn counts_pids(&self) -> bool {
        self.pids.is_some()
    }

    pub(crate) fn read(&self) -> Reading {
        let cpu = text(self.cpu.as_ref());
        Reading {
            killed: field(&text(self.memory.as_ref()), "oom_kill").unwrap_or(0),
            refused: field(&text(self.pids.as_ref()), "max").unwrap_or(0),
            throttled_us: field(&cpu, "throttled_usec")
                .or_else(|| field(&cpu, "throttled_time").map(|nanos| nanos / 1000))
                .unwrap_or(0),
        }
    }
}

fn text(file: Option<&File>) -> String {
    let mut buffer = [0; 4096];
    let n = file.and_then(|file| file.read_at(&mut buffer, 0).ok()).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory of files that goes with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let dir = std::env::temp_dir().join(format!("onramp-gauges-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            files.iter().for_each(|(name, text)| fs::write(dir.join(name), text).unwrap());
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn both_generations_of_counters_are_read() {
        let first = [
            Dir::with("memory", &[("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")]),
            Dir::with("pids", &[("pids.events", "max 7\n")]),
            Dir::with("cpu", &[("cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 5000000\n")]),
        ];
        let entrances: Vec<PathBuf> = first.iter().map(|dir| dir.0.join("cgroup.procs")).collect();
        let expected = Reading { killed: 3, refused: 7, throttled_us: 5000 };
        assert_eq!(Gauges::of_groups(&entrances).read(), expected);

        let second = Dir::with(
            "unified",
            &[
                ("memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 3\noom_group_kill 0\n"),
                ("pids.events", "max 7\n"),
                ("cpu.stat", "usage_usec 1\nnr_throttled 4\nthrottled_usec 5000\n"),
            ],
        );
        let gauges = Gauges::below([second.0.clone()].into_iter());
        assert_eq!((gauges.read(), gauges.counts_pids()), (expected, true));
        fs::write(second.0.join("pids.events"), "max 8\n").unwrap();
        assert_eq!(gauges.read().refused, 8, "read anew each time");
    }

    #[test]
    fn without_counters_nothing_was_ever_hit() {
        let gauges = Gauges::below([PathBuf::from("/nonexistent")].into_iter());
        assert_eq!((gauges.read(), gauges.counts_pids()), (Reading::default(), false));
    }
}
