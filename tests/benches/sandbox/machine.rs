//! The machine that all of it runs on: how busy it is, and who uses its processors.

use std::{fs, time::Duration};

/// One line about it.
pub(crate) fn about() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "debug profile" } else { "release profile" };
    format!("{cpus} processors, kernel {}, {profile}, load {}", kernel.trim(), load())
}

/// The load of the last minute, and of the last five.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Processor time, user and system, that the engine's processes and this one have used so far, with the children that
/// they waited for. What ended without a parent that waits (shims) is counted only while it lives.
pub(crate) fn cpu_of_engine_and_self() -> Duration {
    let own = std::process::id().to_string();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((front, rest)) = stat.rsplit_once(')') else { continue };
        let command = front.split_once('(').map_or("", |(_, command)| command);
        let is_engine = command == "dockerd" || command.starts_with("containerd");
        if name == own || is_engine {
            // After the name: state, ten numbers, then the four times.
            let times = rest.split_whitespace().skip(11).take(4);
            ticks += times.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
        }
    }
    // The kernel tells times in hundredths of a second.
    Duration::from_millis(ticks * 10)
}
