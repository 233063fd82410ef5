//! The key that signs statements: Ed25519, made where it is first needed or given by the operator.

use std::{fmt, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};
use tasks::{Code, Failure};

use super::statement::sha256;

/// The file in the data directory.
const FILE_NAME: &str = "evidence.key";
/// What stands before the bytes of an Ed25519 key in X.509's form of public keys.
const SPKI_HEAD: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES: usize = 32;

/// Signs statements.
pub struct Signer {
    pair: Ed25519KeyPair,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public_key())
    }
}

impl Signer {
    /// The operator's key, else the one of the data directory, which is made when there is none.
    ///
    /// # Errors
    /// E081 for a key that cannot be read or that others on this machine can read.
    pub fn open(configured: Option<&SecretString>, data: &Path) -> Result<Self, Failure> {
        if let Some(secret) = configured {
            return Self::from_pem(secret.expose_secret())
                .ok_or_else(|| refused("The key of [evidence] is no Ed25519 key in PKCS#8 and PEM"));
        }
        let path = data.join(FILE_NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::kept(&path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::make(data, &path),
            Err(error) => Err(refused(format!("The key {} cannot be read: {error}", path.display()))),
        }
    }

    /// The same, where there is one already.
    ///
    /// # Errors
    /// As [`Signer::open`].
    pub fn find(configured: Option<&SecretString>, data: &Path) -> Result<Option<Self>, Failure> {
        let is_there = configured.is_some() || data.join(FILE_NAME).exists();
        is_there.then(|| Self::open(configured, data)).transpose()
    }

    fn kept(path: &Path, text: &str) -> Result<Self, Failure> {
        let mode = std::fs::metadata(path).map(|found| found.permissions().mode()).unwrap_or(0);
        if mode & 0o077 != 0 {
            let message = format!("The key {} can be read by others (mode {:o})", path.display(), mode & 0o777);
            return Err(refused(message).next(format!("chmod 600 {}", path.display())));
        }
        Self::from_pem(text).ok_or_else(|| refused(format!("{} holds no Ed25519 key", path.display())))
    }

    fn make(data: &Path, path: &Path) -> Result<Self, Failure> {
        let failed = |what: &dyn fmt::Display| refused(format!("No key can be made in {}: {what}", data.display()));
        let pair = Ed25519KeyPair::generate().map_err(|error| failed(&error))?;
        let der = pair.to_pkcs8v1().map_err(|error| failed(&error))?;
        std::fs::create_dir_all(data).map_err(|error| failed(&error))?;
        // Whole or not at all, and readable for this user only from its first byte on.
        let mut file = tempfile::NamedTempFile::new_in(data).map_err(|error| failed(&error))?;
        file.write_all(pem("PRIVATE KEY", der.as_ref()).as_bytes()).map_err(|error| failed(&error))?;
        file.as_file().sync_all().map_err(|error| failed(&error))?;
        match file.persist_noclobber(path) {
            Ok(_) => Ok(Self { pair }),
            // Another process was faster; its key is the key.
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
                Self::kept(path, &text)
            }
            Err(error) => Err(failed(&error)),
        }
    }

    fn from_pem(text: &str) -> Option<Self> {
        let der = unpem(text, "PRIVATE KEY")?;
        Some(Self { pair: Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()? })
    }

    /// The half that everybody may know.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// What signatures are checked with. Written as `ed25519:` and base64, or as PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// SHA-256 of its bytes, hexadecimal.
    pub fn id(&self) -> String {
        sha256(&self.0)
    }

    /// As other tools read it: `openssl pkey -pubin`, `cosign verify-blob-attestation --key`.
    pub fn pem(&self) -> String {
        pem("PUBLIC KEY", &[SPKI_HEAD, &self.0].concat())
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = Failure;

    /// Either form, with white space around it.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let bytes = match text.trim().strip_prefix("ed25519:") {
            Some(encoded) => STANDARD.decode(encoded).ok(),
            None => unpem(text, "PUBLIC KEY").and_then(|der| Some(der.strip_prefix(SPKI_HEAD)?.to_vec())),
        };
        let key = bytes.and_then(|bytes| bytes.try_into().ok()).map(Self);
        key.ok_or_else(|| refused("That is no public key: it is written as `ed25519:…` or as PEM of an Ed25519 key"))
    }
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::new(Code::EvidenceKey, message)
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The bytes of PEM; `\n` written as two characters, as some put keys into variables, counts as a line's end.
fn unpem(text: &str, label: &str) -> Option<Vec<u8>> {
    let text = text.replace("\\n", "\n");
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_this_user_only_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let made = Signer::open(None, &dir.path().join("data")).unwrap().public_key();
        let path = dir.path().join("data").join(FILE_NAME);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Signer::open(None, &dir.path().join("data")).unwrap().public_key(), made);
        let pem = SecretString::from(std::fs::read_to_string(&path).unwrap().replace('\n', "\\n"));
        assert_eq!(Signer::open(Some(&pem), Path::new("/nowhere")).unwrap().public_key(), made);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let failure = Signer::open(None, &dir.path().join("data")).unwrap_err();
        assert!(failure.message.contains("can be read by others"), "{failure}");
    }

    #[test]
    fn both_forms_of_a_public_key_are_read_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let key = Signer::open(None, dir.path()).unwrap().public_key();
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert_eq!(key.pem().parse::<PublicKey>().unwrap(), key);
        for text in ["", "ed25519:AAAA", "ed25519:!", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
            assert_eq!(text.parse::<PublicKey>().unwrap_err().code, Code::EvidenceKey, "{text}");
        }
    }
}
