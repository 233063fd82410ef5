//! The worker's side: a guest that is not ours any more says what it likes.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use guest::protocol::{GUEST_CHANNELS, MAX_PAYLOAD, ToWorker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, timeout},
};
use workers::sandbox::{Command, FileKind, Sandbox, SandboxError, SandboxSpec, TreeFile};

use crate::{
    dice::Dice,
    meter::Meter,
    peer::{Honest, Pipe, encoded, spoil},
};

/// What the worker may hold for one sandbox, whatever its guest says: a list of changes is the largest that it takes.
const MAX_BYTES: usize = 256 << 20;
/// No guest here waits, so nothing that is asked of it may take longer.
const LIMIT: Duration = Duration::from_secs(20);
/// Enough to hold several times what is allowed, if each frame left something behind.
const FLOOD_BYTES: usize = 32 << 20;
/// What the pipe holds.
const PIPE_BYTES: usize = 1 << 20;

async fn connect(stream: DuplexStream) -> Result<Sandbox, SandboxError> {
    Sandbox::start(Arc::new(Pipe(Some(stream).into())), &SandboxSpec::new("fuzz")).await
}

/// Asks for one thing. What comes of it does not matter, only that something does.
async fn ask(sandbox: &Sandbox, what: usize) -> Result<(), SandboxError> {
    let file = |path: &str, n| TreeFile { path: path.into(), kind: FileKind::Regular, bytes: vec![b'x'; n] };
    let mut command = Command::shell("true", Duration::from_secs(5));
    match what {
        0 => sandbox.run(&command, &mut |_| {}).await.map(drop),
        1 => {
            command.stdin = Some(vec![b'i'; 600_000]);
            sandbox.run(&command, &mut |_| {}).await.map(drop)
        }
        2 => sandbox.put(vec![file("a", 10), file("b/c", 700_000), file("d", 0)]).await,
        3 => sandbox.get(vec![b"a".to_vec(), b"b".to_vec()], 100_000).await.map(drop),
        4 => sandbox.changes().await.map(drop),
        5 => sandbox.mark().await,
        6 => sandbox.delete(vec![b"a".to_vec()]).await,
        7 => {
            let mut tunnels = sandbox.listen(80).await?;
            if let Some(mut tunnel) = tunnels.accept().await {
                let mut heard = [0; 64];
                let _ = tunnel.write_all(b"question").await;
                let _ = tunnel.read(&mut heard).await;
            }
            Ok(())
        }
        // Somebody loses patience: the conversation goes on without a reader.
        8 => {
            let _ = timeout(Duration::ZERO, sandbox.run(&command, &mut |_| {})).await;
            sandbox.mark().await
        }
        _ => {
            let _ = timeout(Duration::ZERO, sandbox.changes()).await;
            sandbox.kill_all().await
        }
    }
}

/// Answers honestly for a while and then spoils every answer, in pieces of any size, until it hangs up.
async fn speak(mut stream: DuplexStream, mut dice: Dice) {
    let mut honest = Honest::default();
    let mut n_honest = dice.roll(4);
    let mut n_spoilt = 1 + dice.roll(3);
    let mut buffer = vec![0; 64 * 1024];
    // When both wait for each other, because an answer was dropped, the guest goes first.
    while let Ok(Ok(n)) = timeout(Duration::from_millis(30), stream.read(&mut buffer)).await {
        let mut frames = honest.answer(&buffer[..n], &mut dice);
        if n == 0 || n_spoilt == 0 {
            return;
        }
        match n_honest {
            0 => {
                spoil(&mut frames, &mut dice);
                n_spoilt -= 1;
            }
            _ => n_honest -= usize::from(!frames.is_empty()),
        }
        let bytes = frames.concat();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Most pieces are small at first, and large when there is much.
            let most = if dice.once_in(3) { 4 } else { 1 + bytes.len() };
            let n = (1 + dice.roll(most)).min(rest.len());
            if stream.write_all(&rest[..n]).await.is_err() {
                return;
            }
            rest = &rest[n..];
            if dice.once_in(4) {
                tokio::task::yield_now().await;
            }
        }
    }
}

