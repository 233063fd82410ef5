//! Webhooks of other services: a definition (verify, when, what) and the operator's configuration (secret, routes) become
//! a hook of the door.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tasks::{Actor, Code, DedupeKey, Deliver, Failure, Instruction, RepoName, Resources, Source, TaskRequest, Work};
use templates::{TRIGGERS, Trigger, TriggerTexts, Triggered};
use webhooks::{
    Hook, Secrets,
    github::events::names,
    hooks::{Sent, Verify, Wish},
};

use crate::{
    config::{self, Config},
    queue::Clock,
};

const MAX_TITLE_CHARS: usize = 200;
const MAX_TEXT_BYTES: usize = 64 << 10;
/// The route of GitHub's own deliveries.
const TAKEN: &str = "github";

/// A definition as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    verify: Verification,
    when: String,
    #[serde(default)]
    dedupe: String,
    repository: String,
    title: String,
    prompt: String,
    #[serde(default)]
    about: String,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Verification {
    HmacSha256 {
        header: String,
        #[serde(default)]
        prefix: String,
    },
    Bearer,
    Standard,
}

/// One sender's definition with the operator's routes.
#[derive(Debug)]
pub struct Listener {
    name: String,
    verify: Verify,
    trigger: Trigger,
    routes: BTreeMap<String, String>,
    /// Patterns of repositories that the sender may name.
    repositories: Vec<String>,
}

/// What a definition makes of something that was sent.
#[derive(Debug)]
pub enum Heard {
    /// A request.
    Request(Box<TaskRequest>),
    /// Nothing: what was sent does not ask for anything.
    Nothing,
    /// Nothing: it is about something that has no repository here.
    NoRepository {
        /// What came out; may be empty.
        named: String,
    },
}

impl Listener {
    /// Looks at the definition of a hook.
    ///
    /// # Errors
    /// E006 naming the hook, and what of its definition cannot be used.
    pub fn new(name: &str, hook: &config::Hook) -> Result<Self, Failure> {
        let bad = |why: String| Failure::new(Code::BadConfig, format!("hooks.{name}: {why}"));
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        if name == TAKEN || !is_name {
            return Err(bad("a hook is named with letters, digits, hyphens and underscores, and not `github`".into()));
        }
        let text = if hook.file.as_os_str().is_empty() {
            let trigger = if hook.trigger.is_empty() { name } else { &hook.trigger };
            let known = TRIGGERS.iter().find(|(known, _)| *known == trigger);
            let (_, text) = known.ok_or_else(|| {
                bad(format!("there is no trigger {trigger:?}"))
                    .next("`onramp trigger list` shows those that there are.")
            })?;
            (*text).to_owned()
        } else {
            std::fs::read_to_string(&hook.file)
                .map_err(|error| bad(format!("the file {} cannot be read: {error}", hook.file.display())))?
        };
        let definition: Definition = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let Definition { verify, when, dedupe, repository, title, prompt, about } = definition;
        let trigger = Trigger::new(TriggerTexts { when, dedupe, repository, title, prompt, about });
        let routes = hook.routes.iter().map(|(name, repo)| (name.clone(), repo.to_string())).collect();
        Ok(Self {
            name: name.to_owned(),
            verify: match verify {
                Verification::HmacSha256 { header, prefix } => {
                    Verify::HmacSha256 { header: header.to_ascii_lowercase(), prefix }
                }
                Verification::Bearer => Verify::Bearer,
                Verification::Standard => Verify::Standard,
            },
            trigger: trigger.map_err(|error| bad(error.to_string()))?,
            routes,
            repositories: hook.repositories.clone(),
        })
    }

    /// How its sender shows who it is.
    pub fn verify(&self) -> &Verify {
        &self.verify
    }

    /// Reads what was sent.
    ///
    /// # Errors
    /// Which part of the definition does not fit it.
    pub fn hear(&self, headers: &BTreeMap<String, String>, body: &Value) -> Result<Heard, String> {
        let sent = templates::Sent { headers, body, routes: &self.routes };
        let triggered = self.trigger.read(&sent).map_err(|error| error.to_string())?;
        let Some(Triggered { dedupe, repository, title, prompt, about }) = triggered else {
            return Ok(Heard::Nothing);
        };
        let allowed = repository
            .parse::<RepoName>()
            .ok()
            .filter(|repo| self.routes.values().any(|route| route == repo.as_str()) || names(&self.repositories, repo));
        let Some(repo) = allowed else { return Ok(Heard::NoRepository { named: repository }) };
        if title.is_empty() {
            return Err("`title` of the trigger comes out empty".to_owned());
        }
        Ok(Heard::Request(Box::new(TaskRequest {
            dedupe_key: self.key(&dedupe, body),
            source: Source::Hook { name: self.name.clone() },
            actor: Actor { login: format!("hook {}", self.name), id: None },
            repo,
            base: None,
            agent: None,
            instruction: Instruction {
                title: title.chars().take(MAX_TITLE_CHARS).collect(),
                body: cut(prompt),
                trusted: false,
                about: cut(about),
            },
            deliver: Deliver::PullRequest,
            resources: Resources::default(),
            revises: None,
            work: Work::Change,
            discussed_until: None,
        })))
    }

