//! Texts with placeholders: `{{ gateway.anthropic }}/v1`. No language, only names; a name without a value is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use crate::toml_problem::did_you_mean;

/// The names that stand alone. `gateway.<provider>` is the address of a model provider's gateway.
const NAMES: &[&str] =
    &["gateway.anthropic", "gateway.openai", "gateway.gemini", "gateway.token", "prompt", "session", "model"];

/// A text whose placeholders are known names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Value(String),
}

impl Text {
    /// A text without placeholders, whatever it looks like.
    pub(super) fn literal(text: String) -> Self {
        Self(vec![Piece::Literal(text)])
    }

    /// Reads a text.
    ///
    /// # Errors
    /// One sentence about the placeholder that is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let after = &rest[start + 2..];
            let end = after.find("}}").ok_or_else(|| format!("{text:?} opens a placeholder and does not close it"))?;
            let name = after[..end].trim();
            let provider = name.strip_prefix("gateway.").is_some_and(is_provider_name);
            if !NAMES.contains(&name) && !provider {
                let hint = did_you_mean(name, NAMES).map_or_else(
                    || format!("known are {}", NAMES.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(format!("{{{{ {name} }}}} is no placeholder; {hint}"));
            }
            pieces.push(Piece::Literal(rest[..start].to_owned()));
            pieces.push(Piece::Value(name.to_owned()));
            rest = &after[end + 2..];
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        Ok(Self(pieces))
    }

    /// Whether it has this placeholder.
    pub(super) fn uses(&self, name: &str) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Value(value) if value == name))
    }

    /// The names of its placeholders.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Value(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// The text with its values.
    ///
    /// # Errors
    /// The name of the placeholder that has no value.
    pub(super) fn render(&self, values: &BTreeMap<String, String>) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.0 {
            text.push_str(match piece {
                Piece::Literal(literal) => literal,
                Piece::Value(name) => values.get(name).ok_or_else(|| name.clone())?,
            });
        }
        Ok(text)
    }
}

fn is_provider_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_place_of_their_names_and_are_not_read_again() {
        let values = BTreeMap::from([
            ("prompt".to_owned(), "{{ session }}".to_owned()),
            ("gateway.local".to_owned(), "u".to_owned()),
        ]);
        let render = |text: &str| Text::parse(text).unwrap().render(&values);
        assert_eq!(render("a {{prompt}} b {{ gateway.local }}/v1"), Ok("a {{ session }} b u/v1".to_owned()));
        assert_eq!(render("{\"a\":{\"b\":1}}"), Ok("{\"a\":{\"b\":1}}".to_owned()));
        assert_eq!(render("{{ session }}"), Err("session".to_owned()));
        assert_eq!(Text::literal("{{ x".to_owned()).render(&values), Ok("{{ x".to_owned()));
    }

    #[test]
    fn an_unknown_or_open_placeholder_is_an_error() {
        assert_eq!(Text::parse("{{ sesion }}").unwrap_err(), "{{ sesion }} is no placeholder; did you mean `session`?");
        assert!(
            Text::parse("{{ a b }}").is_err() && Text::parse("{{ gateway. }}").is_err() && Text::parse("{{}}").is_err()
        );
        assert_eq!(
            Text::parse("x {{ prompt").unwrap_err(),
            "\"x {{ prompt\" opens a placeholder and does not close it"
        );
    }
}
