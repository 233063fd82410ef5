//! What a patch may touch: the base branch's policy against the exact bytes that would be published.
//!
//! Pure, and complete: every violation is told, so that one round of mending is enough. Names are compared the way the
//! least careful file system would compare them, because a protected path that differs only in case, in an invisible
//! character or in a trailing dot is the same file on somebody's machine.

mod secrets;

use std::collections::HashSet;

use tasks::Violation;

use crate::{
    patch::{FileChange, PatchedTree},
    repo_config::{FILE_NAME, Policy, glob},
    sandbox::FileKind,
};

/// Proof: policy looked at this patch and allows it.
#[derive(Debug, Clone)]
pub struct AllowedPatch {
    patched: PatchedTree,
}

impl AllowedPatch {
    /// The patch.
    pub fn patched(&self) -> &PatchedTree {
        &self.patched
    }
}

/// Judges a patch by the base branch's policy. Pure.
///
/// # Errors
/// Every violation, not only the first.
pub fn check(patched: PatchedTree, policy: &Policy) -> Result<AllowedPatch, Vec<Violation>> {
    let violations = violations(patched.changes(), policy);
    if violations.is_empty() { Ok(AllowedPatch { patched }) } else { Err(violations) }
}

/// Everything about these changes that the policy does not allow: of the whole patch first, then by path.
fn violations(changes: &[FileChange], policy: &Policy) -> Vec<Violation> {
    let mut found: Vec<Violation> = caps(changes, policy).collect();
    let protected: Vec<Protected> = policy.protected.iter().map(|pattern| Protected::new(pattern)).collect();
    let allowed: Vec<_> = policy.allowed.iter().filter_map(|pattern| glob(pattern, false).ok()).collect();
    for change in changes {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        if let Some(by) = protected.iter().find(|protected| protected.covers(&path)) {
            found.push(protected_path(&path, by));
        }
        if !policy.allowed.is_empty() && !allowed.iter().any(|glob| glob.is_match(&path)) {
            found.push(not_allowed_path(&path, policy));
        }
        if let Some((FileKind::Symlink, target)) = &change.after {
            found.extend(symlink_escape(&path, target));
            continue;
        }
        if !policy.binaries && becomes_binary(change) {
            found.push(binary(&path));
        }
        found.extend(added_secrets(&path, change));
    }
    found
}

fn violation(rule: &str, path: Option<&str>, message: String) -> Violation {
    Violation { rule: rule.to_owned(), path: path.map(str::to_owned), message }
}

fn caps<'a>(changes: &'a [FileChange], policy: &'a Policy) -> impl Iterator<Item = Violation> + 'a {
    let n_files = changes.len();
    let n_bytes: u64 = changes.iter().filter_map(|change| Some(change.after.as_ref()?.1.len() as u64)).sum();
    let files = (n_files > policy.max_files).then(|| {
        let message = format!(
            "The change touches {n_files} files; at most {} are allowed. Ask for something smaller, or raise [policy] max_files in `{FILE_NAME}` on the base branch.",
            policy.max_files
        );
        violation("max_files", None, message)
    });
    let bytes = (n_bytes > policy.max_bytes).then(|| {
        let message = format!(
            "The changed files have {n_bytes} bytes together; at most {} are allowed. Ask for something smaller, or raise [policy] max_bytes in `{FILE_NAME}` on the base branch.",
            policy.max_bytes
        );
        violation("max_bytes", None, message)
    });
    files.into_iter().chain(bytes)
}

/// One protected glob, ready to be asked.
struct Protected<'a> {
    pattern: &'a str,
    glob: Option<globset::GlobMatcher>,
    /// The directories that lead to what is protected: a file or a link in their place would move it.
    leading: String,
}

impl<'a> Protected<'a> {
    fn new(pattern: &'a str) -> Self {
        let literal: Vec<&str> =
            pattern.split('/').take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])).collect();
        let leading = format!("{}/", literal.join("/").to_lowercase());
        Self { pattern, glob: glob(pattern, true).ok(), leading }
    }

    fn covers(&self, path: &str) -> bool {
        let folded = folded(path);
        // A glob that cannot be read protects everything rather than nothing.
        let matches = self.glob.as_ref().is_none_or(|glob| glob.is_match(path) || glob.is_match(&folded));
        matches || self.leading.starts_with(&format!("{folded}/"))
    }
}

