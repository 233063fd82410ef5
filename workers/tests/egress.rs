//! A program in a real sandbox reaches the model through the tunnel, and nothing else in the world.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Uri},
    response::Response,
};

use tasks::Phase;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use workers::{
    egress::{Egress, Key, ModelProviders, Provider, Tally, Ways},
    repo_config::Network,
    sandbox::{Command, Exit, HostTools, Output, Sandbox, SandboxSpec, namespace::NamespaceBackend},
};

const CANARY: &str = "sk-canary-0123456789";

/// A model on the host's loopback interface, which a sandbox cannot see. It streams the pieces that it is given.
struct Model {
    port: u16,
    seen: Arc<Mutex<Vec<(Uri, HeaderMap, Bytes)>>>,
    pieces: mpsc::Sender<&'static str>,
}

impl Model {
    async fn start() -> Self {
        let (pieces, next) = mpsc::channel::<&'static str>(8);
        let next = Arc::new(tokio::sync::Mutex::new(next));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let app = axum::Router::new().fallback(move |uri: Uri, headers: HeaderMap, body: Bytes| {
            kept.lock().unwrap().push((uri, headers, body));
            let next = Arc::clone(&next);
            async move {
                let stream = futures_util::stream::unfold(next, |next| async move {
                    let piece = next.lock().await.recv().await.filter(|piece| !piece.is_empty())?;
                    Some((Ok::<_, Infallible>(piece), next))
                });
                Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(stream)).unwrap()
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, seen, pieces }
    }

    fn providers(&self) -> Arc<ModelProviders> {
        let base_url = format!("http://127.0.0.1:{}", self.port);
        let provider = Provider::new("anthropic", base_url, Some(Key::fixed(CANARY.to_owned())));
        let providers = BTreeMap::from([("anthropic".into(), provider)]);
        Arc::new(ModelProviders { providers, ..ModelProviders::default() })
    }
}

/// The ways out of a box in which an agent works that may reach these hosts.
async fn open(sandbox: &Sandbox, model: &Model, allow: &[String], tally: &Arc<Tally>) -> Egress {
    let network = Network { allow: allow.to_vec(), ..Network::default() };
    let repo = "acme/web".parse().unwrap();
    let (models, policy, tally) = (model.providers(), Arc::default(), tally.clone());
    let ways = Ways { models, policy, network: &network, repo: &repo, phase: Phase::Agent, tally };
    Egress::open(sandbox, ways, &CancellationToken::new()).await.unwrap()
}

async fn sandbox(root: &Path, name: &str) -> Sandbox {
    let backend =
        Arc::new(NamespaceBackend::new(root.to_owned(), HostTools::default(), true).accept_without(tasks::Limit::ALL));
    let spec = SandboxSpec::new(format!("onramp-egress-{name}-{}", std::process::id()));
    Sandbox::start(backend, &spec).await.unwrap()
}

/// Runs a script with bash, whose `/dev/tcp` needs no other program; its output goes to `each` as it arrives.
async fn bash(sandbox: &Sandbox, env: &[(&str, &str)], script: &str, mut each: impl FnMut(&str) + Send) -> Exit {
    let command = Command {
        argv: vec!["/bin/bash".into(), "-c".into(), script.into()],
        env: env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Command::shell("", Duration::from_secs(30))
    };
    let mut tell = |output: Output<'_>| match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => each(&String::from_utf8_lossy(bytes)),
    };
    sandbox.run(&command, &mut tell).await.unwrap()
}

async fn said(sandbox: &Sandbox, env: &[(&str, &str)], script: &str) -> String {
    let mut said = String::new();
    bash(sandbox, env, script, |piece| said.push_str(piece)).await;
    said
}

