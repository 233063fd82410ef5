//! The private key of an app, from whatever a person pasted; and when it is something else, what it is.

use base64::{
    Engine,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use octocrab::{EncodingKey, auth::AppAuth, models::AppId};
use secrecy::{ExposeSecret, SecretString};
use tasks::{Code, Failure};

/// As OpenSSL writes it, with or without its padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);
/// In PKCS#8 the kind of key is named by an object identifier; these stand in its first bytes.
const RSA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
const ELLIPTIC: &[u8] = b"\x2a\x86\x48\xce\x3d\x02\x01";
const ED25519: &[u8] = b"\x2b\x65\x70";
/// Key derivation from a password.
const PBES2: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";

/// The key, in any form that it is kept in: PKCS#1 or PKCS#8, PEM with real, escaped or lost line ends, or base64 of PEM or
/// of DER.
///
/// # Errors
/// E008 for nothing; E050 that says what was given instead of a key. Never quotes it.
pub(super) fn app_key(pasted: &SecretString) -> Result<EncodingKey, Failure> {
    let pasted = pasted.expose_secret().trim_start_matches('\u{feff}').trim().trim_matches(['"', '\'']).trim();
    if pasted.is_empty() {
        return Err(Failure::new(Code::MissingSecret, "The private key of the GitHub App is empty"));
    }
    let pem = match pasted.contains("-----BEGIN") {
        true => pasted.replace("\\r", "").replace("\\n", "\n"),
        false => unwrapped(pasted).ok_or_else(|| wrong(what_it_is(pasted)))?,
    };
    if pem.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(wrong(LOCKED));
    }
    let (label, body) = armoured(&pem).ok_or_else(|| wrong("cut off: its END line is missing"))?;
    match label {
        "RSA PRIVATE KEY" | "PRIVATE KEY" => {}
        "PUBLIC KEY" | "RSA PUBLIC KEY" | "SSH2 PUBLIC KEY" => return Err(wrong("a public key")),
        "CERTIFICATE" => return Err(wrong("a certificate")),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => return Err(wrong("a request for a certificate")),
        "OPENSSH PRIVATE KEY" => return Err(wrong("an SSH key")),
        "EC PRIVATE KEY" | "EC PARAMETERS" => return Err(wrong(OTHER_KIND)),
        "DSA PRIVATE KEY" => return Err(wrong("a DSA key; GitHub's are RSA keys")),
        "ENCRYPTED PRIVATE KEY" => return Err(wrong(LOCKED)),
        label if label.starts_with("PGP ") => return Err(wrong("a key of PGP")),
        _ => return Err(wrong("not a private key")),
    }
    let der = LENIENT.decode(&body).map_err(|_| wrong("damaged: its lines are not base64"))?;
    if is_shorter_than_it_says(&der) {
        return Err(wrong("cut off: lines in the middle or at the end are missing"));
    }
    if let Some(what) = other_kind(label, &der) {
        return Err(wrong(what));
    }
    let broken = || wrong("damaged: its lines are not a private RSA key");
    let body = STANDARD.encode(&der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
    let key = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| broken())?;
    // The key is only read as one when something is signed with it.
    let probe = AppAuth { app_id: AppId(0), key: key.clone() };
    probe.generate_bearer_token().map_err(|_| broken())?;
    Ok(key)
}

const LOCKED: &str = "a key that is locked with a password";
const OTHER_KIND: &str = "a key for elliptic curves; GitHub's are RSA keys";

fn wrong(what: &str) -> Failure {
    Failure::new(Code::ForgeAuth, format!("What stands in place of the GitHub App's private key is {what}"))
        .next("Make a private key on the app's page under General, and give the whole downloaded .pem file.")
}

/// The PEM in a base64 wrapping, or the one that belongs to bare DER.
fn unwrapped(pasted: &str) -> Option<String> {
    let compact: String = pasted.replace("\\n", "").split_whitespace().collect();
    let bytes = LENIENT.decode(compact).ok()?;
    match std::str::from_utf8(&bytes) {
        Ok(pem) if pem.contains("-----BEGIN") => Some(pem.to_owned()),
        _ => {
            let label = match bytes.get(..2)? {
                // A sequence with a length in two bytes, as every RSA key is long enough for.
                [0x30, 0x82] if holds(&bytes, RSA) => "PRIVATE KEY",
                [0x30, 0x82] => "RSA PRIVATE KEY",
                _ => return None,
            };
            Some(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(&bytes)))
        }
    }
}

/// Label and base64 of a PEM text, however its lines were broken. What stands before an empty line are headers.
fn armoured(pem: &str) -> Option<(&str, String)> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let without_headers = body.lines().filter(|line| !line.contains(": "));
    Some((label, without_headers.flat_map(str::split_whitespace).collect()))
}

/// Whether bytes are missing at the end of a DER sequence.
fn is_shorter_than_it_says(der: &[u8]) -> bool {
    match der {
        [0x30, 0x82, high, low, rest @ ..] => rest.len() < usize::from(*high) << 8 | usize::from(*low),
        [0x30, 0x81, len, rest @ ..] => rest.len() < usize::from(*len),
        _ => der.len() < 8,
    }
}

/// What a key is that is none of RSA. In PKCS#1 there is no other kind.
fn other_kind(label: &str, der: &[u8]) -> Option<&'static str> {
    if label != "PRIVATE KEY" {
        return None;
    }
    match der {
        der if holds(der, PBES2) => Some(LOCKED),
        der if holds(der, RSA) => None,
        der if holds(der, ELLIPTIC) => Some(OTHER_KIND),
        der if holds(der, ED25519) => Some("an Ed25519 key; GitHub's are RSA keys"),
        _ => None,
    }
}

fn holds(der: &[u8], identifier: &[u8]) -> bool {
    der[..der.len().min(64)].windows(identifier.len()).any(|at| at == identifier)
}

/// A guess at what was pasted, for the sentence that says so. Never quotes it.
fn what_it_is(pasted: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| pasted.starts_with(prefix));
    let is_hex = pasted.len() >= 20 && pasted.bytes().all(|b| b.is_ascii_hexdigit());
    let is_one_word = !pasted.contains(char::is_whitespace);
    match pasted {
        _ if starts(&["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"]) => {
            "a token; configure it as the token, without an app id"
        }
        _ if starts(&["SHA256:"]) => "the fingerprint of a key",
        _ if starts(&["Iv1.", "Iv23"]) => "the app's client id",
        _ if starts(&["ssh-", "ecdsa-sha2-"]) => "a public SSH key",
        _ if starts(&["PuTTY-User-Key-File"]) => "a key of PuTTY",
        _ if starts(&["file:", "env:"]) => "the name of a place, which was not looked into",
        _ if starts(&["https://", "http://"]) => "an address",
        _ if pasted.contains("-----END") => "cut off: its BEGIN line is missing",
        _ if is_hex => "the app's client secret or webhook secret",
        _ if pasted.len() < 300 && (pasted.ends_with(".pem") || starts(&["/", "~/", "./"])) => {
            "the path of a file, not its content"
        }
        _ if pasted.bytes().all(|b| b.is_ascii_digit()) => "a number, such as the app's id",
        _ if is_one_word && pasted.len() < 100 => "one short word, such as a webhook secret",
        _ => "no PEM text: it has no BEGIN line",
    }
}
