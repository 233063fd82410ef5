//! Every example of a delivery that GitHub publishes, at the front door.

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::Value;
use tasks::Source;
use tests::{Backend, Setup, delivery::Delivery, github::Fault, target};

/// Every published payload with the name of its event.
fn examples() -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(target::published("deliveries.json")).unwrap();
    let events: Vec<BTreeMap<String, Value>> = serde_json::from_str(&text).unwrap();
    let of = |event: &BTreeMap<String, Value>| {
        let name = event["name"].as_str().unwrap().to_owned();
        event["examples"].as_array().unwrap().iter().map(move |example| (name.clone(), example.clone())).collect()
    };
    events.iter().flat_map(|event| -> Vec<_> { of(event) }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_delivery_that_github_publishes_is_taken_and_none_makes_a_task() {
    let setup = Setup::new(Backend::Namespace).configure(|config| config.github.follow_base = true);
    let onramp = setup.start().await;
    let examples = examples();
    assert!(examples.len() > 300, "{} examples", examples.len());
    for (event, payload) in &examples {
        let delivery = Delivery::new(event.clone().leak(), payload);
        let (status, answer) = onramp.deliver(&delivery).await;
        assert!(matches!(status, 200 | 202), "{event} {}: {status} {answer}", payload["action"]);
    }
    assert!(onramp.tasks().await.is_empty(), "{:#?}", onramp.tasks().await);
    onramp.drain().await;
    assert!(onramp.github.comments(tests::onramp::REPO, 1).is_empty());
    assert_eq!(onramp.github.count(&Method::POST, "*"), 0, "{}", onramp.github.requests_in_words());
    onramp.end().await;
}

/// The other side of the same: an example that asks does ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_delivery_of_our_label_or_of_us_assigned_makes_the_one_task_of_its_issue() {
    let setup = Setup::new(Backend::Namespace).configure(|config| {
        config.github.label = "Bug".to_owned();
        config.github.names = vec!["codertocat".to_owned()];
        config.worker.n_workers = 0;
    });
    let onramp = setup.start().await;
    // The issue of the example is not there to be commented on, and GitHub does not answer whether it is.
    onramp.github.fault(Method::GET, "/repos/Codertocat/*", Fault::SecondaryLimit(1200), 1000);
    let asks = |(event, payload): &&(String, Value)| {
        event == "issues" && ["labeled", "assigned"].contains(&payload["action"].as_str().unwrap_or_default())
    };
    let examples = examples();
    let asking: Vec<_> = examples.iter().filter(asks).collect();
    assert_eq!(asking.len(), 5);
    for (event, payload) in asking {
        let delivery = Delivery::new(event.clone().leak(), payload);
        assert_eq!(onramp.deliver(&delivery).await.0, 202);
    }
    let tasks = onramp.tasks().await;
    let [task] = tasks.as_slice() else { panic!("{tasks:#?}") };
    assert!(matches!(task.request.source, Source::IssueAssigned { issue: 1 } | Source::IssueLabelled { issue: 1, .. }));
    assert_eq!(
        (task.request.repo.as_str(), task.request.actor.login.as_str()),
        ("Codertocat/Hello-World", "Codertocat")
    );
    assert!(!task.request.instruction.trusted);
    onramp.end().await;
}
