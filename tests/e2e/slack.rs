//! Slack, from what a person says there to the pull request and back.

use std::{collections::BTreeMap, time::Duration};

use orchestrator::config::Secret;
use serde_json::{Value, json};
use tasks::{Source, TaskState};
use tests::{
    Backend, Setup,
    onramp::{DEADLINE, Onramp, REPO},
    slack::{Fault, Message, Slack},
};

const CHANNEL: &str = "C123ABC456";

async fn start(slack: &Slack, agent: &str) -> Onramp {
    start_with(slack, agent, true, &[]).await
}

async fn start_with(slack: &Slack, agent: &str, socket: bool, words: &[(&str, &str)]) -> Onramp {
    let api_url = slack.api_url();
    let words: BTreeMap<_, _> = words.iter().map(|(word, repo)| ((*word).to_owned(), repo.parse().unwrap())).collect();
    let has_words = !words.is_empty();
    let change = move |config: &mut orchestrator::config::Config| {
        config.slack.api_url = api_url;
        config.slack.bot_token = Secret::known(Slack::bot_token());
        match socket {
            true => config.slack.app_token = Secret::known(Slack::app_token()),
            false => config.slack.signing_secrets = vec![Secret::known(Slack::signing_secret())],
        }
        config.slack.people =
            [("U1", "ada"), ("U2", "eve")].map(|(id, login)| (id.to_owned(), login.to_owned())).into();
        config.slack.words = words;
        if !has_words {
            config.slack.channels = [(CHANNEL.to_owned(), REPO.parse().unwrap())].into();
        }
    };
    Setup::new(Backend::Namespace).agent(agent).configure(change).start().await
}

async fn mention(slack: &Slack, user: &str, thread: Option<&str>, text: &str) -> String {
    let ts = slack.post(CHANNEL, thread, text);
    slack.send("events_api", Slack::mention(CHANNEL, user, &ts, thread, text)).await;
    ts
}

