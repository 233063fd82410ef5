//! Tokens of the API: who holds one, how far it reaches, and a digest to know it again by. The token itself is shown once
//! and kept nowhere.
//!
//! One small file in the data directory, for its user alone. It is read at each request, so that a revoked token is of no
//! use from that moment on, whoever revoked it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac as _};
use rustls::crypto::aws_lc_rs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tasks::{Code, Failure, RepoName, Timestamp};

use super::{Caller, Scope};

/// What every token begins with, so that scanners of secrets can know it.
const PREFIX: &str = "onramp_";
const ID_BYTES: usize = 5;
const SECRET_BYTES: usize = 32;

/// The tokens of one data directory.
#[derive(Debug, Clone)]
pub struct Tokens {
    path: PathBuf,
}

/// What is known about a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenInfo {
    /// The part of the token that is no secret.
    pub id: String,
    /// What it is called: who asks, on every surface.
    pub name: String,
    /// How far it reaches.
    pub scope: Scope,
    /// The only repository that it reaches; `null`: all.
    pub repo: Option<RepoName>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is of no use; `null`: never.
    pub expires_at: Option<Timestamp>,
}

/// A token that was just made.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Minted {
    /// What is known about it.
    #[serde(flatten)]
    pub info: TokenInfo,
    /// The token, told this once.
    pub token: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    info: TokenInfo,
    /// HMAC-SHA-256 keyed by the token, in hexadecimal.
    digest: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    v: u32,
    tokens: Vec<Kept>,
}

impl Tokens {
    /// Those of this data directory.
    pub fn of(data: &Path) -> Self {
        Self { path: data.join("tokens.json") }
    }

    /// Makes a token.
    ///
    /// # Errors
    /// E009 for a name that is taken or none, E062 when it cannot be kept.
    pub fn create(
        &self,
        name: &str,
        scope: Scope,
        repo: Option<RepoName>,
        (now, expires_at): (Timestamp, Option<Timestamp>),
    ) -> Result<Minted, Failure> {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if name.is_empty() || name.chars().count() > 60 || !name.chars().all(is_name) {
            return Err(Failure::new(Code::Usage, format!("{name:?} cannot be the name of a token"))
                .next("Use at most 60 letters, digits, dots, hyphens and underscores."));
        }
        self.change(|all| {
            if all.iter().any(|kept| kept.info.name == name) {
                return Err(Failure::new(Code::Usage, format!("There is a token called {name} already"))
                    .next("Give this one another name, or revoke that one first: `onramp token revoke`."));
            }
            let id = random(ID_BYTES)?;
            let token = format!("{PREFIX}{id}_{}", random(SECRET_BYTES)?);
            let info = TokenInfo { id, name: name.to_owned(), scope, repo, created_at: now, expires_at };
            let digest = hex::encode(keyed(&token).finalize().into_bytes());
            all.push(Kept { info: info.clone(), digest });
            Ok(Minted { info, token })
        })
    }

    /// What is known about each, oldest first.
    ///
    /// # Errors
    /// E062 when the file cannot be read.
    pub fn list(&self) -> Result<Vec<TokenInfo>, Failure> {
        Ok(self.read()?.into_iter().map(|kept| kept.info).collect())
    }

    /// Makes a token useless from now on.
    ///
    /// # Errors
    /// E009 when there is no token with this name or id, E062.
    pub fn revoke(&self, which: &str) -> Result<TokenInfo, Failure> {
        self.change(|all| {
            let at = all.iter().position(|kept| kept.info.name == which || kept.info.id == which);
            let at = at.ok_or_else(|| {
                Failure::new(Code::Usage, format!("There is no token with the name or id {which:?}"))
                    .next("`onramp token list` shows them.")
            })?;
            Ok(all.remove(at).info)
        })
    }

