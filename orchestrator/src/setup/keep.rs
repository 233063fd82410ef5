//! Where a new app is kept: its secrets in files of their own that only their owner can read, and in the configuration the
//! places of those files. What a person wrote there stays as it is.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString};
use tasks::{Code, Failure};
use toml_edit::{Array, DocumentMut, Item, Table, value};
use workers::forge::github::NewApp;

/// Beside the configuration.
const SECRETS_DIR: &str = "onramp-secrets";

/// The configuration that an app goes into, looked at before GitHub is asked to make one.
#[derive(Debug, Clone)]
pub struct Keeper {
    file: PathBuf,
    /// To be written too, where the caller named another one than the configuration does.
    api_url: Option<String>,
}

/// Where everything lies now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The configuration.
    pub config_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
    /// The webhook's secret, and whether the configuration names it: without a public address it does not, since GitHub is
    /// asked then.
    pub webhook_secret_file: Option<PathBuf>,
}

impl Keeper {
    /// # Errors
    /// E006 when the file cannot be written, is no TOML, or names an app already.
    pub fn new(file: &Path, api_url: Option<String>) -> Result<Self, Failure> {
        let file = std::path::absolute(file).map_err(|error| unusable(file, &error))?;
        let keeper = Self { file, api_url };
        let mut document = keeper.read()?;
        let github = keeper.github(&mut document)?;
        if let Some(key) = ["app_id", "app_key"].into_iter().find(|key| github.contains_key(key)) {
            let message = format!("{} names an app already, by github.{key}", keeper.file.display());
            return Err(Failure::new(Code::BadConfig, message)
                .next(format!("Take github.{key} out of it, or name another file with --config.")));
        }
        // Before anything is made that would have nowhere to go.
        tempfile::NamedTempFile::new_in(keeper.folder()).map_err(|error| unusable(&keeper.file, &error))?;
        Ok(keeper)
    }

    /// Where the secrets will lie.
    pub fn secrets_dir(&self) -> PathBuf {
        self.folder().join(SECRETS_DIR)
    }

    /// Writes secrets first, then the configuration that names them.
    ///
    /// # Errors
    /// E006 with the place that cannot be written.
    pub fn keep(&self, app: &NewApp, is_told: bool) -> Result<Kept, Failure> {
        let dir = self.secrets_dir();
        make_private(&dir).map_err(|error| unusable(&dir, &error))?;
        let key_file = dir.join(format!("github-app-{}.pem", app.id));
        write_secret(&key_file, &app.key)?;
        let webhook_secret_file = match &app.webhook_secret {
            Some(secret) => {
                let path = dir.join(format!("github-app-{}.webhook-secret", app.id));
                write_secret(&path, secret)?;
                Some(path)
            }
            None => None,
        };
        let mut document = self.read()?;
        let github = self.github(&mut document)?;
        let id = i64::try_from(app.id).map_err(Failure::internal)?;
        github.insert("app_id", value(id));
        github.insert("app_key", value(format!("file:{}", key_file.display())));
        if let Some(api_url) = &self.api_url {
            github.insert("api_url", value(api_url));
        }
        if let Some(path) = webhook_secret_file.as_ref().filter(|_| is_told) {
            let known = github.entry("webhook_secrets").or_insert_with(|| value(Array::new()));
            if let Some(secrets) = known.as_array_mut() {
                secrets.push(format!("file:{}", path.display()));
            }
        }
        self.write(&document.to_string())?;
        Ok(Kept { config_file: self.file.clone(), key_file, webhook_secret_file })
    }

    fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    fn read(&self) -> Result<DocumentMut, Failure> {
        let text = match fs::read_to_string(&self.file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(unusable(&self.file, &error)),
        };
        text.parse().map_err(|error: toml_edit::TomlError| {
            Failure::new(Code::BadConfig, format!("{} is not TOML, so nothing was added to it", self.file.display()))
                .detail(error.to_string())
        })
    }