fn with_text(slack: &Slack, part: &str) -> Option<Message> {
    slack.told(CHANNEL).into_iter().find(|message| message.text.contains(part))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mention_becomes_a_pull_request_and_one_message_says_so() {
    let slack = Slack::start().await;
    let onramp = start(&slack, "cat > prompt.txt; echo 42 > answer.txt").await;
    // Slack may lose its answer to the very message that a task hangs on.
    slack.fault("chat.postMessage", Fault::LostAnswer);
    let ts = mention(&slack, "U1", None, "make the answer 42").await;
    let told = slack.until("pull request", DEADLINE, |slack| with_text(slack, "Done: <http")).await;
    assert_eq!(told.thread, ts, "it is told where it was asked");
    assert!(told.n_edits > 0, "one message, edited: {told:?}");
    assert_eq!(slack.told(CHANNEL).len(), 1, "{:#?}", slack.told(CHANNEL));
    let edits = slack.calls("chat.update");
    assert!(edits.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(1_150)), "{edits:?}");
    let tasks = onramp.until_all_ended().await;
    assert!(matches!(&tasks[0].request.source, Source::Chat { by, .. } if by == "U1"), "{tasks:#?}");
    assert_eq!((tasks[0].request.actor.login.as_str(), tasks[0].request.actor.id), ("ada", Some(7)));
    let prompt = &onramp.github.branch_tree(REPO, &onramp.github.pulls()[0].head)["prompt.txt"];
    assert!(prompt.contains("make the answer 42"), "{prompt}");
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_again_is_one_task_and_a_reply_goes_on_with_its_pull_request() {
    let slack = Slack::start().await;
    let onramp = start(&slack, "echo 42 > answer.txt; date +%N >> times.txt").await;
    let ts = mention(&slack, "U1", None, "make the answer 42").await;
    let again = slack.send("events_api", Slack::mention(CHANNEL, "U1", &ts, None, "make the answer 42")).await;
    slack.until("acknowledgement", DEADLINE, |slack| slack.acknowledged().contains(&again).then_some(())).await;
    slack.until("pull request", DEADLINE, |slack| with_text(slack, "Done: <http")).await;
    assert_eq!(onramp.tasks().await.len(), 1);
    // What people say among each other elsewhere is not Onramp's business; in its thread it is.
    let reply = |thread: &str, ts: &str, text: &str| {
        json!({"type": "event_callback", "event_id": format!("Ev{ts}"), "event": {"type": "message", "channel_type": "channel",
               "user": "U1", "text": text, "ts": ts, "thread_ts": thread, "channel": CHANNEL}})
    };
    let elsewhere = slack.post(CHANNEL, None, "lunch?");
    slack.send("events_api", reply(&elsewhere, &slack.post(CHANNEL, Some(&elsewhere), "yes"), "yes")).await;
    slack.send("events_api", reply(&ts, &slack.post(CHANNEL, Some(&ts), "and the time"), "and the time")).await;
    let tasks = onramp.until("a second task", |tasks| tasks.len() == 2 && !tasks[1].state.is_unfinished()).await;
    assert!(matches!(tasks[1].state, TaskState::Updated { .. }), "{:#?}", tasks[1]);
    assert_eq!(onramp.github.pulls().len(), 1);
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_or_is_not_known_is_told_so_and_nothing_starts() {
    let slack = Slack::start().await;
    let onramp = start(&slack, "echo 42 > answer.txt").await;
    mention(&slack, "U9", None, "make it 42").await;
    mention(&slack, "U2", None, "make it 42").await;
    let whispers =
        slack.until("two hints", DEADLINE, |slack| Some(slack.whispers()).filter(|said| said.len() == 2)).await;
    let of = |user: &str| whispers.iter().find(|(to, _)| to == user).map(|(_, text)| text.clone()).unwrap_or_default();
    assert!(of("U9").contains("[slack.people]") && of("U9").contains("U9 = "), "{whispers:?}");
    assert!(of("U2").contains("eve has no write permission on acme/web"), "{whispers:?}");
    assert!(onramp.tasks().await.is_empty());
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_fits_two_repositories_is_asked_about_and_the_answer_starts_it() {
    let slack = Slack::start().await;
    let onramp = start_with(&slack, "echo 42 > answer.txt", true, &[("answer", REPO), ("checkout", "acme/shop")]).await;
    let ts = mention(&slack, "U1", None, "the answer at checkout is wrong").await;
    let question = slack.until("question", DEADLINE, |slack| with_text(slack, "Which repository")).await;
    assert_eq!(question.thread, ts);
    assert!(onramp.tasks().await.is_empty(), "never guessed");
    let options = question.blocks[1]["elements"][0]["options"].as_array().unwrap().clone();
    assert_eq!(options.len(), 2, "{options:?}");
    let choose = |user: &str, n: u64| {
        json!({"type": "block_actions", "user": {"id": user}, "channel": {"id": CHANNEL}, "container": {"message_ts": question.ts, "thread_ts": ts},
               "actions": [{"action_id": "onramp_repo", "action_ts": format!("{n}.1"), "selected_option": {"value": REPO}}]})
    };
    slack.send("interactive", choose("U2", 1)).await;
    slack
        .until("hint", DEADLINE, |slack| {
            slack.whispers().iter().any(|(_, text)| text.contains("Only who asked")).then_some(())
        })
        .await;
    slack.send("interactive", choose("U1", 2)).await;
    slack.send("interactive", choose("U1", 3)).await;
    slack.until("pull request", DEADLINE, |slack| with_text(slack, "Done: <http")).await;
    assert_eq!(onramp.until_all_ended().await.len(), 1, "two answers are one");
    assert!(with_text(&slack, "This is about acme/web.").is_some());
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buttons_stop_and_retry_for_who_may() {
    let slack = Slack::start().await;
    let onramp = start(&slack, "if [ -e again ]; then echo 42 > answer.txt; else sleep 600; fi").await;
    mention(&slack, "U1", None, "make it 42").await;
    let told = slack.until("steps", DEADLINE, |slack| with_text(slack, "*Edit*")).await;
    let task = onramp.tasks().await[0].id.to_string();
    assert_eq!(told.metadata["event_payload"]["task"], Value::from(task.clone()));
    let press = |user: &str, button: &str, n: u64| {
        json!({"type": "block_actions", "user": {"id": user}, "channel": {"id": CHANNEL}, "container": {"message_ts": told.ts, "thread_ts": told.thread},
               "actions": [{"action_id": format!("onramp_{button}"), "value": task, "action_ts": format!("{n}.2")}]})
    };
    slack.send("interactive", press("U2", "stop", 1)).await;
    slack.until("hint", DEADLINE, |slack| (!slack.whispers().is_empty()).then_some(())).await;
    assert!(onramp.tasks().await[0].state.is_unfinished(), "who may not write stops nothing");
    slack.send("interactive", press("U1", "stop", 2)).await;
    let told = slack.until("end", DEADLINE, |slack| with_text(slack, "Stopped by ada")).await;
    assert_eq!(told.blocks[2]["elements"][0]["action_id"], "onramp_retry");
    slack.send("interactive", press("U1", "retry", 3)).await;
    onramp.until("a second attempt", |tasks| tasks[0].attempt == 2).await;
    slack.send("interactive", press("U1", "stop", 4)).await;
    onramp.until_all_ended().await;
    onramp.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_only_what_slack_signed_lately_counts_and_limits_are_honoured() {
    let slack = Slack::start().await;
    let onramp = start_with(&slack, "echo 42 > answer.txt", false, &[]).await;
    slack.fault("chat.postMessage", Fault::RateLimited);
    let url = format!("http://{}/hooks/slack", onramp.addr());
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let send = async |body: String, kind: &str, at: i64, signature: String| {
        let request = reqwest::Client::new().post(&url).header("content-type", kind.to_owned());
        let request =
            request.header("x-slack-request-timestamp", at.to_string()).header("x-slack-signature", signature);
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let challenge = json!({"type": "url_verification", "challenge": "3eZbrw1a"}).to_string();
    let (status, answer) = send(challenge.clone(), "application/json", now, Slack::sign(&challenge, now)).await;
    assert_eq!((status, answer.contains("3eZbrw1a")), (200, true), "{answer}");
    for (at, signature) in [(now - 400, Slack::sign(&challenge, now - 400)), (now, "v0=00".to_owned())] {
        assert_eq!(send(challenge.clone(), "application/json", at, signature).await.0, 401);
    }
    let form = format!("command=%2Fonramp&text=make+it+42&user_id=U1&channel_id={CHANNEL}&trigger_id=1.2.3");
    for _ in 0..2 {
        let (status, answer) =
            send(form.clone(), "application/x-www-form-urlencoded", now, Slack::sign(&form, now)).await;
        assert_eq!((status, answer.as_str()), (200, ""), "an empty answer shows nothing to the person");
    }
    slack.until("pull request", DEADLINE, |slack| with_text(slack, "Done: <http")).await;
    assert_eq!(onramp.until_all_ended().await.len(), 1, "one command, one task");
    let told = slack.told(CHANNEL);
    assert_eq!(told.len(), 2, "what was asked, and what became of it: {told:#?}");
    assert!(told[0].text.contains("<@U1> asks: make it 42"), "{told:#?}");
    assert_eq!(told[1].thread, told[0].ts);
    onramp.end().await;
}
