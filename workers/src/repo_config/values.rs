//! The kinds of values in `.onramp.toml`: each can only hold what is right, and says what that is.

use std::{fmt, time::Duration};

use globset::{Glob, GlobBuilder, GlobMatcher};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer as _},
};
use tasks::{GpuRequest, gpu::MAX_GPUS, ledger::Money};

use crate::{
    egress::presets,
    forbidden,
    policy::rules::{BUILD_FILES, PROTECTED, WORKFLOWS},
    toml_problem::did_you_mean,
};

/// Parses `90s`, `15m`, `1h30m`, `7d`.
///
/// # Errors
/// One sentence that says what is right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write it like \"90s\", \"15m\" or \"1h30m\"");
    let mut seconds = 0u64;
    let mut rest = text.trim();
    let mut finest = u64::MAX;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest[digits..].chars().next() {
            Some('d') => 86_400,
            Some('h') => 3600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err(wrong()),
        };
        if unit >= finest {
            return Err(wrong());
        }
        finest = unit;
        seconds = number.checked_mul(unit).and_then(|n| seconds.checked_add(n)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    Ok(Duration::from_secs(seconds))
}

/// Parses `4GiB`, `512 MiB`, `64KiB`, `1000B`.
///
/// # Errors
/// One sentence that says what is right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write it like \"4GiB\", \"512MiB\" or \"64KiB\"");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit: u64 = match text[digits..].trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

/// Reads a string and turns it into a value; the error of `parse` is the message.
fn from_text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Visitor<T>(&'static str, fn(&str) -> Result<T, String>);
    impl<T> de::Visitor<'_> for Visitor<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
            (self.1)(value).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Visitor(expected, parse))
}

macro_rules! text_value {
    ($(#[$doc:meta])* $vis:vis struct $name:ident($inner:ty), $expected:literal, $pattern:literal, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
        #[schemars(inline)]
        $vis struct $name(#[schemars(with = "String", regex(pattern = $pattern))] pub(crate) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer, $expected, $parse).map($name)
            }
        }
    };
}

text_value!(
    /// A time between one second and one day.
    pub(super) struct Time(Duration), "a duration such as \"15m\"", r"^\s*([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?\s*$", |text| {
        let time = parse_duration(text)?;
        match time.as_secs() {
            1..=86_400 => Ok(time),
            _ => Err(format!("{text:?} is out of range; a time is between \"1s\" and \"24h\"")),
        }
    }
);

text_value!(
    /// A size of at least one byte.
    pub struct Size(u64), "a size such as \"4GiB\"", r"^\s*[0-9]+\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB)\s*$", |text| {
        parse_size(text).and_then(|bytes| match bytes {
            0 => Err(format!("{text:?} is out of range; a size is at least \"1B\"")),
            _ => Ok(bytes),
        })
    }
);

text_value!(
    /// The memory or disk of a sandbox: enough for anything to run at all.
    pub(super) struct SandboxSize(u64), "a size such as \"4GiB\"", r"^\s*[0-9]+\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB)\s*$", |text| {
        parse_size(text).and_then(|bytes| match bytes {
            n if n < 16 << 20 => Err(format!("{text:?} is out of range; a sandbox needs at least \"16MiB\"")),
            _ => Ok(bytes),
        })
    }
);

text_value!(
    /// The name of a check.
    pub(super) struct CheckName(String), "a name", r"^[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,59}$", |text| {
        let mut bytes = text.bytes();
        let starts = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || b" ._/:+-".contains(&b));
        if starts && goes_on && text.len() <= 60 {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is not a name for a check; use up to 60 letters, digits, spaces and ._/:+-"))
        }
    }
);

text_value!(
    /// A command line for `sh -c`.
    pub(super) struct CommandLine(String), "a command line", r"\S", |text| {
        if text.trim().is_empty() {
            Err("the command is empty; write what `sh -c` is to run".to_owned())
        } else if text.contains('\0') {
            Err("a command cannot hold a NUL character".to_owned())
        } else {
            Ok(text.to_owned())
        }
    }
);

text_value!(
    /// The name of an environment variable.
    pub(super) struct VariableName(String), "the name of an environment variable", "^[A-Za-z_][A-Za-z0-9_]*$", |text| {
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if let Some(why) = forbidden::why_no_variable(text) {
            Err(format!("{text} cannot be set here: {why}"))
        } else if starts && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is not the name of an environment variable; use letters, digits and _"))
        }
    }
);

