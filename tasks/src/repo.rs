//! Names of things in a repository: newtypes that cannot hold a value their forge would refuse.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A value that is not the name it was taken for. `Display` says what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct NameError {
    /// What was given.
    pub value: String,
    /// What a right value looks like.
    pub expected: &'static str,
}

macro_rules! string_newtype {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::repo::NameError;
            fn from_str(value: &str) -> Result<Self, $crate::repo::NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(value) {
                    Ok(Self(value.to_owned()))
                } else {
                    Err($crate::repo::NameError { value: value.chars().take(120).collect(), expected: $expected })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::repo::NameError;
            fn try_from(value: String) -> Result<Self, $crate::repo::NameError> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use string_newtype;

fn is_name_part(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 100
        && part != "."
        && part != ".."
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

string_newtype!(
    /// `owner/name`, as the forge spells it.
    RepoName,
    "a repository name of the form owner/name",
    |value| value.split_once('/').is_some_and(|(owner, name)| is_name_part(owner) && is_name_part(name))
);

impl RepoName {
    /// The part before the slash.
    pub fn owner(&self) -> &str {
        self.0.split_once('/').map_or("", |(owner, _)| owner)
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

string_newtype!(
    /// A branch without `refs/heads/`; the rules of git-check-ref-format(1) hold.
    BranchName,
    "a branch name that git accepts",
    |value| {
        !value.is_empty()
            && value.len() <= 200
            && !value.starts_with(['/', '-'])
            && !value.ends_with(['/', '.'])
            && value != "@"
            && !["..", "@{", "//"].iter().any(|bad| value.contains(bad))
            && value.split('/').all(|part| !part.starts_with('.') && !part.ends_with(".lock"))
            && !value.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'))
    }
);

fn is_object_id(value: &str) -> bool {
    value.len() == 40 && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

string_newtype!(
    /// The object id of a commit, 40 lower-case hexadecimal digits.
    CommitSha,
    "a commit id of 40 lower-case hexadecimal digits",
    is_object_id
);

string_newtype!(
    /// The object id of a tree, 40 lower-case hexadecimal digits.
    TreeSha,
    "a tree id of 40 lower-case hexadecimal digits",
    is_object_id
);

impl CommitSha {
    /// The first ten digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..10]
    }
}

/// A pull request on its forge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PullRequest {
    /// Where it lies.
    pub repo: RepoName,
    /// Its number there.
    pub number: u64,
    /// Where a person reads it.
    pub url: String,
    /// The branch that carries the change.
    pub branch: BranchName,
    /// The commit that was published.
    pub head: CommitSha,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_name_has_an_owner_and_a_name() {
        let repo: RepoName = "acme/web.rs".parse().unwrap();
        assert_eq!((repo.owner(), repo.name()), ("acme", "web.rs"));
        for bad in ["acme", "acme/", "/web", "acme/web/x", "acme/..", "a b/c", "acme/we\nb", ""] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_branch_name_follows_the_rules_of_git() {
        for good in ["main", "onramp/12-fix-pager", "feature/a.b"] {
            assert!(good.parse::<BranchName>().is_ok(), "{good:?}");
        }
        for bad in ["", "-x", "a..b", "a b", "a~1", "x.lock", ".hid", "a/", "a//b", "@", "a@{b", "a\\b", "x\u{7}"] {
            assert!(bad.parse::<BranchName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_name_is_refused_on_the_way_in_from_json() {
        let error = serde_json::from_str::<CommitSha>("\"abc\"").unwrap_err().to_string();
        assert_eq!(error, "\"abc\" is not a commit id of 40 lower-case hexadecimal digits");
    }
}
