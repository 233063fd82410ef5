//! The file system of an embedded sandbox: an empty root, and in it only what an allow-list names.
//!
//! Everything is built before the identity changes, so that a directory of tools below a home that only its owner may
//! enter can be shown, without the home.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    },
    path::{Component, Path, PathBuf},
};

use guest::launch::{HOME, HOST_NAME, INSIDE_ID, KEPT, Launch, Layer, WORKSPACE};

use super::{Attempt, Refusal, sys};

const READ_ONLY: u64 = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV;
const WRITABLE: u64 = sys::ATTR_NOSUID | sys::ATTR_NODEV;

/// What of `/etc` programs need to start, to resolve libraries and to trust certificates; nothing that names this host,
/// its users or its secrets. A `*` at the end matches any rest.
const ETC: &[&str] = &[
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "fonts",
    "java-*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "perl",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "protocols",
    "python3*",
    "services",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
/// Parts of `/proc` that tell about the host or steer it, and that nothing inside needs to write or to see.
const PROC_READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];
const PROC_HIDDEN: &[&str] =
    &["acpi", "asound", "kcore", "keys", "latency_stats", "scsi", "sched_debug", "timer_list", "timer_stats"];

/// Views of directories of the host in which their owner is the box's user; where one needs none or can have none, nothing.
pub(super) struct Views {
    pub(super) base: Option<OwnedFd>,
    /// One for each layer.
    pub(super) layers: Vec<Option<OwnedFd>>,
}

/// Builds the root and moves into it. Returns what had to be weaker than it should be.
pub(super) fn assemble(launch: &Launch, views: &Views) -> Result<Vec<String>, Refusal> {
    let mut root = Root { launch, views, notes: Vec::new() };
    sys::make_private().attempt(|| "separate the mounts from the host's".into())?;
    let top = launch.dir.join("root");
    tmpfs(&top, "mode=0755,size=16m")?;
    std::env::set_current_dir(&top).attempt(|| "enter the new root".into())?;

    root.show_system()?;
    root.fill_etc()?;
    root.make_devices()?;
    root.mount_proc()?;
    root.make_temporary()?;
    root.make_home_and_workspace()?;
    root.show_tools()?;
    root.show_layers()?;

    sys::pivot_here().attempt(|| "leave the host's root".into())?;
    sys::seal_root().attempt(|| "make the root read-only".into())?;
    Ok(root.notes)
}

/// The root while it is built: the current directory.
struct Root<'a> {
    launch: &'a Launch,
    views: &'a Views,
    notes: Vec<String>,
}

