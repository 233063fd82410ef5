//! The agent that ships with Onramp: its loop runs here, its hands are frames to the guest.
//!
//! So it needs nothing inside but a shell, and nothing that runs inside could read what it knows: not the token of the
//! gateway, not the conversation. It asks its model through the same gateway as every other agent, under the same rules and
//! the same count. What it does is told in the event format of Claude Code, so that nothing above it is different.

mod talk;
mod tools;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;

use self::{
    talk::{Item, Stop, Turn},
    tools::Tools,
};
use super::{Round, definition::Builtin};
use crate::{
    egress::models::Models,
    sandbox::{Exit, Output, Sandbox, SandboxError},
};

/// A conversation longer than this, in bytes, is trimmed to half of it: about a hundred thousand tokens.
const MAX_CONVERSATION_BYTES: usize = 400_000;
/// The newest results are never trimmed.
const KEPT_RESULTS: usize = 4;
/// From so few turns left on, the model is told how many there are.
const FEW_TURNS: u32 = 5;
/// How often an answer that broke off or cannot be read is asked for again.
const ASK_AGAIN: u32 = 2;

/// Works until the model says that it is done. The verdict is the last event, as with every other agent.
///
/// # Errors
/// When the sandbox is lost.
pub(super) async fn run(
    sandbox: &Sandbox,
    round: &Round<'_>,
    builtin: &Builtin,
    on_output: &mut (dyn FnMut(Output<'_>) + Send),
) -> Result<Exit, SandboxError> {
    let started = Instant::now();
    let mut agent = Agent { sandbox, round, builtin, on_output, usage: Usage::default() };
    let ended = timeout(round.time, agent.work()).await;
    let (usage, duration_ms) = (agent.usage.json(), u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    let (code, last) = match &ended {
        Ok(Ok(words)) => (0, json!({ "subtype": "success", "is_error": false, "result": words })),
        Ok(Err(Trouble::Sandbox(_))) | Err(_) => (1, Value::Null),
        Ok(Err(Trouble::Model(why))) => (1, json!({ "subtype": "error", "is_error": true, "result": why })),
    };
    if let Value::Object(mut last) = last {
        last.insert("type".into(), "result".into());
        last.insert("usage".into(), usage);
        last.insert("duration_ms".into(), duration_ms.into());
        agent.tell(&Value::Object(last));
    }
    if let Ok(Err(Trouble::Sandbox(error))) = ended {
        return Err(error);
    }
    Ok(Exit {
        code: Some(code),
        signal: None,
        timed_out: ended.is_err(),
        wall: started.elapsed(),
        cpu: Duration::ZERO,
        max_rss_bytes: 0,
        limits: Vec::new(),
    })
}

/// Why it cannot go on.
enum Trouble {
    /// The model refused, or nobody answers.
    Model(String),
    /// The sandbox is gone.
    Sandbox(SandboxError),
}

struct Agent<'a> {
    sandbox: &'a Sandbox,
    round: &'a Round<'a>,
    builtin: &'a Builtin,
    on_output: &'a mut (dyn FnMut(Output<'_>) + Send),
    usage: Usage,
}

/// Tokens of this round, as the answers tell them.
#[derive(Default)]
struct Usage {
    input: u64,
    output: u64,
}

impl Usage {
    fn json(&self) -> Value {
        json!({ "input_tokens": self.input, "output_tokens": self.output })
    }
}

