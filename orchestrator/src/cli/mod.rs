//! The command line: data on standard output, progress and errors on standard error, documented exit codes.

mod agent;
mod audit;
mod budget;
mod config;
mod demo;
mod doctor;
mod drill;
mod evidence;
mod explain;
mod gc;
mod healthcheck;
mod init;
mod mcp;
mod out;
mod policy;
mod resume;
mod run;
mod serve;
mod shell;
mod show;
mod task;
mod token;
mod trigger;
mod vendors;
mod worker;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tasks::{Code, Failure};

use crate::{
    config::{BackendChoice, Config, LogFormat, Surroundings},
    telemetry, user_error,
};

/// From a request to a verified pull request, on your own machines.
#[derive(Debug, Parser)]
#[command(name = "onramp", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Args)]
struct Global {
    /// Configuration file [default: onramp.toml where it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where journal, index, mirrors and artifacts lie
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Kind of sandbox: auto, docker or namespace (namespace: with the tools of this machine)
    #[arg(long, global = true, value_name = "KIND", value_parser = parse_backend)]
    sandbox: Option<BackendChoice>,
}

fn parse_backend(text: &str) -> Result<BackendChoice, String> {
    match text {
        "auto" => Ok(BackendChoice::Auto),
        "docker" => Ok(BackendChoice::Docker),
        "namespace" => Ok(BackendChoice::Namespace),
        _ => Err("it is one of auto, docker and namespace".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Connect to GitHub: an app of your own, and a first pull request
    Init(init::InitArgs),
    /// Show the whole road on a made-up repository: no key, no GitHub, no Docker needed
    Demo(demo::DemoArgs),
    /// Change a repository as asked and print the verified diff
    Run(run::RunArgs),
    /// Take webhook deliveries and turn labelled issues into pull requests
    Serve(serve::ServeArgs),
    /// Do the tasks of an `onramp serve` in another process or on another machine
    Worker(worker::WorkerArgs),
    /// Let a repository go on in which nobody did anything with the last pull requests
    Resume(resume::ResumeArgs),
    /// Look at the definitions by which webhooks of other services become tasks
    #[command(subcommand)]
    Trigger(trigger::TriggerCommand),
    /// List the agents, try one out, or print the Dockerfile of an image with one
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Show what tasks used this month and what is left, by repository, person and team
    Budget(budget::BudgetArgs),
    /// Look at tasks and say what is to become of them
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Say who may use the API and the pages
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Say by the exit code whether the `onramp serve` of this configuration is ready; for containers
    Healthcheck,
    /// Let an agent on this machine ask for tasks: the Model Context Protocol over standard input and output
    Mcp,
    /// Check the journal, which is the audit log, or read it
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// List the models, hosts, images and agents that tasks dealt with, and say what you know of them
    Vendors(vendors::VendorsArgs),
    /// Do a recorded task again with a vendor blocked, and say what breaks
    ExitDrill(drill::DrillArgs),
    /// List the presets of hosts that `.onramp.toml` can allow
    Presets,
    /// Say what policy decides about a patch, or list its rules
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Check the signed statement of a pull request, offline
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// Look whether this machine can do what it is configured for, and say what to mend
    Doctor(doctor::DoctorArgs),
    /// Remove sandboxes that nobody works with and bases that nobody needs
    Gc(gc::GcArgs),
    /// Say what an error code means and what to do
    Explain {
        /// Such as E012; none: list them all
        code: Option<String>,
    },
    /// Print the JSON Schema of `.onramp.toml`
    Schema,
    /// Look at the configuration: whether it can be used, what each key means
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the man page, or write one for each command into a directory
    Man(shell::ManArgs),
    /// Print the OpenAPI description of the API
    Openapi,
}

/// What every command gets.
struct Setting {
    config: Config,
    surroundings: Surroundings,
    colour: bool,
}

/// Parses the arguments of this process, does as they say and returns the exit code.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data; a usage error has clap's own text, which names the option and the next step.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Code::Usage.exit_code() } else { 0 });
        }
    };
    // One provider for every TLS connection of this process; a second installation is refused and harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let surroundings = Surroundings::read();
    let colour = !surroundings.no_color && std::io::IsTerminal::is_terminal(&std::io::stderr());
    match dispatch(cli, surroundings, colour).await {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            user_error::print(&failure, colour);
            ExitCode::from(failure.code.exit_code())
        }
    }
}