text_value!(
    /// A line at the end of a commit message.
    pub(super) struct Trailer(String), "a trailer such as \"Requested-by: {requester}\"", r"^[A-Za-z][A-Za-z0-9-]*: \S", |text| {
        let Some((name, value)) = text.split_once(": ") else {
            return Err(format!("{text:?} is not a trailer; write \"Name: value\""));
        };
        let is_name = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_name || value.trim().is_empty() || text.contains(char::is_control) || text.chars().count() > 200 {
            return Err(format!("{text:?} is not a trailer; write \"Name: value\" on one line of at most 200 characters"));
        }
        if name.eq_ignore_ascii_case("signed-off-by") {
            return Err("only a person can sign off; take this trailer out".to_owned());
        }
        if name.eq_ignore_ascii_case("task-id") {
            return Err("Task-Id is written by itself, always; take this trailer out".to_owned());
        }
        known_placeholders(text, &["agent", "requester", "requester_id"])
    }
);

text_value!(
    /// How branches are named.
    pub(super) struct BranchPattern(String), "a pattern such as \"onramp/{issue}-{slug}-{id}\"", r"^[A-Za-z0-9][A-Za-z0-9._/{}-]*\{id\}$", |text| {
        if !text.ends_with("{id}") {
            return Err(format!("{text:?} does not end in {{id}}, by which Onramp knows its own branches again"));
        }
        let text = known_placeholders(text, &["issue", "slug", "id"])?;
        let sample = text.replace("{issue}", "1").replace("{slug}", "x").replace("{id}", "a1b2c3d4");
        let is_plain = sample.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b)) && sample.len() <= 100;
        match sample.parse::<tasks::BranchName>() {
            Ok(_) if is_plain => Ok(text),
            _ => Err(format!("{text:?} makes no name of a branch; use letters, digits and ._/- around the placeholders")),
        }
    }
);

text_value!(
    /// A file of the repository.
    pub(super) struct FilePath(String), "the path of a file", r"^[^/]", |text| {
        let is_path = !text.starts_with('/') && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if is_path { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a path from the top of the repository")) }
    }
);

/// Refuses `{word}` for every other word.
fn known_placeholders(text: &str, known: &[&str]) -> Result<String, String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let (word, after) = after.split_once('}').ok_or_else(|| format!("{text:?} has a {{ without its }}"))?;
        if !known.contains(&word) {
            let known: Vec<_> = known.iter().map(|word| format!("{{{word}}}")).collect();
            return Err(format!("{text:?} has {{{word}}}; what can stand there is {}", known.join(", ")));
        }
        rest = after;
    }
    Ok(text.to_owned())
}

text_value!(
    /// A glob over paths of the repository.
    pub struct PathGlob(String), "a glob such as \"src/**\"", r"^[^/]", |text| {
        if let Some(stem) = text.strip_prefix('/').or_else(|| text.strip_prefix("./")) {
            return Err(format!("{text:?} cannot match; globs start at the top of the repository: write {stem:?}"));
        }
        if text.ends_with('/') {
            return Err(format!("{text:?} matches no file; write \"{text}**\" for everything below it"));
        }
        if text.is_empty() {
            return Err("an empty glob matches nothing; remove it, or write \"**\" for everything".to_owned());
        }
        match glob(text, false) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("{text:?} is not a glob: {}", error.kind())),
        }
    }
);

text_value!(
    /// One of the globs that are protected in every repository.
    pub struct Unprotect(String), "one of the globs that are protected in every repository", r"\S", |text| {
        let known = [PROTECTED, WORKFLOWS, BUILD_FILES].concat();
        if known.contains(&text) {
            return Ok(text.to_owned());
        }
        let hint = did_you_mean(text, &known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        Err(format!("{text:?} is not among the globs that are protected in every repository{hint}"))
    }
);

text_value!(
    /// The name of a tier of risk.
    pub(super) struct TierName(String), "a name", r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$", |text| {
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let goes_on = text.bytes().all(|b| b.is_ascii_alphanumeric() || b" ._-".contains(&b));
        if starts && goes_on && text.len() <= 40 {
            Ok(text.to_owned())
        } else {
            Err(format!("{text:?} is not a name for a tier; use up to 40 letters, digits, spaces and ._-"))
        }
    }
);

text_value!(
    /// An amount of US dollars.
    pub(super) struct Dollars(Money), "an amount such as \"2.50\"", r"^\s*\$?[0-9]+(\.[0-9]{1,6})?\s*$", |text| {
        text.parse::<Money>().map_err(|error| error.to_string())
    }
);

text_value!(
    /// A host name, a suffix that starts with a dot, or the name of a preset.
    pub(super) struct Host(String), "a host such as \"example.com\"", r"^(preset:[a-z0-9-]+|\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)$", parse_host
);

