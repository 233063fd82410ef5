//! The few methods of Slack's Web API that are needed. Nothing is retried here: whoever calls looks first and comes again.

use std::time::Duration;

use chrono::Duration as Wait;
use reqwest::{StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tasks::{ChatThread, Code, Failure};
use templates::SlackText;

use crate::queue::Clock;

/// One request takes no longer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Of an answer so many bytes are read.
const MAX_ANSWER: usize = 4 << 20;
/// Of a thread so many messages are looked at, newest of them last.
const MAX_MESSAGES: usize = 200;

/// Where Slack is, and as whom it is talked to.
pub struct Client {
    http: reqwest::Client,
    api_url: String,
    bot: SecretString,
    clock: Clock,
}

/// A message of ours, as it is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its id in the channel.
    pub(super) ts: String,
    /// What was noted with it.
    pub(super) note: Value,
}

impl Client {
    /// Talks to `api_url` (`https://slack.com/api`) with the token of a bot.
    ///
    /// # Errors
    /// E099 when TLS cannot be set up.
    pub fn new(api_url: &str, bot: SecretString, clock: Clock) -> Result<Self, Failure> {
        // Slack redirects nothing of this, and a token must not follow anybody elsewhere.
        let http = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let http = http.build().map_err(Failure::internal)?;
        Ok(Self { http, api_url: api_url.trim_end_matches('/').to_owned(), bot, clock })
    }

    /// Calls a method with the bot's token.
    pub(super) async fn call(&self, method: &str, body: &Value) -> Result<Value, Failure> {
        self.call_as(&self.bot, method, body).await
    }

    /// Calls a method with some token.
    pub(super) async fn call_as(&self, token: &SecretString, method: &str, body: &Value) -> Result<Value, Failure> {
        let unavailable =
            |why: String| Failure::new(Code::ChatUnavailable, format!("Slack did not answer {method}: {why}"));
        let request =
            self.http.post(format!("{}/{method}", self.api_url)).bearer_auth(token.expose_secret()).json(body);
        let mut answer = request.send().await.map_err(|error| unavailable(error.without_url().to_string()))?;
        let status = answer.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let mut failure = unavailable("there were too many requests".to_owned());
            failure.retry_not_before = Some((self.clock)() + Wait::seconds(i64::from(seconds.unwrap_or(30u32))));
            return Err(failure);
        }
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| unavailable(error.without_url().to_string()))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_ANSWER {
                return Err(unavailable("the answer has no end".to_owned()));
            }
        }
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|_| unavailable(format!("HTTP {status}, and no JSON")))?;
        if value["ok"] == json!(true) {
            return Ok(value);
        }
        let error = value["error"].as_str().unwrap_or("no reason given");
        Err(match error {
            "ratelimited"
            | "internal_error"
            | "fatal_error"
            | "service_unavailable"
            | "request_timeout"
            | "team_added_to_org" => unavailable(error.to_owned()),
            _ => {
                let needed = value["needed"]
                    .as_str()
                    .map_or_else(String::new, |scope| format!(" (the scope {scope} is missing)"));
                Failure::new(Code::ChatRefused, format!("Slack refused {method}: {error}{needed}"))
            }
        })
    }

    /// Says something, with a note by which it is found again. Not to be called before [`Client::find`] said that it is not
    /// there. Returns the id of the message.
    pub(super) async fn say(&self, thread: &ChatThread, text: &SlackText, note: &Value) -> Result<String, Failure> {
        let mut body = json!({
            "channel": thread.channel, "text": text.text, "blocks": text.blocks, "unfurl_links": false,
            "metadata": { "event_type": "onramp", "event_payload": note },
        });
        if !thread.first.is_empty() {
            body["thread_ts"] = thread.first.as_str().into();
        }
        let said = self.call("chat.postMessage", &body).await?;
        said["ts"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure::new(Code::ChatUnavailable, "Slack did not say where the message is"))
    }

    /// Changes a message of ours. May be repeated.
    pub(super) async fn edit(&self, channel: &str, ts: &str, text: &SlackText, note: &Value) -> Result<(), Failure> {
        let body = json!({
            "channel": channel, "ts": ts, "text": text.text, "blocks": text.blocks,
            "metadata": { "event_type": "onramp", "event_payload": note },
        });
        self.call("chat.update", &body).await.map(drop)
    }

    /// Says something to one person only. It is a hint, and nothing hangs on it.
    pub(super) async fn whisper(&self, thread: &ChatThread, person: &str, text: &str) -> Result<(), Failure> {
        let mut body = json!({ "channel": thread.channel, "user": person, "text": text });
        if !thread.first.is_empty() {
            body["thread_ts"] = thread.first.as_str().into();
        }
        self.call("chat.postEphemeral", &body).await.map(drop)
    }

    /// The message of ours in a thread (or, without one, among the latest of the channel) whose note is as wanted.
    pub(super) async fn find(
        &self,
        thread: &ChatThread,
        wanted: impl Fn(&str, &Value) -> bool,
    ) -> Result<Option<Found>, Failure> {
        let mut body = json!({ "channel": thread.channel, "limit": MAX_MESSAGES, "include_all_metadata": true });
        let method = match thread.first.as_str() {
            "" => "conversations.history",
            first => {
                body["ts"] = first.into();
                "conversations.replies"
            }
        };
        let answer = match self.call(method, &body).await {
            // The message that it hung on is gone.
            Err(failure) if failure.message.contains("thread_not_found") => return Ok(None),
            answer => answer?,
        };
        let messages = answer["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = messages.iter().find_map(|message| {
            let (ts, note) = (message["ts"].as_str()?, &message["metadata"]["event_payload"]);
            let ours = message["metadata"]["event_type"] == "onramp" && !message["bot_id"].is_null();
            (ours && wanted(ts, note)).then(|| Found { ts: ts.to_owned(), note: note.clone() })
        });
        Ok(found)
    }
}
