//! `onramp init`: from nothing to an app of one's own, installed, with a first pull request to look at.

use std::{io::IsTerminal as _, path::Path, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use tasks::{Code, Failure, RepoName};
use tokio::sync::{Mutex, OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workers::{
    forge::github::{AppItself, GitHubForge, Installed},
    onboard::{Invitation, Onboarding, onboard},
    progress::{Progress, ProgressEvent},
    run::Hands,
};

use super::{Global, configured_with, serve::wait_for_signal, show::Show};
use crate::{
    config::{Config, DEFAULT_FILE, Surroundings},
    setup::{
        keep::{Keeper, Kept},
        page::{Board, Event, Offer, Page, Wanted, install_url},
    },
    wiring,
};

/// GitHub gives an hour from the button to the key; whoever takes longer begins again where they are.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How often GitHub is asked where the app is installed, until it is somewhere and from then on.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(20));

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    #[command(subcommand)]
    command: Option<InitCommand>,
}

#[derive(Debug, Subcommand)]
enum InitCommand {
    /// Make a GitHub App of your own with one button, install it, and offer first pull requests
    Github(GithubArgs),
    /// Offer a repository a pull request that adds `.onramp.toml`, with the checks that were found and how they end
    Repo(RepoArgs),
}

#[derive(Debug, Args)]
struct GithubArgs {
    /// The organization that the app is to belong to [default: yourself]
    #[arg(long, value_name = "NAME", value_parser = account)]
    org: Option<String>,
    /// The app's name, unique on all of GitHub [default: onramp-ORG or onramp-USER]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// GitHub Enterprise Server: https://HOST/api/v3
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,
    /// The page's port on loopback [default: any that is free]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Only print the page's address
    #[arg(long)]
    no_browser: bool,
    /// Let the app change workflows too
    #[arg(long)]
    workflows: bool,
}

#[derive(Debug, Args)]
struct RepoArgs {
    /// The repository, as owner/name
    repository: RepoName,
}

fn account(text: &str) -> Result<String, String> {
    let is_name = (1..=39).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if is_name { Ok(text.to_owned()) } else { Err("it is the name of an organization, as in its address".to_owned()) }
}

pub(super) async fn init(
    global: &Global,
    args: InitArgs,
    surroundings: Surroundings,
    colour: bool,
) -> Result<u8, Failure> {
    match args.command {
        Some(InitCommand::Github(args)) => github(global, args, surroundings, colour).await,
        Some(InitCommand::Repo(args)) => repo(global, args, surroundings, colour).await,
        None => next_step(global).await,
    }
}

/// What is there, and what to do next: the first thing that is missing.
async fn next_step(global: &Global) -> Result<u8, Failure> {
    let config = load(global)?;
    let mut steps: Vec<(bool, String, &str)> = Vec::new();
    let file = config_file(global);
    let has_app = config.github.app_id != 0;
    let is_known = has_app || config.github.token.value().is_some();
    let who = match (has_app, is_known) {
        (true, _) => format!("GitHub: the app {}, in {}", config.github.app_id, file.display()),
        (false, true) => "GitHub: a token".to_owned(),
        (false, false) => "GitHub: nobody yet".to_owned(),
    };
    steps.push((is_known, who, "onramp init github"));
    if is_known {
        let installed = wiring::github_forge(&config)?.installed().await?;
        let repos: Vec<_> =
            installed.iter().flat_map(|installed| &installed.repositories).map(RepoName::as_str).collect();
        let words = match repos.as_slice() {
            [] if has_app => "repositories: the app is installed on none".to_owned(),
            [] => format!("repositories: {}", config.github.repositories.join(", ")),
            repos => format!("repositories: {}", repos.join(", ")),
        };
        let (is_there, next) = match has_app {
            true => (!repos.is_empty(), "onramp init github"),
            false => (!config.github.repositories.is_empty(), "onramp serve --repo OWNER/NAME"),
        };
        steps.push((is_there, words, next));
    }
    let has_model = config.models.values().any(|model| model.key.value().is_some());
    let words = if has_model { "models: a key is set" } else { "models: no key is set" };
    steps.push((has_model, words.to_owned(), "export ANTHROPIC_API_KEY=…"));
    for (is_there, words, _) in &steps {
        println!("[{}] {words}", if *is_there { 'x' } else { ' ' });
    }
    let next = steps.iter().find(|(is_there, ..)| !is_there).map_or("onramp serve", |(.., next)| next);
    println!("next: {next}");
    Ok(0)
}

/// The configuration that is, or will be.
fn config_file(global: &Global) -> &Path {
    global.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
}

fn load(global: &Global) -> Result<Config, Failure> {
    let file = config_file(global);
    configured_with(global, if file.exists() { Config::load(Some(file))? } else { Config::default() })
}

/// Everything that offers are made with, made when the first one is.
struct Host {
    config: Config,
    surroundings: Surroundings,
    forge: Arc<GitHubForge>,
    show: Show,
    hands: OnceCell<Arc<Hands>>,
    /// One offer after the other: their checks would be timed against each other.
    one_at_a_time: Mutex<()>,
    cancel: CancellationToken,
}

impl Host {
    fn new(config: Config, surroundings: Surroundings, show: Show) -> Result<Self, Failure> {
        let forge = Arc::new(wiring::github_forge(&config)?);
        let (hands, one_at_a_time, cancel) = (OnceCell::new(), Mutex::default(), CancellationToken::new());
        Ok(Self { config, surroundings, forge, show, hands, one_at_a_time, cancel })
    }

    async fn hands(&self) -> Result<&Arc<Hands>, Failure> {
        let make = || async {
            let data = self.config.data_dir()?;
            std::fs::create_dir_all(&data).map_err(|error| {
                let message = format!("The data directory {} cannot be made: {error}", data.display());
                Failure::new(Code::StoreUnavailable, message)
            })?;
            let (hands, why) = wiring::hands(&self.config, &self.surroundings, self.forge.clone(), None).await?;
            self.show.line(&why);
            Ok(hands)
        };
        self.hands.get_or_try_init(make).await
    }

    async fn offer(&self, repo: &RepoName, progress: &Progress) -> Result<Onboarding, Failure> {
        let _turn = self.one_at_a_time.lock().await;
        let invitation =
            Invitation { requester: self.surroundings.user.clone(), label: self.config.github.label.clone() };
        onboard(self.hands().await?, repo, &invitation, progress, &self.cancel).await
    }

    async fn close(&self) {
        if let Some(hands) = self.hands.get() {
            hands.sandboxes.close().await;
        }
    }
}

async fn repo(global: &Global, args: RepoArgs, surroundings: Surroundings, colour: bool) -> Result<u8, Failure> {
    let show = Show::new(std::io::stderr(), colour);
    let host = Host::new(load(global)?, surroundings, show.clone())?;
    let progress = show.progress();
    let offered = tokio::select! {
        offered = host.offer(&args.repository, &progress) => offered,
        signal = wait_for_signal() => {
            signal?;
            Err(Failure::new(Code::Cancelled, "It was stopped"))
        }
    };
    host.close().await;
    match offered? {
        Onboarding::Offered(pull_request, checks) => {
            let n_passed = checks.iter().filter(|check| check.passed()).count();
            show.line(&format!("{n_passed} of {} checks pass on the untouched code", checks.len()));
            println!("{}", pull_request.url);
        }
        Onboarding::IsThere => {
            show.line(&format!("{} has a .onramp.toml; there is nothing to offer", args.repository));
        }
    }
    Ok(0)
}

async fn github(global: &Global, args: GithubArgs, surroundings: Surroundings, colour: bool) -> Result<u8, Failure> {
    let show = Show::new(std::io::stderr(), colour);
    let mut config = load(global)?;
    if let Some(api_url) = &args.api_url {
        config.github.api_url.clone_from(api_url);
    }
    let file = config_file(global);
    let mut host = None;
    let (mut keeper, mut app) = (None, None);
    if config.github.app_id == 0 {
        keeper = Some(Keeper::new(file, args.api_url.clone())?);
    } else {
        let known = Host::new(config.clone(), surroundings.clone(), show.clone())?;
        let itself = known.forge.app().await?;
        show.line(&format!("the app {} is in {}", itself.name, file.display()));
        app = Some((itself, file.to_owned()));
        host = Some(Arc::new(known));
    }
    let owner = args.org.clone().unwrap_or_else(|| surroundings.user.clone());
    let wanted = Wanted {
        api_url: config.github.api_url.clone(),
        public_url: config.server.public_url.clone(),
        organization: args.org.clone(),
        name: args.name.clone().unwrap_or_else(|| format!("onramp-{owner}")).chars().take(MAX_APP_NAME).collect(),
        workflows: args.workflows,
    };
    let page = Page::serve(wanted, keeper, app.clone(), args.port).await?;
    invite(&page, &show, &surroundings, args.no_browser);
    if let Some((app, _)) = &app {
        show.line(&format!("install it: {}", install_url(app)));
    }
    let talk = Talk { global, surroundings, show, said: Vec::new(), offers: TaskTracker::new() };
    talk.until_done(page, host).await
}

/// The longest name of an app that GitHub takes.
const MAX_APP_NAME: usize = 34;

/// Shows the way to the page.
fn invite(page: &Page, show: &Show, surroundings: &Surroundings, no_browser: bool) {
    let (url, port) = (page.url(), page.port());
    show.line(&format!("open {url}"));
    if surroundings.has_display && !no_browser && std::io::stderr().is_terminal() {
        // Where that does not work, the address stands above.
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        let quiet = || std::process::Stdio::null();
        let _ = tokio::process::Command::new(opener).arg(&url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    } else {
        show.line(&format!("from another machine, first: ssh -L {port}:127.0.0.1:{port} this-machine"));
    }
}

/// What goes on beside the page.
struct Talk<'a> {
    global: &'a Global,
    surroundings: Surroundings,
    show: Show,
    /// Repositories that were told of.
    said: Vec<RepoName>,
    offers: TaskTracker,
}

impl Talk<'_> {
    async fn until_done(mut self, mut page: Page, mut host: Option<Arc<Host>>) -> Result<u8, Failure> {
        let board = page.board();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut look_at = tokio::time::Instant::now();
        let ended = loop {
            tokio::select! {
                event = page.next() => match event {
                    Some(Event::Made(made)) => {
                        host = Some(self.made(&made.0, &made.1)?);
                        look_at = tokio::time::Instant::now();
                    }
                    Some(Event::Trouble(failure)) => crate::user_error::print(&failure, false),
                    Some(Event::Offer(repo)) => if let Some(host) = &host {
                        self.offers.spawn(offer(host.clone(), repo, board.clone()));
                    },
                    Some(Event::Done) | None => break Ok(0),
                },
                () = tokio::time::sleep_until(look_at), if host.is_some() => {
                    if let Some(host) = &host {
                        self.look(host, &board).await;
                    }
                    let every = if self.said.is_empty() { LOOK_AGAIN.0 } else { LOOK_AGAIN.1 };
                    look_at = tokio::time::Instant::now() + every;
                }
                signal = wait_for_signal() => {
                    signal?;
                    break Ok(0);
                }
                () = tokio::time::sleep_until(deadline) => {
                    let message = "An hour went by, and GitHub's answer would be too old now";
                    break Err(Failure::new(Code::Cancelled, message)
                        .next("Run `onramp init github` again: it goes on where you are."));
                }
            }
        };
        page.close().await;
        self.offers.close();
        if let Some(host) = &host {
            if !self.offers.is_empty() {
                self.show.line("an offer is still under way; Ctrl-C ends it");
                tokio::select! {
                    () = self.offers.wait() => {}
                    _ = wait_for_signal() => host.cancel.cancel(),
                }
                self.offers.wait().await;
            }
            host.close().await;
            self.show.line("next: onramp serve");
        }
        ended
    }

    fn made(&self, app: &AppItself, kept: &Kept) -> Result<Arc<Host>, Failure> {
        let show = &self.show;
        show.line(&format!("the app {} (id {}) is made", app.name, app.id));
        show.line(&format!("its key is {}, named in {}", kept.key_file.display(), kept.config_file.display()));
        let config = configured_with(self.global, Config::load(Some(&kept.config_file))?)?;
        if let (Some(secret), true) = (&kept.webhook_secret_file, config.server.public_url.is_empty()) {
            show.line(&format!(
                "for the day when GitHub can reach you: set server.public_url, github.webhook_secrets = [\"file:{}\"], and \
                 switch on the webhook on the app's page",
                secret.display()
            ));
        }
        show.line(&format!("install it: {}", install_url(app)));
        Ok(Arc::new(Host::new(config, self.surroundings.clone(), show.clone())?))
    }

    /// Where the app is installed by now. A failure passes: it is asked again.
    async fn look(&mut self, host: &Host, board: &Board) {
        let installed: Vec<Installed> = match host.forge.installed().await {
            Ok(installed) => installed,
            Err(failure) => {
                tracing::warn!(%failure, "GitHub did not say where the app is installed");
                return;
            }
        };
        for repo in installed.iter().flat_map(|installed| &installed.repositories) {
            if !self.said.contains(repo) {
                self.show.line(&format!("installed on {repo}; for a first pull request: onramp init repo {repo}"));
                self.said.push(repo.clone());
            }
        }
        board.installed(installed);
    }
}

/// Makes one offer and shows what becomes of it.
async fn offer(host: Arc<Host>, repo: RepoName, board: Board) {
    let (inner, shown, of) = (host.show.progress(), board.clone(), repo.clone());
    let progress = Progress::new(move |event| {
        let words = match &event {
            ProgressEvent::Step(words) => Some(words.clone()),
            ProgressEvent::Check(check) => Some(format!("checked: {}", check.name)),
            _ => None,
        };
        if let Some(words) = words {
            shown.offer(&of, Offer::Running(words));
        }
        inner.tell(event);
    });
    let offer = match host.offer(&repo, &progress).await {
        Ok(Onboarding::Offered(pull_request, checks)) => {
            let n_passed = checks.iter().filter(|check| check.passed()).count();
            host.show.line(&format!("{repo}: {}", pull_request.url));
            let words = format!("#{}: {n_passed} of {} checks pass", pull_request.number, checks.len());
            Offer::Open(words, pull_request.url)
        }
        Ok(Onboarding::IsThere) => Offer::Failed("it has a .onramp.toml already".to_owned()),
        Err(failure) => {
            crate::user_error::print(&failure, false);
            Offer::Failed(format!("{} ({})", failure.message, failure.code))
        }
    };
    board.offer(&repo, offer);
}
