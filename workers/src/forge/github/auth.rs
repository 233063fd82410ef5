//! Who Onramp is to GitHub: a personal token, or an app whose tokens are each good for one repository and four rights.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, Instant},
};

use octocrab::{auth::AppAuth, models::AppId};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use tasks::{Code, Failure, RepoName, Timestamp};
use tokio::sync::Mutex;

use super::{
    Repository,
    account::Account,
    api::{Api, Bearer, LazyApi, Line, pages},
    errors::Trouble,
    key::app_key,
    setup::Installed,
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
        /// Its private key, PKCS#1 or PKCS#8: PEM with real or `\n`-escaped line ends, or base64 of PEM or DER.
        key: SecretString,
    },
}

/// Credentials that were looked at and can be used.
pub(super) enum Access {
    Token { token: SecretString, api: LazyApi, account: Arc<Account> },
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

/// What a token is for, and so what it may do. Each is good for one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The program between tasks: it reads, comments and reacts, but pushes nothing.
    Standing,
    /// One task: it pushes a branch and opens a pull request.
    Task,
}

impl Role {
    /// By name, and whether an app may do without: older set-ups of it know nothing of such a right.
    fn permissions(self) -> &'static [(&'static str, &'static str, bool)] {
        match self {
            Self::Standing => &[
                ("contents", "read", false),
                ("issues", "write", false),
                ("pull_requests", "write", false),
                ("metadata", "read", false),
                ("checks", "write", true),
            ],
            Self::Task => &[
                ("contents", "write", false),
                ("pull_requests", "write", false),
                ("metadata", "read", false),
                ("checks", "write", true),
            ],
        }
    }
}

/// The tokens that were made for one purpose, by repository.
pub(super) struct Purse {
    role: Role,
    /// Held while a token is made, so that two who work on one repository make one.
    minted: Mutex<HashMap<RepoName, Minted>>,
}

struct Minted {
    pass: Pass,
    usable_until: Instant,
}

impl Purse {
    pub(super) fn new(role: Role) -> Self {
        Self { role, minted: Mutex::default() }
    }

    /// Takes back every token that was made, so that nothing can be done with what somebody may have seen of them.
    pub(super) async fn revoke(&self) {
        for (repo, minted) in self.minted.lock().await.drain() {
            if let Err(trouble) = minted.pass.api.delete("/installation/token").await {
                tracing::warn!(%repo, ?trouble, "a token could not be taken back; it ends by itself within the hour");
            }
        }
    }
}

impl Access {
    /// # Errors
    /// E008 for a missing, E050 for a wrong secret, which is named.
    pub(super) fn new(credentials: Credentials, line: &Line) -> Result<Self, Failure> {
        match credentials {
            Credentials::Token(token) => {
                let account = Arc::new(Account::new(line.write_pause));
                Ok(Self::Token { token: usable_token(&token)?, api: LazyApi::default(), account })
            }
            Credentials::App { id, key } => {
                let auth = AppAuth { app_id: AppId(id), key: app_key(&key)? };
                let (places, accounts) = (StdMutex::default(), StdMutex::default());
                Ok(Self::App(Box::new(App {
                    auth,
                    api: LazyApi::default(),
                    places,
                    looking: Mutex::default(),
                    accounts,
                })))
            }
        }
    }

    /// What may be used for `repo` now, out of `purse` or put into it.
    pub(super) async fn pass(&self, line: &Line, purse: &Purse, repo: &RepoName) -> Result<Pass, Failure> {
        match self {
            Self::Token { token, .. } => Ok(Pass { api: self.itself(line)?, token: token.clone() }),
            Self::App(app) => app.pass(line, purse, repo).await,
        }
    }

    /// Whether tokens are made, and so can be taken back.
    pub(super) fn mints(&self) -> bool {
        matches!(self, Self::App(_))
    }

    /// As the owner of the token, or as the app.
    pub(super) fn itself(&self, line: &Line) -> Result<Arc<Api>, Failure> {
        match self {
            Self::Token { token, api, account } => {
                api.get_or_make(|| Api::new(line, Bearer::Token(token.clone()), account.clone()))
            }
            Self::App(app) => app.itself(line),
        }
    }