    /// Who holds this token.
    ///
    /// # Errors
    /// E092 when it is not one of ours, or out of date; E062.
    pub fn admit(&self, token: &str, now: Timestamp) -> Result<Caller, Failure> {
        let unknown = || Failure::new(Code::BadToken, "The token is unknown, revoked or out of date");
        let id = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).map(|(id, _)| id);
        let id = id.ok_or_else(unknown)?;
        let kept = self.read()?.into_iter().find(|kept| kept.info.id == id).ok_or_else(unknown)?;
        let digest = hex::decode(&kept.digest).map_err(Failure::internal)?;
        keyed(token).verify_slice(&digest).map_err(|_| unknown())?;
        kept.info.caller(now).ok_or_else(unknown)
    }

    /// Whoever showed the token with this id earlier, as long as it is still good.
    ///
    /// # Errors
    /// E092 when it is not; E062.
    pub fn still(&self, id: &str, now: Timestamp) -> Result<Caller, Failure> {
        let known = self.read()?.into_iter().find(|kept| kept.info.id == id);
        let unknown = || Failure::new(Code::BadToken, "The token of this login was revoked, or is out of date");
        known.and_then(|kept| kept.info.caller(now)).ok_or_else(unknown)
    }

    fn read(&self) -> Result<Vec<Kept>, Failure> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(|error| self.unusable(&error))?,
        };
        Ok(serde_json::from_slice::<Contents>(&text).map_err(|error| self.unusable(&error))?.tokens)
    }

    /// Reads, changes and writes the file, one process at a time; whoever reads meanwhile sees the old or the new one.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Kept>) -> Result<T, Failure>) -> Result<T, Failure> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let unusable = |error: io::Error| self.unusable(&error);
        fs::create_dir_all(dir).map_err(unusable)?;
        let lock = private(&self.path.with_extension("lock")).map_err(unusable)?;
        lock.lock().map_err(unusable)?;
        let mut tokens = self.read()?;
        let changed = change(&mut tokens)?;
        let text = serde_json::to_vec_pretty(&Contents { v: 1, tokens }).map_err(Failure::internal)?;
        let aside = self.path.with_extension("new");
        let mut file = private(&aside).map_err(unusable)?;
        file.set_len(0).and_then(|()| file.write_all(&text)).and_then(|()| file.sync_all()).map_err(unusable)?;
        fs::rename(&aside, &self.path).map_err(unusable)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(unusable)?;
        Ok(changed)
    }

    fn unusable(&self, error: &dyn std::fmt::Display) -> Failure {
        let message = format!("The tokens in {} cannot be used: {error}", self.path.display());
        Failure::new(Code::StoreUnavailable, message)
    }
}

impl TokenInfo {
    fn caller(self, now: Timestamp) -> Option<Caller> {
        let is_good = self.expires_at.is_none_or(|at| now < at);
        is_good.then_some(Caller { name: self.name, key: self.id, scope: self.scope, repo: self.repo })
    }
}

/// A file that only its user may read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

/// So many random bytes, in hexadecimal.
pub(crate) fn random(n_bytes: usize) -> Result<String, Failure> {
    let mut bytes = vec![0; n_bytes];
    let filled = aws_lc_rs::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::internal("there is no randomness"))?;
    Ok(hex::encode(bytes))
}

/// A digest that hangs on the token. Tokens are random and long, so nothing slower is needed.
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn keyed(token: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::new_from_slice(token.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(b"onramp api token");
    mac
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use chrono::Duration;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000, 0).unwrap()
    }

    #[test]
    fn a_token_is_known_until_it_is_revoked_and_its_secret_is_kept_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(dir.path());
        let made = tokens.create("ci", Scope::Act, Some("acme/web".parse().unwrap()), (now(), None)).unwrap();
        let caller = tokens.admit(&made.token, now()).unwrap();
        assert_eq!((caller.name.as_str(), caller.scope), ("ci", Scope::Act));
        assert!(!caller.may_see(&"acme/api".parse().unwrap()));
        let file = dir.path().join("tokens.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"ci\"") && !text.contains(made.token.rsplit('_').next().unwrap()), "{text}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        assert_eq!(tokens.create("ci", Scope::Read, None, (now(), None)).unwrap_err().code, Code::Usage);
        tokens.revoke("ci").unwrap();
        assert_eq!(tokens.admit(&made.token, now()).unwrap_err().code, Code::BadToken);
        assert_eq!(tokens.list().unwrap(), []);
    }

    #[test]
    fn a_wrong_secret_another_id_and_a_late_token_are_refused_alike() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::of(dir.path());
        let until = now() + Duration::hours(1);
        let made = tokens.create("a", Scope::Read, None, (now(), Some(until))).unwrap();
        let other = tokens.create("b", Scope::Admin, None, (now(), None)).unwrap();
        let crossed = format!("onramp_{}_{}", other.info.id, made.token.rsplit('_').next().unwrap());
        let mut wrong = made.token.clone();
        wrong.pop();
        for (token, at) in [(crossed, now()), (wrong, now()), (made.token.clone(), until), ("x".into(), now())] {
            let refused = tokens.admit(&token, at).unwrap_err();
            assert_eq!(refused.message, "The token is unknown, revoked or out of date", "{token}");
        }
        assert!(tokens.admit(&made.token, now()).is_ok());
    }
}
