//! The short versions of what `queue-stress` does to a task store: each of its commands says how to do all of it.

use std::process::Command;

/// Runs one of its commands on a file system in memory, where there is one: thousands of small files are made.
#[track_caller]
fn survives(arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_queue-stress"));
    if std::path::Path::new("/dev/shm").is_dir() {
        command.env("TMPDIR", "/dev/shm");
    }
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("0 problems"), "{said}");
}

#[test]
fn what_was_acknowledged_survives_a_kill_under_load() {
    survives(&["kills", "12"]);
}

#[test]
fn a_fault_at_any_system_call_loses_nothing_and_doubles_nothing() {
    // A few of them, spread over all phases; a number without common factors with that of the faults.
    survives(&["calls", "401"]);
}

#[test]
fn a_file_whose_sync_failed_is_never_used_again() {
    survives(&["calls", "4", "fdatasync"]);
}

#[test]
fn nothing_is_acknowledged_before_it_was_synced() {
    survives(&["order", "40"]);
}

#[test]
fn no_flipped_bit_and_no_cut_goes_unnoticed() {
    survives(&["flips", "60"]);
}
