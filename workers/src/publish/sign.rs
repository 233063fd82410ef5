//! Commits are signed in the format of SSH, by a key that only the worker has: no sandbox, no mirror and no command line
//! ever sees it. Forges and `git verify-commit` check it against the public half.

use std::{fmt, sync::Arc};

use secrecy::{ExposeSecret as _, SecretString};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey};
use tasks::{Code, Failure};

/// What git calls its signatures, so that none of them means anything elsewhere.
const NAMESPACE: &str = "git";

/// Whoever signs. Cheap to clone.
#[derive(Clone)]
pub struct CommitSigner(Arc<PrivateKey>);

impl CommitSigner {
    /// From the text of a private key as `ssh-keygen -t ed25519` writes it.
    ///
    /// # Errors
    /// E006 that says what was given instead, and never quotes it.
    pub fn new(key: &SecretString) -> Result<Self, Failure> {
        let text = key.expose_secret().replace("\\n", "\n");
        let text = format!("{}\n", text.trim());
        let key = match text.as_str() {
            text if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") => PrivateKey::from_openssh(text)
                .map_err(|_| wrong("damaged, cut off, or of another kind than Ed25519"))?,
            text if text.starts_with("ssh-") || text.starts_with("ecdsa-") => {
                return Err(wrong("the public half of a key"));
            }
            text if text.contains("-----BEGIN PGP") => return Err(wrong("a key of PGP")),
            text if text.contains("PRIVATE KEY-----") => {
                return Err(wrong("a private key in another format than OpenSSH's"));
            }
            _ => return Err(wrong("no key")),
        };
        if key.is_encrypted() {
            return Err(wrong("a key that is locked with a password"));
        }
        match key.algorithm() {
            Algorithm::Ed25519 => Ok(Self(Arc::new(key))),
            other => Err(wrong(&format!("a key of the kind {other}, which is another kind than Ed25519"))),
        }
    }

    /// The public half, as it goes into a list of allowed signers or onto an account.
    ///
    /// # Errors
    /// E099 when it cannot be written down.
    pub fn public_key(&self) -> Result<String, Failure> {
        self.0.public_key().to_openssh().map_err(Failure::internal)
    }

    /// Signs what a commit says.
    pub(super) fn sign(&self, commit: &[u8]) -> Result<String, Failure> {
        let signature = self.0.sign(NAMESPACE, HashAlg::Sha512, commit).map_err(Failure::internal)?;
        signature.to_pem(LineEnding::LF).map_err(Failure::internal)
    }
}

fn wrong(what: &str) -> Failure {
    Failure::new(Code::BadConfig, format!("What stands in place of commit.signing_key is {what}")).next(
        "Make one with `ssh-keygen -t ed25519 -N '' -C onramp -f onramp-signing-key`, and name that file as file:PATH.",
    )
}

impl fmt::Debug for CommitSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitSigner({})", self.0.fingerprint(HashAlg::Sha256))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use super::*;

    /// A key as people make it.
    pub(crate) fn fresh_key(dir: &std::path::Path, arguments: &[&str]) -> String {
        let file = dir.join("key");
        let _ = std::fs::remove_file(&file);
        let made = Command::new("ssh-keygen").args(["-q", "-C", "onramp", "-f"]).arg(&file).args(arguments).output();
        let made = made.expect("ssh-keygen is there (tests/bring-up.sh)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::read_to_string(&file).unwrap()
    }

    #[test]
    fn only_an_open_ed25519_key_signs_and_a_wrong_paste_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let good = fresh_key(dir.path(), &["-t", "ed25519", "-N", ""]);
        let public = std::fs::read_to_string(dir.path().join("key.pub")).unwrap();
        for text in [good.clone(), good.trim().to_owned(), good.trim().replace('\n', "\\n")] {
            let signer = CommitSigner::new(&text.into()).unwrap();
            assert_eq!(signer.public_key().unwrap(), public.trim());
            let line = good.lines().nth(1).unwrap();
            assert!(!format!("{signer:?}").contains(line));
        }
        let cases = [
            (public, "the public half"),
            (good[..200].to_owned(), "cut off"),
            (fresh_key(dir.path(), &["-t", "ed25519", "-N", "secret"]), "locked with a password"),
            (fresh_key(dir.path(), &["-t", "ecdsa", "-N", ""]), "another kind than Ed25519"),
            (fresh_key(dir.path(), &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]), "another format"),
            ("-----BEGIN PGP PRIVATE KEY BLOCK-----".into(), "of PGP"),
            ("canary".into(), "no key"),
        ];
        for (text, named) in cases {
            let failure = CommitSigner::new(&text.clone().into()).unwrap_err();
            assert!(failure.message.contains(named) && failure.next_step.contains("ssh-keygen"), "{failure:?}");
            assert!(!format!("{failure:?}").contains("canary"));
        }
    }
}
