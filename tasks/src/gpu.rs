//! Which GPUs a task asks for: one grammar, wherever it is written (`.onramp.toml`, the command line, a request).
//!
//! ```text
//! any            one GPU, whichever is free
//! h100           an H100, or its bigger sister when no H100 is free
//! h100!          an H100 and nothing else
//! a100-80gb:2    two of them, on one machine
//! min_vram=40GiB one with at least that much memory
//! h100, a100:2   in this order of preference; as a TOML list: ["h100", "a100:2"]
//! ```
//!
//! Only the words are read here. What a word means for the devices of a machine is the allocator's business, because a
//! model that this version has never heard of must be askable on the day it is sold.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most devices of one request: no machine has more, and one task never gets two machines.
pub const MAX_GPUS: u8 = 8;
/// The longest name of a model, in bytes.
const MAX_MODEL: usize = 40;

/// A GPU requirement: what may be taken, the preferred first. Never empty.
#[derive(Clone, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(with = "Written")]
pub struct GpuRequest(Vec<GpuChoice>);

/// One of the things that a requirement is content with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GpuChoice {
    /// Which.
    pub kind: GpuKind,
    /// How many, from 1 to [`MAX_GPUS`].
    pub count: u8,
}

/// Which GPU.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GpuKind {
    /// Whichever is free.
    Any,
    /// A model.
    Model {
        /// In lower case, as in `h100`, `a100-80gb`, `rtx-4090` or, for a part of one, `1g.10gb`.
        name: String,
        /// Written with `!`: nothing bigger instead.
        exact: bool,
    },
    /// Anything with at least so much memory.
    Memory {
        /// In bytes.
        at_least_bytes: u64,
    },
}

/// Why a text is no GPU requirement. `Display`: `` `9` at position 6: … ``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{token}` at position {position}: {problem}")]
pub struct GpuParseError {
    /// The faulty part of the text.
    pub token: String,
    /// Where it begins, in characters, from 1.
    pub position: usize,
    /// What is wrong with it and what would be right, without a full stop.
    pub problem: String,
}

impl GpuRequest {
    /// Any `count` GPUs; outside of 1 to [`MAX_GPUS`] there is no such request.
    pub fn any(count: u8) -> Option<Self> {
        (1..=MAX_GPUS).contains(&count).then(|| Self(vec![GpuChoice { kind: GpuKind::Any, count }]))
    }

    /// What would do, the preferred first.
    pub fn choices(&self) -> &[GpuChoice] {
        &self.0
    }

    /// A requirement as an earlier version stored it: any text at all. What is no requirement in today's words becomes
    /// a model that no machine has, so that it is answered with "no such GPU" and never with something weaker.
    pub fn from_stored(text: &str) -> Self {
        let number = text.trim().parse().ok().and_then(Self::any);
        number.or_else(|| text.parse().ok()).unwrap_or_else(|| {
            let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            let name: String = text.trim().chars().map(word).take(MAX_MODEL - 1).collect();
            let name = format!("x{}", name.trim_end_matches('-'));
            Self(vec![GpuChoice { kind: GpuKind::Model { name, exact: true }, count: 1 }])
        })
    }
}

impl fmt::Display for GpuRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, choice) in self.0.iter().enumerate() {
            write!(f, "{}{choice}", if n > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for GpuRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuRequest({self})")
    }
}

impl fmt::Display for GpuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            GpuKind::Any => f.write_str("any")?,
            GpuKind::Model { name, exact } => write!(f, "{name}{}", if *exact { "!" } else { "" })?,
            GpuKind::Memory { at_least_bytes } => write!(f, "min_vram={}", size_words(*at_least_bytes))?,
        }
        if self.count > 1 { write!(f, ":{}", self.count) } else { Ok(()) }
    }
}