impl Agent<'_> {
    /// Turn by turn. Returns the model's last words.
    async fn work(&mut self) -> Result<String, Trouble> {
        let Some(models) = self.round.models else {
            return Err(Trouble::Model("there is no way to a model here".to_owned()));
        };
        let model = self.round.agent.model.as_deref().unwrap_or_default().to_owned();
        self.tell(&json!({ "type": "system", "subtype": "init", "model": model, "tools": tools::NAMES }));
        let tools = Tools::new(self.sandbox, self.round);
        let mut items = vec![Item::User(self.round.prompt.to_owned())];
        for turn in 1..=self.builtin.max_turns {
            let Turn { text, calls, stop, input, output } = self.ask(models, &model, &items).await?;
            self.usage.input += input;
            self.usage.output += output;
            let said = (!text.is_empty()).then(|| json!({ "type": "text", "text": text }));
            let uses = calls
                .iter()
                .map(|call| json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.input }));
            let content: Vec<Value> = said.into_iter().chain(uses).collect();
            self.tell(&json!({ "type": "assistant", "message": { "role": "assistant", "content": content } }));
            if calls.is_empty() {
                match stop {
                    Stop::Length => {
                        items.push(Item::Assistant { text, calls });
                        items.push(Item::User(
                            "Your answer was cut off at its longest. Go on, in smaller steps.".into(),
                        ));
                        continue;
                    }
                    Stop::Refused => return Err(Trouble::Model("the model refused to answer".to_owned())),
                    Stop::Done => return Ok(text),
                }
            }
            let mut results = Vec::new();
            for call in &calls {
                let (result, is_error) = match tools.call(&call.name, &call.input).await {
                    Ok(result) => (result, false),
                    Err(tools::Error::Sandbox(error)) => return Err(Trouble::Sandbox(error)),
                    Err(tools::Error::Wrong(why)) => (why, true),
                };
                let shown =
                    json!({ "type": "tool_result", "tool_use_id": call.id, "content": result, "is_error": is_error });
                self.tell(&json!({ "type": "user", "message": { "role": "user", "content": [shown] } }));
                results.push((call.id.clone(), result, is_error));
            }
            let n_left = self.builtin.max_turns - turn;
            if n_left <= FEW_TURNS
                && let Some((_, result, _)) = results.last_mut()
            {
                result.push_str(&format!("\n[{n_left} turns are left: come to an end]"));
            }
            items.push(Item::Assistant { text, calls });
            items.push(Item::Results(results));
            trim(&mut items);
        }
        Err(Trouble::Model(format!("it was not done after {} turns", self.builtin.max_turns)))
    }

    async fn ask(&mut self, models: &Models, model: &str, items: &[Item]) -> Result<Turn, Trouble> {
        let provider = &self.builtin.provider;
        let speaks = models.speaks(provider);
        let (path, body) = talk::request(speaks, model, templates::BUILTIN_AGENT.trim(), items).ok_or_else(|| {
            Trouble::Model(format!("the provider `{provider}` speaks in a way that this agent does not"))
        })?;
        let body = body.to_string().into_bytes();
        let mut why = String::new();
        for _ in 0..=ASK_AGAIN {
            why = match models.exchange(provider, path, body.clone()).await {
                Ok((200, answer)) => match talk::read(speaks, &answer) {
                    Ok(turn) => return Ok(turn),
                    Err(why) => why,
                },
                // Outages were repeated by the gateway already.
                Ok((status, answer)) => {
                    return Err(Trouble::Model(format!("{} ({status})", talk::error_words(&answer))));
                }
                Err(why) => why,
            };
            self.tell(&json!({ "type": "system", "subtype": "api_retry", "error": why }));
        }
        Err(Trouble::Model(why))
    }

    /// One event, as one line.
    fn tell(&mut self, event: &Value) {
        (self.on_output)(Output::Stdout(format!("{event}\n").as_bytes()));
    }
}

/// Takes the oldest results out of a conversation that has become too long. Half of it goes at once, so that what is left
/// stays the same for many turns and a provider's cache of it serves.
fn trim(items: &mut [Item]) {
    let mut n_bytes: usize = items.iter().map(Item::n_bytes).sum();
    if n_bytes <= MAX_CONVERSATION_BYTES {
        return;
    }
    let n_results = items.iter().filter(|item| matches!(item, Item::Results(_))).count();
    let old = items.iter_mut().filter_map(|item| match item {
        Item::Results(results) => Some(results),
        Item::User(_) | Item::Assistant { .. } => None,
    });
    for results in old.take(n_results.saturating_sub(KEPT_RESULTS)) {
        for (_, result, _) in results {
            let note =
                format!("[{} characters of this older result were left out; ask again if you need it]", result.len());
            if result.len() > note.len() {
                n_bytes -= result.len() - note.len();
                *result = note;
            }
        }
        if n_bytes <= MAX_CONVERSATION_BYTES / 2 {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
