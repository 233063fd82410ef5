//! `onramp trigger`: which definitions there are, and what one makes of a payload, without sending or running anything.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use tasks::{Code, Failure, TaskRequest};
use templates::TRIGGERS;
use webhooks::hooks::Verify;

use super::{Setting, out::print};
use crate::{
    config,
    hooks::{Heard, Listener},
};

#[derive(Debug, Subcommand)]
pub(super) enum TriggerCommand {
    /// List the definitions that ship with Onramp, and the hooks that are configured
    List,
    /// Print a definition that ships with Onramp, as a start for one of your own
    Show {
        /// Its name
        name: String,
    },
    /// Show what a hook makes of a payload: whether it asks for something, for which repository, and what
    Test {
        /// The hook; without a configured one, the definition of that name
        name: String,
        /// A file with the JSON that the sender would send; - for standard input
        payload: PathBuf,
        /// A header that the sender would send, as "Name: value"
        #[arg(long, value_name = "HEADER", value_parser = parse_header)]
        header: Vec<(String, String)>,
    },
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is written as \"Name: value\"")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

pub(super) fn run(setting: &Setting, command: TriggerCommand) -> Result<u8, Failure> {
    let hooks = &setting.config.hooks;
    match command {
        TriggerCommand::List => {
            let mut lines = Vec::new();
            for (name, _) in TRIGGERS {
                let listener = Listener::new(name, &config::Hook::default())?;
                lines.push(format!("{name:<14} {}", how(listener.verify())));
            }
            for (name, hook) in hooks {
                Listener::new(name, hook)?;
                let n_routes = hook.routes.len();
                lines.push(format!("/hooks/{name}: configured, with {n_routes} routes"));
            }
            print(&lines);
            Ok(0)
        }
        TriggerCommand::Show { name } => match TRIGGERS.iter().find(|(known, _)| **known == name) {
            Some((_, text)) => {
                print(&text.lines().map(str::to_owned).collect::<Vec<_>>());
                Ok(0)
            }
            None => Err(Failure::new(Code::Usage, format!("There is no trigger {name:?}"))
                .next("`onramp trigger list` shows those that there are.")),
        },
        TriggerCommand::Test { name, payload, header } => {
            let configured = hooks.get(&name);
            let listener = Listener::new(&name, configured.unwrap_or(&config::Hook::default()))?;
            test(&listener, configured.is_some(), &payload, &header.into_iter().collect())
        }
    }
}

/// Exit code 0: it asks for something; 6: for nothing.
fn test(
    listener: &Listener,
    is_configured: bool,
    payload: &Path,
    headers: &BTreeMap<String, String>,
) -> Result<u8, Failure> {
    let text = read(payload).map_err(|error| {
        Failure::new(Code::Usage, format!("The payload {} cannot be read: {error}", payload.display()))
    })?;
    let body = serde_json::from_str(&text)
        .map_err(|error| Failure::new(Code::Usage, format!("The payload {} is no JSON: {error}", payload.display())))?;
    let heard = listener.hear(headers, &body).map_err(|why| Failure::new(Code::BadConfig, why))?;
    let mut lines = vec![format!("verified    by {} (not looked at here)", how(listener.verify()))];
    let code = match heard {
        Heard::Nothing => {
            lines.push("matches     no: it asks for nothing".to_owned());
            Code::NothingChanged.exit_code()
        }
        Heard::NoRepository { named } => {
            lines.push("matches     yes".to_owned());
            lines.push(format!("repository  none: {named:?} is neither in routes nor in repositories of this hook"));
            if !is_configured {
                lines.push("            (no hook of this name is configured, so it has no routes)".to_owned());
            }
            Code::NothingChanged.exit_code()
        }
        Heard::Request(request) => {
            describe(&request, &mut lines);
            0
        }
    };
    print(&lines);
    Ok(code)
}

fn describe(request: &TaskRequest, lines: &mut Vec<String>) {
    let TaskRequest { dedupe_key, repo, instruction, .. } = request;
    lines.push("matches     yes".to_owned());
    lines.push(format!("repository  {repo}"));
    lines.push(format!("same as     everything with the key {dedupe_key}"));
    lines.push(format!("title       {}", instruction.title));
    for (name, text) in [("prompt", &instruction.body), ("about", &instruction.about)] {
        for (n, line) in workers::text::clean(text.as_bytes()).lines().enumerate() {
            lines.push(format!("{:<11} {line}", if n == 0 { name } else { "" }));
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

fn how(verify: &Verify) -> String {
    match verify {
        Verify::HmacSha256 { header, .. } => format!("HMAC-SHA256 in {header}"),
        Verify::Bearer => "the secret as a bearer token".to_owned(),
        Verify::Standard => "Standard Webhooks".to_owned(),
    }
}