/// A piece of the text and where it begins, in bytes.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Piece<'a> {
    fn trimmed(self) -> Self {
        let text = self.text.trim_start();
        Self { text: text.trim_end(), at: self.at + self.text.len() - text.len() }
    }

    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let (before, after) = self.text.split_once(separator)?;
        let at = self.at + before.len() + separator.len_utf8();
        Some((Self { text: before, at: self.at }.trimmed(), Self { text: after, at }.trimmed()))
    }

    /// The end of an error: this piece of `whole` is wrong.
    fn wrong(self, whole: &str, problem: impl Into<String>) -> GpuParseError {
        let position = whole.get(..self.at).unwrap_or(whole).chars().count() + 1;
        GpuParseError { token: self.text.chars().take(60).collect(), position, problem: problem.into() }
    }
}

impl FromStr for GpuRequest {
    type Err = GpuParseError;

    fn from_str(whole: &str) -> Result<Self, GpuParseError> {
        let mut choices = Vec::new();
        let mut at = 0;
        for text in whole.split(',') {
            choices.push(choice(whole, Piece { text, at }.trimmed())?);
            at += text.len() + 1;
        }
        Ok(Self(choices))
    }
}

fn choice(whole: &str, piece: Piece<'_>) -> Result<GpuChoice, GpuParseError> {
    if piece.text.is_empty() {
        return Err(piece.wrong(whole, "a GPU is missing here; write any, or a model such as h100"));
    }
    let (kind, count) = match piece.split_once(':') {
        Some((kind, count)) => (kind, count_of(whole, count)?),
        None => (piece, 1),
    };
    let kind = match kind.split_once('=') {
        Some((key, size)) if key.text.eq_ignore_ascii_case("min_vram") => {
            GpuKind::Memory { at_least_bytes: memory(whole, size)? }
        }
        Some((key, _)) => return Err(key.wrong(whole, "only min_vram= can be asked for like this")),
        None => model(whole, kind)?,
    };
    Ok(GpuChoice { kind, count })
}

fn count_of(whole: &str, piece: Piece<'_>) -> Result<u8, GpuParseError> {
    if let Some(number) = piece.text.strip_suffix('!') {
        return Err(piece.wrong(whole, format!("the ! belongs to the model: write h100!:{number}")));
    }
    let count = piece.text.parse().ok().filter(|n| (1..=MAX_GPUS).contains(n));
    count.ok_or_else(|| piece.wrong(whole, format!("the number of GPUs is between 1 and {MAX_GPUS}")))
}

fn model(whole: &str, piece: Piece<'_>) -> Result<GpuKind, GpuParseError> {
    let (name, exact) = match piece.text.strip_suffix('!') {
        Some(name) => (name.trim_end(), true),
        None => (piece.text, false),
    };
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "any" if exact => return Err(piece.wrong(whole, "any has no model that ! could insist on")),
        "any" => return Ok(GpuKind::Any),
        "" => return Err(piece.wrong(whole, "there is no model before the !")),
        _ => {}
    }
    if let Some(hint) = likely_meant(&name) {
        return Err(piece.wrong(whole, hint));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if let Some(bad) = name.chars().find(|c| !fits(*c)) {
        return Err(piece.wrong(whole, format!("{bad:?} is in no name of a model; write it like h100 or a100-80gb")));
    }
    if name.len() > MAX_MODEL || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || name.ends_with(['-', '.']) {
        return Err(piece.wrong(whole, "this is no name of a model; write it like h100 or a100-80gb"));
    }
    Ok(GpuKind::Model { name, exact })
}

/// What people write out of habit from elsewhere, answered with our word for it.
fn likely_meant(name: &str) -> Option<String> {
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Some(format!("a number alone names no GPU; write any:{name}"));
    }
    if matches!(name, "none" | "false" | "true" | "all") {
        return Some("write any, a model such as h100, or leave the requirement out".to_owned());
    }
    let (digits, rest) = name.split_at(name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len()));
    if !digits.is_empty() && matches!(rest, "gib" | "gb" | "g" | "mib" | "mb") {
        return Some(format!("an amount of memory is asked for as min_vram={digits}GiB"));
    }
    let after = rest.strip_prefix('x').filter(|rest| !digits.is_empty() && rest.len() > 1);
    after.map(|model| format!("a number of devices stands behind the model: write {model}:{digits}"))
}

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("B", 1)];

