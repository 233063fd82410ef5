use super::*;
use crate::repo_config::RepoConfig;

fn policy(table: &str) -> Policy {
    let text = format!("version = 1\n[[check]]\nname = \"t\"\ncommand = \"true\"\n[policy]\n{table}");
    RepoConfig::load(Some(text.as_bytes()), &[]).unwrap().policy
}

fn write(path: &str, bytes: impl AsRef<[u8]>) -> FileChange {
    FileChange { path: path.into(), before: None, after: Some((FileKind::Regular, bytes.as_ref().to_vec())) }
}

fn edit(path: &str, before: impl AsRef<[u8]>, after: impl AsRef<[u8]>) -> FileChange {
    FileChange { before: Some((FileKind::Regular, before.as_ref().to_vec())), ..write(path, after) }
}

fn delete(path: &str) -> FileChange {
    FileChange { after: None, ..edit(path, "x", "") }
}

fn link(path: &str, target: &str) -> FileChange {
    FileChange { path: path.into(), before: None, after: Some((FileKind::Symlink, target.into())) }
}

fn rules(changes: &[FileChange], table: &str) -> Vec<String> {
    let found = judge(changes, &policy(table)).into_iter().filter(|finding| finding.action == Action::Block);
    found.map(|v| format!("{} {}", v.rule, v.path.unwrap_or_default()).trim_end().to_owned()).collect()
}

fn message(change: FileChange, table: &str) -> String {
    let found = judge(&[change], &policy(table));
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].message.clone()
}

#[test]
fn an_ordinary_change_is_allowed() {
    let changes = [
        edit("src/lib.rs", "a\n", "b\n"),
        edit("Cargo.lock", "a", "b"),
        edit("package.json", "{}", "{ }"),
        write("docs/agent-notes.md", "x"),
        write(".github/ISSUE_TEMPLATE/bug.md", "x"),
        delete("old.txt"),
        link("docs/latest", "../README.md"),
    ];
    assert_eq!(rules(&changes, ""), [""; 0]);
}

#[test]
fn protected_paths_are_refused_however_they_are_written_or_changed() {
    for path in [
        "CODEOWNERS",
        "docs/codeowners",
        "AGENTS.md",
        "deep/down/Claude.md",
        ".claude/settings.json",
        ".onramp.toml",
        "sub/.gitattributes",
        ".gitmodules",
        ".husky/pre-commit",
    ] {
        assert_eq!(rules(&[write(path, "x")], ""), [format!("protected_path {path}")]);
        assert_eq!(rules(&[delete(path)], ""), [format!("protected_path {path}")]);
    }
    for path in [
        ".github/workflows/ci.yml",
        ".github/workflows/a/b.yml",
        ".GitHub/Workflows/ci.yml",
        ".github/workflows./ci.yml",
        ".git\u{200c}hub/workflows/ci.yml",
    ] {
        assert_eq!(rules(&[write(path, "x")], ""), [format!("workflow {path}")]);
    }
}

#[test]
fn nothing_may_take_the_place_of_a_directory_that_leads_to_a_protected_path() {
    for (path, rule) in [
        (".github", "protected_path"),
        (".github/workflows", "workflow"),
        (".husky", "protected_path"),
        (".Circleci", "workflow"),
    ] {
        assert_eq!(rules(&[link(path, "elsewhere")], ""), [format!("{rule} {path}")]);
    }
    assert_eq!(rules(&[write("migrations", "x")], "protected = [\"migrations/*.sql\"]"), ["protected_path migrations"]);
    assert_eq!(
        rules(&[write("docs", "x"), write("src", "x")], ""),
        ["protected_path docs"],
        "it leads to docs/CODEOWNERS"
    );
}

#[test]
fn the_owner_of_a_repository_can_protect_more_and_less() {
    assert_eq!(rules(&[write("AGENTS.md", "x")], "unprotect = [\"**/AGENTS.md\"]"), [""; 0]);
    assert_eq!(rules(&[write("db/1.sql", "x")], "protected = [\"db/**\"]"), ["protected_path db/1.sql"]);
    let changes = [write("src/a.rs", "x"), write("SRC/a.rs", "x"), write("b.rs", "x")];
    assert_eq!(rules(&changes, "allowed = [\"src/**\"]"), ["not_allowed_path SRC/a.rs", "not_allowed_path b.rs"]);
}

#[test]
fn size_is_capped_in_files_and_bytes() {
    let changes = [write("a", "12345"), write("b", "12345"), delete("c")];
    assert_eq!(rules(&changes, "max_files = 3\nmax_bytes = \"10B\""), [""; 0]);
    assert_eq!(rules(&changes, "max_files = 2\nmax_bytes = \"9B\""), ["max_files", "max_bytes"]);
}

#[test]
fn binary_files_need_permission() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    assert_eq!(rules(&[write("logo.png", png)], ""), ["binary logo.png"]);
    assert_eq!(rules(&[edit("logo.png", "text", png)], ""), ["binary logo.png"]);
    assert_eq!(rules(&[edit("logo.png", b"\0a", b"\0b")], ""), ["binary logo.png"], "other bytes of a binary");
    assert_eq!(rules(&[edit("logo.png", png, png)], ""), [""; 0], "only its mode changed");
    assert_eq!(rules(&[FileChange { after: None, ..edit("logo.png", png, "") }], ""), [""; 0], "deleting is fine");
    assert_eq!(rules(&[write("logo.png", png)], "binaries = true"), [""; 0]);
    let late = [&[b'x'; 8_000][..], b"\0"].concat();
    assert_eq!(rules(&[write("long.txt", late)], ""), [""; 0], "git looks no further either");
}

