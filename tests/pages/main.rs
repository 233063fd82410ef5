//! The pages in a real browser: every page in both themes, on a wide screen and on one of 320 pixels, held against what WCAG
//! 2.2 AA asks of contrast, names and reflow; the live log; the keyboard. Pictures are left in `target/pages/` to be looked at.
//!
//! `tests/pages/run`, which installs Chromium where it is missing.

mod browser;

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use browser::Browser;
use orchestrator::front::Scope;
use serde_json::{Value, json};
use tests::{Backend, Setup, onramp::Onramp};

/// Waits for a file that the test writes, so that the page is looked at while the task runs.
const AGENT: &str = "echo 'reading answer.txt'; while ! [ -e go ] && ! [ -e /tmp/never ]; do \
    n=$((n+1)); [ $n -gt 40 ] && break; echo \"step $n of a long thought\"; sleep 0.1; done; echo 42 > answer.txt; \
    mkdir -p src; printf 'fn main() {\\n    println!(\"{}\", 42);\\n}\\n' > src/main.rs; echo x > Cargo.lock";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let onramp = Setup::new(Backend::Namespace)
        .file("src/main.rs", "fn main() {\n    println!(\"{}\", 41);\n}\n")
        .agent(AGENT)
        .start()
        .await;
    let pictures = pictures();
    let token = onramp.token("ada", Scope::Admin, None);
    let root = onramp.address();
    let running = onramp
        .ask(
            "The answer is wrong, and the title of this issue is long enough to be wrapped on a phone",
            "It should be 42.",
        )
        .await;
    assert!(running > 0);
    onramp.until("a task at work", |tasks| tasks.iter().any(|task| task.state.word() == "running")).await;
    let done = tokio::task::spawn_blocking(move || look(&root, &token, &pictures)).await.expect("no check panics");
    onramp.until_all_ended().await;
    finish(onramp, done).await;
}

async fn finish(onramp: Onramp, wrong: Vec<String>) {
    onramp.end().await;
    if wrong.is_empty() {
        println!("pages: all as they should be; pictures in target/pages/");
        return;
    }
    println!("pages: {} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
    std::process::exit(1);
}

fn pictures() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pages");
    fs::create_dir_all(&dir).expect("a directory for pictures");
    dir
}

/// Everything that is wrong.
fn look(root: &str, token: &str, pictures: &Path) -> Vec<String> {
    let profile = tempfile::tempdir().expect("a temporary directory");
    let mut browser = Browser::start(profile.path());
    let mut wrong = Vec::new();
    screen(&mut browser, 1280, "light");
    browser.go(&format!("{root}/"));
    check(&mut browser, "login", pictures, &mut wrong);
    // As a person does it.
    browser.value(&format!("document.getElementById('token').value = '{token}'"));
    submit(&mut browser, "form.stack");
    assert_eq!(browser.value("location.pathname"), "/", "logged in");

    // While it runs: the list, and the log that grows.
    both(&mut browser, &format!("{root}/"), "tasks-running", pictures, &mut wrong);
    let task = browser.value("document.querySelector('.task .title').href");
    let task = task.as_str().expect("a task").to_owned();
    screen(&mut browser, 1280, "light");
    browser.go(&task);
    let before = browser.value("document.querySelectorAll('#log li').length");
    let grown = "new Promise((done) => { const look = setInterval(() => { const n = document.querySelectorAll('#log li').length; \
                 if (n > BEFORE + 2) { clearInterval(look); done(n); } }, 50); })";
    let after = browser.value(&grown.replace("BEFORE", &before.to_string()));
    println!("pages: the log grew from {before} to {after} lines while it was looked at");
    check(&mut browser, "task-live-wide-light", pictures, &mut wrong);
    browser.value("document.getElementById('log-search').value = 'step 3 '; document.getElementById('log-search').dispatchEvent(new Event('input'))");
    let shown = browser.value("[...document.querySelectorAll('#log li')].filter((line) => !line.hidden).length");
    if shown.as_u64().is_none_or(|n| n == 0 || n > 1) {
        wrong.push(format!("a search for one line shows {shown}"));
    }
    // The page comes back by itself when the task has ended.
    browser.value("document.getElementById('log-search').value = ''");
    loop {
        browser.until("Page.loadEventFired");
        if browser.value("document.querySelector('#task')?.dataset.live ?? 'ended'") == json!("ended") {
            break;
        }
    }
    for tab in ["log", "diff", "verify", "prompt", "evidence", "events"] {
        both(&mut browser, &format!("{task}?tab={tab}"), &format!("task-{tab}"), pictures, &mut wrong);
    }
    both(&mut browser, &format!("{task}?tab=diff&view=split&at=answer.txt:1"), "task-diff-split", pictures, &mut wrong);
    for page in ["", "stats", "admin"] {
        let name = if page.is_empty() { "tasks" } else { page };
        both(&mut browser, &format!("{root}/{page}"), name, pictures, &mut wrong);
    }
    both(&mut browser, &format!("{root}/tasks/ffffffff"), "problem", pictures, &mut wrong);
    keyboard(&mut browser, root, &mut wrong);
    wrong
}

