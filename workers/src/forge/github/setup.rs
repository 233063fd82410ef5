//! Making an app of one's own: what GitHub hands out for a manifest, and where the app was installed since.

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tasks::{Code, Failure, RepoName};

use super::{
    GitHubForge, TIMEOUT, WRITE_PAUSE,
    api::{Api, Bearer, Line},
    errors::Trouble,
    git_url_of, web_address,
};

/// What the door listens to.
const EVENTS: [&str; 7] =
    ["check_run", "check_suite", "issue_comment", "issues", "pull_request", "pull_request_review", "push"];

/// What GitHub made of a manifest. It hands out the secrets once.
#[derive(Debug)]
pub struct NewApp {
    /// The app's id.
    pub id: u64,
    /// The name that its owner gave it.
    pub name: String,
    /// Its page.
    pub url: String,
    /// Its private key, PEM.
    pub key: SecretString,
    /// What its deliveries are signed with, where it has a webhook.
    pub webhook_secret: Option<SecretString>,
}

/// An app as it sees itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AppItself {
    /// Its id.
    pub id: u64,
    /// The name that its owner gave it.
    pub name: String,
    /// Its page.
    #[serde(rename = "html_url")]
    pub url: String,
}

/// One place where an app was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Whose repositories.
    pub account: String,
    /// Its owner takes a break from it.
    pub is_suspended: bool,
    /// Those that were opened to the app.
    pub repositories: Vec<RepoName>,
}

/// Where people look, given the API: `https://github.com` for `https://api.github.com`.
///
/// # Errors
/// E006 for an address that is none.
pub fn web_url(api_url: &str) -> Result<String, Failure> {
    web_address(api_url, "the API").map(|url| git_url_of(&url))
}

/// Asks for the app that was made of a manifest. `code` is what GitHub sent the browser back with; it is good once, and for
/// an hour. So this is never repeated: where the answer is lost, the app is there and its key is not.
///
/// # Errors
/// E050 for a code that is no more good; E054 when GitHub gives no clear answer.
pub async fn app_of_manifest(api_url: &str, code: &str) -> Result<NewApp, Failure> {
    #[derive(Deserialize)]
    struct Made {
        id: u64,
        name: String,
        html_url: String,
        pem: SecretString,
        webhook_secret: Option<SecretString>,
    }
    let again = "Press the button again; an app that was made and is not used can be deleted on its page on GitHub.";
    if code.is_empty() || code.len() > 100 || !code.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
        return Err(Failure::new(Code::ForgeAuth, "What came back is not a code of GitHub").next(again));
    }
    let line = Line { api_url: web_address(api_url, "the API")?, timeout: TIMEOUT, write_pause: WRITE_PAUSE };
    let api = Api::new(&line, Bearer::Nobody, std::sync::Arc::default())?;
    let made = api.post::<Made>(&format!("/app-manifests/{code}/conversions"), &json!({})).await;
    let made = made.map_err(|trouble| match trouble {
        trouble if trouble.is_missing() => {
            Failure::new(Code::ForgeAuth, "GitHub does not know this code: it was used already, or an hour went by")
        }
        Trouble::Unclear(why) => {
            Failure::new(Code::ForgeUnavailable, "GitHub gave no clear answer, and hands out an app's key only once")
                .detail(why)
        }
        trouble => trouble.failure("hand out the new app's key", Code::ForgeAuth),
    });
    let Made { id, name, html_url: url, pem: key, webhook_secret } = made.map_err(|failure| failure.next(again))?;
    Ok(NewApp { id, name, url, key, webhook_secret })
}

impl GitHubForge {
    /// The app that these credentials are the key of.
    ///
    /// # Errors
    /// E050 when they are not an app's, or GitHub refuses them.
    pub async fn app(&self) -> Result<AppItself, Failure> {
        if !self.shared.access.mints() {
            return Err(Failure::new(Code::ForgeAuth, "The configured credentials are a token and not an app's key"));
        }
        let itself = self.shared.access.itself(&self.line)?;
        let answer = itself.get::<AppItself>("/app").await;
        Ok(answer.map_err(|trouble| trouble.failure("tell which app this is", Code::ForgeAuth))?.value)
    }

    /// Where the app was installed. Nothing for a token.
    ///
    /// # Errors
    /// E050, E051 and E054 with GitHub's reason.
    pub async fn installed(&self) -> Result<Vec<Installed>, Failure> {
        Ok(self.shared.access.installed(&self.line).await?.unwrap_or_default())
    }
}

/// What an app is to be.
#[derive(Debug)]
pub struct AppManifest<'a> {
    /// Its name, at most 34 characters.
    pub name: &'a str,
    /// An address for people, shown on its page.
    pub homepage: &'a str,
    /// Where GitHub sends the browser back to.
    pub redirect_url: &'a str,
    /// Where GitHub can deliver to. `None`: the webhook is switched off, and Onramp asks what happened.
    pub hook_url: Option<&'a str>,
    /// Whether it may change workflows, which most owners do not want of an agent.
    pub workflows: bool,
}

impl AppManifest<'_> {
    /// As GitHub reads it: a private app with the rights that Onramp uses and no more.
    pub fn json(&self) -> Value {
        let mut permissions = json!({
            "contents": "write", "pull_requests": "write", "issues": "write", "checks": "write", "metadata": "read",
        });
        if self.workflows {
            permissions["workflows"] = json!("write");
        }
        json!({
            "name": self.name,
            "url": self.homepage,
            "description": "Takes requests and opens pull requests that are verified.",
            "public": false,
            "redirect_url": self.redirect_url,
            // GitHub wants an address even for a webhook that is off.
            "hook_attributes": { "url": self.hook_url.unwrap_or(self.homepage), "active": self.hook_url.is_some() },
            "default_permissions": permissions,
            "default_events": EVENTS,
        })
    }
}
