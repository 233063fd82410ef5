//! The machine that all of it runs on.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::Instant,
};

use crate::report::Summary;

/// Two lines about it: processors, kernel, load, the file system under `dir`, and how long its disk takes to sync.
pub(crate) fn about(dir: &Path) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "debug profile" } else { "release profile" };
    let sync = sync_time(dir);
    format!(
        "{cpus} processors, kernel {}, {profile}, load {}\n{} under {}; append of 1 KiB and fdatasync: p50 {:.2} ms, p99 {:.2} ms",
        kernel.trim(),
        load(),
        file_system(dir),
        dir.display(),
        sync.p50,
        sync.p99
    )
}

/// The load of the last minute, and of the last five.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The type of the file system that a path lies on: that of the longest mount point above it.
fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        path.starts_with(point).then(|| (point.len(), kind.to_owned()))
    });
    above.max().map_or("unknown file system".to_owned(), |(_, kind)| kind)
}

fn sync_time(dir: &Path) -> Summary {
    let path = dir.join("sync");
    let mut file = File::create(&path).expect("a file");
    let mut times = Vec::new();
    for _ in 0..300 {
        let began = Instant::now();
        file.write_all(&[b'x'; 1024]).and_then(|()| file.sync_data()).expect("it is written");
        times.push(began.elapsed());
    }
    fs::remove_file(&path).expect("the file is removed");
    Summary::of(&times)
}

/// A value of `/proc/self/status` in MiB, such as `VmHWM`: the most memory that this process ever had resident.
pub(crate) fn own_memory(key: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.expect("a number of kB") / 1024.0
}
