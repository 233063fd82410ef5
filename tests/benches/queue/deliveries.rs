//! Deliveries as GitHub sends them when an issue gets a label: the whole payload, of which most is of no use to anybody.
//!
//! All have the same length, so that they are made from one template while they are sent; they are signed before.

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tests::{
    delivery::{PATH, WEBHOOK_SECRET},
    onramp::LABEL,
};

const ISSUE: &str = "@issue@";
const PERSON: &str = "@person@";
/// Stand for the numbers, in a payload where numbers have to be numbers.
const ISSUE_NUMBER: u64 = 987_654_321;
const PERSON_NUMBER: u64 = 876_543_210;
/// Numbers from here on have the same length for long.
const FIRST: u64 = 100_000_000;
/// One person asks so many times: fewer than may wait.
const PER_PERSON: u64 = 20;

/// So many deliveries, each about an issue of its own.
pub(crate) struct Deliveries {
    template: Vec<(String, Field)>,
    signatures: Vec<String>,
    body_len: usize,
}

#[derive(Clone, Copy)]
enum Field {
    Issue,
    Person,
    End,
}

impl Deliveries {
    pub(crate) fn new(n: usize) -> Self {
        let mut deliveries = Self { template: template(), signatures: Vec::with_capacity(n), body_len: 0 };
        let mut body = Vec::new();
        deliveries.body(&mut body, 0);
        deliveries.body_len = body.len();
        for index in 0..n {
            body.clear();
            deliveries.body(&mut body, index);
            assert_eq!(body.len(), deliveries.body_len, "all have the same length");
            let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes()).expect("any key will do");
            mac.update(&body);
            deliveries.signatures.push(hex::encode(mac.finalize().into_bytes()));
        }
        deliveries
    }

    pub(crate) fn len(&self) -> usize {
        self.signatures.len()
    }

    pub(crate) fn body_len(&self) -> usize {
        self.body_len
    }

    /// The n-th one as an HTTP request.
    pub(crate) fn request(&self, out: &mut Vec<u8>, n: usize) {
        out.clear();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: onramp.example.org\r\nuser-agent: GitHub-Hookshot/044aadd\r\naccept: */*\r\n\
             content-type: application/json\r\nx-github-event: issues\r\n\
             x-github-delivery: 72d3162e-cc78-11e3-81ab-{n:012}\r\nx-github-hook-id: 292430182\r\n\
             x-hub-signature-256: sha256={}\r\ncontent-length: {}\r\n\r\n",
            self.signatures[n], self.body_len
        );
        out.extend_from_slice(head.as_bytes());
        self.body(out, n);
    }

    fn body(&self, out: &mut Vec<u8>, n: usize) {
        let (issue, person) = (FIRST + n as u64, FIRST + n as u64 / PER_PERSON);
        for (text, field) in &self.template {
            out.extend_from_slice(text.as_bytes());
            match field {
                Field::Issue => out.extend_from_slice(issue.to_string().as_bytes()),
                Field::Person => out.extend_from_slice(person.to_string().as_bytes()),
                Field::End => {}
            }
        }
    }
}

fn template() -> Vec<(String, Field)> {
    let text = payload().to_string();
    let text = text.replace(&ISSUE_NUMBER.to_string(), ISSUE).replace(&PERSON_NUMBER.to_string(), PERSON);
    let mut rest = text.as_str();
    let mut parts = Vec::new();
    while let Some(at) = rest.find('@') {
        let field =
            [(ISSUE, Field::Issue), (PERSON, Field::Person)].into_iter().find(|(mark, _)| rest[at..].starts_with(mark));
        let (mark, field) = field.expect("no other @ stands in it");
        parts.push((rest[..at].to_owned(), field));
        rest = &rest[at + mark.len()..];
    }
    parts.push((rest.to_owned(), Field::End));
    parts
}

fn payload() -> Value {
    let body = crate::store::request(0).instruction.body;
    let url = format!("https://api.github.com/repos/acme/web/issues/{ISSUE_NUMBER}");
    let mut issue = urls(&url, &["labels_url", "comments_url", "events_url", "timeline_url", "html_url"]);
    merge(
        &mut issue,
        json!({
            "url": url, "repository_url": "https://api.github.com/repos/acme/web", "id": ISSUE_NUMBER,
            "node_id": "I_kwDOABCDEF5xxxxx", "number": ISSUE_NUMBER, "title": "The language of the page does not change",
            "user": person(), "labels": [label()], "state": "open", "locked": false, "assignee": null, "assignees": [],
            "milestone": null, "comments": 0, "created_at": "2026-09-21T14:13:20Z", "updated_at": "2026-09-21T14:13:21Z",
            "closed_at": null, "author_association": "MEMBER", "active_lock_reason": null, "body": body,
            "reactions": {"url": format!("{url}/reactions"), "total_count": 0, "+1": 0, "-1": 0, "laugh": 0, "hooray": 0},
            "performed_via_github_app": null, "state_reason": null,
        }),
    );
    let keys = [
        "html_url",
        "url",
        "forks_url",
        "keys_url",
        "collaborators_url",
        "teams_url",
        "hooks_url",
        "issue_events_url",
        "events_url",
        "assignees_url",
        "branches_url",
        "tags_url",
        "blobs_url",
        "git_tags_url",
        "git_refs_url",
        "trees_url",
        "statuses_url",
        "languages_url",
        "stargazers_url",
        "contributors_url",
        "subscribers_url",
        "subscription_url",
        "commits_url",
        "git_commits_url",
        "comments_url",
        "issue_comment_url",
        "contents_url",
        "compare_url",
        "merges_url",
        "archive_url",
        "downloads_url",
        "issues_url",
        "pulls_url",
        "milestones_url",
        "notifications_url",
        "labels_url",
        "releases_url",
        "deployments_url",
        "git_url",
        "ssh_url",
        "clone_url",
        "svn_url",
    ];
    let mut repository = urls("https://api.github.com/repos/acme/web", &keys);
    merge(
        &mut repository,
        json!({
            "id": 35_129_377, "node_id": "MDEwOlJlcG9zaXRvcnkzNTEyOTM3Nw==", "name": "web", "full_name": "acme/web",
            "private": true, "owner": person(), "description": "The web application", "fork": false, "size": 48_211,
            "stargazers_count": 0, "language": "Rust", "has_issues": true, "archived": false, "open_issues_count": 212,
            "topics": [], "visibility": "private", "default_branch": "main",
        }),
    );
    let organization = urls("https://api.github.com/orgs/acme", &["url", "repos_url", "events_url", "members_url"]);
    json!({
        "action": "labeled", "issue": issue, "label": label(), "repository": repository, "organization": organization,
        "sender": person(), "installation": {"id": 2_311_213, "node_id": "MDIzOkludGVncmF0aW9u"},
    })
}

fn label() -> Value {
    let url = format!("https://api.github.com/repos/acme/web/labels/{LABEL}");
    json!({"id": 208_045_946, "node_id": "MDU6TGFiZWwyMDgwNDU5NDY=", "url": url, "name": LABEL, "color": "f29513",
        "default": false, "description": "To be done by an agent"})
}

fn person() -> Value {
    let keys = [
        "url",
        "html_url",
        "followers_url",
        "following_url",
        "gists_url",
        "starred_url",
        "subscriptions_url",
        "organizations_url",
        "repos_url",
        "events_url",
        "received_events_url",
    ];
    let login = format!("person-{PERSON_NUMBER}");
    let mut person = urls(&format!("https://api.github.com/users/{login}"), &keys);
    merge(
        &mut person,
        json!({"login": login, "id": PERSON_NUMBER, "node_id": "MDQ6VXNlcjIxMDMxMDY3", "type": "User",
        "site_admin": false, "gravatar_id": ""}),
    );
    person
}

fn urls(base: &str, keys: &[&str]) -> Value {
    keys.iter()
        .map(|key| ((*key).to_owned(), Value::from(format!("{base}/{}", key.trim_end_matches("_url")))))
        .collect()
}

fn merge(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}