impl Root<'_> {
    /// The programs and libraries of the host, laid out as they are there.
    fn show_system(&self) -> Result<(), Refusal> {
        let entries = fs::read_dir("/").attempt(|| "read /".into())?;
        for name in entries.flatten().map(|entry| entry.file_name()) {
            let text = name.to_string_lossy();
            if matches!(&*text, "usr" | "bin" | "sbin") || text.starts_with("lib") {
                copy_entry(&Path::new("/").join(&name), Path::new(&name))?;
            }
        }
        // Systems whose programs live in a store of their own, readable by everybody by design.
        for store in ["/nix/store", "/gnu/store"].map(Path::new).into_iter().filter(|store| store.is_dir()) {
            show(store, store)?;
        }
        Ok(())
    }

    fn fill_etc(&self) -> Result<(), Refusal> {
        let _ = fs::create_dir("etc");
        for pattern in ETC {
            for source in matches(Path::new("/etc"), pattern) {
                if fs::symlink_metadata(&source).is_ok() {
                    let target = inside(&source);
                    make_parents(&target)?;
                    copy_entry(&source, &target)?;
                }
            }
        }
        let files = [
            (
                "passwd",
                format!(
                    "root:x:0:0:root:/root:/usr/sbin/nologin\nonramp:x:{INSIDE_ID}:{INSIDE_ID}:Onramp:{HOME}:/bin/sh\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                ),
            ),
            ("group", format!("root:x:0:\nonramp:x:{INSIDE_ID}:\nnogroup:x:65534:\n")),
            ("hosts", format!("127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n")),
            ("hostname", format!("{HOST_NAME}\n")),
            // Names are looked up in these files only: there is no server that could be asked.
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n".into()),
            ("resolv.conf", String::new()),
        ];
        for (name, text) in files {
            fs::write(Path::new("etc").join(name), text).attempt(|| format!("write /etc/{name}"))?;
        }
        Ok(())
    }

    fn make_devices(&self) -> Result<(), Refusal> {
        make_dir(Path::new("dev"))?;
        for name in DEVICES {
            let (source, target) = (Path::new("/dev").join(name), Path::new("dev").join(name));
            File::create(&target).attempt(|| format!("create /dev/{name}"))?;
            let bound = sys::bind(&source, &target, sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NOEXEC);
            bound.attempt(|| format!("show /dev/{name}"))?;
        }
        for source in &self.launch.devices {
            let target = inside(source);
            make_parents(&target)?;
            File::create(&target).attempt(|| format!("create {}", source.display()))?;
            let bound = sys::bind(source, &target, sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NOEXEC);
            bound.attempt(|| format!("show {}", source.display()))?;
        }
        make_dir(Path::new("dev/shm"))?;
        tmpfs(Path::new("dev/shm"), &format!("mode=1777,size={}", self.launch.tmp_bytes))?;
        make_dir(Path::new("dev/pts"))?;
        let (flags, options) = (sys::MS_NOSUID | sys::MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620");
        // Only programs that want a terminal of their own miss it.
        let _ = sys::mount_new(c"devpts", Path::new("dev/pts"), flags, options);
        let links = [
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ];
        for (name, target) in links {
            symlink(target, Path::new("dev").join(name)).attempt(|| format!("link /dev/{name}"))?;
        }
        Ok(())
    }

    /// A process list of the sandbox alone. There is no weaker one to fall back to: the host's would show the host.
    fn mount_proc(&self) -> Result<(), Refusal> {
        make_dir(Path::new("proc"))?;
        let flags = sys::MS_NOSUID | sys::MS_NODEV | sys::MS_NOEXEC;
        sys::mount_new(c"proc", Path::new("proc"), flags, "").attempt(|| "mount /proc".into())?;
        for name in PROC_READ_ONLY {
            let path = Path::new("proc").join(name);
            if path.exists() {
                sys::bind(&path, &path, READ_ONLY | sys::ATTR_NOEXEC).attempt(|| format!("protect /proc/{name}"))?;
            }
        }
        for name in PROC_HIDDEN {
            let path = Path::new("proc").join(name);
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.is_dir() {
                tmpfs(&path, "mode=0555,size=4k,ro")?;
            } else {
                sys::bind(Path::new("/dev/null"), &path, READ_ONLY & !sys::ATTR_NODEV)
                    .attempt(|| format!("hide /proc/{name}"))?;
            }
        }
        Ok(())
    }

    fn make_temporary(&self) -> Result<(), Refusal> {
        for (name, bytes) in [("tmp", self.launch.tmp_bytes), ("run", 16 << 20)] {
            make_dir(Path::new(name))?;
            tmpfs(Path::new(name), &format!("mode=1777,size={bytes}"))?;
        }
        make_dir(Path::new("var"))?;
        symlink("../tmp", "var/tmp").attempt(|| "link /var/tmp".into())?;
        symlink("../run", "var/run").attempt(|| "link /var/run".into())
    }

    fn make_home_and_workspace(&mut self) -> Result<(), Refusal> {
        make_parents(&inside(Path::new(HOME)))?;
        self.own_dir(KEPT)?;
        for (name, path) in [("home", HOME), ("workspace", WORKSPACE)] {
            let target = inside(Path::new(path));
            make_dir(&target)?;
            let (upper, work) = self.changes(name)?;
            let lower = match self.kept(name)? {
                Some(kept) => kept,
                None => self.own_dir(&format!("{name}-empty"))?,
            };
            let Err(error) = overlay(&[&lower], &upper, &work, &target, self.launch.host_id.is_none()) else {
                continue;
            };
            if self.launch.base.is_some() {
                return Err(error).attempt(|| format!("lay {path} over its base"));
            }
            self.notes.push(format!("{path} is a plain directory, because no overlay can be mounted ({error})"));
            sys::bind(&upper, &target, WRITABLE).attempt(|| format!("show {path}"))?;
        }
        Ok(())
    }

    /// Where what is written is kept, and what the kernel needs beside it.
    fn changes(&self, name: &str) -> Result<(PathBuf, PathBuf), Refusal> {
        Ok((self.own_dir(&format!("{KEPT}/{name}"))?, self.own_dir(&format!("{name}-work"))?))
    }

    /// What the base keeps under this name, as the box's user sees it. `None`: there is no base, or nothing of that in it.
    fn kept(&self, name: &str) -> Result<Option<PathBuf>, Refusal> {
        let Some(kept) = self.launch.base.as_ref().map(|base| base.join(name)).filter(|kept| kept.is_dir()) else {
            return Ok(None);
        };
        if self.launch.host_id.is_none() {
            return Ok(Some(kept));
        }
        let Some(view) = &self.views.base else {
            return Err(io::Error::from(io::ErrorKind::Unsupported))
                .attempt(|| "translate the owner of the base".into());
        };
        let lower = self.own_dir(&format!("{name}-lower"))?;
        sys::bind_translated(&kept, &lower, view).attempt(|| "show the base".into())?;
        Ok(Some(lower))
    }

    /// The tools that the worker named: read-only at their own path, or with changes kept in the box.
    fn show_tools(&mut self) -> Result<(), Refusal> {
        let mut shown: Vec<&Path> = ["/usr", "/bin", "/sbin", "/lib", "/nix/store", "/gnu/store"].map(Path::new).into();
        let mut expose: Vec<&Path> = self.launch.expose.iter().map(PathBuf::as_path).collect();
        expose.sort_unstable();
        for path in expose {
            if path.is_dir() && !shown.iter().any(|above| path.starts_with(above)) {
                self.make_owned_parents(path)?;
                show(path, path)?;
                shown.push(path);
            }
        }
        Ok(())
    }

    /// Caches are there to save time: one that cannot be written to would break what it should speed up, so it is left
    /// out instead.
    fn show_layers(&mut self) -> Result<(), Refusal> {
        let (launch, views) = (self.launch, self.views);
        let layers = launch.layers.iter().zip(&views.layers);
        for (layer, view) in layers.filter(|(layer, _)| layer.from.is_dir()) {
            let target = inside(&layer.to);
            self.make_owned_parents(&layer.to)?;
            fs::create_dir_all(&target).attempt(|| format!("create {}", layer.to.display()))?;
            self.give_away(&target)?;
            if let Err(error) = self.lay_over(layer, view.as_ref(), &target)? {
                self.notes
                    .push(format!("{} starts empty, because no overlay can be mounted ({error})", layer.to.display()));
            }
        }
        Ok(())
    }

    fn lay_over(&self, layer: &Layer, view: Option<&OwnedFd>, target: &Path) -> Result<io::Result<()>, Refusal> {
        let name = layer.name();
        let (upper, work) = self.changes(&name)?;
        let unprivileged = self.launch.host_id.is_none();
        let host = match view {
            _ if unprivileged => layer.from.clone(),
            None => return Ok(Err(io::ErrorKind::Unsupported.into())),
            Some(view) => {
                let lower = self.own_dir(&format!("{name}-host"))?;
                if let Err(error) = sys::bind_translated(&layer.from, &lower, view) {
                    return Ok(Err(error));
                }
                lower
            }
        };
        let kept = self.kept(&name)?;
        let lowers: Vec<&Path> = kept.iter().chain([&host]).map(PathBuf::as_path).collect();
        Ok(overlay(&lowers, &upper, &work, target, unprivileged))
    }

    /// A directory of the box, made when it is not there, that belongs to the user inside.
    fn own_dir(&self, name: &str) -> Result<PathBuf, Refusal> {
        let path = self.launch.dir.join(name);
        let _ = fs::create_dir(&path);
        self.give_away(&path)?;
        Ok(path)
    }

    fn give_away(&self, path: &Path) -> Result<(), Refusal> {
        let Some(id) = self.launch.host_id else { return Ok(()) };
        chown(path, Some(id), Some(id)).attempt(|| format!("hand over {}", path.display()))
    }

    /// The parents of a path inside; those below the home belong to its user, so that it can write beside.
    fn make_owned_parents(&self, path: &Path) -> Result<(), Refusal> {
        let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| !inside(parent).exists()).collect();
        while let Some(parent) = missing.pop() {
            let target = inside(parent);
            make_dir(&target)?;
            if parent.starts_with(HOME) {
                self.give_away(&target)?;
            }
        }
        Ok(())
    }
}

