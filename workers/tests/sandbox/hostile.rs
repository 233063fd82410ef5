//! A guest that is not ours any more: whatever it sends, the sandbox is lost and nothing else.

use std::{process::Stdio, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use guest::protocol::{Frame, GUEST_CHANNELS, MAX_PAYLOAD, ToWorker, VERSION, WINDOW};
use tasks::Failure;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use workers::sandbox::{Command, GUEST, Output, Sandbox, SandboxBackend, SandboxError, SandboxSpec, Started};

use crate::suite::spec;

/// Hands out one end of a pipe that was made before.
#[derive(Debug)]
struct Fake(std::sync::Mutex<Option<DuplexStream>>);

#[async_trait]
impl SandboxBackend for Fake {
    async fn start(&self, _: &SandboxSpec) -> Result<Started, SandboxError> {
        let stream = self.0.lock().unwrap().take().expect("started once");
        Ok(Started { stream: Box::new(stream), kind: "none", environment: "none".into() })
    }
    async fn build_image(&self, _: Bytes, _: &str, _: &str) -> Result<String, Failure> {
        unreachable!("no test builds an image here")
    }
    async fn stop(&self, _: &str) -> Result<(), SandboxError> {
        Ok(())
    }
    async fn sweep(&self, _: &(dyn for<'a> Fn(&'a str) -> bool + Send + Sync)) -> Result<usize, SandboxError> {
        Ok(0)
    }
}

fn encoded(channel: u32, message: &ToWorker<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(channel, &mut bytes);
    bytes
}

fn hello() -> Vec<u8> {
    encoded(0, &ToWorker::Hello { version: VERSION, pid: 1 })
}

/// Until the command that the tests run has come.
async fn hear_question(stream: &mut DuplexStream) {
    let mut heard = Vec::new();
    while !heard.windows(8).any(|window| window == b"question") {
        assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "hung up before it asked");
    }
}

/// Starts a sandbox whose guest greets and then, as soon as it is asked anything, sends `bytes`. Then asks it.
async fn run_against(bytes: Vec<u8>) -> SandboxError {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let guest = tokio::spawn(async move {
        theirs.write_all(&hello()).await.unwrap();
        hear_question(&mut theirs).await;
        drop(theirs.write_all(&bytes).await);
        theirs
    });
    let sandbox = Sandbox::start(Arc::new(Fake(Some(ours).into())), &spec(None)).await.unwrap();
    let command = Command::shell("question", Duration::from_secs(60));
    let error = sandbox.run(&command, &mut |_| {}).await.unwrap_err();
    assert!(matches!(sandbox.mark().await, Err(SandboxError::Lost(_))), "lost for good");
    drop(guest.await.unwrap());
    error
}

