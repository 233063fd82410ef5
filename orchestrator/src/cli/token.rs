//! `onramp token`: who may use the API and the pages.

use clap::{Subcommand, ValueEnum};
use tasks::{Failure, RepoName};

use super::{
    Setting,
    out::{print, print_json, when},
};
use crate::{
    config::Period,
    front::{Scope, Tokens},
    now,
};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, this once
    Create {
        /// Who will hold it: tasks and the audit log name it so
        name: String,
        /// How far it reaches: read, act (ask for tasks, stop them) or admin
        #[arg(long, default_value = "read")]
        scope: Wanted,
        /// The only repository that it reaches, as owner/name
        #[arg(long)]
        repo: Option<RepoName>,
        /// How long it is good, such as 90d; for ever where it is not said
        #[arg(long, value_name = "PERIOD")]
        expires: Option<Period>,
        /// Print everything about it as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the tokens; they themselves are kept nowhere
    List {
        /// Print them as JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a token useless from now on
    Revoke {
        /// Its name or its id
        token: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Wanted {
    Read,
    Act,
    Admin,
}

impl From<Wanted> for Scope {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Read => Self::Read,
            Wanted::Act => Self::Act,
            Wanted::Admin => Self::Admin,
        }
    }
}

pub(super) fn run(setting: &Setting, command: TokenCommand) -> Result<u8, Failure> {
    let tokens = Tokens::of(&setting.config.data_dir()?);
    match command {
        TokenCommand::Create { name, scope, repo, expires, json } => {
            let until =
                expires.and_then(|period| chrono::Duration::from_std(period.0).ok()).map(|period| now() + period);
            let made = tokens.create(&name, scope.into(), repo, (now(), until))?;
            if json {
                return print_json(&made);
            }
            print(&[&made.token]);
            eprintln!("{name} may {}; this is the only time that the token is shown", made.info.scope.word());
        }
        TokenCommand::List { json: true } => return print_json(&tokens.list()?),
        TokenCommand::List { json: false } => {
            let line = |token: &crate::front::TokenInfo| {
                let repo = token.repo.as_ref().map_or("all repositories", |repo| repo.as_str());
                let until = token.expires_at.map_or_else(String::new, |until| format!(", until {}", when(until)));
                let (id, scope, made) = (&token.id, token.scope.word(), when(token.created_at));
                format!("{id}  {scope:<5} {:<24} {repo}, since {made}{until}", token.name)
            };
            print(&tokens.list()?.iter().map(line).collect::<Vec<_>>());
        }
        TokenCommand::Revoke { token } => {
            let gone = tokens.revoke(&token)?;
            print(&[format!("{} {} is revoked", gone.id, gone.name)]);
        }
    }
    Ok(0)
}
