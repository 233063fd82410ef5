//! From what Slack sends to what somebody wants. Pure, and lenient about everything that is not needed.

use serde_json::Value;
use tasks::{Button, ChatThread, ChatWish, DedupeKey, Said, TaskId};

use super::key;

/// Of a message so much is read, in bytes. Slack itself cuts at 40,000 characters.
const MAX_TEXT: usize = 16_000;

/// How something came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `events_api` on the socket: something happened.
    Event,
    /// `interactive`: somebody pressed or chose something.
    Interaction,
    /// `slash_commands`: somebody typed `/onramp`.
    Command,
}

/// One thing that Slack sent, without the wrapping that differs between socket and HTTP.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// How it came.
    pub kind: Kind,
    /// What.
    pub payload: Value,
}

/// What it asks for.
#[derive(Debug)]
pub enum Reading {
    /// Somebody wants something, or may want it.
    Said {
        /// The same for the same event, however often Slack sends it.
        key: DedupeKey,
        /// What.
        said: Box<Said>,
    },
    /// It asks for nothing here, because of this.
    Ignored(&'static str),
}

/// What Slack wants to read back before it sends anything.
pub(super) fn challenge(envelope: &Envelope) -> Option<&str> {
    let is_one = text(&envelope.payload, "/type") == "url_verification";
    is_one.then(|| text(&envelope.payload, "/challenge"))
}

/// Reads it.
pub fn read(envelope: &Envelope) -> Reading {
    let payload = &envelope.payload;
    let read = match envelope.kind {
        Kind::Event => event(payload),
        Kind::Interaction => interaction(payload),
        Kind::Command => command(payload),
    };
    match read {
        Ok((Some(key), said)) => Reading::Said { key, said: Box::new(said) },
        Ok((None, _)) => Reading::Ignored("it has no id"),
        Err(reason) => Reading::Ignored(reason),
    }
}

type Read = Result<(Option<DedupeKey>, Said), &'static str>;

fn event(payload: &Value) -> Read {
    let event = payload.get("event").ok_or("it is no event")?;
    let (kind, channel) = (text(event, "/type"), text(event, "/channel"));
    // Other programs, and ourselves: whoever answers programs can be made to talk to itself.
    if !text(event, "/bot_id").is_empty() || !matches!(text(event, "/subtype"), "" | "file_share" | "thread_broadcast")
    {
        return Err("no person said it, or it was said before");
    }
    let said = without_mentions(text(event, "/text"));
    let is_direct = text(event, "/channel_type") == "im";
    let thread = text(event, "/thread_ts");
    let wish = match kind {
        "app_mention" => ChatWish::Ask { text: said },
        // In a direct conversation every message is meant for Onramp.
        "message" if is_direct => ChatWish::Ask { text: said },
        // A mention arrives as an event of its own.
        "message" if !thread.is_empty() && mentions_none(text(event, "/text")) => ChatWish::Reply { text: said },
        "message" => return Err("it is not said to Onramp"),
        _ => return Err("such events ask for nothing"),
    };
    let first = if thread.is_empty() { text(event, "/ts") } else { thread };
    // A mention in a direct conversation comes twice, as two events about one message.
    let key = key(&["message", channel, text(event, "/ts")]);
    Ok((key, said_by(event, "/user", channel, first, wish)?))
}

fn interaction(payload: &Value) -> Read {
    let channel = text(payload, "/channel/id");
    match text(payload, "/type") {
        // The shortcut below a message: its text is what is asked.
        "message_action" => {
            let message = payload.get("message").ok_or("it names no message")?;
            let first = Some(text(message, "/thread_ts")).filter(|ts| !ts.is_empty()).unwrap_or(text(message, "/ts"));
            let wish = ChatWish::Ask { text: without_mentions(text(message, "/text")) };
            let key = key(&["shortcut", channel, text(payload, "/action_ts")]);
            Ok((key, said_by(payload, "/user/id", channel, first, wish)?))
        }
        "block_actions" => {
            let action = payload.pointer("/actions/0").ok_or("nothing was pressed")?;
            let message = text(payload, "/container/message_ts");
            let thread = text(payload, "/container/thread_ts");
            let thread = Some(thread).filter(|ts| !ts.is_empty()).unwrap_or(text(payload, "/message/thread_ts"));
            let first = if thread.is_empty() { message } else { thread };
            let wish = match text(action, "/action_id") {
                "onramp_repo" => {
                    let repo =
                        text(action, "/selected_option/value").parse().map_err(|_| "no repository was chosen")?;
                    ChatWish::Choose { question: message.to_owned(), repo }
                }
                word => {
                    let button = word
                        .strip_prefix("onramp_")
                        .and_then(Button::of_word)
                        .ok_or("a button that does nothing here")?;
                    let task: TaskId = text(action, "/value").parse().map_err(|_| "it names no task")?;
                    ChatWish::Press { task, button }
                }
            };
            let key = key(&["action", channel, message, text(action, "/action_ts")]);
            Ok((key, said_by(payload, "/user/id", channel, first, wish)?))
        }
        _ => Err("such interactions ask for nothing"),
    }
}

fn command(payload: &Value) -> Read {
    let wish = ChatWish::Ask { text: without_mentions(text(payload, "/text")) };
    let key = key(&["command", text(payload, "/trigger_id")]);
    Ok((key, said_by(payload, "/user_id", text(payload, "/channel_id"), "", wish)?))
}

fn said_by(value: &Value, user: &str, channel: &str, first: &str, wish: ChatWish) -> Result<Said, &'static str> {
    let by = text(value, user);
    if !is_id(by) || !is_id(channel) || !(first.is_empty() || is_time(first)) {
        return Err("it does not say who or where");
    }
    let thread = ChatThread { channel: channel.to_owned(), first: first.to_owned() };
    Ok(Said { thread, by: by.to_owned(), wish })
}

