//! Hosts that belong together, by a name: `preset:crates`.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;
use tasks::{Code, Failure};

use crate::toml_problem::did_you_mean;

/// What an entry of a list of hosts begins with when it names a preset.
pub(crate) const PREFIX: &str = "preset:";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    about: String,
    hosts: Vec<String>,
}

static PRESETS: LazyLock<BTreeMap<String, Preset>> = LazyLock::new(|| {
    toml::from_str(templates::PRESETS).expect("the embedded presets are well-formed; a test reads them")
});

/// The hosts of a preset.
///
/// # Errors
/// One sentence with the names that there are.
pub(crate) fn hosts(name: &str) -> Result<&'static [String], String> {
    PRESETS.get(name).map(|preset| preset.hosts.as_slice()).ok_or_else(|| {
        let known: Vec<&str> = PRESETS.keys().map(String::as_str).collect();
        let hint = did_you_mean(name, &known).map_or_else(
            || format!("there are {}", known.join(", ")),
            |near| format!("did you mean \"{PREFIX}{near}\"?"),
        );
        format!("there is no preset {name:?}; {hint}")
    })
}

/// A list of hosts in which presets stand for theirs.
///
/// # Errors
/// E006 for a preset that there is not.
pub fn expand(entries: &[String]) -> Result<Vec<String>, Failure> {
    let mut all = Vec::new();
    for entry in entries {
        match entry.strip_prefix(PREFIX) {
            Some(name) => all.extend_from_slice(hosts(name).map_err(|why| Failure::new(Code::BadConfig, why))?),
            None => all.push(entry.clone()),
        }
    }
    Ok(all)
}

/// Names, what they are for, and their hosts.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str, &'static [String])> {
    PRESETS.iter().map(|(name, preset)| (name.as_str(), preset.about.as_str(), preset.hosts.as_slice()))
}

/// What may be written to allow `host`: the preset that has it, else the host.
pub(crate) fn entry_for(host: &str) -> String {
    let has = |hosts: &[String]| hosts.iter().any(|known| known == host);
    all().find(|(_, _, hosts)| has(hosts)).map_or_else(|| host.to_owned(), |(name, ..)| format!("{PREFIX}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::proxy::HostList;

    #[test]
    fn every_preset_is_a_list_of_hosts_and_a_wrong_name_is_answered_with_the_right_one() {
        assert!(all().count() >= 15);
        for (name, about, hosts) in all() {
            assert!(!about.is_empty() && !hosts.is_empty(), "{name}");
            HostList::new(hosts).unwrap();
        }
        assert!(hosts("crates").unwrap().contains(&"static.crates.io".to_owned()));
        assert_eq!(hosts("crate").unwrap_err(), "there is no preset \"crate\"; did you mean \"preset:crates\"?");
        assert!(hosts("zzz").unwrap_err().contains("there are alpine, crates, debian"));
        assert_eq!(entry_for("files.pythonhosted.org"), "preset:pypi");
        assert_eq!(entry_for("example.org"), "example.org");
    }
}