async fn reason(bytes: Vec<u8>) -> String {
    match run_against(bytes).await {
        SandboxError::Lost(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn garbage_loses_the_sandbox() {
    let distrust = "its guest is not to be trusted any more: ";
    let told = async |bytes: Vec<u8>| reason(bytes).await.strip_prefix(distrust).expect("distrust").to_owned();
    assert_eq!(told(b"HTTP/1.1 200 OK\r\n\r\n".repeat(100)).await, "malformed frame: oversize payload");
    assert_eq!(told(vec![0xff; 4096]).await, "malformed frame: oversize payload");
    assert_eq!(told(vec![0; 9]).await, "malformed frame: a kind that no guest sends");
    let mut frame = encoded(1, &ToWorker::Stdout(b"x"));
    frame[5..9].copy_from_slice(&(MAX_PAYLOAD as u32 + 1).to_le_bytes());
    assert_eq!(told(frame).await, "malformed frame: oversize payload");

    let never = "a frame for a conversation that is over or never was";
    assert_eq!(told(encoded(77, &ToWorker::Stdout(b"x"))).await, never);
    assert_eq!(told(hello()).await, never);
    let twice = [encoded(1, &ToWorker::Exit(Default::default())), encoded(1, &ToWorker::Exit(Default::default()))];
    // The first of them is a fair answer; what comes after it is not.
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(&hello()).await.unwrap();
    let sandbox = Sandbox::start(Arc::new(Fake(Some(ours).into())), &spec(None)).await.unwrap();
    theirs.write_all(&twice.concat()).await.unwrap();
    assert!(matches!(sandbox.mark().await, Err(SandboxError::Lost(_))));

    assert_eq!(told(encoded(1, &ToWorker::Data(b"x"))).await, "an answer to something else");
    assert_eq!(told(encoded(1, &ToWorker::Credit(1))).await, "more credit than it can have");
    let accepted = ToWorker::Accepted { listener: 1 };
    assert_eq!(told(encoded(GUEST_CHANNELS, &accepted)).await, "a connection to a port that nobody listens to");
}

#[tokio::test]
async fn more_output_than_its_credit_loses_the_sandbox() {
    // All of it at once, before the worker can grant more.
    let frame = encoded(1, &ToWorker::Stdout(&[b'x'; MAX_PAYLOAD]));
    let flood = frame.repeat(2 + WINDOW as usize / MAX_PAYLOAD);
    let (ours, mut theirs) = tokio::io::duplex(8 << 20);
    let sandbox = async {
        let sandbox = Sandbox::start(Arc::new(Fake(Some(ours).into())), &spec(None)).await.unwrap();
        let command = Command::shell("question", Duration::from_secs(60));
        sandbox.run(&command, &mut |_| std::thread::sleep(Duration::from_millis(50))).await
    };
    let guest = async {
        theirs.write_all(&hello()).await.unwrap();
        hear_question(&mut theirs).await;
        theirs.write_all(&flood).await.unwrap();
    };
    match tokio::join!(sandbox, guest).0 {
        Err(SandboxError::Lost(reason)) => assert!(reason.ends_with("more than its credit"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_end_of_the_stream_loses_the_sandbox() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(&hello()).await.unwrap();
    let sandbox = Sandbox::start(Arc::new(Fake(Some(ours).into())), &spec(None)).await.unwrap();
    let command = Command::shell("sleep 1000", Duration::from_secs(1000));
    let mut ignore = |_: Output<'_>| {};
    let (exit, ()) = tokio::join!(sandbox.run(&command, &mut ignore), async { drop(theirs) });
    match exit {
        Err(SandboxError::Lost(reason)) => assert_eq!(reason, "its stream ended"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_of_another_version_is_refused() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(&encoded(0, &ToWorker::Hello { version: 99, pid: 1 })).await.unwrap();
    match Sandbox::start(Arc::new(Fake(Some(ours).into())), &spec(None)).await {
        Err(SandboxError::Lost(reason)) => assert_eq!(reason, format!("its guest speaks version 99, not {VERSION}")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_that_does_not_keep_a_limit_is_given_up() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    theirs.write_all(&hello()).await.unwrap();
    let sandbox = Sandbox::start(Arc::new(Fake(Some(ours).into())), &spec(None)).await.unwrap();
    match sandbox.run(&Command::shell("sleep 1000", Duration::ZERO), &mut |_| {}).await {
        Err(SandboxError::Lost(reason)) => assert_eq!(reason, "its guest did not end a command at its limit"),
        other => panic!("{other:?}"),
    }
}

/// The other way round: a real guest that hears nonsense ends, and harms nobody. It is not PID 1 here.
#[tokio::test]
async fn a_guest_that_hears_garbage_ends() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("guest");
    std::fs::write(&program, GUEST).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut part = Vec::new();
    guest::protocol::ToGuest::Part(&[0; MAX_PAYLOAD]).encode(3, &mut part);
    for garbage in [vec![0xff; 100], vec![0; 9], part.repeat(200), Vec::new()] {
        let mut guest = tokio::process::Command::new(&program);
        let mut guest =
            guest.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut stdin = guest.stdin.take().unwrap();
        // It may be gone before it has heard all of it.
        drop(stdin.write_all(&garbage).await);
        drop(stdin);
        let ended = tokio::time::timeout(Duration::from_secs(10), guest.wait()).await.expect("ends").unwrap();
        assert_eq!(ended.code(), Some(0), "{} bytes", garbage.len());
    }
}

#[test]
fn a_frame_is_found_only_when_it_is_whole() {
    let bytes = encoded(7, &ToWorker::Stdout(b"four"));
    for cut in 0..bytes.len() {
        assert_eq!(Frame::split(&bytes[..cut]), Ok(None));
    }
    let (frame, length) = Frame::split(&bytes).unwrap().unwrap();
    assert_eq!((frame.channel, frame.payload, length), (7, &b"four"[..], bytes.len()));
}