#[test]
fn a_link_stays_inside_the_tree() {
    for (path, target) in [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../b/c"), ("a", "./b/./c"), ("a", "...")] {
        assert_eq!(rules(&[link(path, target)], ""), [""; 0], "{path} -> {target}");
    }
    for (path, target) in [
        ("a", "/etc/passwd"),
        ("a", "../x"),
        ("d/a", "../../x"),
        ("a", "b/../../x"),
        ("d/a", "../b/../c"),
        ("a", ".git/config"),
        ("d/a", "../.GIT/hooks/x"),
        ("a", ".git\u{200d}/config"),
        ("a", "..\\x"),
        ("a", "C:\\x"),
        ("a", ""),
    ] {
        assert_eq!(rules(&[link(path, target)], ""), [format!("symlink_escape {path}")], "{path} -> {target}");
    }
}

#[test]
fn only_added_lines_are_searched_for_secrets_and_none_is_repeated() {
    let secret = format!("ghp_{}", "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xYaB3d");
    let old = format!("a\ntoken = {secret}\n");
    assert_eq!(rules(&[edit("x.env", &old, format!("b\n{old}"))], ""), [""; 0], "it was there before");
    let found = judge(&[write("x.env", format!("a\nb {secret}"))], &policy(""));
    assert_eq!(found.len(), 1);
    assert!(!found[0].message.contains(&secret[..8]));
    insta::assert_snapshot!(found[0].message, @"Line 2 of `x.env` holds what looks like a GitHub token (`ghp_…`, 40 characters). Keep secrets out of the repository and read them from the environment; if it is a real one, replace it where it was issued.");
}

#[test]
fn every_message_says_what_would_be_allowed_and_where() {
    insta::assert_snapshot!(message(write(".onramp.toml", "x"), ""), @"`.onramp.toml` is protected by `.onramp.toml`. Make this change by hand, or list `.onramp.toml` under [policy] unprotect in `.onramp.toml` on the base branch.");
    insta::assert_snapshot!(message(write("db/1.sql", "x"), "protected = [\"db/**\"]"), @"`db/1.sql` is protected by `db/**`. Make this change by hand, or remove `db/**` from [policy] protected in `.onramp.toml` on the base branch.");
    insta::assert_snapshot!(message(write("b.rs", "x"), "allowed = [\"src/**\", \"tests/**\"]"), @"`b.rs` is outside of what may be changed: `src/**`, `tests/**`. Add a glob for it to [policy] allowed in `.onramp.toml` on the base branch.");
    insta::assert_snapshot!(message(write("a", "12"), "max_bytes = \"1B\""), @"The changed files have 2 bytes together; at most 1 are allowed. Ask for something smaller, or raise [policy] max_bytes in `.onramp.toml` on the base branch.");
    insta::assert_snapshot!(message(write("a", "\0"), ""), @"`a` is a binary file, which nobody can review. Add it by hand, or set [policy] binaries = true in `.onramp.toml` on the base branch.");
    insta::assert_snapshot!(message(link("d/a", "../../x"), ""), @"The link `d/a` points to `../../x`, which is outside of the repository. Links may only point to files of the repository.");
}

#[test]
fn a_lock_and_a_word_that_nobody_knows_are_told_where_they_block() {
    let operator: OperatorPolicy = toml::from_str("locked = [\"binaries\"]").unwrap();
    let locked = Policy::of(&operator, &PolicyTable::default());
    insta::assert_snapshot!(judge(&[write("a", "\0")], &locked)[0].message, @"`a` is a binary file, which nobody can review. The operator of this Onramp locked [policy] binaries, so only a person can make this change.");
    insta::assert_snapshot!(message(write("Makefile", "x"), "build_files = \"warn\""), @r#"`Makefile` (`**/Makefile`) decides what is installed or run by a build. Make this change by hand, or list `**/Makefile` under [policy] unprotect in `.onramp.toml` on the base branch. ([policy] build_files = "warn" is none of "block", "ask" and "note", so it blocks.)"#);
}

#[test]
fn the_fate_of_tests_becomes_findings_with_the_action_of_each_rule() {
    let test = |verdict, name: &str| tasks::TestChange {
        verdict,
        check: "test".into(),
        suite: "web".into(),
        name: name.into(),
    };
    let tests = vec![
        test(TestVerdict::Vacuous, "it `adds`"),
        test(TestVerdict::Deleted, "a"),
        test(TestVerdict::Deleted, "b"),
        test(TestVerdict::Proving, "c"),
    ];
    let proof = Proof { tests, ..Proof::default() };
    let found = judge_tests(&proof, &policy("deleted_tests = \"block\""));
    let lines: Vec<_> =
        found.iter().map(|finding| format!("{} {}: {}", finding.action, finding.rule, finding.message)).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    ask vacuous_test: The test `it adds` passes without the change too, and so proves nothing.
    block deleted_test: 2 tests, each of which ran on the base and is gone: `a`, `b`. Ask for tests that hold, or set [policy] deleted_tests on the base branch.
    ");
    assert_eq!(blocked_or(found).unwrap_err().len(), 1);
}

#[test]
fn all_violations_are_told_at_once() {
    let changes = [write("CODEOWNERS", "\0"), link("a", "/x")];
    assert_eq!(
        rules(&changes, "max_files = 1"),
        ["max_files", "protected_path CODEOWNERS", "binary CODEOWNERS", "symlink_escape a"]
    );
}
