//! The recorded transcripts of real agents, read as a round reads them. `tests/fixtures/record_transcripts.sh` made them.

use std::{sync::Mutex, time::Duration};

use tasks::TaskId;

use super::{events::Format, transcript::Heard, *};

mod sandboxed;

/// A transcript, read by its agent's definition: what was told, and how the round would have ended.
fn read(agent: &str, transcript: &[u8], exit_code: i32) -> (Vec<String>, Result<(), Failure>, Heard) {
    let agents = Agents::load(None).unwrap();
    let agent = agents.get(&agent.parse().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::open(dir.path(), TaskId::from_bytes([1; 16]), 1).unwrap();
    let told = Mutex::new(Vec::new());
    let tell = |line| told.lock().unwrap().push(line);
    let mut reader = Reader::new(agent.events, artifacts.log("t.log", TRANSCRIPT_BYTES).unwrap(), &tell);
    // In pieces of an awkward size, as a pipe would give them.
    transcript.chunks(7).for_each(|piece| reader.push(Output::Stdout(piece)));
    reader.close();
    let gateway = crate::egress::GatewayInside::default();
    let round = Round {
        agent,
        prompt: "",
        resume: None,
        env: &BTreeMap::new(),
        gateway: &gateway,
        models: None,
        time: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        artifacts: &artifacts,
        number: 1,
        finish: &CancellationToken::new(),
    };
    let exit = Exit {
        code: Some(exit_code),
        signal: None,
        timed_out: false,
        wall: Duration::ZERO,
        cpu: Duration::ZERO,
        max_rss_bytes: 0,
        limits: vec![],
    };
    let judged = judge(&round, &exit, &reader);
    let heard = std::mem::take(&mut reader.heard);
    drop(reader);
    (told.into_inner().unwrap(), judged, heard)
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("fixtures/", $name))
    };
}

fn tokens(input: u64, output: u64, cost_microusd: Option<u64>) -> TokenUsage {
    TokenUsage { input: Some(input), output: Some(output), cost_microusd }
}

const EDIT: &str = "sed -i 's/a - b/a + b/' calc.py";
const DONE: &str = "Fixed: add() adds now.";

#[test]
fn claude_edits_says_what_it_used_and_can_be_resumed() {
    let (told, judged, heard) = read("claude", fixture!("claude.jsonl"), 0);
    assert_eq!(told, ["I will edit the file.".to_owned(), format!("Bash: {EDIT}"), DONE.to_owned()]);
    assert_eq!(judged, Ok(()));
    assert_eq!(heard.summary.as_deref(), Some(DONE));
    assert_eq!((heard.usage, heard.conversation_usage), (tokens(3000, 68, Some(14_000)), None));
    let (_, judged, resumed) = read("claude", fixture!("claude-resumed.jsonl"), 0);
    assert_eq!((judged, resumed.session), (Ok(()), heard.session));
    assert_eq!(resumed.usage, tokens(4500, 102, Some(21_000)), "three answers: a resumed call counts from zero");
}

