//! Proof that no secret of setup stays in a base: a scan of everything that setup could write, before anything is kept.
//!
//! A base is what later boxes start from, so a secret in it would be in all of them. What is found is named by its place and
//! never shown; then there is no base. A scan that cannot find what was put there to be found proves nothing, and counts as
//! a find.

use std::{collections::BTreeMap, time::Duration};

use base64::Engine as _;
use secrecy::ExposeSecret as _;
use tasks::{Code, Failure};

use crate::{
    egress::{SetupSecret, models::random_token},
    run::sandbox_failure,
    sandbox::{Command, Output, Sandbox, WORKSPACE},
};

const TIMEOUT: Duration = Duration::from_secs(300);
/// A shorter secret would be found by chance, and is none.
const MIN_BYTES: usize = 6;
/// Where the scan leaves something to be found, as [`SCAN`] writes it.
const MARKED: &str = "/tmp/.onramp-scan";
/// Looks for each line of its standard input, in all that the user of setup can write and in every process.
const SCAN: &str = r#"
p=$(cat)
printf '%s\n' "$1" > /tmp/.onramp-scan || exit 9
for d in /workspace /home /tmp /var/tmp /dev/shm /run /root /etc /opt /srv; do
  [ -d "$d" ] && printf '%s\n' "$p" | grep -rlsF -f - "$d" 2>/dev/null
done
for f in /proc/[0-9]*/environ; do
  printf '%s\n' "$p" | grep -lsF -f - "$f" 2>/dev/null
done
rm -f /tmp/.onramp-scan
exit 0
"#;

/// Scans a box in which nothing of setup runs any more.
///
/// # Errors
/// E014 naming the files in which a secret was found, or why that cannot be known.
pub(super) async fn none_left(sandbox: &Sandbox, secrets: &[&SetupSecret]) -> Result<(), Failure> {
    if secrets.is_empty() {
        return Ok(());
    }
    if let Some(short) = secrets.iter().find(|secret| secret.value.expose_secret().len() < MIN_BYTES) {
        let message = format!(
            "The setup secret {} is shorter than {MIN_BYTES} characters, so it cannot be looked for",
            short.name
        );
        return Err(Failure::new(Code::SetupFailed, message));
    }
    let mark = random_token()?;
    let mut patterns: Vec<String> = secrets.iter().flat_map(|secret| forms(secret.value.expose_secret())).collect();
    patterns.push(mark.clone());
    let command = Command {
        argv: vec!["/bin/sh".into(), "-c".into(), SCAN.into(), "sh".into(), mark],
        env: BTreeMap::new(),
        cwd: WORKSPACE.into(),
        stdin: Some(patterns.join("\n").into_bytes()),
        timeout: TIMEOUT,
    };
    let mut said = Vec::new();
    let mut on_output = |piece: Output<'_>| {
        if let Output::Stdout(bytes) = piece {
            said.extend_from_slice(bytes);
        }
    };
    let exit = sandbox.run(&command, &mut on_output).await.map_err(sandbox_failure)?;
    let said = String::from_utf8_lossy(&said);
    let found: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let names: Vec<&str> = secrets.iter().map(|secret| secret.name.as_str()).collect();
    if !exit.success() || !found.contains(&MARKED) {
        let message = format!(
            "The base was not kept: its setup had the secrets {}, and whether they are gone cannot be known, because the image has no working `grep`",
            names.join(", ")
        );
        return Err(
            Failure::new(Code::SetupFailed, message).next("Use an image with `grep`, or take the setup secret away.")
        );
    }
    // It may be there under several names: one directory for temporary files is often the other one too.
    let left: Vec<&str> = found.into_iter().filter(|place| !place.ends_with("/.onramp-scan")).collect();
    if left.is_empty() {
        return Ok(());
    }
    let message =
        format!("The base was not kept: a setup secret ({}) is still in {}", names.join(", "), left.join(", "));
    Err(Failure::new(Code::SetupFailed, message).next(
        "Let the last setup command remove it, such as `rm -f ~/.npmrc`, or let the proxy add it (egress.registries).",
    ))
}