/// The path relative to the new root, which is the current directory.
fn inside(path: &Path) -> PathBuf {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
    Path::new(".").join(parts.collect::<PathBuf>())
}

fn make_dir(path: &Path) -> Result<(), Refusal> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
    .attempt(|| format!("create {}", path.display()))
}

fn make_parents(path: &Path) -> Result<(), Refusal> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).attempt(|| format!("create {}", parent.display()))
}

fn tmpfs(target: &Path, options: &str) -> Result<(), Refusal> {
    make_dir(target)?;
    sys::mount_new(c"tmpfs", target, sys::MS_NOSUID | sys::MS_NODEV, options)
        .attempt(|| format!("mount a temporary file system on {}", target.display()))
}

/// Shows a directory of the host read-only. Its parents inside must be there.
fn show(source: &Path, at: &Path) -> Result<(), Refusal> {
    let target = inside(at);
    fs::create_dir_all(&target).attempt(|| format!("create {}", at.display()))?;
    sys::bind(source, &target, READ_ONLY).attempt(|| format!("show {}", source.display()))
}

/// An entry of the host as it is there: a link stays a link, a small file is copied, a directory shown. What cannot be
/// read by everybody is left out.
fn copy_entry(source: &Path, target: &Path) -> Result<(), Refusal> {
    let Ok(found) = fs::symlink_metadata(source) else { return Ok(()) };
    if found.is_symlink() {
        let link = fs::read_link(source).attempt(|| format!("read the link {}", source.display()))?;
        return symlink(link, target).attempt(|| format!("link {}", source.display()));
    }
    let mode = found.permissions().mode();
    if found.is_dir() && mode & 0o005 == 0o005 {
        make_dir(target)?;
        return sys::bind(source, target, READ_ONLY).attempt(|| format!("show {}", source.display()));
    }
    if found.is_file() && mode & 0o004 != 0 {
        let bytes = fs::read(source).attempt(|| format!("read {}", source.display()))?;
        return fs::write(target, bytes).attempt(|| format!("write {}", target.display()));
    }
    Ok(())
}

