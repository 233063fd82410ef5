//! The control groups of one box, as far as this system lets us have them.
//!
//! Both generations: version 1 has one tree per controller, version 2 one for all. In either the box's group is made as
//! near to the worker's own as is allowed: below it (version 1), or below the nearest group above it that hands the
//! controllers down (version 2, where a group with processes cannot).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use tasks::Limit;

use crate::sandbox::Limits;

/// The control groups of a box: what is enforced there, and where they lie.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ControlGroups {
    /// The directories, to be removed with the box.
    pub(super) dirs: Vec<PathBuf>,
    /// Those of memory, pids and cpu that could be limited.
    pub(super) enforced: Vec<Limit>,
    /// Why the others could not, for people who look closer.
    pub(super) reasons: Vec<String>,
}

/// One tree of control groups that this process is in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    /// Its controllers; empty: version 2.
    controllers: Vec<String>,
    /// Where it is mounted.
    mount: PathBuf,
    /// The group of this process.
    own: PathBuf,
}

const CPU_PERIOD_US: u64 = 100_000;

impl ControlGroups {
    /// Makes the groups of a box. What is not allowed here is simply not in the result.
    pub(super) fn create(name: &str, limits: &Limits) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut groups = Self::default();
        for tree in trees(&own, &mounts) {
            let done = if tree.controllers.is_empty() {
                groups.create_in_version_2(&tree, name, limits)
            } else {
                groups.create_in_version_1(&tree, name, limits)
            };
            if let Err(error) = done {
                tracing::debug!(tree = %tree.mount.display(), %error, "no control group for the sandbox there");
                groups.reasons.push(format!("{}: {error}", tree.own.display()));
            }
        }
        groups
    }

    /// What of memory, pids and cpu is not limited.
    pub(super) fn missing(&self) -> Vec<Limit> {
        [Limit::Memory, Limit::Pids, Limit::Cpu].into_iter().filter(|limit| !self.enforced.contains(limit)).collect()
    }

    fn create_in_version_1(&mut self, tree: &Tree, name: &str, limits: &Limits) -> io::Result<()> {
        for (controller, files) in settings_version_1(limits) {
            if !tree.controllers.iter().any(|found| found == controller.as_str()) || self.enforced.contains(&controller)
            {
                continue;
            }
            let dir = tree.own.join(name);
            self.enter(&dir, &files)?;
            self.enforced.push(controller);
        }
        Ok(())
    }

    fn create_in_version_2(&mut self, tree: &Tree, name: &str, limits: &Limits) -> io::Result<()> {
        let above = tree.own.ancestors().take_while(|dir| dir.starts_with(&tree.mount));
        for parent in above.filter(|dir| access(dir.join("cgroup.procs"), Access::WRITE_OK).is_ok()) {
            if parent == tree.mount {
                // Only the very top may hand controllers down while it holds processes; elsewhere this is refused.
                let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory +pids +cpu");
            }
            let handed = fs::read_to_string(parent.join("cgroup.subtree_control")).unwrap_or_default();
            let missing = |limit: Limit| {
                !self.enforced.contains(&limit) && handed.split_whitespace().any(|one| one == limit.as_str())
            };
            let settings: Vec<_> =
                settings_version_2(limits).into_iter().filter(|(controller, _)| missing(*controller)).collect();
            if settings.is_empty() {
                continue;
            }
            let dir = parent.join(name);
            for (controller, files) in settings {
                self.enter(&dir, &files)?;
                self.enforced.push(controller);
            }
            return Ok(());
        }
        Ok(())
    }

    /// Makes a group, when it is not there, and sets its files; the first one is the limit itself and must be set.
    fn enter(&mut self, dir: &Path, files: &[(&str, String)]) -> io::Result<()> {
        if !self.dirs.iter().any(|known| known == dir) {
            // An empty one is what a worker of the same number left when it was killed; one with processes stays.
            fs::create_dir(dir).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => fs::remove_dir(dir).and_then(|()| fs::create_dir(dir)),
                _ => Err(error),
            })?;
            self.dirs.push(dir.to_owned());
        }
        for (n, (file, value)) in files.iter().enumerate() {
            let set = fs::write(dir.join(file), value);
            // The others tighten it and are not on every system: limits of swap, above all.
            if n == 0 {
                set?;
            }
        }
        Ok(())
    }

    /// The files through which the first process of the box enters.
    pub(super) fn entrances(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }
}

