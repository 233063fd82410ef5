use super::*;

fn exit(code: Option<i32>, signal: Option<i32>, timed_out: bool) -> Exit {
    Exit { code, signal, timed_out, wall: Duration::ZERO, cpu: Duration::ZERO, max_rss_bytes: 0 }
}

#[test]
fn only_exit_code_zero_within_the_limit_passes() {
    let outcome = |code, signal, timed_out| outcome(&exit(code, signal, timed_out), Duration::from_secs(7));
    assert_eq!(outcome(Some(0), None, false), CheckOutcome::Passed);
    assert_eq!(outcome(Some(0), None, true), CheckOutcome::TimedOut { limit_s: 7 });
    assert_eq!(outcome(Some(3), None, false), CheckOutcome::Failed { exit_code: 3 });
    assert_eq!(outcome(None, Some(9), false), CheckOutcome::Killed { signal: 9 });
    assert_eq!(outcome(None, None, false), CheckOutcome::Killed { signal: 0 });
}

#[test]
fn the_name_of_a_check_makes_no_path() {
    assert_eq!(file_name("a/../b c:d"), "a----b-c-d");
}

#[test]
fn a_tail_is_cut_between_characters() {
    assert_eq!(last_bytes("aéb", 2), "b");
    assert_eq!(last_bytes("aéb", 3), "éb");
    assert_eq!(last_bytes("ab", 8), "ab");
}