const ASK_MODEL: &str = r#"
    exec 3<>/dev/tcp/127.0.0.1/8099
    printf 'POST /anthropic/v1/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\nx-api-key: %s\r\nContent-Length: 5\r\n\r\nhello' "$TOKEN" >&3
    cat <&3
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_inside_hears_the_model_as_it_speaks_and_never_holds_the_key() {
    let (root, model) = (tempfile::tempdir().unwrap(), Model::start().await);
    let sandbox = sandbox(root.path(), "model").await;
    let egress = open(&sandbox, &model, &[], &Arc::default()).await;
    let inside = egress.inside().clone();
    assert_eq!(inside.urls["anthropic"], "http://127.0.0.1:8099/anthropic");

    // The model says its second word only after the first was heard inside.
    let mut heard = String::new();
    model.pieces.send("data: first\n\n").await.unwrap();
    let exit = bash(&sandbox, &[("TOKEN", &inside.token)], ASK_MODEL, |piece| {
        let before = heard.contains("first");
        heard.push_str(piece);
        if !before && heard.contains("first") {
            model.pieces.try_send("data: second\n\n").unwrap();
            model.pieces.try_send("").unwrap();
        }
    })
    .await;
    assert!(exit.success(), "{exit:?}: {heard}");
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("second"), "{heard}");
    {
        let seen = model.seen.lock().unwrap();
        let (uri, headers, body) = &seen[0];
        assert_eq!(
            (uri.path(), headers["x-api-key"].to_str().unwrap(), body.as_ref()),
            ("/v1/messages", CANARY, b"hello".as_slice())
        );
    }

    let refused = said(&sandbox, &[("TOKEN", "onramp-guessed")], ASK_MODEL).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert_eq!(model.seen.lock().unwrap().len(), 1);

    // Environments and command lines of all processes, and every file that is not the host's own programs.
    let search = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; \
                  grep -rs 'sk-can[a]ry' /workspace /home /tmp /run /etc /var /dev/shm";
    let everything = said(&sandbox, &[("TOKEN", &inside.token)], search).await;
    assert!(everything.contains("TOKEN="), "the search found not even the token: {everything}");
    assert!(!heard.contains(CANARY) && !everything.contains(CANARY), "{everything}");

    egress.close().await;
    let closed = said(&sandbox, &[("TOKEN", &inside.token)], ASK_MODEL).await;
    assert!(!closed.contains("HTTP/1.1"), "served after it was closed: {closed}");
    sandbox.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_tunnels_can_be_reached_from_inside() {
    let (root, model) = (tempfile::tempdir().unwrap(), Model::start().await);
    let sandbox = sandbox(root.path(), "alone").await;
    let allow = ["allowed.test".to_owned()];
    let tally = Arc::default();
    let egress = open(&sandbox, &model, &allow, &tally).await;
    assert_eq!(egress.inside().env()["HTTPS_PROXY"], "http://127.0.0.1:8098");

    // The host's own loopback, a public address, a name, the metadata service.
    for place in
        [format!("127.0.0.1/{}", model.port), "1.1.1.1/80".into(), "example.org/80".into(), "169.254.169.254/80".into()]
    {
        let script = format!("exec 3<>/dev/tcp/{place} && echo reached");
        let said = said(&sandbox, &[], &script).await;
        assert!(!said.contains("reached"), "{place}: {said}");
    }
    let connect = |target: &str| {
        format!(
            "exec 3<>/dev/tcp/127.0.0.1/8098; printf 'CONNECT {target} HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
        )
    };
    for target in ["evil.test:443", "169.254.169.254:443", "allowed.test:22"] {
        let said = said(&sandbox, &[], &connect(target)).await;
        assert!(said.starts_with("HTTP/1.1 403"), "{target}: {said}");
    }
    // Allowed, but there is no such host: the proxy looked for it.
    let said = said(&sandbox, &[], &connect("allowed.test:443")).await;
    assert!(said.starts_with("HTTP/1.1 502"), "{said}");
    assert_eq!(tally.blocked_hosts(), ["169.254.169.254", "allowed.test:22", "evil.test"]);
    assert!(model.seen.lock().unwrap().is_empty());
    sandbox.stop().await.unwrap();
}