/// A secret as it is, and as what programs make of it: base64 at each of its three offsets, hexadecimal, percent signs.
fn forms(secret: &str) -> Vec<String> {
    let mut forms: Vec<String> = secret.lines().filter(|line| line.len() >= MIN_BYTES).map(str::to_owned).collect();
    for offset in 0..3 {
        let padded = [vec![0; offset], secret.as_bytes().to_vec()].concat();
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(padded);
        // The first and last characters depend on what stands beside it.
        let (from, to) = (if offset == 0 { 0 } else { 4 }, encoded.len() - 2);
        if to > from + MIN_BYTES {
            forms.push(encoded[from..to].to_owned());
            forms.push(encoded[from..to].replace('+', "-").replace('/', "_"));
        }
    }
    forms.push(hex::encode(secret));
    forms.push(hex::encode_upper(secret));
    let percent = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    forms.push(secret.bytes().map(percent).collect());
    forms.sort();
    forms.dedup();
    forms
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sandbox::{HostTools, SandboxSpec, namespace::NamespaceBackend};

    const SECRET: &str = "canary/Setup+Secret=77";

    #[test]
    fn a_secret_is_looked_for_in_every_dress_at_every_offset() {
        let forms = forms(SECRET);
        let standard = base64::engine::general_purpose::STANDARD;
        for before in ["", "a", "ab", "abc", "user:"] {
            let wrapped = standard.encode(format!("{before}{SECRET}:after"));
            assert!(forms.iter().any(|form| wrapped.contains(form.as_str())), "{before:?}: {wrapped}");
        }
        assert!(forms.contains(&hex::encode(SECRET)) && forms.contains(&"canary%2FSetup%2BSecret%3D77".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_secret_that_setup_left_behind_is_found_wherever_and_however_it_lies() {
        let root = tempfile::tempdir().unwrap();
        let backend = NamespaceBackend::new(root.path().to_owned(), HostTools::default(), false);
        let backend = Arc::new(backend.accept_without(tasks::Limit::ALL));
        let sandbox =
            Sandbox::start(backend, &SandboxSpec::new(format!("onramp-residue-{}", std::process::id()))).await.unwrap();
        let secret = SetupSecret { name: "TOKEN".into(), value: SECRET.to_owned().into(), repositories: vec![] };
        let scan = async || none_left(&sandbox, &[&secret]).await.map_err(|failure| failure.message);
        let run = async |line: &str| {
            let command =
                Command { env: BTreeMap::from([("TOKEN".into(), SECRET.into())]), ..Command::shell(line, TIMEOUT) };
            assert!(sandbox.run(&command, &mut |_| {}).await.unwrap().success(), "{line}");
        };
        run("echo \"$TOKEN\" | sha256sum > digest").await;
        assert_eq!(scan().await, Ok(()));
        for (leave, clean, place) in [
            ("echo //r/:_auth=$TOKEN > ~/.npmrc", "rm ~/.npmrc", "/home/onramp/.npmrc"),
            ("mkdir -p a/b; printf 'x:%s' \"$TOKEN\" | base64 > a/b/c", "rm -r a", "/workspace/a/b/c"),
            ("printf %s \"$TOKEN\" > /tmp/t", "rm /tmp/t", "/tmp/t"),
        ] {
            run(leave).await;
            let found = scan().await.unwrap_err();
            assert!(found.contains(place) && found.contains("TOKEN") && !found.contains(SECRET), "{found}");
            run(clean).await;
            assert_eq!(scan().await, Ok(()), "{leave}");
        }
        // A daemon that setup left running.
        run("sleep 60 >/dev/null 2>&1 &").await;
        assert!(scan().await.unwrap_err().contains("/environ"));
        sandbox.kill_all().await.unwrap();
        assert_eq!(scan().await, Ok(()));
        sandbox.stop().await.unwrap();
    }
}
