//! `onramp serve`: the door, the queue and the hands in one program, until a signal says otherwise.

use tasks::{Code, Failure};
use tokio::signal::unix::{SignalKind, signal};

use super::Setting;
use crate::{Parts, start};

pub(super) async fn serve(setting: Setting) -> Result<u8, Failure> {
    let config = setting.config;
    let label = config.github.label.clone();
    let running = start(config, Parts { surroundings: Some(setting.surroundings), ..Parts::default() }).await?;
    let address = running.addr();
    eprintln!("listening on http://{address}/hooks/github");
    eprintln!("{}", running.sandbox());
    eprintln!(
        "an issue that gets the label `{label}` becomes a task; Ctrl-C ends after the tasks at hand, twice at once"
    );

    wait_for_signal().await?;
    eprintln!("draining: no new task is started; once more to give back what runs");
    tokio::select! {
        () = running.drain() => {}
        signal = wait_for_signal() => {
            signal?;
            running.stop().await;
        }
    }
    Ok(0)
}

async fn wait_for_signal() -> Result<(), Failure> {
    let unavailable = |error| Failure::new(Code::Internal, format!("Signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
