//! What the operator says of the world outside, over everything that a repository may ask for.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use secrecy::SecretString;
use tasks::{Code, Failure, RepoName};

use super::{
    models::Key,
    proxy::{HostList, canonical_host, is_public},
    vendors::VendorBook,
};

/// The operator's rules.
#[derive(Debug, Default)]
pub struct EgressPolicy {
    /// Nothing on the public internet is reached: no host, and no model but one at an address of this network.
    pub airgap: bool,
    /// The hosts that repositories may allow themselves. `None`: any.
    pub may_allow: Option<Vec<String>>,
    /// Hosts that nobody reaches, whatever a repository allows.
    pub blocked: Vec<String>,
    /// Only approved vendors are reached: where their register lies.
    pub hold: Option<PathBuf>,
    /// Private registries and the headers that they want.
    pub registries: Vec<Registry>,
    /// Secrets of setup commands.
    pub setup_secrets: Vec<SetupSecret>,
}

/// A registry that wants a credential, which is added outside.
#[derive(Debug)]
pub struct Registry {
    /// Its host, as programs inside name it in an `http://` URL.
    pub host: String,
    /// Where it really is: `https://npm.example.com`. It may be an address of this network.
    pub url: String,
    /// The header.
    pub header: String,
    /// The header's value, such as `Bearer …`.
    pub value: Key,
    /// Which repositories may use it: `owner/name`, or `owner/*`.
    pub repositories: Vec<String>,
}

/// A secret that setup commands of a base get as a variable, and nothing else ever.
#[derive(Debug, Clone)]
pub struct SetupSecret {
    /// The variable.
    pub name: String,
    /// Its value.
    pub value: SecretString,
    /// Which repositories may have it: `owner/name`, or `owner/*`.
    pub repositories: Vec<String>,
}

/// The rules as they are for one attempt.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    airgap: bool,
    may_allow: Option<HostList>,
    blocked: HostList,
    approved: Option<HostList>,
}

impl EgressPolicy {
    /// The rules as they are now.
    ///
    /// # Errors
    /// E006 for an entry that is no host, or a register that cannot be read: then nothing is known to be approved.
    pub(crate) fn rules(&self) -> Result<Arc<Rules>, Failure> {
        let list = |hosts: &[String]| {
            HostList::new(hosts)
                .map_err(|failure| Failure::new(Code::BadConfig, format!("In [egress]: {}", failure.message)))
        };
        let approved = match &self.hold {
            Some(path) => Some(list(&VendorBook::read(path)?.approved())?),
            None => None,
        };
        Ok(Arc::new(Rules {
            airgap: self.airgap,
            may_allow: self.may_allow.as_deref().map(list).transpose()?,
            blocked: list(&self.blocked)?,
            approved,
        }))
    }

    /// Looks for what could never be used.
    ///
    /// # Errors
    /// E006 for an entry that is no host, address or variable.
    pub fn check(&self) -> Result<(), Failure> {
        self.rules()?;
        let bad = |message: String| Err(Failure::new(Code::BadConfig, message));
        for Registry { host, url, .. } in &self.registries {
            if let Err(why) = canonical_host(host) {
                return bad(format!("egress.registries: the host {host:?} cannot be used: {why}"));
            }
            if !url.starts_with("https://") && !url.starts_with("http://") {
                return bad(format!("egress.registries: the url of {host} is {url:?}, which is no https:// URL"));
            }
        }
        for SetupSecret { name, .. } in &self.setup_secrets {
            let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(good) {
                return bad(format!("egress.setup_secrets: {name:?} is not the name of a variable"));
            }
        }
        Ok(())
    }

    /// The secrets that the setup commands of this repository get.
    pub fn setup_secrets(&self, repo: &RepoName) -> Vec<&SetupSecret> {
        self.setup_secrets.iter().filter(|secret| is_for(&secret.repositories, repo)).collect()
    }

    /// Whether this repository may use private registries.
    pub(crate) fn has_registries(&self, repo: &RepoName) -> bool {
        self.registries(repo).next().is_some()
    }

    /// The registries that this repository may use.
    pub(super) fn registries(&self, repo: &RepoName) -> impl Iterator<Item = &Registry> {
        self.registries.iter().filter(move |registry| is_for(&registry.repositories, repo))
    }
}

fn is_for(patterns: &[String], repo: &RepoName) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix("/*") {
        Some(owner) => repo.as_str().split('/').next().is_some_and(|found| found.eq_ignore_ascii_case(owner)),
        None => repo.as_str().eq_ignore_ascii_case(pattern),
    })
}