/// A path as the least careful file system would read it: lower case, without the characters that some ignore, without
/// dots and blanks at the end of a name.
fn folded(path: &str) -> String {
    let ignored =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let visible: String = path.chars().filter(|c| !ignored(*c)).flat_map(char::to_lowercase).collect();
    visible.split('/').map(|part| part.trim_end_matches(['.', ' '])).collect::<Vec<_>>().join("/")
}

fn protected_path(path: &str, by: &Protected<'_>) -> Violation {
    let take_away = if crate::repo_config::PROTECTED.contains(&by.pattern) {
        format!("list `{}` under [policy] unprotect", by.pattern)
    } else {
        format!("remove `{}` from [policy] protected", by.pattern)
    };
    let message = format!(
        "`{path}` is protected by `{}`. Make this change by hand, or {take_away} in `{FILE_NAME}` on the base branch.",
        by.pattern
    );
    violation("protected_path", Some(path), message)
}

fn not_allowed_path(path: &str, policy: &Policy) -> Violation {
    let globs: Vec<String> = policy.allowed.iter().map(|glob| format!("`{glob}`")).collect();
    let message = format!(
        "`{path}` is outside of what may be changed: {}. Add a glob for it to [policy] allowed in `{FILE_NAME}` on the base branch.",
        globs.join(", ")
    );
    violation("not_allowed_path", Some(path), message)
}

/// How many bytes are looked at to tell a binary file; the same as git's.
const BINARY_PROBE_BYTES: usize = 8_000;

fn is_binary(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(BINARY_PROBE_BYTES)].contains(&0)
}

/// A file that was text, or was not there, and is binary now; or that was binary and has other bytes now.
fn becomes_binary(change: &FileChange) -> bool {
    let Some((_, after)) = &change.after else { return false };
    let same_bytes = change.before.as_ref().is_some_and(|(_, before)| before == after);
    is_binary(after) && !same_bytes
}

fn binary(path: &str) -> Violation {
    let message = format!(
        "`{path}` is a binary file, which nobody can review. Add it by hand, or set [policy] binaries = true in `{FILE_NAME}` on the base branch."
    );
    violation("binary", Some(path), message)
}

/// A link must stay inside of the repository and away from `.git`, judged from its text alone: a `..` behind another name
/// could pass through a second link, so only leading ones are followed.
fn symlink_escape(path: &str, target: &[u8]) -> Option<Violation> {
    let target = String::from_utf8_lossy(target);
    let message = wrong_target(path, &target)?;
    let shown: String = target.chars().filter(|c| !c.is_control()).take(120).collect();
    let message =
        format!("The link `{path}` points to `{shown}`, {message}. Links may only point to files of the repository.");
    Some(violation("symlink_escape", Some(path), message))
}

fn wrong_target(path: &str, target: &str) -> Option<&'static str> {
    let drive = target.as_bytes().get(1) == Some(&b':') && target.as_bytes()[0].is_ascii_alphabetic();
    if target.starts_with(['/', '\\']) || drive {
        return Some("which is absolute");
    }
    if target.is_empty() || target.contains('\0') {
        return Some("which is no path");
    }
    let mut depth = path.matches('/').count();
    let mut entered = false;
    for part in target.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." if entered => return Some("which goes up again after a name"),
            ".." if depth == 0 => return Some("which is outside of the repository"),
            ".." => depth -= 1,
            name if matches!(folded(name).as_str(), ".git" | "git~1") => return Some("which leads into `.git`"),
            _ => entered = true,
        }
    }
    None
}

/// Secrets in lines that were not there before. The message never repeats one.
fn added_secrets(path: &str, change: &FileChange) -> Vec<Violation> {
    let Some((_, after)) = &change.after else { return Vec::new() };
    let before: HashSet<&[u8]> =
        change.before.iter().flat_map(|(_, bytes)| bytes.split(|byte| *byte == b'\n')).collect();
    let lines = after.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !before.contains(line));
    let found = lines.flat_map(|(at, line)| secrets::find(line).into_iter().map(move |secret| (at + 1, secret)));
    found
        .map(|(line, secret)| {
            let message = format!(
                "Line {line} of `{path}` holds what looks like {} (`{}…`, {} characters). Keep secrets out of the repository and read them from the environment; if it is a real one, replace it where it was issued.",
                secret.what, secret.start, secret.length
            );
            violation("secret", Some(path), message)
        })
        .collect()
}

#[cfg(test)]
mod tests;