pub(crate) async fn hostile_streams(seeds: Range<u64>) {
    let n = seeds.end - seeds.start;
    let (mut n_lost, mut largest) = (0, 0);
    let began = Instant::now();
    for seed in seeds {
        let mut dice = Dice::new(seed);
        let meter = Meter::start();
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let guest = tokio::spawn(speak(theirs, Dice::new(seed.wrapping_mul(31))));
        let session = async {
            let Ok(sandbox) = connect(ours).await else { return true };
            let mut lost = false;
            for _ in 0..1 + dice.roll(3) {
                let (one, other) = (dice.roll(10), dice.roll(10));
                // Often two at once, so that frames of one reach the other.
                let (first, second) = tokio::join!(ask(&sandbox, one), ask(&sandbox, other));
                lost |= matches!(first, Err(SandboxError::Lost(_))) || matches!(second, Err(SandboxError::Lost(_)));
            }
            lost
        };
        let lost = timeout(LIMIT, session).await.unwrap_or_else(|_| panic!("seed {seed}: it waits for ever"));
        guest.abort();
        n_lost += u64::from(lost);
        largest = largest.max(meter.peak());
        assert!(meter.peak() < MAX_BYTES, "seed {seed}: {} bytes were held", meter.peak());
    }
    println!("{n_lost} of {n} streams lost their sandbox, {largest} bytes at most, {:?}", began.elapsed());
    assert!(n_lost * 2 > n, "the spoilt answers are not hostile enough");
}

