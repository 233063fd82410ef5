//! Rules about names: what is protected, what is allowed, and where links lead.

use globset::GlobMatcher;
use tasks::{Action, Finding};

use super::{Policy, Rule, rules};
use crate::repo_config::{FILE_NAME, glob};

/// The globs of a policy, ready to be asked.
pub(super) struct Globs<'a> {
    /// In the order in which they count: a file has one finding of these.
    named: Vec<(Rule, Vec<Named<'a>>)>,
    allowed: Vec<(&'a [String], Vec<GlobMatcher>)>,
}

impl<'a> Globs<'a> {
    pub(super) fn new(policy: &'a Policy) -> Self {
        let named = |globs: &'a [String]| globs.iter().map(|pattern| Named::new(pattern)).collect::<Vec<_>>();
        let allowed = policy.allowed.iter().map(|list| {
            (list.as_slice(), list.iter().filter_map(|pattern| glob(pattern, false).ok()).collect::<Vec<_>>())
        });
        Self {
            named: vec![
                (Rule::Workflow, named(&policy.workflows)),
                (Rule::ProtectedPath, named(&policy.protected)),
                (Rule::BuildFile, named(&policy.build_files)),
            ],
            allowed: allowed.collect(),
        }
    }

    pub(super) fn findings(&self, path: &str, policy: &Policy) -> Vec<Finding> {
        let mut found = Vec::new();
        let hits = self.named.iter().filter_map(|(rule, globs)| Some((*rule, globs.iter().find(|g| g.covers(path))?)));
        // The strictest one: to loosen one list must not take a file out of another.
        if let Some((rule, by)) = hits.max_by_key(|(rule, _)| (policy.action(*rule), std::cmp::Reverse(*rule))) {
            found.push(named(rule, path, by.pattern, policy));
        }
        if let Some((list, _)) = self.allowed.iter().find(|(_, globs)| !globs.iter().any(|glob| glob.is_match(path))) {
            let globs: Vec<String> = list.iter().map(|glob| format!("`{glob}`")).collect();
            let what = format!("`{path}` is outside of what may be changed: {}.", globs.join(", "));
            let mend = format!("Add a glob for it to [policy] allowed in `{FILE_NAME}` on the base branch.");
            found.push(policy.finding(Rule::NotAllowedPath, Some(path), what, mend));
        }
        found
    }
}

fn named(rule: Rule, path: &str, pattern: &str, policy: &Policy) -> Finding {
    let is_ours = [rules::PROTECTED, rules::WORKFLOWS, rules::BUILD_FILES].iter().any(|list| list.contains(&pattern));
    let take_away = if is_ours {
        format!("list `{pattern}` under [policy] unprotect")
    } else {
        format!("remove `{pattern}` from [policy] protected")
    };
    let what = match (rule, policy.action(rule)) {
        (Rule::BuildFile, _) => format!("`{path}` (`{pattern}`) decides what is installed or run by a build."),
        (_, Action::Block) | (Rule::ProtectedPath, _) => format!("`{path}` is protected by `{pattern}`."),
        _ => format!("`{path}` (`{pattern}`) is run by a CI system with rights of its own."),
    };
    let mend = format!("Make this change by hand, or {take_away} in `{FILE_NAME}` on the base branch.");
    policy.finding(rule, Some(path), what, mend)
}

/// One glob.
struct Named<'a> {
    pattern: &'a str,
    glob: Option<GlobMatcher>,
    /// The directories that lead to what is named: a file or a link in their place would move it.
    leading: String,
}

impl<'a> Named<'a> {
    fn new(pattern: &'a str) -> Self {
        let literal: Vec<&str> =
            pattern.split('/').take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])).collect();
        let leading = format!("{}/", literal.join("/").to_lowercase());
        Self { pattern, glob: glob(pattern, true).ok(), leading }
    }

    fn covers(&self, path: &str) -> bool {
        let folded = folded(path);
        // A glob that cannot be read names everything rather than nothing.
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

/// A link must stay inside of the repository and away from `.git`, judged from its text alone: a `..` behind another name
/// could pass through a second link, so only leading ones are followed.
pub(super) fn symlink_escape(path: &str, target: &[u8], policy: &Policy) -> Option<Finding> {
    let target = String::from_utf8_lossy(target);
    let why = wrong_target(path, &target)?;
    let shown: String = target.chars().filter(|c| !c.is_control()).take(120).collect();
    let what = format!("The link `{path}` points to `{shown}`, {why}.");
    Some(policy.finding(Rule::SymlinkEscape, Some(path), what, "Links may only point to files of the repository."))
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