    /// Who this is.
    pub(super) async fn own(&self, line: &Line) -> Result<Own, Failure> {
        #[derive(Deserialize)]
        struct User {
            id: u64,
        }
        #[derive(Deserialize)]
        struct Itself {
            id: u64,
            slug: String,
        }
        let itself = self.itself(line)?;
        let asked = match self {
            Self::Token { .. } => itself.get::<User>("/user").await.map(|answer| Own::User { id: answer.value.id }),
            Self::App(_) => {
                let own = itself.get::<Itself>("/app").await;
                own.map(|answer| Own::App { id: answer.value.id, bot: format!("{}[bot]", answer.value.slug) })
            }
        };
        match asked {
            Ok(own) => Ok(own),
            Err(Trouble::Refused(refusal)) if refusal.status != 401 => Ok(Own::Unknown),
            Err(trouble) => Err(trouble.failure("tell who Onramp is", Code::ForgeAuth)),
        }
    }

    /// Where this app was installed; `None` where that cannot be asked.
    pub(super) async fn installed(&self, line: &Line) -> Result<Option<Vec<Installed>>, Failure> {
        let Self::App(app) = self else { return Ok(None) };
        app.installed(line).await.map(Some)
    }
}

/// A GitHub App.
pub(super) struct App {
    auth: AppAuth,
    /// As the app itself, which may do little more than make tokens.
    api: LazyApi,
    places: StdMutex<HashMap<RepoName, Place>>,
    /// Held while a place is looked for, so that two who need it look once.
    looking: Mutex<()>,
    /// By installation.
    accounts: StdMutex<HashMap<u64, Arc<Account>>>,
}

/// Where a repository is to an app.
#[derive(Clone, PartialEq)]
struct Place {
    installation: Installation,
    /// The number of the repository, which no rename changes.
    repository: u64,
}

#[derive(Clone, PartialEq, Deserialize)]
struct Installation {
    id: u64,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
    /// Whose repositories.
    account: Option<Owner>,
    suspended_at: Option<String>,
}

#[derive(Clone, PartialEq, Deserialize)]
struct Owner {
    login: String,
}

#[derive(Deserialize)]
struct InstallationToken {
    token: SecretString,
    expires_at: Timestamp,
}

impl App {
    fn itself(&self, line: &Line) -> Result<Arc<Api>, Failure> {
        self.api.get_or_make(|| Api::new(line, Bearer::App(self.auth.clone()), Arc::default()))
    }