/// The paths below `dir` that a pattern of [`ETC`] names.
fn matches(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let Some(prefix) = pattern.strip_suffix('*') else { return vec![dir.join(pattern)] };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).map(|entry| entry.path()).collect()
}

/// Mounts `lowers`, the first one on top, with their changes kept in `upper`. The paths go in as descriptors: no name can
/// be taken for an option, and programs inside cannot read from their list of mounts where the box lies.
fn overlay(lowers: &[&Path], upper: &Path, work: &Path, target: &Path, unprivileged: bool) -> io::Result<()> {
    let lowers = lowers.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
    let (upper, work) = (File::open(upper)?, File::open(work)?);
    let path = |dir: &File| format!("/proc/self/fd/{}", dir.as_raw_fd());
    let lower = lowers.iter().map(path).collect::<Vec<_>>().join(":");
    let dirs = format!("lowerdir={lower},upperdir={},workdir={}", path(&upper), path(&work));
    let xattr = if unprivileged { ",userxattr" } else { "" };
    let flags = sys::MS_NOSUID | sys::MS_NODEV;
    // A box does not outlive a crash, so nothing in it has to reach the disk; older kernels do not know the word.
    sys::mount_new(c"overlay", target, flags, &format!("{dirs}{xattr},volatile"))
        .or_else(|_| sys::mount_new(c"overlay", target, flags, &format!("{dirs}{xattr}")))
}
