//! What is wrong with a TOML file, said so that the person who wrote it finds the place and the right word.
//!
//! Used for every file that people write: `.onramp.toml`, agent definitions, the configuration. The parser knows where and
//! what; this adds the table and "did you mean".

use std::fmt;

use crate::forbidden;

/// One problem in a TOML file. `Display`: `line 7, column 1: there is no key …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TomlProblem {
    /// Line and column, from 1, where they are known.
    pub at: Option<(usize, usize)>,
    /// One sentence without a full stop.
    pub message: String,
    /// The faulty line with a mark under it; empty when the place is not known.
    pub excerpt: String,
}

impl fmt::Display for TomlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "line {line}, column {column}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl TomlProblem {
    /// What the parser found, for a person.
    pub fn new(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span();
        let start = span.as_ref().map(|span| span.start.min(text.len()));
        let message = match UnknownKey::parse(error.message()) {
            Some(unknown) => unknown.sentence(start.and_then(|at| table_at(text, at))),
            None => error.message().trim().replace('\n', ", "),
        };
        Self::found(text, start, span.map_or(1, |span| span.len()), message)
    }

    /// A problem that the parser cannot see, at a byte range of the text.
    pub fn at(text: &str, span: std::ops::Range<usize>, message: impl Into<String>) -> Self {
        Self::found(text, Some(span.start.min(text.len())), span.len(), message.into())
    }

    fn found(text: &str, start: Option<usize>, width: usize, message: String) -> Self {
        let Some(start) = start else { return Self { at: None, message, excerpt: String::new() } };
        let before = text.get(..start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[line_start..].chars().count() + 1;
        let content = text[line_start..].lines().next().unwrap_or("");
        let room = content.chars().count().saturating_sub(column - 1).max(1);
        let gutter = line.to_string();
        let pad = " ".repeat(gutter.len());
        let mark = "^".repeat(width.clamp(1, room));
        let excerpt = format!("{pad} |\n{gutter} | {content}\n{pad} | {}{mark}", " ".repeat(column - 1));
        Self { at: Some((line, column)), message, excerpt }
    }
}

/// Serde's message for a key that the table does not have, taken apart.
struct UnknownKey<'a> {
    key: &'a str,
    known: Vec<&'a str>,
}

impl<'a> UnknownKey<'a> {
    fn parse(message: &'a str) -> Option<Self> {
        let rest = message.strip_prefix("unknown field ").or_else(|| message.strip_prefix("unknown variant "))?;
        let mut quoted = rest.split('`').skip(1).step_by(2);
        Some(Self { key: quoted.next()?, known: quoted.collect() })
    }

    fn sentence(&self, table: Option<&str>) -> String {
        let table = table.map(|table| format!(" in {table}")).unwrap_or_default();
        let hint = match (forbidden::why_no_key(self.key), did_you_mean(self.key, &self.known)) {
            (Some(why), _) => why.to_owned(),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("known are {}", quoted_list(&self.known)),
        };
        format!("there is no `{}`{table}; {hint}", self.key)
    }
}

/// The nearest of `known`, when it is near enough to be meant.
pub fn did_you_mean<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(&word, &candidate.to_lowercase()), *candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn quoted_list(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The table header that stands above a place, as it is written: `[limits]`, `[[check]]`. A header that is itself the
/// place is not in the table that it names.
fn table_at(text: &str, at: usize) -> Option<&str> {
    let line_start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    if text[line_start..].starts_with('[') {
        return None;
    }
    text[..line_start].lines().rev().map(|line| line.split('#').next().unwrap_or("").trim()).find(|line| {
        let array = line.starts_with("[[") && line.ends_with("]]");
        array || (line.starts_with('[') && line.ends_with(']') && !line.contains(['"', ',']))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[expect(dead_code, reason = "only parsed")]
        limits: Limits,
        #[expect(dead_code, reason = "only parsed")]
        env: Option<BTreeMap<String, String>>,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        #[expect(dead_code, reason = "only parsed")]
        memory: Option<String>,
        #[expect(dead_code, reason = "only parsed")]
        time: Option<String>,
    }

    fn problem(text: &str) -> String {
        let problem = TomlProblem::new(text, &toml::from_str::<File>(text).unwrap_err());
        format!("{problem}\n{}", problem.excerpt)
    }

    #[test]
    fn an_unknown_key_is_placed_and_the_near_one_named() {
        insta::assert_snapshot!(problem("# x\n[limits]\ntime = \"1h\"\nmemroy = \"1GiB\"\n"), @r#"
        line 4, column 1: there is no `memroy` in [limits]; did you mean `memory`?
          |
        4 | memroy = "1GiB"
          | ^^^^^^
        "#);
        insta::assert_snapshot!(problem("[limits]\nzzz = 1"), @r"
        line 2, column 1: there is no `zzz` in [limits]; known are `memory` and `time`
          |
        2 | zzz = 1
          | ^^^
        ");
    }

    #[test]
    fn a_wrong_type_and_broken_syntax_are_placed() {
        insta::assert_snapshot!(problem("[limits]\ntime = 5"), @r"
        line 2, column 8: invalid type: integer `5`, expected a string
          |
        2 | time = 5
          |        ^
        ");
        assert!(problem("[limits\ntime = 5").starts_with("line 1, column "), "{}", problem("[limits\ntime = 5"));
        assert!(problem("").contains("missing field `limits`"));
    }

    #[test]
    fn nothing_near_is_not_suggested() {
        assert_eq!(did_you_mean("tiemout", &["name", "timeout"]), Some("timeout"));
        assert_eq!(did_you_mean("max-files", &["max_files", "max_bytes"]), Some("max_files"));
        assert_eq!(did_you_mean("qqq", &["name", "timeout"]), None);
    }
}
