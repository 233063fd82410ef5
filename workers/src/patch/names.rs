//! Which paths a repository may carry.
//!
//! A name that some file system takes for `.git` turns a file of the repository into configuration of the git that checks
//! it out, so all spellings are refused that macOS (code points it ignores) and Windows (case, trailing dots and blanks,
//! short names, streams, backslashes) would fold into it.

use tasks::{Code, Failure};

/// The longest name that file systems take.
const MAX_PART_BYTES: usize = 255;
/// The longest path that Linux takes.
const MAX_PATH_BYTES: usize = 4095;

/// Refuses a path that no repository should carry, and says why.
pub(crate) fn check(path: &[u8]) -> Result<(), Failure> {
    if path.len() > MAX_PATH_BYTES {
        return Err(refused(path, "a path that is longer than systems take"));
    }
    path.split(|byte| *byte == b'/').try_for_each(|part| check_part(part).map_err(|reason| refused(path, reason)))
}

/// Refuses one part of a path; the reason says what the path is.
pub(crate) fn check_part(part: &[u8]) -> Result<(), &'static str> {
    match part {
        b"" => Err("a path with an empty part"),
        b"." | b".." => Err("a path that leads elsewhere"),
        _ if part.contains(&0) || part.contains(&b'/') => Err("a name that no file can have"),
        _ if part.len() > MAX_PART_BYTES => Err("a name that is longer than systems take"),
        _ if is_dot_git(part) => Err("a name that some systems take for git's own directory"),
        _ => Ok(()),
    }
}

/// Refuses a symbolic link where git reads a file of its own and must not be led elsewhere, and says why.
pub(crate) fn check_link(path: &[u8]) -> Result<(), Failure> {
    match path.rsplit(|byte| *byte == b'/').next().is_some_and(is_dot_gitmodules) {
        true => Err(refused(path, "a link where git reads its list of submodules")),
        false => Ok(()),
    }
}

/// The failure that names a path and says why it cannot be carried.
pub(crate) fn refused(path: &[u8], reason: &str) -> Failure {
    Failure::new(Code::PatchRefused, format!("The change holds {}, {reason}", show(path)))
}

/// A path for people: quoted, without control codes, not too long.
pub(crate) fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let short: String = text.chars().take(200).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("`{}{dots}`", short.escape_debug().to_string().replace("\\'", "'").replace("\\\"", "\""))
}

/// A name as Windows takes it: up to a stream, without blanks and dots at its end.
fn on_windows(part: &[u8]) -> &[u8] {
    let name = part.split(|byte| *byte == b':').next().unwrap_or_default();
    let end = name.iter().rposition(|byte| !matches!(byte, b' ' | b'.')).map_or(0, |last| last + 1);
    &name[..end]
}

fn is_dot_gitmodules(part: &[u8]) -> bool {
    let name = on_windows(part).to_ascii_lowercase();
    // Short names: four of the plain form, then those with a hash of the long name.
    let short = match name.iter().position(|byte| *byte == b'~').map(|at| (&name[..at], &name[at + 1..])) {
        Some((b"gitmod", [b'1'..=b'4'])) => true,
        Some((start, digits @ [b'1'..=b'9', ..])) => {
            name.len() == 8 && b"gi7eba".starts_with(start) && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    };
    short || name == b".gitmodules" || without_ignored_code_points(part).eq_ignore_ascii_case(b".gitmodules")
}

fn is_dot_git(part: &[u8]) -> bool {
    // Windows takes a backslash for a slash.
    part.split(|byte| *byte == b'\\').any(|part| {
        let windows = on_windows(part);
        windows.eq_ignore_ascii_case(b".git")
            || windows.eq_ignore_ascii_case(b"git~1")
            || without_ignored_code_points(part).eq_ignore_ascii_case(b".git")
    })
}

/// What HFS+ compares of a name.
fn without_ignored_code_points(part: &[u8]) -> Vec<u8> {
    let ignored =
        |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    match std::str::from_utf8(part) {
        Ok(text) => text.chars().filter(|c| !ignored(*c)).collect::<String>().into_bytes(),
        Err(_) => part.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_git_directory_is_refused() {
        for evil in [
            ".git",
            ".GIT",
            ".Git",
            "git~1",
            "GIT~1",
            ".git.",
            ".git ",
            ".git . .",
            ".git::$INDEX_ALLOCATION",
            ".git:x",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".gi\u{206f}T",
            "a\\.git",
            ".git\\config",
        ] {
            assert!(check(format!("sub/{evil}/config").as_bytes()).is_err(), "{evil:?}");
        }
    }

    #[test]
    fn a_path_that_is_no_plain_relative_path_is_refused() {
        for evil in
            ["", "/etc/passwd", "a//b", "a/", "..", "a/../b", "./a", "a\0b", &"x/".repeat(3000), &"x".repeat(256)]
        {
            assert!(check(evil.as_bytes()).is_err(), "{evil:?}");
        }
    }

    #[test]
    fn odd_names_that_git_allows_are_allowed() {
        for good in [
            ".gitignore",
            ".github/x",
            "git~2",
            ".git2",
            "..a",
            "a b",
            "a\nb\x1b",
            "a\\b",
            "x.",
            "git",
            &"x".repeat(255),
        ] {
            assert!(check(good.as_bytes()).is_ok(), "{good:?}");
        }
        assert!(check(b"\xff\xfe").is_ok());
    }

    #[test]
    fn the_list_of_submodules_is_no_link_under_any_name() {
        for evil in [
            ".gitmodules",
            "a/.GitModules",
            ".gitmodules .",
            ".gitmodules::$DATA",
            "GITMOD~1",
            "gitmod~4",
            "gi7eba~1",
            "GI7EB~12",
            "~1234567",
            ".git\u{200d}modules",
        ] {
            assert!(check_link(evil.as_bytes()).is_err(), "{evil:?}");
            assert!(check(evil.as_bytes()).is_ok(), "{evil:?} as a file");
        }
        for good in
            ["gitmodules", ".gitmodules2", "gitmod~5", "gitmod~0", "gi7eba~0", "gi7ebb~1", "gi7eba~1x", ".gitmodules/a"]
        {
            assert!(check_link(good.as_bytes()).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_shown_path_carries_no_control_codes() {
        assert_eq!(show(b"a\x1b[31m\n'x'"), "`a\\u{1b}[31m\\n'x'`");
    }
}