    fn account(&self, installation: u64, line: &Line) -> Arc<Account> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(installation).or_insert_with(|| Arc::new(Account::new(line.write_pause))).clone()
    }

    async fn pass(&self, line: &Line, purse: &Purse, repo: &RepoName) -> Result<Pass, Failure> {
        let mut minted = purse.minted.lock().await;
        let usable = |known: &&Minted| Instant::now() < known.usable_until && !known.pass.api.refused();
        if let Some(known) = minted.get(repo).filter(usable) {
            return Ok(known.pass.clone());
        }
        let known = self.places().get(repo).cloned();
        let made = match &known {
            Some(place) => self.mint_for(line, place, purse.role, repo).await.ok(),
            None => None,
        };
        let (pass, usable_for) = match made {
            Some(made) => made,
            // Nobody looked yet; or the app was taken off and installed anew since somebody did.
            None => self.mint_for(line, &self.find(line, repo, known.as_ref()).await?, purse.role, repo).await?,
        };
        minted.insert(repo.clone(), Minted { pass: pass.clone(), usable_until: Instant::now() + usable_for });
        Ok(pass)
    }

    async fn mint_for(
        &self,
        line: &Line,
        place: &Place,
        role: Role,
        repo: &RepoName,
    ) -> Result<(Pass, Duration), Failure> {
        let has = |name: &str| place.installation.permissions.contains_key(name);
        let granted = role.permissions().iter().filter(|(name, _, optional)| !optional || has(name));
        let permissions: BTreeMap<_, _> = granted.map(|(name, level, _)| (name, level)).collect();
        let wanted = json!({"repository_ids": [place.repository], "permissions": permissions});
        let (token, usable_for) = mint(&*self.itself(line)?, place.installation.id, &wanted, repo.as_str()).await?;
        let account = self.account(place.installation.id, line);
        let api = Arc::new(Api::new(line, Bearer::Token(token.clone()), account)?);
        Ok((Pass { api, token }, usable_for))
    }

    /// Finds where a repository is, and notes it. Not at `wrong`.
    async fn find(&self, line: &Line, repo: &RepoName, wrong: Option<&Place>) -> Result<Place, Failure> {
        let _alone = self.looking.lock().await;
        let found_meanwhile = self.places().get(repo).filter(|place| Some(*place) != wrong).cloned();
        if let Some(place) = found_meanwhile {
            return Ok(place);
        }
        let itself = self.itself(line)?;
        let installation = installation(&itself, repo).await?;
        // The app itself may not ask for the number: a token that can read nothing but the metadata of this one
        // repository asks.
        let wanted = json!({"repositories": [repo.name()], "permissions": {"metadata": "read"}});
        let (token, _) = mint(&itself, installation.id, &wanted, repo.as_str()).await?;
        let api = Api::new(line, Bearer::Token(token), self.account(installation.id, line))?;
        let repository = Repository::fetch(&api, repo).await?.id;
        let _ended = api.delete("/installation/token").await;
        let place = Place { installation, repository };
        self.places().insert(repo.clone(), place.clone());
        Ok(place)
    }

    /// Every installation with its repositories; one that its owner suspended has none.
    async fn installed(&self, line: &Line) -> Result<Vec<Installed>, Failure> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            full_name: RepoName,
        }
        let failure = |trouble: Trouble| trouble.failure("list the app's repositories", Code::ForgeAuth);
        let itself = self.itself(line)?;
        let installations = pages::<Installation, _>(&itself, "/app/installations", |page| page).await;
        let mut found = Vec::new();
        for installation in installations.map_err(failure)? {
            let Installation { id, account, suspended_at, .. } = installation;
            let mut installed = Installed {
                account: account.map(|account| account.login).unwrap_or_default(),
                is_suspended: suspended_at.is_some(),
                repositories: Vec::new(),
            };
            if !installed.is_suspended {
                let everything = json!({"permissions": {"metadata": "read"}});
                let (token, _) = mint(&itself, id, &everything, "listing repositories").await?;
                let api = Api::new(line, Bearer::Token(token), self.account(id, line))?;
                let listed = pages(&api, "/installation/repositories", |page: Page| page.repositories).await;
                installed.repositories = listed.map_err(failure)?.into_iter().map(|named| named.full_name).collect();
                let _ended = api.delete("/installation/token").await;
            }
            found.push(installed);
        }
        Ok(found)
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<RepoName, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn installation(itself: &Api, repo: &RepoName) -> Result<Installation, Failure> {
    match itself.get::<Installation>(&format!("/repos/{repo}/installation")).await {
        Ok(answer) => Ok(answer.value),
        Err(trouble) if trouble.is_missing() => Err(Failure::new(
            Code::RepositoryNotFound,
            format!("The app is not installed on {repo}, or there is no such repository"),
        )
        .next("Install the app on the repository, or check the spelling of owner/name.")),
        Err(trouble) => Err(trouble.failure(&format!("find the app's installation on {repo}"), Code::ForgeAuth)),
    }
}

/// Makes a token. Making two is no different from making one: both end within the hour.
async fn mint(
    itself: &Api,
    installation: u64,
    wanted: &serde_json::Value,
    what_for: &str,
) -> Result<(SecretString, Duration), Failure> {
    let route = format!("/app/installations/{installation}/access_tokens");
    let answer = itself.post_repeatable::<InstallationToken>(&route, wanted).await.map_err(|trouble| {
        let failure = trouble.failure(&format!("make a token for {what_for}"), Code::PermissionDenied);
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
