//! Who Onramp is to GitHub: a personal token, or an app whose tokens are each good for one repository and four rights.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use octocrab::{EncodingKey, auth::AppAuth, models::AppId};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use tasks::{Code, Failure, RepoName, Timestamp};
use tokio::sync::Mutex;

use super::{
    Repository,
    api::{Api, Bearer, LazyApi},
    errors::Trouble,
};

/// A token is not used any more when it is about to expire: a push has to end with the token that it began with.
const TOKEN_RESERVE: Duration = Duration::from_secs(300);

/// How Onramp identifies itself.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A personal access token, classic or fine-grained.
    Token(SecretString),
    /// A GitHub App.
    App {
        /// The app's id.
        id: u64,
        /// Its private key: PEM (PKCS#1 or PKCS#8) with real or `\n`-escaped line ends, or base64 of that PEM.
        key: SecretString,
    },
}

/// Credentials that were looked at and can be used.
pub(super) enum Access {
    Token { token: SecretString, api: LazyApi },
    App(Box<App>),
}

/// Credentials that are good for one repository.
#[derive(Clone)]
pub(super) struct Pass {
    pub(super) api: Arc<Api>,
    pub(super) token: SecretString,
}

/// Onramp's own account, by which its comments are told from those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Own {
    User {
        id: u64,
    },
    App {
        id: u64,
        bot: String,
    },
    /// These credentials may not ask who they are.
    Unknown,
}

impl Access {
    /// # Errors
    /// E008 for a missing, E050 for a wrong secret, which is named.
    pub(super) fn new(credentials: Credentials) -> Result<Self, Failure> {
        match credentials {
            Credentials::Token(token) => Ok(Self::Token { token: usable_token(&token)?, api: LazyApi::default() }),
            Credentials::App { id, key } => {
                let auth = AppAuth { app_id: AppId(id), key: app_key(&key)? };
                Ok(Self::App(Box::new(App { auth, api: LazyApi::default(), minted: Mutex::default() })))
            }
        }
    }

    /// What may be used for `repo` now.
    pub(super) async fn pass(&self, api_url: &str, timeout: Duration, repo: &RepoName) -> Result<Pass, Failure> {
        match self {
            Self::Token { token, api } => {
                let api = api.get_or_make(|| Api::new(api_url, Bearer::Token(token.clone()), timeout))?;
                Ok(Pass { api, token: token.clone() })
            }
            Self::App(app) => app.pass(api_url, timeout, repo).await,
        }
    }

    /// Who this is.
    pub(super) async fn own(&self, api_url: &str, timeout: Duration) -> Result<Own, Failure> {
        #[derive(Deserialize)]
        struct User {
            id: u64,
        }
        #[derive(Deserialize)]
        struct Itself {
            id: u64,
            slug: String,
        }
        let asked = match self {
            Self::Token { token, api } => {
                let api = api.get_or_make(|| Api::new(api_url, Bearer::Token(token.clone()), timeout))?;
                api.get::<User>("/user").await.map(|answer| Own::User { id: answer.value.id })
            }
            Self::App(app) => app
                .itself(api_url, timeout)?
                .get::<Itself>("/app")
                .await
                .map(|answer| Own::App { id: answer.value.id, bot: format!("{}[bot]", answer.value.slug) }),
        };
        match asked {
            Ok(own) => Ok(own),
            Err(Trouble::Refused(refusal)) if refusal.status != 401 => Ok(Own::Unknown),
            Err(trouble) => Err(trouble.failure("tell who Onramp is", Code::ForgeAuth)),
        }
    }
}

/// A GitHub App.
pub(super) struct App {
    auth: AppAuth,
    /// As the app itself, which may do little more than make tokens.
    api: LazyApi,
    /// Held while a token is made, so that two tasks on one repository make one.
    minted: Mutex<HashMap<RepoName, Minted>>,
}