fn memory(whole: &str, piece: Piece<'_>) -> Result<u64, GpuParseError> {
    let wrong = || piece.wrong(whole, "this is no amount of memory; write it like 40GiB");
    let digits = piece.text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = piece.text[..digits].parse().map_err(|_| wrong())?;
    let unit = piece.text[digits..].trim_start();
    let decimal = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000)];
    let unit = UNITS.iter().chain(&decimal).find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?;
    number.checked_mul(unit.1).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// In the largest unit that says it exactly.
fn size_words(bytes: u64) -> String {
    let (unit, size) = UNITS.iter().find(|(_, size)| bytes.is_multiple_of(*size)).unwrap_or(&UNITS[3]);
    format!("{}{unit}", bytes / size)
}

impl Serialize for GpuRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GpuRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = GpuRequest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a GPU such as \"h100\" or \"a100-80gb:2\", a list of them, or {min_vram = \"40GiB\"}")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GpuRequest, E> {
                text.parse().map_err(|error| E::custom(format!("{text:?} is no GPU: {error}")))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<GpuRequest, A::Error> {
                let mut choices = Vec::new();
                while let Some(GpuRequest(more)) = list.next_element()? {
                    choices.extend(more);
                }
                if choices.is_empty() {
                    return Err(de::Error::custom(
                        "the list of GPUs is empty; leave the requirement out, or write any",
                    ));
                }
                Ok(GpuRequest(choices))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<GpuRequest, A::Error> {
                let Table { min_vram, count } = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let written = format!("min_vram={min_vram}:{}", count.unwrap_or(1));
                written.parse().map_err(|GpuParseError { token, problem, .. }| {
                    de::Error::custom(format!("{token:?} is wrong in this GPU: {problem}"))
                })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The form with a key of its own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct Table {
    /// At least so much memory, such as "40GiB".
    min_vram: String,
    /// How many devices. Default 1.
    #[schemars(range(min = 1, max = 8))]
    count: Option<u64>,
}

/// A GPU: "any", "h100", "a100-80gb:2" (two of them), "h100!" (nothing bigger instead), a list in order of preference,
/// or an amount of memory.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the schema of a value that is read by hand")]
enum Written {
    /// One, or several with commas between them.
    Text(String),
    /// In order of preference.
    List(Vec<WrittenOne>),
    /// By memory.
    Memory(Table),
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the schema of a value that is read by hand")]
enum WrittenOne {
    Text(String),
    Memory(Table),
}

/// For a field of a stored record: see [`GpuRequest::from_stored`].
pub(crate) fn stored<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GpuRequest>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|text| GpuRequest::from_stored(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Resources;

    fn parsed(text: &str) -> GpuRequest {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn wrong(text: &str) -> String {
        text.parse::<GpuRequest>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_is_read_in_any_case_and_written_back_the_same() {
        for (text, again) in [
            ("any", "any"),
            ("ANY:2", "any:2"),
            ("H100", "h100"),
            ("h100!", "h100!"),
            ("H100!:8", "h100!:8"),
            ("A100-80GB:2", "a100-80gb:2"),
            ("rtx-4090 : 1", "rtx-4090"),
            ("1g.10gb", "1g.10gb"),
            ("min_vram=40GiB", "min_vram=40GiB"),
            ("MIN_VRAM = 1024 mib : 2", "min_vram=1GiB:2"),
            ("min_vram=24GB", "min_vram=24000000000B"),
            (" h100 ,a100:2 , any", "h100, a100:2, any"),
        ] {
            assert_eq!(parsed(text).to_string(), again);
            assert_eq!(parsed(again), parsed(text), "{text}");
            let json = serde_json::to_string(&parsed(text)).unwrap();
            assert_eq!(serde_json::from_str::<GpuRequest>(&json).unwrap(), parsed(text), "{json}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_what_would_be_right() {
        for (text, said) in [
            ("", "`` at position 1: a GPU is missing here; write any, or a model such as h100"),
            ("h100,,any", "`` at position 6: a GPU is missing here; write any, or a model such as h100"),
            ("h100:9", "`9` at position 6: the number of GPUs is between 1 and 8"),
            ("h100:0", "`0` at position 6: the number of GPUs is between 1 and 8"),
            ("h100, a100:two", "`two` at position 12: the number of GPUs is between 1 and 8"),
            ("ä, h100:1:2", "`ä` at position 1: 'ä' is in no name of a model; write it like h100 or a100-80gb"),
            ("any, h100:1:2", "`1:2` at position 11: the number of GPUs is between 1 and 8"),
            ("h100:2!", "`2!` at position 6: the ! belongs to the model: write h100!:2"),
            ("any!", "`any!` at position 1: any has no model that ! could insist on"),
            ("!", "`!` at position 1: there is no model before the !"),
            ("rtx 4090", "`rtx 4090` at position 1: ' ' is in no name of a model; write it like h100 or a100-80gb"),
            ("2", "`2` at position 1: a number alone names no GPU; write any:2"),
            ("2xh100", "`2xh100` at position 1: a number of devices stands behind the model: write h100:2"),
            ("40GiB", "`40GiB` at position 1: an amount of memory is asked for as min_vram=40GiB"),
            ("all", "`all` at position 1: write any, a model such as h100, or leave the requirement out"),
            ("min_vram=40", "`40` at position 10: this is no amount of memory; write it like 40GiB"),
            ("min_vram=0GiB", "`0GiB` at position 10: this is no amount of memory; write it like 40GiB"),
            ("vram=40GiB", "`vram` at position 1: only min_vram= can be asked for like this"),
            ("-h100", "`-h100` at position 1: this is no name of a model; write it like h100 or a100-80gb"),
        ] {
            assert_eq!(wrong(text), said, "{text}");
        }
        assert!(wrong(&"x".repeat(5000)).len() < 200, "a long text is not repeated whole");
    }

    #[test]
    fn lists_and_tables_say_the_same_as_text() {
        let json = |text: &str| serde_json::from_str::<GpuRequest>(text);
        assert_eq!(json(r#"["h100", "a100:2"]"#).unwrap(), parsed("h100, a100:2"));
        assert_eq!(json(r#"{"min_vram": "40GiB", "count": 2}"#).unwrap(), parsed("min_vram=40GiB:2"));
        assert_eq!(json(r#"["h100", {"min_vram": "40GiB"}]"#).unwrap(), parsed("h100, min_vram=40GiB"));
        let wrong = |text: &str| json(text).unwrap_err().to_string();
        assert!(wrong("[]").contains("the list of GPUs is empty"));
        assert!(wrong(r#"{"min_vram": "40"}"#).contains("\"40\" is wrong in this GPU: this is no amount of memory"));
        assert!(wrong(r#"{"min_vram": "1GiB", "count": 9}"#).contains("\"9\" is wrong in this GPU"));
        assert!(wrong(r#"{"vram": "40GiB"}"#).contains("unknown field `vram`"));
        assert!(wrong("7").contains("expected a GPU such as"));
        assert!(wrong(r#"["h100", "a100:x"]"#).contains("`x` at position 6"));
    }

    #[test]
    fn what_an_earlier_version_stored_stays_readable_and_is_never_weaker() {
        let stored = |gpu: &str| {
            let text = format!(r#"{{"gpu": {gpu}}}"#);
            serde_json::from_str::<Resources>(&text).unwrap().gpu.map(|gpu| gpu.to_string())
        };
        assert_eq!(stored("null"), None);
        assert_eq!(stored("\"2\"").as_deref(), Some("any:2"));
        assert_eq!(stored("\"h100:2\"").as_deref(), Some("h100:2"));
        for old in ["1x24GiB", "16", "", "two of \\u0000 them, please", "!"] {
            let text = stored(&format!("\"{old}\"")).unwrap();
            let read = parsed(&text);
            assert!(matches!(&read.choices()[0].kind, GpuKind::Model { exact: true, .. }), "{old}: {text}");
        }
        assert_eq!(serde_json::from_str::<Resources>("{}").unwrap(), Resources::default());
    }
}