#[test]
fn claude_is_believed_when_it_says_that_it_failed_whatever_its_subtype_and_exit_code() {
    let (_, judged, _) = read("claude", fixture!("claude-refused.jsonl"), 0);
    let failure = judged.unwrap_err();
    assert_eq!(failure.code, Code::AgentFailed);
    insta::assert_snapshot!(failure.message, @"The agent `claude` ended with an error: Failed to authenticate. API Error: 401 scripted failure");
    insta::assert_snapshot!(failure.detail.unwrap(), @r"
    the model is asked again: authentication_failed (401)
    Failed to authenticate. API Error: 401 scripted failure
    ");
    let (_, judged, _) = read("claude", fixture!("claude-turns.jsonl"), 1);
    let message = judged.unwrap_err().message;
    assert!(message.contains("Reached maximum number of turns") || message.ends_with("error_max_turns"), "{message}");
}

#[test]
fn claude_that_is_cut_off_is_no_success() {
    let whole = fixture!("claude.jsonl");
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let (_, judged, _) = read("claude", &lines[..lines.len() - 1].concat(), 0);
    insta::assert_snapshot!(judged.unwrap_err().message, @"The agent `claude` ended without saying that it was done");
    let (_, judged, _) = read("claude", whole, 143);
    insta::assert_snapshot!(judged.unwrap_err().message, @"The agent `claude` failed (exit code 143)");
}

#[test]
fn claude_may_order_its_keys_as_it_likes() {
    let line = r#"{"usage":{"output_tokens":2},"is_error":false,"result":"ok","session_id":"s","type":"result"}"#;
    let events = Format::Claude.parse_line(line);
    let usage = TokenUsage { input: None, output: Some(2), cost_microusd: None };
    assert_eq!(
        events,
        [
            AgentEvent::Session("s".into()),
            AgentEvent::Usage(usage, UsageScope::Call),
            AgentEvent::Summary("ok".into()),
            AgentEvent::Finished
        ]
    );
}

#[test]
fn codex_edits_and_counts_its_tokens_through_the_whole_thread() {
    let (told, judged, heard) = read("codex", fixture!("codex.jsonl"), 0);
    assert_eq!(told, [format!("$ /bin/bash -lc \"{EDIT}\""), DONE.to_owned()]);
    assert_eq!((judged, heard.summary.as_deref()), (Ok(()), Some(DONE)));
    let first = heard.conversation_usage.unwrap();
    assert_eq!(first, tokens(2400, 68, None));
    let (_, judged, resumed) = read("codex", fixture!("codex-resumed.jsonl"), 0);
    assert_eq!((judged, resumed.session), (Ok(()), heard.session));
    assert_eq!(transcript::usage_since(resumed.conversation_usage.unwrap(), first), tokens(2400, 68, None));
}

#[test]
fn the_tokens_of_an_earlier_round_are_read_from_its_transcript() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.log");
    std::fs::write(&path, fixture!("codex.jsonl")).unwrap();
    assert_eq!(transcript::conversation_usage(Format::Codex, &path), Some(tokens(2400, 68, None)));
    assert_eq!(transcript::conversation_usage(Format::Codex, &dir.path().join("none")), None);
    let unknown = transcript::usage_since(tokens(5, 5, None), TokenUsage::default());
    assert_eq!(unknown, TokenUsage::default(), "not known is not zero");
}

#[test]
fn codex_may_note_an_error_and_still_succeed() {
    let (told, judged, _) = read("codex", fixture!("codex-unknown-model.jsonl"), 0);
    assert!(told[0].starts_with("note: Model metadata for `scripted-1` not found"), "{told:?}");
    assert_eq!(judged, Ok(()));
}

#[test]
fn codex_that_loses_its_model_fails_with_the_reason() {
    let (_, judged, _) = read("codex", fixture!("codex-cut.jsonl"), 0);
    insta::assert_snapshot!(judged.unwrap_err().message, @"The agent `codex` ended with an error: stream disconnected before completion: stream closed before response.completed");
}

#[test]
fn a_lost_connection_that_came_back_is_forgiven() {
    let lines = [
        r#"{"type":"error","message":"Reconnecting... 1/3"}"#,
        r#"{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":2}}"#,
    ];
    assert_eq!(read("codex", lines.join("\n").as_bytes(), 0).1, Ok(()));
    assert!(read("codex", lines[0].as_bytes(), 0).1.is_err());
}

#[test]
fn opencode_adds_its_steps_up() {
    let (told, judged, heard) = read("opencode", fixture!("opencode.jsonl"), 0);
    assert_eq!(told, ["I will edit the file.".to_owned(), format!("bash: {EDIT}"), DONE.to_owned()]);
    assert_eq!((judged, heard.finished), (Ok(()), true));
    assert_eq!(heard.usage, tokens(3000, 68, Some(8_400)));
    assert!(heard.session.is_some_and(|id| id.starts_with("ses_")));
    let (_, judged, _) = read("opencode", fixture!("opencode-refused.jsonl"), 0);
    insta::assert_snapshot!(judged.unwrap_err().message, @"The agent `opencode` ended with an error: scripted failure");
}