/// The configuration, with what the command line says on top.
fn configured(global: &Global) -> Result<Config, Failure> {
    configured_with(global, Config::load(global.config.as_deref())?)
}

fn configured_with(global: &Global, mut config: Config) -> Result<Config, Failure> {
    if let Some(dir) = &global.data_dir {
        config.data_dir.clone_from(dir);
    }
    if let Some(kind) = global.sandbox {
        config.sandbox.backend = kind;
        // Whoever names the kind accepts what comes with it.
        config.sandbox.accept_host_tools |= kind == BackendChoice::Namespace;
    }
    Ok(config)
}

async fn dispatch(cli: Cli, surroundings: Surroundings, colour: bool) -> Result<u8, Failure> {
    match cli.command {
        Subcommands::Explain { code } => return explain::explain(code.as_deref()),
        Subcommands::Presets => return Ok(vendors::list_presets()),
        Subcommands::Schema => {
            print!("{}", workers::repo_config::json_schema());
            return Ok(0);
        }
        Subcommands::Openapi => {
            print!("{}", crate::api::openapi());
            return Ok(0);
        }
        // It looks at a configuration that cannot be used, too.
        Subcommands::Doctor(args) => return doctor::doctor(args, configured(&cli.global), &surroundings).await,
        Subcommands::Init(args) => {
            telemetry::init(LogFormat::Text, "warn")?;
            return init::init(&cli.global, args, surroundings, colour).await;
        }
        Subcommands::Config(command) => return config::config(&cli.global, command),
        Subcommands::Completions(args) => return shell::completions(&args),
        Subcommands::Man(args) => return shell::man(&args),
        Subcommands::Demo(_)
        | Subcommands::Run(_)
        | Subcommands::Gc(_)
        | Subcommands::Serve(_)
        | Subcommands::Worker(_)
        | Subcommands::Resume(_)
        | Subcommands::Trigger(_)
        | Subcommands::Vendors(_)
        | Subcommands::ExitDrill(_)
        | Subcommands::Agent(_)
        | Subcommands::Budget(_)
        | Subcommands::Audit(_)
        | Subcommands::Policy(_)
        | Subcommands::Evidence(_)
        | Subcommands::Task(_)
        | Subcommands::Token(_)
        | Subcommands::Mcp
        | Subcommands::Healthcheck => {}
    }
    let config = configured(&cli.global)?;
    let (format, filter) = match cli.command {
        Subcommands::Serve(_) | Subcommands::Worker(_) => (config.log.format, config.log.filter.clone()),
        // A person looks at progress lines; the log only speaks up when something is off.
        _ => (LogFormat::Text, "warn".to_owned()),
    };
    telemetry::init(format, &filter)?;
    let setting = Setting { config, surroundings, colour };
    match cli.command {
        Subcommands::Demo(args) => demo::demo(setting, args).await,
        Subcommands::Run(args) => run::run(setting, args).await,
        Subcommands::Gc(args) => gc::gc(setting, args).await,
        Subcommands::Serve(args) => serve::serve(setting, args).await,
        Subcommands::Worker(args) => worker::worker(setting, args).await,
        Subcommands::Resume(args) => resume::resume(&setting, args).await,
        Subcommands::Trigger(command) => trigger::run(&setting, command),
        Subcommands::Agent(command) => agent::agent(setting, command).await,
        Subcommands::Budget(args) => budget::budget(&setting, args).await,
        Subcommands::Task(command) => task::run(&setting, command).await,
        Subcommands::Mcp => mcp::run(&setting).await,
        Subcommands::Healthcheck => healthcheck::run(&setting).await,
        Subcommands::Token(command) => token::run(&setting, command),
        Subcommands::Audit(command) => audit::run(&setting, command),
        Subcommands::Policy(command) => policy::run(&setting, command).await,
        Subcommands::Evidence(command) => evidence::run(&setting.config, command),
        Subcommands::Vendors(args) => vendors::vendors(&setting, args),
        Subcommands::ExitDrill(args) => drill::drill(setting, args).await,
        Subcommands::Init(_)
        | Subcommands::Config(_)
        | Subcommands::Completions(_)
        | Subcommands::Man(_)
        | Subcommands::Doctor(_)
        | Subcommands::Explain { .. }
        | Subcommands::Presets
        | Subcommands::Schema
        | Subcommands::Openapi => Ok(0),
    }
}