/// `U2CERLKJA`: letters and digits. Such ids become parts of requests to Slack.
fn is_id(text: &str) -> bool {
    (2..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// `1531420618.000200`: the id of a message within its channel.
fn is_time(text: &str) -> bool {
    text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn mentions_none(text: &str) -> bool {
    !text.contains("<@")
}

/// The text as it was typed: without mentions, links as their address, and Slack's three entities undone.
fn without_mentions(text: &str) -> String {
    let mut out = String::new();
    let mut rest = &text[..text.floor_char_boundary(MAX_TEXT)];
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let Some(close) = rest.find('>') else { break };
        let inside = &rest[1..close];
        let (what, label) = inside.split_once('|').unwrap_or((inside, inside));
        match what.as_bytes().first() {
            Some(b'@' | b'!') => {}
            Some(b'#') => out.push_str(&format!("#{}", label.trim_start_matches('#'))),
            _ => out.push_str(what),
        }
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    out.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_said(kind: Kind, payload: Value) -> (String, Said) {
        match read(&Envelope { kind, payload }) {
            Reading::Said { key, said } => (key.to_string(), *said),
            Reading::Ignored(reason) => panic!("ignored: {reason}"),
        }
    }

    fn mention() -> Value {
        json!({"type": "event_callback", "event_id": "Ev1", "event": {
            "type": "app_mention", "user": "U061F7AUR", "text": "<@U0LAN0Z89> fix <https://x.example/a?b=1&amp;c|the page> &lt;now&gt;",
            "ts": "1515449522.000016", "channel": "C123ABC456"}})
    }

    #[test]
    fn a_mention_is_asked_in_the_thread_that_it_opens() {
        let (key, said) = read_said(Kind::Event, mention());
        assert_eq!(key, "slack:message:C123ABC456:1515449522.000016");
        assert_eq!(said.wish, ChatWish::Ask { text: "fix https://x.example/a?b=1&c <now>".into() });
        assert_eq!((said.by.as_str(), said.thread.first.as_str()), ("U061F7AUR", "1515449522.000016"));
    }

    #[test]
    fn programs_edits_and_talk_among_others_are_left_alone() {
        for (pointer, value) in [
            ("bot_id", "B1"),
            ("subtype", "message_changed"),
            ("type", "message"),
            ("type", "reaction_added"),
            ("user", ""),
        ] {
            let mut payload = mention();
            payload["event"][pointer] = value.into();
            assert!(
                matches!(read(&Envelope { kind: Kind::Event, payload }), Reading::Ignored(_)),
                "{pointer} = {value}"
            );
        }
    }

    #[test]
    fn a_direct_message_is_asked_and_a_reply_in_a_thread_is_one() {
        let mut payload = mention();
        payload["event"]["type"] = "message".into();
        payload["event"]["channel_type"] = "im".into();
        assert!(matches!(read_said(Kind::Event, payload.clone()).1.wish, ChatWish::Ask { .. }));
        payload["event"]["channel_type"] = "channel".into();
        payload["event"]["text"] = "use the other one".into();
        payload["event"]["thread_ts"] = "1515449000.000001".into();
        let (_, said) = read_said(Kind::Event, payload);
        assert_eq!(said.wish, ChatWish::Reply { text: "use the other one".into() });
        assert_eq!(said.thread.first, "1515449000.000001");
    }

    #[test]
    fn buttons_choices_shortcuts_and_commands_are_read() {
        let task = "0190a0b0c0d0700080009000a1b2c3d4";
        let pressed = |action: Value| {
            json!({"type": "block_actions", "user": {"id": "U1"}, "channel": {"id": "C1"},
                   "container": {"message_ts": "2.2", "thread_ts": "1.1"}, "actions": [action]})
        };
        let (key, said) = read_said(
            Kind::Interaction,
            pressed(json!({"action_id": "onramp_stop", "value": task, "action_ts": "3.3"})),
        );
        assert_eq!(key, "slack:action:C1:2.2:3.3");
        assert_eq!(said.wish, ChatWish::Press { task: task.parse().unwrap(), button: Button::Stop });
        let (_, said) = read_said(
            Kind::Interaction,
            pressed(json!({"action_id": "onramp_repo", "selected_option": {"value": "acme/web"}, "action_ts": "3.4"})),
        );
        assert_eq!(said.wish, ChatWish::Choose { question: "2.2".into(), repo: "acme/web".parse().unwrap() });
        let shortcut = json!({"type": "message_action", "callback_id": "fix_this", "action_ts": "5.5", "user": {"id": "U1"},
            "channel": {"id": "C1"}, "message": {"ts": "4.4", "text": "it is broken"}});
        let (_, said) = read_said(Kind::Interaction, shortcut);
        assert_eq!((said.thread.first.as_str(), said.wish), ("4.4", ChatWish::Ask { text: "it is broken".into() }));
        let command =
            json!({"command": "/onramp", "text": "fix it", "user_id": "U1", "channel_id": "C1", "trigger_id": "9.9"});
        let (key, said) = read_said(Kind::Command, command);
        assert_eq!((key.as_str(), said.thread.first.as_str()), ("slack:command:9.9", ""));
    }

    #[test]
    fn nothing_that_slack_could_send_makes_it_panic() {
        for payload in [
            json!(null),
            json!([]),
            json!({"event": 7}),
            json!({"event": {"text": "<<<|>>&"}}),
            json!({"type": "block_actions", "actions": {}}),
        ] {
            for kind in [Kind::Event, Kind::Interaction, Kind::Command] {
                assert!(matches!(read(&Envelope { kind, payload: payload.clone() }), Reading::Ignored(_)));
            }
        }
        assert_eq!(without_mentions("a <b"), "a <b");
    }
}
