//! `onramp config`: whether a configuration can be used, and what each key means and is.

use clap::{Args, Subcommand};
use tasks::{Code, Failure};

use super::{Global, configured};
use crate::config::{Config, DEFAULT_FILE, EXAMPLE};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say whether the configuration can be used, and where it is
    Check,
    /// Say what a key means, its default and what it is here
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Such as github.label, or a table such as github; none: all of them
    key: Option<String>,
}

pub(super) fn config(global: &Global, command: ConfigCommand) -> Result<u8, Failure> {
    match command {
        ConfigCommand::Check => check(global),
        ConfigCommand::Explain(args) => explain(global, args.key.as_deref()),
    }
}

fn check(global: &Global) -> Result<u8, Failure> {
    let config = configured(global)?;
    let default = std::path::Path::new(DEFAULT_FILE);
    let file = global.config.as_deref().or(default.exists().then_some(default));
    match file {
        Some(file) => println!("{} can be used", file.display()),
        None => println!("there is no {DEFAULT_FILE} here: every key has its default, and that can be used"),
    }
    println!("data: {}", config.data_dir()?.display());
    let github = &config.github;
    let who = match github.app_id {
        0 if github.token.value().is_some() => "a token".to_owned(),
        0 => "nobody yet; `onramp init github` makes an app".to_owned(),
        id => format!("the app {id}"),
    };
    println!("on GitHub: {who}");
    Ok(0)
}

fn explain(global: &Global, key: Option<&str>) -> Result<u8, Failure> {
    let effective = Config::effective(global.config.as_deref())?;
    let wanted = key.unwrap_or_default();
    let is_wanted = |path: &str| {
        wanted.is_empty() || path == wanted || path.strip_prefix(wanted).is_some_and(|r| r.starts_with('.'))
    };
    let mut n_shown = 0;
    for Entry { path, words, default } in entries() {
        if !is_wanted(&path) {
            continue;
        }
        n_shown += 1;
        println!("{path}");
        for line in words {
            println!("    {line}");
        }
        let here = path.split('.').try_fold(&effective, |value, part| value.get(part)).map(ToString::to_string);
        match here {
            Some(here) if here != default => println!("    default: {default}\n    here: {here}\n"),
            _ => println!("    default: {default}\n"),
        }
    }
    if n_shown == 0 {
        let nearest = entries().max_by(|a, b| strsim::jaro(wanted, &a.path).total_cmp(&strsim::jaro(wanted, &b.path)));
        let nearest = nearest.map_or_else(String::new, |entry| format!("Did you mean {}? ", entry.path));
        return Err(Failure::new(Code::Usage, format!("There is no key {wanted}"))
            .next(format!("{nearest}`onramp config explain` shows all of them.")));
    }
    Ok(0)
}

/// A key, as the example documents it.
struct Entry {
    path: String,
    words: Vec<String>,
    default: String,
}

/// Every key of the example with the comment above it. Keys that share a comment share its words.
fn entries() -> impl Iterator<Item = Entry> {
    let (mut table, mut words, mut is_new) = (String::new(), Vec::new(), true);
    EXAMPLE.lines().filter_map(move |line| {
        if let Some(comment) = line.strip_prefix('#') {
            if is_new {
                words.clear();
                is_new = false;
            }
            words.push(comment.trim().to_owned());
            return None;
        }
        if line.is_empty() {
            words.clear();
            return None;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut table);
            words.clear();
            return None;
        }
        is_new = true;
        let (key, default) = line.split_once(" = ")?;
        let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        Some(Entry { path, words: words.clone(), default: default.to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_example_is_explained() {
        let example: toml::Table = toml::from_str(EXAMPLE).unwrap();
        let found: Vec<_> = entries().collect();
        let n_keys = |table: &toml::Table| -> usize {
            fn count(value: &toml::Value) -> usize {
                value.as_table().map_or(1, |table| table.values().map(count).sum())
            }
            table.values().map(count).sum()
        };
        assert_eq!(found.len(), n_keys(&example));
        for Entry { path, words, default } in found {
            let whole = toml::Value::Table(example.clone());
            let value = path.split('.').try_fold(&whole, |value, part| value.get(part));
            assert_eq!(value.unwrap().to_string(), default, "{path}");
            assert!(!words.is_empty() || path.starts_with("models."), "{path} has no words");
        }
    }
}
