//! What every backend's sandboxes must do. A backend's module calls `for_each_behaviour!` with a function that returns it.

pub(crate) mod bases;
pub(crate) mod commands;
pub(crate) mod egress;
pub(crate) mod files;
pub(crate) mod flow;
pub(crate) mod walls;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;

use workers::sandbox::{Command, Exit, FileKind, Limits, Output, Sandbox, SandboxBackend, SandboxSpec, TreeFile};

/// One test per behaviour. `$backend` is an async function that returns the backend, or `None` to skip with a message.
macro_rules! for_each_behaviour {
    ($backend:path) => {
        for_each_behaviour! { $backend:
            commands {
                exit_codes_and_signals_are_told
                outputs_are_separate_and_binary_safe
                three_megabytes_of_input_come_back
                the_environment_is_what_was_given
                a_program_that_does_not_start_is_told_why
                a_timeout_kills_the_whole_group
                a_command_that_obeys_its_timeout_need_not_be_killed
                kill_all_gets_a_daemon
                a_background_child_does_not_hold_up_its_command
                a_dropped_run_kills_its_group
                many_commands_run_side_by_side
            }
            files {
                what_is_put_is_found_changed_and_got
                only_what_git_can_carry_is_told_as_a_file
                names_may_be_any_bytes
                paths_cannot_leave_the_workspace
                get_is_bounded
            }
            bases {
                a_box_starts_with_all_that_its_base_keeps
                a_base_stays_while_a_box_uses_it
                single_paths_can_be_marked
                boxes_stand_ready_for_those_who_ask_again
                a_claim_comes_with_the_tree_that_was_asked_for
                a_start_that_was_given_up_leaves_nothing
                what_a_box_has_written_is_seen_from_outside
            }
            flow {
                a_flood_of_output_holds_up_nobody
                output_beyond_the_cap_is_dropped
                tunnels_carry_both_ways_and_close_by_halves
                a_tunnel_that_nobody_reads_holds_up_nobody
                nothing_inside_gets_at_the_guest
                there_is_no_network_and_no_privilege
            }
            egress {
                nothing_gets_out_that_was_not_allowed
            }
            walls {
                out_of_memory_is_named_and_survived
                a_fork_bomb_is_named_and_survived
                a_flood_of_open_files_is_refused_and_survived
                writing_past_the_cap_ends_everything_inside_and_is_named
                what_has_no_name_or_no_content_counts_too
                what_is_hidden_in_closed_directories_counts_when_it_is_missed
                memory_that_looks_like_a_disk_is_bounded
                a_file_larger_than_the_cap_is_named
                what_a_command_waited_for_the_cpus_is_told_with_its_timeout
                a_flood_of_output_is_named
            }
        }
    };
    ($backend:path: $($module:ident { $($behaviour:ident)+ })+) => {
        $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $behaviour() {
            if let Some(backend) = $backend().await {
                $crate::suite::$module::$behaviour(backend).await;
            }
        })+)+
    };
}

pub(crate) type Backend = Arc<dyn SandboxBackend>;

const LIMIT: Duration = Duration::from_secs(60);

/// A specification with a name of its own.
pub(crate) fn spec(image: Option<&str>) -> SandboxSpec {
    static N: AtomicU32 = AtomicU32::new(0);
    let name = format!("onramp-test-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
    let limits = Limits { memory_bytes: 512 << 20, disk_bytes: 1 << 30, pids: 256, ..Limits::default() };
    SandboxSpec { image: image.map(str::to_owned), limits, ..SandboxSpec::new(name) }
}

/// Starts a sandbox for a test and stops it whatever the test does.
pub(crate) async fn with_sandbox(backend: Backend, test: impl AsyncFnOnce(&Sandbox)) {
    let sandbox = Sandbox::start(backend, &spec(None)).await.expect("starts");
    let outcome = AssertUnwindSafe(test(&sandbox)).catch_unwind().await;
    sandbox.stop().await.expect("stops");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command and collects what it writes.
pub(crate) async fn run(sandbox: &Sandbox, command: &Command) -> (Exit, Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut collect = |output: Output<'_>| match output {
        Output::Stdout(bytes) => stdout.extend_from_slice(bytes),
        Output::Stderr(bytes) => stderr.extend_from_slice(bytes),
    };
    let exit = sandbox.run(command, &mut collect).await.expect("runs");
    (exit, stdout, stderr)
}

/// Runs a line of shell that must succeed, and returns its output.
pub(crate) async fn sh(sandbox: &Sandbox, line: &str) -> String {
    let (exit, stdout, stderr) = run(sandbox, &Command::shell(line, LIMIT)).await;
    assert!(exit.success(), "{line}: {exit:?} {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8").trim_end().to_owned()
}

fn file(path: impl AsRef<[u8]>, kind: FileKind, bytes: impl AsRef<[u8]>) -> TreeFile {
    TreeFile { path: path.as_ref().to_vec(), kind, bytes: bytes.as_ref().to_vec() }
}

/// Bytes that do not compress or repeat, the same each time.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..n.div_ceil(8)).flat_map(|_| next()).take(n).collect()
}
