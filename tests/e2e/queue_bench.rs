//! The program that measures the task store works: what it says is for calm machines, that it says it is for all.

use std::process::Command;

#[test]
fn the_measurements_of_the_queue_come_to_an_end_and_name_every_bar() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_queue-bench"));
    command.args(["all", "--alone", "--seconds", "0.1", "--rounds", "1", "--tasks", "200"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let n_said = |start: &str| said.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!((n_said("onramp"), n_said("all ")), (8, 4), "{said}");
    let n_bars = n_said("met ") + n_said("MISSED ");
    assert_eq!(n_bars, 9, "{said}");
}