/// The page in both themes and both widths.
fn both(browser: &mut Browser, address: &str, name: &str, pictures: &Path, wrong: &mut Vec<String>) {
    for (width, size) in [(1280, "wide"), (320, "narrow")] {
        for theme in ["light", "dark"] {
            screen(browser, width, theme);
            browser.go(address);
            check(browser, &format!("{name}-{size}-{theme}"), pictures, wrong);
        }
    }
}

fn screen(browser: &mut Browser, width: u32, theme: &str) {
    let mobile = width < 600;
    let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile });
    browser.call("Emulation.setDeviceMetricsOverride", metrics);
    let features = json!([{ "name": "prefers-color-scheme", "value": theme }, { "name": "prefers-reduced-motion", "value": "reduce" }]);
    browser.call("Emulation.setEmulatedMedia", json!({ "features": features }));
}

/// What is wrong with the page as it stands, and a picture of it.
fn check(browser: &mut Browser, name: &str, pictures: &Path, wrong: &mut Vec<String>) {
    let found: Value = browser.value(include_str!("audit.js"));
    wrong.extend(
        found.as_array().into_iter().flatten().map(|what| format!("{name}: {}", what.as_str().unwrap_or_default())),
    );
    // A page that is not there says so with its status, which a browser notes.
    let complaints = browser
        .complaints()
        .into_iter()
        .filter(|complaint| !(name.starts_with("problem") && complaint.contains("404")));
    wrong.extend(complaints.map(|complaint| format!("{name}: {complaint}")));
    let picture = browser.call("Page.captureScreenshot", json!({ "format": "png" }));
    let bytes = STANDARD.decode(picture["data"].as_str().expect("a picture")).expect("base64");
    fs::write(pictures.join(format!("{name}.png")), bytes).expect("a picture is kept");
}

fn submit(browser: &mut Browser, form: &str) {
    browser.value(&format!("setTimeout(() => document.querySelector('{form}').requestSubmit(), 0)"));
    browser.until("Page.loadEventFired");
}

/// The first thing that the keyboard reaches leads past the navigation, and what has the focus can be seen.
fn keyboard(browser: &mut Browser, root: &str, wrong: &mut Vec<String>) {
    screen(browser, 1280, "light");
    browser.go(&format!("{root}/"));
    let press = |browser: &mut Browser, key: &str, code: u32| {
        for kind in ["rawKeyDown", "keyUp"] {
            browser.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code }));
        }
    };
    press(browser, "Tab", 9);
    if browser.value("document.activeElement.className") != json!("skip") {
        wrong.push("the first stop of the keyboard does not skip to the content".to_owned());
    }
    let seen = browser.value("getComputedStyle(document.activeElement).outlineStyle");
    if seen == json!("none") {
        wrong.push("what has the focus cannot be seen".to_owned());
    }
    press(browser, "j", 74);
    if browser.value("document.activeElement.className") != json!("title") {
        wrong.push("`j` does not lead to the first task".to_owned());
    }
}