#[test]
fn aider_is_judged_by_its_lines_because_its_exit_code_is_always_zero() {
    let (told, judged, heard) = read("aider", fixture!("aider.log"), 0);
    assert_eq!((told, judged), (vec!["edits calc.py".to_owned()], Ok(())));
    assert_eq!(heard.usage, tokens(1500, 34, Some(4_200)));
    let (_, judged, _) = read("aider", fixture!("aider-refused.log"), 0);
    let failure = judged.unwrap_err();
    assert!(failure.message.contains("litellm.BadRequestError"), "{failure}");
}

#[test]
fn any_program_is_judged_by_its_exit_code() {
    assert_eq!(read("command", b"working\n", 0).1, Ok(()));
    let failure = read("command", b"working\ncannot find it\n", 3).1.unwrap_err();
    insta::assert_snapshot!(failure.message, @"The agent `command` failed (exit code 3)");
    insta::assert_snapshot!(failure.detail.unwrap(), @r"
    working
    cannot find it
    ");
}

#[test]
fn a_program_that_its_shell_does_not_find_is_not_installed() {
    let failure = read("aider", b"", 127).1.unwrap_err();
    assert_eq!(failure.code, Code::AgentNotInstalled);
    assert!(failure.next_step.contains("aider-chat"), "{}", failure.next_step);
    assert_eq!(read("command", b"", 127).1.unwrap_err().code, Code::AgentFailed);
}

/// The call of an agent in a round with this conversation.
fn call(agent: &str, resume: Option<&str>, model: Option<&str>) -> Call {
    let mut agent = Agents::load(None).unwrap().get(&agent.parse().unwrap()).unwrap().clone();
    agent.model = model.map(str::to_owned).or(agent.model);
    let urls = [("anthropic", "http://127.0.0.1:8099/anthropic"), ("openai", "http://127.0.0.1:8099/openai/v1")];
    let gateway = crate::egress::GatewayInside {
        urls: urls.map(|(name, url)| (name.to_owned(), url.to_owned())).into(),
        token: "inside-only".into(),
        proxy: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::open(dir.path(), TaskId::from_bytes([1; 16]), 1).unwrap();
    let env = BTreeMap::from([("RUST_LOG".to_owned(), "info".to_owned()), ("IS_SANDBOX".to_owned(), "no".to_owned())]);
    let round = Round {
        agent: &agent,
        prompt: "Fix it.",
        resume,
        env: &env,
        gateway: &gateway,
        models: None,
        time: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        artifacts: &artifacts,
        number: 1,
        finish: &CancellationToken::new(),
    };
    Call::new(&round).unwrap()
}

#[test]
fn a_call_gets_the_gateway_the_repositorys_variables_and_the_prompt() {
    let claude = call("claude", None, None).command;
    assert_eq!(
        claude.argv,
        ["claude", "-p", "--dangerously-skip-permissions", "--output-format", "stream-json", "--verbose"]
    );
    assert_eq!(claude.stdin.as_deref(), Some(&b"Fix it."[..]));
    assert_eq!(claude.env["ANTHROPIC_BASE_URL"], "http://127.0.0.1:8099/anthropic");
    assert_eq!(claude.env["ANTHROPIC_API_KEY"], "inside-only");
    assert_eq!((claude.env["RUST_LOG"].as_str(), claude.env["IS_SANDBOX"].as_str()), ("info", "1"), "the agent's win");
    let resumed = call("claude", Some("s-1"), Some("opus")).command.argv;
    assert_eq!(resumed[6..], ["--model", "opus", "--resume", "s-1"]);
    let codex = call("codex", Some("t-1"), None).command;
    assert_eq!(codex.argv[codex.argv.len() - 2..], ["resume", "t-1"]);
    assert!(codex.argv.iter().any(|word| word.contains("base_url=\"http://127.0.0.1:8099/openai/v1\"")));
    let aider = call("aider", None, None);
    assert_eq!(aider.files, [(PROMPT_FILE.to_owned(), "Fix it.".to_owned())]);
    assert!(aider.command.argv.contains(&format!("{HOME}/{PROMPT_FILE}")));
    let config = call("opencode", None, None).command.env["OPENCODE_CONFIG_CONTENT"].clone();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["provider"]["anthropic"]["options"]["baseURL"], "http://127.0.0.1:8099/anthropic/v1");
}