struct Minted {
    pass: Pass,
    repository: u64,
    usable_until: Instant,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
}

#[derive(Deserialize)]
struct InstallationToken {
    token: SecretString,
    expires_at: Timestamp,
}

impl App {
    fn itself(&self, api_url: &str, timeout: Duration) -> Result<Arc<Api>, Failure> {
        self.api.get_or_make(|| Api::new(api_url, Bearer::App(self.auth.clone()), timeout))
    }

    async fn pass(&self, api_url: &str, timeout: Duration, repo: &RepoName) -> Result<Pass, Failure> {
        let mut minted = self.minted.lock().await;
        let known = minted.get(repo);
        if let Some(known) = known.filter(|known| Instant::now() < known.usable_until && !known.pass.api.refused()) {
            return Ok(known.pass.clone());
        }
        let known = known.map(|known| known.repository);
        let itself = self.itself(api_url, timeout)?;
        let installation = installation(&itself, repo).await?;
        let repository = match known {
            Some(id) => id,
            None => repository_id(&itself, installation, api_url, timeout, repo).await?,
        };
        let wanted = json!({
            "repository_ids": [repository],
            "permissions": {"contents": "write", "pull_requests": "write", "issues": "write", "metadata": "read"},
        });
        let (token, usable_for) = mint(&itself, installation, &wanted, repo).await?;
        let api = Arc::new(Api::new(api_url, Bearer::Token(token.clone()), timeout)?);
        let pass = Pass { api, token };
        let usable_until = Instant::now() + usable_for;
        minted.insert(repo.clone(), Minted { pass: pass.clone(), repository, usable_until });
        Ok(pass)
    }
}

async fn installation(itself: &Api, repo: &RepoName) -> Result<u64, Failure> {
    match itself.get::<Installation>(&format!("/repos/{repo}/installation")).await {
        Ok(answer) => Ok(answer.value.id),
        Err(trouble) if trouble.is_missing() => Err(Failure::new(
            Code::RepositoryNotFound,
            format!("The app is not installed on {repo}, or there is no such repository"),
        )
        .next("Install the app on the repository, or check the spelling of owner/name.")),
        Err(trouble) => Err(trouble.failure(&format!("find the app's installation on {repo}"), Code::ForgeAuth)),
    }
}

/// The number of a repository, which no rename changes. The app itself may not ask for it: a token that can read nothing
/// but the metadata of this one repository asks.
async fn repository_id(
    itself: &Api,
    installation: u64,
    api_url: &str,
    timeout: Duration,
    repo: &RepoName,
) -> Result<u64, Failure> {
    let wanted = json!({"repositories": [repo.name()], "permissions": {"metadata": "read"}});
    let (token, _) = mint(itself, installation, &wanted, repo).await?;
    let api = Api::new(api_url, Bearer::Token(token), timeout)?;
    Repository::fetch(&api, repo).await.map(|repository| repository.id)
}

/// Makes a token. Making two is no different from making one: both end within the hour.
async fn mint(
    itself: &Api,
    installation: u64,
    wanted: &serde_json::Value,
    repo: &RepoName,
) -> Result<(SecretString, Duration), Failure> {
    let route = format!("/app/installations/{installation}/access_tokens");
    let answer = itself.post_repeatable::<InstallationToken>(&route, wanted).await.map_err(|trouble| {
        let failure = trouble.failure(&format!("make a token for {repo}"), Code::PermissionDenied);
        match failure.code {
            Code::PermissionDenied => failure.next(
                "Give the app read and write access to contents, issues and pull requests, and accept the change on the \
                 installation.",
            ),
            _ => failure,
        }
    })?;
    let left = (answer.value.expires_at - answer.at).to_std().unwrap_or_default();
    Ok((answer.value.token, left.saturating_sub(TOKEN_RESERVE)))
}