    fn github<'a>(&self, document: &'a mut DocumentMut) -> Result<&'a mut Table, Failure> {
        let github = document.entry("github").or_insert_with(|| Item::Table(Table::new()));
        github.as_table_mut().ok_or_else(|| {
            Failure::new(Code::BadConfig, format!("In {}, `github` is not a table of its own", self.file.display()))
                .next("Write it as [github] with a line for each key.")
        })
    }

    /// In one step, so that a crash leaves the old file or the new one.
    fn write(&self, text: &str) -> Result<(), Failure> {
        let write = || {
            let mode = fs::metadata(&self.file).map_or(0o644, |old| old.permissions().mode());
            let mut new = tempfile::NamedTempFile::new_in(self.folder())?;
            new.write_all(text.as_bytes())?;
            new.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
            new.as_file().sync_all()?;
            new.persist(&self.file).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|error: std::io::Error| unusable(&self.file, &error))
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::BadConfig, format!("{} cannot be used: {error}", path.display()))
        .next("Name a place that you may write with --config DIR/onramp.toml.")
}

/// A folder for its owner alone, whose content no `git add` takes along.
fn make_private(dir: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => made?,
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    fs::write(dir.join(".gitignore"), "*\n")
}

fn write_secret(path: &Path, secret: &SecretString) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(secret.expose_secret().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| unusable(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn app() -> NewApp {
        NewApp {
            id: 77,
            name: "onramp-acme".into(),
            url: "https://github.com/apps/onramp-acme".into(),
            key: "-----BEGIN RSA PRIVATE KEY-----\ncanary\n".to_owned().into(),
            webhook_secret: Some("canary-hook".to_owned().into()),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn secrets_are_files_for_their_owner_and_the_configuration_only_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("onramp.toml");
        let kept = Keeper::new(&file, None).unwrap().keep(&app(), true).unwrap();
        let hook = kept.webhook_secret_file.clone().unwrap();
        assert_eq!((mode(&kept.key_file), mode(&hook), mode(kept.key_file.parent().unwrap())), (0o600, 0o600, 0o700));
        assert!(!fs::read_to_string(&file).unwrap().contains("canary"));
        let config = Config::load(Some(&file)).unwrap();
        assert_eq!(config.github.app_id, 77);
        let key = config.github.app_key.require("x").unwrap();
        assert!(key.expose_secret().contains("canary"));
        assert_eq!(config.github.webhook_secrets[0].value().unwrap().expose_secret(), "canary-hook");
    }

    #[test]
    fn what_a_person_wrote_stays_word_for_word() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("onramp.toml");
        let own =
            "# ours\n[server]\nlisten = \"127.0.0.1:9\" # not the usual one\n\n[github] # hers\nlabel = \"bot\"\n";
        fs::write(&file, own).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let keeper = Keeper::new(&file, Some("https://ghe.example/api/v3".into())).unwrap();
        let kept = keeper.keep(&app(), false).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(own), "{text}");
        assert_eq!(mode(&file), 0o640);
        let config = Config::load(Some(&file)).unwrap();
        assert_eq!(config.github.api_url, "https://ghe.example/api/v3");
        assert!(kept.webhook_secret_file.is_some(), "for the day when there is an address");
        assert!(!text.contains("webhook"), "GitHub is asked until then: {text}");
    }

    #[test]
    fn a_second_app_and_a_file_that_cannot_be_extended_are_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("onramp.toml");
        for (text, part) in [
            ("[github]\napp_id = 5\n", "names an app already, by github.app_id"),
            ("[github]\napp_key = \"env:X\"\n", "by github.app_key"),
            ("[github\n", "is not TOML"),
            ("github = 5\n", "not a table"),
        ] {
            fs::write(&file, text).unwrap();
            let failure = Keeper::new(&file, None).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let failure = Keeper::new(&dir.path().join("nowhere/onramp.toml"), None).unwrap_err();
        assert!(failure.next_step.contains("--config"), "{failure:?}");
    }
}
