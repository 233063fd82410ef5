//! `strace`, as far as it is needed: which calls a process makes, and one fault at one of them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// One call: of which thread (numbered as they appear), which one, and the how-manieth of its name in that thread.
pub(crate) type Call = (usize, String, u64);

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Eio,
    Enospc,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::Kill => "signal=KILL",
            Self::Eio => "error=EIO",
            Self::Enospc => "error=ENOSPC",
        }
    }
}

/// Starts to trace a process that waits at a gate; with a fault at the `n`th call named `call` of any thread. Errors are
/// only injected for these paths.
pub(crate) fn attach(pid: u32, log: &Path, fault: Option<(Fault, &str, u64)>, paths: &[PathBuf]) -> Child {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-s", "0", "-o"]).arg(log).args(["-p", &pid.to_string()]);
    match fault {
        Some((fault, call, n)) => {
            strace.args(["-e", &format!("trace={call},openat,close,fdatasync,fsync")]);
            strace.args(["-e", &format!("inject={call}:{}:when={n}", fault.text())]);
            if fault != Fault::Kill {
                strace.args(paths.iter().flat_map(|path| ["-P".into(), path.clone().into_os_string()]));
            }
        }
        None => {
            strace.args(["-e", "trace=%file,%desc,ftruncate,fdatasync,fsync,sync_file_range"]);
        }
    }
    started(strace, pid)
}

/// Starts to trace with all that is written, for whoever wants to know what was synced.
pub(crate) fn attach_whole(pid: u32, log: &Path) -> Child {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-s", "100000", "-o"]).arg(log).args(["-p", &pid.to_string()]);
    strace.args(["-e", "trace=write,fdatasync,fsync,rename,renameat,renameat2"]);
    started(strace, pid)
}

fn started(mut strace: Command, pid: u32) -> Child {
    let strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
    let strace = strace.expect("strace is there: tests/bring-up.sh installs it");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_traced(pid) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    strace
}

fn is_traced(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}

/// The calls of a log, in order, as `(thread, name, arguments and result)`.
pub(crate) fn calls(log: &Path) -> Vec<(u32, String, String)> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(' ')?;
        let rest = rest.trim_start();
        let (name, arguments) = rest.split_once('(')?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_name.then(|| (thread.parse().ok(), name.to_owned(), arguments.to_owned()))
    });
    lines.filter_map(|(thread, name, rest)| Some((thread?, name, rest))).collect()
}

/// Each call that a run makes, numbered.
pub(crate) fn points(log: &Path) -> Vec<Call> {
    let mut threads: Vec<u32> = Vec::new();
    let mut seen: BTreeMap<(usize, String), u64> = BTreeMap::new();
    let mut points = Vec::new();
    for (thread, name, _) in calls(log) {
        let known = threads.iter().position(|other| *other == thread);
        let thread = known.unwrap_or_else(|| {
            threads.push(thread);
            threads.len() - 1
        });
        let n = seen.entry((thread, name.clone())).or_default();
        *n += 1;
        points.push((thread, name, *n));
    }
    points
}

/// The files and directories of a store that a run touched.
pub(crate) fn paths(log: &Path, below: &Path) -> Vec<PathBuf> {
    let below = below.display().to_string();
    let mut found = Vec::new();
    for (.., text) in calls(log) {
        for (at, _) in text.match_indices(&below) {
            let end = text[at..].find(['"', '>']).map_or(text.len(), |len| at + len);
            found.push(PathBuf::from(&text[at..end]));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether a file whose fsync failed was synced again before it was opened anew: another handle of the same opening, or the
/// same one, would only say that what is lost was never written.
pub(crate) fn synced_again_after_failure(log: &Path) -> bool {
    let mut failed: Option<String> = None;
    for (_, name, rest) in calls(log) {
        let file = rest.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        match (name.as_str(), &failed) {
            ("fdatasync" | "fsync", Some(bad)) if *bad == file => return true,
            ("openat", Some(bad)) if rest.contains(&format!("\"{bad}\"")) => failed = None,
            ("fdatasync" | "fsync", None) if rest.contains("INJECTED") && file.contains("/journal/") => {
                failed = Some(file);
            }
            _ => {}
        }
    }
    false
}

/// The beginning or the end of a call. One that nothing came between has both.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) thread: u32,
    pub(crate) name: String,
    pub(crate) begins: bool,
    /// Of its beginning; with the result, where that is on the same line.
    pub(crate) arguments: String,
}

/// All beginnings and ends, in their order.
pub(crate) fn events(log: &Path) -> Vec<Event> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut events = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if let Some(name) = rest.strip_prefix("<... ").and_then(|rest| rest.split(' ').next()) {
            events.push(Event { thread, name: name.to_owned(), begins: false, arguments: String::new() });
        } else if let Some((name, arguments)) = rest.split_once('(') {
            let whole = !arguments.ends_with("<unfinished ...>");
            let event = |begins| Event { thread, name: name.to_owned(), begins, arguments: arguments.to_owned() };
            events.push(event(true));
            events.extend(whole.then(|| event(false)));
        }
    }
    events
}