/// A token without the white space that pasting brings.
fn usable_token(token: &SecretString) -> Result<SecretString, Failure> {
    let token = token.expose_secret().trim();
    if token.is_empty() {
        return Err(Failure::new(Code::MissingSecret, "The GitHub token is empty"));
    }
    let wrong =
        |what: &str| Err(Failure::new(Code::ForgeAuth, format!("What stands in place of the GitHub token is {what}")));
    match token {
        token if token.contains("-----BEGIN") => wrong("a key; configure it as the app's key"),
        token if !token.bytes().all(|b| b.is_ascii_graphic()) => {
            wrong("more than one word, or has characters that no token has")
        }
        token => Ok(token.to_owned().into()),
    }
}

/// The app's private key from whatever a person pasted.
fn app_key(pasted: &SecretString) -> Result<EncodingKey, Failure> {
    let pasted = pasted.expose_secret().trim().trim_matches(['"', '\'']).trim();
    if pasted.is_empty() {
        return Err(Failure::new(Code::MissingSecret, "The private key of the GitHub App is empty"));
    }
    let wrong = |what: &str| {
        Failure::new(Code::ForgeAuth, format!("What stands in place of the GitHub App's private key is {what}"))
            .next("Make a private key on the app's page under General, and give the whole downloaded .pem file.")
    };
    let pem = match pasted.contains("-----BEGIN") {
        true => pasted.replace("\\r", "").replace("\\n", "\n"),
        false => unwrapped(pasted).ok_or_else(|| wrong(what_it_is(pasted)))?,
    };
    let (label, body) = armoured(&pem).ok_or_else(|| wrong("cut off: its END line is missing"))?;
    match label {
        "RSA PRIVATE KEY" | "PRIVATE KEY" => {}
        "PUBLIC KEY" | "RSA PUBLIC KEY" => return Err(wrong("a public key")),
        "CERTIFICATE" => return Err(wrong("a certificate")),
        "OPENSSH PRIVATE KEY" => return Err(wrong("an SSH key")),
        "EC PRIVATE KEY" => return Err(wrong("a key for elliptic curves; GitHub's are RSA keys")),
        "ENCRYPTED PRIVATE KEY" => return Err(wrong("a key that is locked with a password")),
        _ => return Err(wrong("not a private key")),
    }
    let broken = || wrong("damaged: its lines are not a private RSA key");
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| broken())?;
    // The key is only read as one when something is signed with it.
    let probe = AppAuth { app_id: AppId(0), key: key.clone() };
    probe.generate_bearer_token().map_err(|_| broken())?;
    Ok(key)
}

/// The PEM in a base64 wrapping.
fn unwrapped(pasted: &str) -> Option<String> {
    let compact: String = pasted.split_whitespace().collect();
    let pem = String::from_utf8(STANDARD.decode(compact).ok()?).ok()?;
    pem.contains("-----BEGIN").then_some(pem)
}

/// Label and base64 of a PEM text, however its lines were broken.
fn armoured(pem: &str) -> Option<(&str, String)> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    Some((label, body.split_whitespace().collect()))
}

/// A guess at what was pasted, for the sentence that says so. Never quotes it.
fn what_it_is(pasted: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| pasted.starts_with(prefix));
    let is_hex = pasted.len() >= 20 && pasted.bytes().all(|b| b.is_ascii_hexdigit());
    match pasted {
        _ if starts(&["ghp_", "gho_", "ghu_", "ghs_", "github_pat_"]) => {
            "a token; configure it as the token, without an app id"
        }
        _ if starts(&["SHA256:"]) => "the fingerprint of a key",
        _ if starts(&["Iv1.", "Iv23"]) => "the app's client id",
        _ if starts(&["ssh-"]) => "a public SSH key",
        _ if is_hex => "the app's client secret or webhook secret",
        _ if pasted.len() < 300 && (pasted.ends_with(".pem") || starts(&["/", "~/", "./"])) => {
            "the path of a file, not its content"
        }
        _ => "no PEM text: it has no BEGIN line",
    }
}
