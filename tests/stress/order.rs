//! What was synced when something is acknowledged: no test that only kills a process can tell, because the system keeps what
//! a killed process wrote. So the calls themselves are read, in their order.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{store::used, trace};

/// Each a file, and what was written to it.
type Writes = Vec<(String, String)>;

pub(crate) async fn run(n_tasks: u64) -> Vec<String> {
    let dir = TempDir::new().expect("a directory");
    let (store, log) = (dir.path().join("queue"), dir.path().join("trace"));
    if let Err(failure) = used(&store, 10).await {
        return vec![format!("no store could be made: {failure}")];
    }
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["child", &store.display().to_string(), "order", &n_tasks.to_string(), "1", "gates"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut strace = None;
    for line in BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok) {
        if line == "open" {
            strace = Some(trace::attach_whole(child.id(), &log));
        }
        if let (Some(stdin), "ready" | "open") = (&mut child.stdin, line.as_str()) {
            let _ = stdin.write_all(b"go\n");
        }
    }
    let _ = child.wait();
    if let Some(mut strace) = strace {
        let _ = strace.wait();
    }
    judge(&log, n_tasks)
}

/// Each acknowledged key stands in a record that was synced before, in a segment whose name was.
fn judge(log: &Path, n_tasks: u64) -> Vec<String> {
    let mut problems = Vec::new();
    // What was written and not synced yet, and what was.
    let (mut written, mut synced) = (Writes::new(), Writes::new());
    // Segments whose names are not durable yet.
    let mut unnamed: Vec<String> = Vec::new();
    // By thread: what the sync that has begun will make durable.
    let mut syncing: HashMap<u32, (Writes, Vec<String>)> = HashMap::new();
    let mut n_acked = 0;
    for event in trace::events(log) {
        let file = event.arguments.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        match (event.name.as_str(), event.begins) {
            ("write", true) if file.contains("/journal/") => written.push((file, event.arguments)),
            ("write", true) if event.arguments.starts_with("1<") => {
                let Some(key) = event.arguments.split("acked ").nth(1).and_then(|rest| rest.split(' ').next()) else {
                    continue;
                };
                n_acked += 1;
                let quoted = format!("\\\"{key}\\\"");
                match synced.iter().find(|(_, text)| text.contains(&quoted)) {
                    None => problems.push(format!("{key} was acknowledged and not synced")),
                    Some((file, _)) if unnamed.contains(file) => {
                        problems.push(format!("{key} was acknowledged and the name of {file} not synced"));
                    }
                    Some(_) => {}
                }
            }
            ("rename" | "renameat" | "renameat2", true) => {
                let new = event.arguments.split('"').nth(3).unwrap_or_default();
                if new.ends_with(".log") {
                    unnamed.push(new.to_owned());
                }
            }
            ("fdatasync" | "fsync", true) => {
                let of_file = written.iter().filter(|(path, _)| *path == file).cloned().collect();
                let of_dir = unnamed.iter().filter(|path| Path::new(path).parent() == Some(Path::new(&file)));
                syncing.insert(event.thread, (of_file, of_dir.cloned().collect()));
            }
            ("fdatasync" | "fsync", false) => {
                let (files, names) = syncing.remove(&event.thread).unwrap_or_default();
                written.retain(|write| !files.contains(write));
                unnamed.retain(|name| !names.contains(name));
                synced.extend(files);
            }
            _ => {}
        }
    }
    if n_acked != n_tasks {
        problems.push(format!("{n_acked} of {n_tasks} were seen to be acknowledged"));
    }
    println!("order: {n_acked} acknowledged, {} problems", problems.len());
    problems
}
