//! Slack over a socket that Onramp opens, so that no address has to be reachable from outside.
//!
//! What arrives is stored before it is acknowledged, as at the door; what is not acknowledged Slack sends again.
//! Source: Slack's "Using Socket Mode".

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use secrecy::SecretString;
use serde_json::{Value, json};
use tasks::{Change, Code, Failure, Intake, QueueError};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use webhooks::slack::events::{self, Envelope, Kind, Reading};

use super::client::Client;

/// Slack pings more often; a silence of this length is a dead connection.
const SILENCE: Duration = Duration::from_secs(90);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The wait after the first failed connection; doubles up to the cap.
const RETRY_BASE: Duration = Duration::from_secs(1);
const RETRY_CAP: Duration = Duration::from_secs(60);

/// Listens until told to stop, over one connection after the other.
pub(super) async fn listen(
    client: Arc<Client>,
    app: SecretString,
    intake: Arc<dyn Intake>,
    shutdown: CancellationToken,
) {
    let mut wait = RETRY_BASE;
    while !shutdown.is_cancelled() {
        let heard = tokio::select! {
            () = shutdown.cancelled() => return,
            heard = listen_once(&client, &app, intake.as_ref()) => heard,
        };
        match heard {
            // Slack renews connections every few hours, with notice.
            Ok(()) => wait = RETRY_BASE,
            Err(failure) => {
                tracing::warn!(%failure, "Slack cannot be heard; the connection is opened again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(RETRY_CAP);
            }
        }
    }
}

/// One connection, until Slack asks for another.
async fn listen_once(client: &Client, app: &SecretString, intake: &dyn Intake) -> Result<(), Failure> {
    let lost = |why: String| Failure::new(Code::ChatUnavailable, format!("The connection to Slack was lost: {why}"));
    let opened = client.call_as(app, "apps.connections.open", &json!({})).await?;
    let url = opened["url"].as_str().ok_or_else(|| lost("it named no address".to_owned()))?;
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, tokio_tungstenite::connect_async(url)).await;
    let (mut socket, _) =
        connecting.map_err(|_| lost("no answer in 20 s".to_owned()))?.map_err(|error| lost(error.to_string()))?;
    loop {
        let next = tokio::time::timeout(SILENCE, socket.next()).await.map_err(|_| lost("it is silent".to_owned()))?;
        let message = next.ok_or_else(|| lost("it was closed".to_owned()))?.map_err(|error| lost(error.to_string()))?;
        let Message::Text(text) = message else {
            // A ping is answered by the library, with the next write or read.
            continue;
        };
        let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
        match value["type"].as_str() {
            Some("hello") => tracing::info!("Slack is heard over its socket"),
            Some("disconnect") => return Ok(()),
            _ => {
                let Some(id) = value["envelope_id"].as_str() else { continue };
                if let Err(error) = take(&value, intake).await {
                    tracing::warn!(%error, "what Slack sent could not be stored; it is not acknowledged");
                    continue;
                }
                let answer = Message::text(json!({ "envelope_id": id }).to_string());
                socket.send(answer).await.map_err(|error| lost(error.to_string()))?;
            }
        }
    }
}

async fn take(value: &Value, intake: &dyn Intake) -> Result<(), QueueError> {
    let kind = match value["type"].as_str() {
        Some("events_api") => Kind::Event,
        Some("interactive") => Kind::Interaction,
        Some("slash_commands") => Kind::Command,
        _ => return Ok(()),
    };
    match events::read(&Envelope { kind, payload: value["payload"].clone() }) {
        Reading::Said { key, said } => intake.observe(key, Change::Said(said)).await,
        Reading::Ignored(reason) => {
            tracing::debug!(reason, "Slack told of something that asks for nothing here");
            Ok(())
        }
    }
}
