//! Which repository is meant: the first of these that answers, and never a guess.

use std::collections::BTreeMap;

use tasks::RepoName;

/// What the operator says about repositories.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// A word in the text, whole and without regard to case, and the repository that it means.
    pub words: BTreeMap<String, RepoName>,
    /// The id of a channel, and the repository that is usually meant there.
    pub channels: BTreeMap<String, RepoName>,
    /// What is meant where nothing else says so.
    pub default: Option<RepoName>,
    /// What can be chosen, besides all those above.
    pub known: Vec<RepoName>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// This one.
    To {
        /// Which.
        repo: RepoName,
        /// The rule that decided, for people.
        why: String,
    },
    /// It has to be asked.
    Ask {
        /// Why.
        why: String,
        /// What can be answered.
        among: Vec<RepoName>,
    },
}

impl Routes {
    /// Which repository a text in a channel is about. `thread`: the one that the conversation was about so far.
    pub fn route(&self, text: &str, channel: &str, thread: Option<&RepoName>) -> Route {
        let to = |repo: &RepoName, why: &str| Route::To { repo: repo.clone(), why: why.to_owned() };
        let mut named: Vec<RepoName> = text.split_whitespace().filter_map(explicit).collect();
        named.sort_by_key(ToString::to_string);
        named.dedup();
        match named.as_slice() {
            [one] => return to(one, "the message names it"),
            [] => {}
            many => return Route::Ask { why: "The message names more than one.".to_owned(), among: many.to_vec() },
        }
        if let Some(repo) = thread {
            return to(repo, "the conversation was about it");
        }
        let words: Vec<String> =
            text.split(|c: char| !c.is_alphanumeric() && c != '-').map(str::to_lowercase).collect();
        let mut hits: Vec<(&String, &RepoName)> =
            self.words.iter().filter(|(word, _)| words.contains(&word.to_lowercase())).collect();
        hits.dedup_by_key(|(_, repo)| *repo);
        match hits.as_slice() {
            [(word, repo)] => return to(repo, &format!("the word `{word}` means it")),
            [] => {}
            many => {
                let why = "More than one rule fits.".to_owned();
                return Route::Ask { why, among: many.iter().map(|(_, repo)| (*repo).clone()).collect() };
            }
        }
        if let Some(repo) = self.channels.get(channel) {
            return to(repo, "it is usually meant in this channel");
        }
        if let Some(repo) = &self.default {
            return to(repo, "it is meant where nothing else is said");
        }
        let all = self.all();
        match all.as_slice() {
            [only] => to(only, "there is only this one"),
            [] => Route::Ask { why: "Name it in the message, as owner/name.".to_owned(), among: all },
            _ => Route::Ask { why: "The message does not say.".to_owned(), among: all },
        }
    }

    fn all(&self) -> Vec<RepoName> {
        let mut all: Vec<RepoName> =
            self.words.values().chain(self.channels.values()).chain(&self.known).cloned().collect();
        all.sort_by_key(ToString::to_string);
        all.dedup();
        all
    }
}

/// `repo:owner/name`, or the address of a repository or of something in it.
fn explicit(word: &str) -> Option<RepoName> {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric() && !matches!(c, '/' | ':' | '-' | '_' | '.'));
    let word = word.trim_end_matches(['.', ':', '/']);
    if let Some(name) = word.strip_prefix("repo:") {
        return name.parse().ok();
    }
    let path = word.strip_prefix("https://").or_else(|| word.strip_prefix("http://"))?.split_once('/')?.1;
    let mut parts = path.split('/');
    let (owner, name) = (parts.next()?, parts.next()?);
    format!("{owner}/{}", name.trim_end_matches(".git")).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(name: &str) -> RepoName {
        name.parse().unwrap()
    }

    fn routes() -> Routes {
        Routes {
            words: [("checkout", "acme/shop"), ("login", "acme/web"), ("pager", "acme/web")]
                .map(|(word, name)| (word.to_owned(), repo(name)))
                .into(),
            channels: [("C1".to_owned(), repo("acme/infra"))].into(),
            default: None,
            known: vec![repo("acme/docs")],
        }
    }

    fn chosen(text: &str, channel: &str, thread: Option<&RepoName>) -> String {
        match routes().route(text, channel, thread) {
            Route::To { repo, why } => format!("{repo}: {why}"),
            Route::Ask { why, among } => format!("{why} {}", among.len()),
        }
    }

    #[test]
    fn the_more_explicit_rule_wins() {
        assert_eq!(
            chosen("fix the Checkout in repo:acme/api.", "C1", Some(&repo("a/b"))),
            "acme/api: the message names it"
        );
        assert_eq!(chosen("see https://github.com/acme/api/issues/3", "C1", None), "acme/api: the message names it");
        assert_eq!(chosen("fix the checkout", "C1", Some(&repo("a/b"))), "a/b: the conversation was about it");
        assert_eq!(chosen("fix the Checkout", "C1", None), "acme/shop: the word `checkout` means it");
        assert_eq!(chosen("fix it", "C1", None), "acme/infra: it is usually meant in this channel");
    }

    #[test]
    fn what_is_not_clear_is_asked() {
        assert_eq!(chosen("checkout or login?", "C1", None), "More than one rule fits. 2");
        assert_eq!(chosen("repo:a/b repo:c/d", "C1", None), "The message names more than one. 2");
        assert_eq!(chosen("prelogin", "C2", None), "The message does not say. 4");
        assert!(matches!(Routes::default().route("x", "C", None), Route::Ask { among, .. } if among.is_empty()));
    }

    #[test]
    fn two_words_for_one_repository_and_a_single_repository_need_no_question() {
        assert!(chosen("login pager", "C2", None).starts_with("acme/web"));
        let only = Routes { known: vec![repo("acme/docs")], ..Routes::default() };
        assert!(matches!(only.route("x", "C", None), Route::To { .. }));
    }
}