    /// What makes the same thing the same request: what the definition says; where it says nothing, the whole body.
    fn key(&self, dedupe: &str, body: &Value) -> DedupeKey {
        let plain = format!("hook:{}:{dedupe}", self.name);
        let digest = |text: &str| format!("hook:{}:{}", self.name, hex::encode(Sha256::digest(text)));
        let key = match dedupe {
            "" => digest(&body.to_string()).parse(),
            _ => plain.parse().or_else(|_| digest(dedupe).parse()),
        };
        key.unwrap_or_else(|_| unreachable!("a short name and a digest are a key"))
    }
}

/// Every configured hook, as the door takes them.
///
/// # Errors
/// E006 for a definition that cannot be used, E008 for a hook without a secret.
pub fn hooks(config: &Config, clock: &Clock) -> Result<BTreeMap<String, Hook>, Failure> {
    let made = config.hooks.iter().map(|(name, hook)| {
        let listener = Listener::new(name, hook)?;
        let mut secrets = Vec::new();
        for secret in &hook.secrets {
            secrets.push(secret.require(&format!("hooks.{name}.secrets"))?);
        }
        let secrets = Secrets::new(secrets).map_err(|error| {
            Failure::new(Code::MissingSecret, format!("hooks.{name}.secrets cannot be used: {error}"))
                .next("A hook without a secret would take tasks from anybody: set one that the sender knows too.")
        })?;
        let verify = listener.verify().clone();
        let reader = Arc::new(move |sent: &Sent| {
            Ok(match listener.hear(&sent.headers, &sent.body)? {
                Heard::Request(request) => Wish::Request(request),
                Heard::Nothing => Wish::Ignored("it asks for nothing".to_owned()),
                Heard::NoRepository { named } => {
                    let named: String = named.chars().take(100).collect();
                    Wish::Ignored(format!("no route of this hook leads to a repository ({named:?})"))
                }
            })
        });
        Ok((name.clone(), Hook { verify, secrets, reader, clock: clock.clone() }))
    });
    made.collect()
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listener(name: &str, routes: &[(&str, &str)], repositories: &[&str]) -> Listener {
        let routes = routes.iter().map(|(name, repo)| ((*name).to_owned(), repo.parse().unwrap())).collect();
        let repositories = repositories.iter().map(|pattern| (*pattern).to_owned()).collect();
        Listener::new(name, &config::Hook { routes, repositories, ..config::Hook::default() }).unwrap()
    }

    fn request(listener: &Listener, headers: &[(&str, &str)], body: &Value) -> TaskRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        match listener.hear(&headers, body).unwrap() {
            Heard::Request(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    /// As the senders document their payloads, cut down.
    #[test]
    fn each_ready_definition_reads_what_its_sender_sends() {
        let sentry = json!({"action": "created", "data": {"issue": {
            "id": "1170820242", "shortId": "WEB-1", "title": "ReferenceError: heck is not defined", "level": "error",
            "culprit": "?(<anonymous>)", "platform": "javascript", "firstSeen": "2019-08-19T20:58:37.391000Z",
            "metadata": {"type": "ReferenceError", "value": "heck is not defined"},
            "project": {"id": "1", "name": "Web", "slug": "web"}, "web_url": "https://sentry.io/organizations/acme/issues/1/",
        }}});
        let linear = json!({"action": "update", "type": "Issue", "url": "https://linear.app/acme/issue/WEB-7", "data": {
            "id": "2174add1", "identifier": "WEB-7", "title": "The pager drops a row", "description": "It is the last one.",
            "team": {"id": "1", "key": "WEB"}, "labels": [{"id": "1", "name": "Bug"}, {"id": "2", "name": "Onramp"}],
        }});
        let jira = json!({"webhookEvent": "jira:issue_updated", "issue": {
            "id": "10002", "key": "WEB-9", "self": "https://acme.atlassian.net/rest/api/2/issue/10002",
            "fields": {"summary": "The pager drops a row", "description": null, "labels": ["onramp"], "project": {"key": "WEB"}},
        }});
        let pagerduty = json!({"event": {"id": "01", "event_type": "incident.triggered", "data": {
            "id": "PGR0VU2", "title": "A little bump in the road", "urgency": "high", "created_at": "2020-10-02T18:45:22Z",
            "html_url": "https://acme.pagerduty.com/incidents/PGR0VU2", "service": {"id": "PF9KMXH", "summary": "API Service"},
        }}});
        let alertmanager = json!({"version": "4", "groupKey": "{}:{alertname=\"Slow\"}", "status": "firing",
            "commonLabels": {"alertname": "Slow", "service": "web"}, "commonAnnotations": {}, "externalURL": "http://am:9093",
            "alerts": [{"status": "firing", "labels": {"alertname": "Slow"}, "annotations": {"summary": "p99 is 3 s"},
                "startsAt": "2026-01-02T03:04:05Z"}],
        });
        let generic = json!({"repository": "acme/web", "title": "Fix the pager", "prompt": "It drops the last row."});
        for (name, route, headers, body, title, key, said) in [
            (
                "sentry",
                "web",
                vec![("sentry-hook-resource", "issue")],
                sentry,
                "ReferenceError: heck is not defined",
                "hook:sentry:1170820242",
                "value: heck is not defined",
            ),
            ("linear", "WEB", vec![], linear, "The pager drops a row", "hook:linear:2174add1", "It is the last one."),
            ("jira", "WEB", vec![], jira, "The pager drops a row", "hook:jira:10002", "WEB-9"),
            (
                "pagerduty",
                "PF9KMXH",
                vec![],
                pagerduty,
                "A little bump in the road",
                "hook:pagerduty:PGR0VU2",
                "API Service",
            ),
            ("alertmanager", "web", vec![], alertmanager, "Slow", "hook:alertmanager:cdb6f9cbb0d5d3b4", "p99 is 3 s"),
            ("generic", "", vec![("webhook-id", "msg_1")], generic, "Fix the pager", "hook:generic:msg_1", "last row"),
        ] {
            let listener = listener(name, &[(route, "acme/web")], &["acme/*"]);
            let request = request(&listener, &headers, &body);
            assert_eq!((request.repo.as_str(), request.instruction.title.as_str()), ("acme/web", title), "{name}");
            if name == "alertmanager" {
                assert_eq!(request.dedupe_key.as_str().len(), "hook:alertmanager:".len() + 64, "it has spaces in it");
            } else {
                assert_eq!(request.dedupe_key.as_str(), key);
            }
            let Instruction { body, about, trusted, .. } = &request.instruction;
            assert!(body.contains(said) || about.contains(said), "{name}: {body}\n{about}");
            assert!(!trusted && request.actor.id.is_none() && request.opens_pull_request());
        }
        assert_eq!(TRIGGERS.len(), 6, "each of them is tried above");
    }

    #[test]
    fn what_does_not_ask_or_leads_nowhere_makes_no_request() {
        let body = |level: &str, project: &str| json!({"action": "created", "data": {"issue": {"id": "1", "title": "x", "level": level, "project": {"slug": project}}}});
        let listener = listener("sentry", &[("web", "acme/web")], &[]);
        let headers = BTreeMap::from([("sentry-hook-resource".to_owned(), "issue".to_owned())]);
        assert!(matches!(listener.hear(&headers, &body("info", "web")), Ok(Heard::Nothing)));
        assert!(matches!(listener.hear(&BTreeMap::new(), &body("error", "web")), Ok(Heard::Nothing)));
        assert!(matches!(listener.hear(&headers, &json!([1, 2])), Ok(Heard::Nothing)));
        let elsewhere = listener.hear(&headers, &body("error", "api")).unwrap();
        assert!(matches!(elsewhere, Heard::NoRepository { named } if named.is_empty()));

        let generic = super::tests::listener("generic", &[], &["acme/*"]);
        let foreign = generic.hear(&BTreeMap::new(), &json!({"repository": "evil/web", "title": "x"})).unwrap();
        assert!(matches!(foreign, Heard::NoRepository { named } if named == "evil/web"));
    }

    #[test]
    fn a_hook_that_cannot_be_used_is_named() {
        let new = |name: &str, hook: config::Hook| Listener::new(name, &hook).unwrap_err().message;
        assert!(new("github", config::Hook::default()).contains("not `github`"));
        assert!(new("nagios", config::Hook::default()).contains("there is no trigger \"nagios\""));
        let file = config::Hook { file: "/nowhere/x.toml".into(), ..config::Hook::default() };
        assert!(new("mine", file).contains("hooks.mine: the file /nowhere/x.toml cannot be read"));
    }
}