/// `example.com`, or `.example.com` for everything below it. Addresses are refused: a name says who is meant, and a
/// numeric address could be the worker's own network.
fn parse_host(text: &str) -> Result<String, String> {
    if let Some(name) = text.strip_prefix(presets::PREFIX) {
        return presets::hosts(name).map(|_| text.to_owned());
    }
    if let Some(rest) = text.strip_prefix("*.") {
        return Err(format!("{text:?} is not a host; write \".{rest}\" for every host below it"));
    }
    if text.contains("://") || text.contains('/') {
        return Err(format!("{text:?} is not a host; leave the scheme and the path out"));
    }
    if text.contains(':') {
        return Err(format!("{text:?} is not a host; leave the port out"));
    }
    let name = text.strip_prefix('.').unwrap_or(text);
    let labels: Vec<&str> = name.split('.').collect();
    let label_is_good = |label: &&str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("{text:?} is an address; write the name of the host"));
    }
    if labels.len() < 2 || name.len() > 253 || !labels.iter().all(label_is_good) {
        return Err(format!("{text:?} is not a host; write it like \"example.com\" or \".example.com\""));
    }
    Ok(text.to_ascii_lowercase())
}

/// The one way globs are read: `*` stays inside one directory, `**` crosses.
pub(crate) fn glob(pattern: &str, ignore_case: bool) -> Result<GlobMatcher, globset::Error> {
    let glob: Glob = GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .empty_alternates(true)
        .case_insensitive(ignore_case)
        .build()?;
    Ok(glob.compile_matcher())
}

/// A whole number in a range, named in the error.
pub(crate) fn in_range<'de, D, const LOW: u64, const HIGH: u64>(deserializer: D) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    let number = i64::deserialize(deserializer)?;
    match u64::try_from(number) {
        Ok(number) if (LOW..=HIGH).contains(&number) => Ok(Some(number)),
        _ => Err(de::Error::custom(format!("{number} is out of range; it is between {LOW} and {HIGH}"))),
    }
}

/// CPUs: a fraction is fine.
pub(super) fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let number = f64::deserialize(deserializer)?;
    if (0.1..=1024.0).contains(&number) {
        Ok(Some(number))
    } else {
        Err(de::Error::custom(format!("{number} is out of range; CPUs are between 0.1 and 1024")))
    }
}

/// `false`, `true`, a number of devices, or what the grammar of GPUs knows.
pub(super) fn gpu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GpuRequest>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<GpuRequest>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, a GPU such as \"h100\", a list of them, or {min_vram = \"40GiB\"}")
        }
        fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
            Ok(GpuRequest::any(1).filter(|_| value))
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
            let out = || E::custom(format!("{value} is out of range; GPUs are between 0 and {MAX_GPUS}"));
            let count = u8::try_from(value).map_err(|_| out())?;
            if count == 0 { Ok(None) } else { GpuRequest::any(count).map(Some).ok_or_else(out) }
        }
        fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
            GpuRequest::deserialize(value.into_deserializer()).map(Some)
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            GpuRequest::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Some)
        }
        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            GpuRequest::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_from_large_to_small() {
        let seconds = |text| parse_duration(text).unwrap().as_secs();
        assert_eq!(["90s", "15m", "1h", "1h30m", "1h0m5s"].map(seconds), [90, 900, 3600, 5400, 3605]);
        assert_eq!(["7d", "1d12h"].map(seconds), [604_800, 129_600]);
        for bad in [
            "",
            "15",
            "m",
            "1w",
            "-1s",
            "1m1h",
            "1s1s",
            "1.5h",
            "15 m",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_and_never_wrap() {
        let bytes = |text| parse_size(text).unwrap();
        assert_eq!(["1B", "64KiB", "4 GiB", "1MB"].map(bytes), [1, 65_536, 4 << 30, 1_000_000]);
        for bad in ["", "4", "4G", "GiB", "1.5GiB", "-1B", "99999999TiB", "18446744073709551615KiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hosts_are_names_or_suffixes_and_never_addresses() {
        for good in ["example.com", ".example.com", "Static.Example.com", "a-b.c1.example"] {
            assert_eq!(parse_host(good), Ok(good.to_lowercase()));
        }
        for bad in [
            "",
            ".",
            "com",
            ".com",
            "localhost",
            "*.example.com",
            "https://example.com",
            "example.com/x",
            "example.com:443",
            "127.0.0.1",
            "[::1]",
            "0x7f.1",
            "exa mple.com",
            "-a.com",
            "a..com",
            "a.com.",
        ] {
            assert!(parse_host(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            parse_host("*.example.com").unwrap_err(),
            "\"*.example.com\" is not a host; write \".example.com\" for every host below it"
        );
    }
}