/// What the rest would be worth nothing without.
pub(crate) async fn an_honest_guest_is_believed() {
    let (ours, mut theirs) = tokio::io::duplex(PIPE_BYTES);
    let guest = tokio::spawn(async move {
        let (mut honest, mut dice) = (Honest::default(), Dice::new(1));
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = theirs.read(&mut buffer).await {
            theirs.write_all(&honest.answer(&buffer[..n], &mut dice).concat()).await.unwrap();
        }
    });
    let sandbox = connect(ours).await.unwrap();
    for what in (0..10).filter(|what| *what != 1) {
        timeout(LIMIT, ask(&sandbox, what)).await.expect("in time").unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    drop(sandbox);
    guest.await.unwrap();
}

/// Greets, waits for the first question, then sends `frame` for ever and never reads again.
async fn flood(mut stream: DuplexStream, opening: Vec<u8>, frame: Vec<u8>, n_sent: Arc<AtomicUsize>) {
    let mut honest = Honest::default();
    let mut buffer = vec![0; 4096];
    let n = stream.read(&mut buffer).await.unwrap();
    stream.write_all(&honest.answer(&buffer[..n], &mut Dice::new(1)).concat()).await.unwrap();
    let _ = stream.read(&mut buffer).await.unwrap();
    stream.write_all(&opening).await.unwrap();
    let many = frame.repeat(1 + 16 * 1024 / frame.len());
    while n_sent.load(Ordering::Relaxed) < FLOOD_BYTES && stream.write_all(&many).await.is_ok() {
        n_sent.fetch_add(many.len(), Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

/// Until the guest has sent all of it, or the sandbox is lost and nobody reads it any more.
async fn until_over(sandbox: &Sandbox, guest: &tokio::task::JoinHandle<()>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !guest.is_finished() {
        if let Ok(Err(SandboxError::Lost(reason))) = timeout(Duration::ZERO, sandbox.mark()).await {
            return println!("    {reason}");
        }
        ticks.tick().await;
    }
}

/// A guest that sends what makes the worker answer, and does not take the answers.
pub(crate) async fn a_guest_that_does_not_listen_cannot_make_the_worker_hoard() {
    const HELD: usize = 80 << 20;
    let tunnel = |n: u32| GUEST_CHANNELS + n;
    let pair =
        [encoded(tunnel(0), &ToWorker::Accepted { listener: 1 }), encoded(tunnel(0), &ToWorker::Closed)].concat();
    let listening = encoded(1, &ToWorker::Done { value: 80 });
    // (what, the first answer, what follows for ever, what is asked)
    let floods = [
        ("output of a command that nobody waits for", Vec::new(), encoded(1, &ToWorker::Stdout(b"x")), 0),
        ("large output of such a command", Vec::new(), encoded(1, &ToWorker::Stdout(&[b'x'; MAX_PAYLOAD])), 0),
        ("connections that come and go", listening.clone(), pair, 7),
        ("credit of nothing", Vec::new(), encoded(1, &ToWorker::Credit(0)), 0),
        (
            "data of a connection that nobody took",
            [listening.as_slice(), &encoded(tunnel(0), &ToWorker::Accepted { listener: 1 })].concat(),
            encoded(tunnel(0), &ToWorker::Data(b"x")),
            7,
        ),
    ];
    for (what, opening, frame, asked) in floods {
        let meter = Meter::start();
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let n_sent = Arc::new(AtomicUsize::new(0));
        let guest = tokio::spawn(flood(theirs, opening, frame, n_sent.clone()));
        let sandbox = connect(ours).await.unwrap();
        let patience = Duration::from_millis(50);
        let tunnels = match asked {
            7 => timeout(patience, sandbox.listen(80)).await.ok().and_then(Result::ok),
            _ => {
                let mut ignore = |_: workers::sandbox::Output<'_>| {};
                let _ = timeout(patience, sandbox.run(&Command::shell("x", LIMIT), &mut ignore)).await;
                None
            }
        };
        // Nobody accepts, nobody reads.
        let over = timeout(LIMIT * 3, until_over(&sandbox, &guest)).await;
        let (n_sent, peak) = (n_sent.load(Ordering::Relaxed), meter.peak());
        println!("{what}: {n_sent} bytes sent, {peak} held");
        assert!(over.is_ok(), "{what}: it waits for ever");
        assert!(peak < HELD, "{what}: {peak} bytes are held after {n_sent}");
        guest.abort();
        drop((tunnels, sandbox));
    }
}

/// A guest that stops in the middle of anything, or goes on by a byte at a time.
pub(crate) async fn stalls_end_at_their_limit() {
    let output = encoded(1, &ToWorker::Stdout(&[b'x'; 1000]));
    let mut never = output.clone();
    never[5..9].copy_from_slice(&(MAX_PAYLOAD as u32).to_le_bytes());
    let stalls: [(&str, Vec<u8>, bool); 6] = [
        ("says nothing", Vec::new(), false),
        ("stops in a header", output[..5].to_vec(), false),
        ("stops in a payload", output[..500].to_vec(), false),
        ("says a frame's bytes one by one", never, true),
        ("says nothing new for ever", encoded(1, &ToWorker::Credit(0)).repeat(1000), true),
        ("writes without end", output.repeat(100), true),
    ];
    let began = Instant::now();
    let stalled = stalls.map(|(what, bytes, drips)| async move {
        let (ours, mut theirs) = tokio::io::duplex(PIPE_BYTES);
        let guest = tokio::spawn(async move {
            let (mut honest, mut dice, mut buffer) = (Honest::default(), Dice::new(1), vec![0; 4096]);
            let n = theirs.read(&mut buffer).await.unwrap();
            theirs.write_all(&honest.answer(&buffer[..n], &mut dice).concat()).await.unwrap();
            let _ = theirs.read(&mut buffer).await.unwrap();
            let mut rest = bytes.iter().cycle();
            match drips {
                false => theirs.write_all(&bytes).await.unwrap(),
                true => {
                    while theirs.write_all(&[*rest.next().unwrap()]).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            // Hangs on until the worker has had enough.
            let _ = theirs.read(&mut [0; 1]).await;
            std::future::pending::<()>().await;
        });
        let sandbox = connect(ours).await.unwrap();
        let outcome = timeout(LIMIT, sandbox.run(&Command::shell("x", Duration::ZERO), &mut |_| {})).await;
        assert!(matches!(outcome, Ok(Err(SandboxError::Lost(_)))), "{what}: {outcome:?}");
        assert!(matches!(sandbox.mark().await, Err(SandboxError::Lost(_))), "{what}: lost for good");
        guest.abort();
    });
    futures_util::future::join_all(stalled).await;
    println!("stalls ended after {:?}", began.elapsed());
}