impl Rules {
    /// Why a model at this host may not be asked, if so.
    pub(super) fn refuses_model(&self, host: &str) -> Option<String> {
        if self.airgap && Self::is_outside(host) {
            return Some("airgap is on, and it is not known to lie in this network".to_owned());
        }
        // A model in this network is no vendor.
        if !Self::is_outside(host) { None } else { self.refuses(host) }
    }

    /// Why a repository may not reach this canonical host, if so.
    pub(super) fn refuses_host(&self, host: &str) -> Option<String> {
        if self.airgap {
            return Some("airgap is on, so nothing outside is reached".to_owned());
        }
        if self.may_allow.as_ref().is_some_and(|hosts| !hosts.contains(host)) {
            return Some("the operator lets no repository allow it ([egress] may_allow)".to_owned());
        }
        self.refuses(host)
    }

    fn refuses(&self, host: &str) -> Option<String> {
        if self.blocked.contains(host) {
            return Some("the operator blocks it ([egress] blocked)".to_owned());
        }
        if self.approved.as_ref().is_some_and(|hosts| !hosts.contains(host)) {
            return Some(format!("nobody approved this vendor yet (onramp vendors approve {host})"));
        }
        None
    }

    /// Whether a host may lie on the public internet. Only addresses, and names that never leave a network, do surely not.
    pub(super) fn is_outside(host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => is_public(address),
            Err(_) => !matches!(bare, "localhost" | "host.docker.internal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_rules_everything_goes_and_each_rule_says_why_not() {
        let policy = EgressPolicy::default();
        let rules = policy.rules().unwrap();
        assert_eq!((rules.refuses_host("a.example"), rules.refuses_model("api.example")), (None, None));

        let strict = EgressPolicy {
            may_allow: Some(vec!["a.example".into(), "b.example".into()]),
            blocked: vec!["b.example".into()],
            ..EgressPolicy::default()
        };
        let rules = strict.rules().unwrap();
        assert_eq!(rules.refuses_host("a.example"), None);
        assert!(rules.refuses_host("b.example").unwrap().contains("[egress] blocked"));
        assert!(rules.refuses_host("c.example").unwrap().contains("[egress] may_allow"));
        let bad = EgressPolicy { blocked: vec!["*".into()], ..EgressPolicy::default() };
        assert_eq!(bad.rules().unwrap_err().code, Code::BadConfig);
    }

    #[test]
    fn behind_an_airgap_only_addresses_of_the_own_network_are_asked() {
        let rules = EgressPolicy { airgap: true, ..EgressPolicy::default() }.rules().unwrap();
        for inside in ["127.0.0.1", "10.0.0.7", "[::1]", "[fd00::1]", "localhost"] {
            assert_eq!(rules.refuses_model(inside), None, "{inside}");
        }
        for outside in ["api.example.com", "8.8.8.8", "[2606:4700::1111]", "ollama"] {
            assert!(rules.refuses_model(outside).is_some(), "{outside}");
        }
        assert!(rules.refuses_host("a.example").is_some());
    }

    #[test]
    fn a_vendor_that_nobody_approved_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vendors.toml");
        let policy = EgressPolicy { hold: Some(path.clone()), ..EgressPolicy::default() };
        let held = policy.rules().unwrap().refuses_model("api.example.com").unwrap();
        assert!(held.contains("onramp vendors approve api.example.com"), "{held}");
        std::fs::write(&path, "[\"api.example.com\"]\napproved_by = \"ada\"\n[\"other.example\"]\nowner = \"ada\"\n")
            .unwrap();
        let rules = policy.rules().unwrap();
        assert_eq!(rules.refuses_model("api.example.com"), None);
        assert!(rules.refuses_host("other.example").is_some(), "known is not approved");
        assert_eq!(rules.refuses_model("10.0.0.7"), None, "the own network is no vendor");
        std::fs::write(&path, "not toml").unwrap();
        assert!(policy.rules().is_err(), "what cannot be read approves nothing");
    }

    #[test]
    fn secrets_are_for_the_repositories_that_are_named_and_no_others() {
        let secret = |repositories: &[&str]| SetupSecret {
            name: "TOKEN".into(),
            value: "x".to_owned().into(),
            repositories: repositories.iter().map(|&repo| repo.to_owned()).collect(),
        };
        let setup_secrets = vec![secret(&["acme/web"]), secret(&["Acme/*"]), secret(&[]), secret(&["acme/we", "*"])];
        let policy = EgressPolicy { setup_secrets, ..EgressPolicy::default() };
        assert_eq!(policy.setup_secrets(&"acme/web".parse().unwrap()).len(), 2);
        assert_eq!(policy.setup_secrets(&"other/web".parse().unwrap()).len(), 0);
    }
}