/// Removes groups whose processes are gone. Groups that are not there are fine.
pub(super) fn remove(dirs: &[PathBuf]) -> io::Result<()> {
    for dir in dirs {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

type Settings = Vec<(Limit, Vec<(&'static str, String)>)>;

fn cpu_quota_us(limits: &Limits) -> u64 {
    ((limits.cpus * CPU_PERIOD_US as f64) as u64).max(1_000)
}

fn settings_version_1(limits: &Limits) -> Settings {
    let memory = limits.memory_bytes.to_string();
    vec![
        (Limit::Memory, vec![("memory.limit_in_bytes", memory.clone()), ("memory.memsw.limit_in_bytes", memory)]),
        (Limit::Pids, vec![("pids.max", limits.pids.to_string())]),
        (
            Limit::Cpu,
            vec![
                ("cpu.cfs_quota_us", cpu_quota_us(limits).to_string()),
                ("cpu.cfs_period_us", CPU_PERIOD_US.to_string()),
            ],
        ),
    ]
}

fn settings_version_2(limits: &Limits) -> Settings {
    vec![
        (Limit::Memory, vec![("memory.max", limits.memory_bytes.to_string()), ("memory.swap.max", "0".into())]),
        (Limit::Pids, vec![("pids.max", limits.pids.to_string())]),
        (Limit::Cpu, vec![("cpu.max", format!("{} {CPU_PERIOD_US}", cpu_quota_us(limits)))]),
    ]
}

/// The trees that this process is in, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn trees(own: &str, mounts: &str) -> Vec<Tree> {
    let mut trees = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let controllers: Vec<String> =
            controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let Some((mount, root)) = mounts.lines().find_map(|line| mount_of(line, &controllers)) else { continue };
        // Inside a container the mount may show only a part of the tree, and the path may be the host's.
        let relative = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
        trees.push(Tree { controllers, own: mount.join(relative), mount });
    }
    trees
}

/// Mount point and root of a line of mountinfo, when it is the tree of these controllers.
fn mount_of(line: &str, controllers: &[String]) -> Option<(PathBuf, PathBuf)> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, mount) = (fields.next()?, fields.next()?);
    let mut rest = rest.split(' ');
    let (kind, options) = (rest.next()?, rest.nth(1)?);
    let is_it = match controllers.first() {
        None => kind == "cgroup2",
        Some(first) => kind == "cgroup" && options.split(',').any(|option| option == first),
    };
    is_it.then(|| (mount.into(), root.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_both_generations_are_found_side_by_side() {
        let own = "8:pids:/\n4:memory:/machine/a b\n2:cpu,cpuacct:/x\n0::/user.slice/u.scope\n";
        let mounts = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
32 25 0:28 /x /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
";
        let found: Vec<_> = trees(own, mounts)
            .into_iter()
            .map(|tree| (tree.controllers.join(","), tree.own.to_string_lossy().into_owned()))
            .collect();
        let expected = [
            ("pids", "/sys/fs/cgroup/pids/"),
            ("memory", "/sys/fs/cgroup/memory/machine/a b"),
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/"),
            ("", "/sys/fs/cgroup/unified/user.slice/u.scope"),
        ];
        assert_eq!(found, expected.map(|(names, own)| (names.to_owned(), own.to_owned())));
    }

    /// A tree of the second generation as a directory: the kernel's files have to be made by hand here.
    fn second_generation(groups: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let mount = tempfile::tempdir().unwrap();
        for (group, handed_down) in groups {
            let dir = mount.path().join(group);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), "").unwrap();
            fs::write(dir.join("cgroup.subtree_control"), handed_down).unwrap();
        }
        let own = mount.path().join(groups[groups.len() - 1].0);
        let tree = Tree { controllers: Vec::new(), own, mount: mount.path().to_owned() };
        (mount, tree)
    }

    #[test]
    fn in_version_2_a_box_lies_below_the_nearest_group_that_hands_the_controllers_down() {
        let limits = Limits { cpus: 1.5, memory_bytes: 1 << 30, pids: 77, ..Limits::default() };
        let (mount, tree) = second_generation(&[
            ("", "cpu memory pids"),
            ("user", "cpu memory pids"),
            ("user/scope", "memory pids"),
            ("user/scope/worker", ""),
        ]);
        let mut groups = ControlGroups::default();
        groups.create_in_version_2(&tree, "onramp-x", &limits).unwrap();
        let dir = mount.path().join("user/scope/onramp-x");
        assert_eq!(
            (groups.dirs.as_slice(), groups.enforced.as_slice()),
            (&[dir.clone()][..], &[Limit::Memory, Limit::Pids][..])
        );
        assert_eq!(groups.missing(), [Limit::Cpu]);
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!([read("memory.max"), read("memory.swap.max"), read("pids.max")], ["1073741824", "0", "77"]);
        assert!(!dir.join("cpu.max").exists());
        assert_eq!(groups.entrances(), [dir.join("cgroup.procs")]);
    }

    #[test]
    fn an_empty_group_that_was_left_behind_does_not_stand_in_the_way() {
        let (mount, tree) = second_generation(&[("", ""), ("top", "memory"), ("top/own", "")]);
        let left = mount.path().join("top/onramp-x");
        fs::create_dir(&left).unwrap();
        let mut groups = ControlGroups::default();
        groups.create_in_version_2(&tree, "onramp-x", &Limits::default()).unwrap();
        assert_eq!((groups.dirs, groups.enforced), (vec![left], vec![Limit::Memory]));
    }

    #[test]
    fn in_version_2_the_top_is_asked_to_hand_the_controllers_down() {
        let (mount, tree) = second_generation(&[("", "")]);
        let mut groups = ControlGroups::default();
        groups.create_in_version_2(&tree, "onramp-x", &Limits::default()).unwrap();
        let asked = fs::read_to_string(mount.path().join("cgroup.subtree_control")).unwrap();
        // The kernel would read this as a request and answer with the bare names.
        assert_eq!((asked.as_str(), groups.enforced.len()), ("+memory +pids +cpu", 0));
        let (_mount, tree) = second_generation(&[("", ""), ("top", "cpu memory pids"), ("top/own", "")]);
        groups.create_in_version_2(&tree, "onramp-x", &Limits { cpus: 0.5, ..Limits::default() }).unwrap();
        assert_eq!(groups.missing(), []);
        assert_eq!(fs::read_to_string(groups.dirs[0].join("cpu.max")).unwrap(), "50000 100000");
    }

    #[test]
    fn a_fraction_of_a_cpu_is_a_share_of_the_period() {
        let limits = Limits { cpus: 0.5, ..Limits::default() };
        assert_eq!(settings_version_2(&limits)[2].1, [("cpu.max", "50000 100000".to_owned())]);
        assert_eq!(settings_version_1(&limits)[2].1[0], ("cpu.cfs_quota_us", "50000".to_owned()));
    }
}
