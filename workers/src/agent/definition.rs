//! Agents as data: which program, how it is called, how its output is read.
//!
//! The definitions that ship with Onramp are TOML in `templates/agents`; an operator's file of the same name is laid over
//! one, key by key, and any other name adds an agent. Everything is checked when it is loaded, so a typing mistake shows at
//! start and not in the middle of somebody's task.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tasks::{AgentName, Code, Failure};

use super::{events::Format, placeholder::Text};
use crate::toml_problem::{TomlProblem, did_you_mean, quoted_list};

/// The known agents: those that ship with Onramp, and the operator's own on top.
#[derive(Debug, Clone)]
pub struct Agents {
    by_name: BTreeMap<AgentName, AgentDefinition>,
}

/// One agent as data.
#[derive(Debug, Clone)]
pub struct AgentDefinition {
    pub(super) name: AgentName,
    pub(super) command: Vec<Text>,
    pub(super) prompt: PromptBy,
    pub(super) events: Format,
    pub(super) resume: Option<Vec<Text>>,
    pub(super) model: Option<String>,
    pub(super) model_arguments: Vec<Text>,
    pub(super) env: BTreeMap<String, Text>,
    pub(super) files: BTreeMap<String, Text>,
    pub(super) install: Option<String>,
    /// Its loop is Onramp's own; then there is no command.
    pub(super) builtin: Option<Builtin>,
    check: Option<Vec<String>>,
}

/// The built-in agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Builtin {
    /// The provider of its model, by its name in the configuration.
    pub(super) provider: String,
    /// How many answers of the model one round may take.
    pub(super) max_turns: u32,
}

impl AgentDefinition {
    /// Its name.
    pub fn name(&self) -> &AgentName {
        &self.name
    }

    /// The same with another model, where one is given.
    #[must_use]
    pub fn with_model(&self, model: Option<&str>) -> Self {
        let model = model.map(str::to_owned).or_else(|| self.model.clone());
        Self { model, ..self.clone() }
    }

    /// The model that it is told to use; `None`: it chooses itself.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

/// How the prompt reaches the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PromptBy {
    /// On standard input.
    Stdin,
    /// In place of `{{ prompt }}` in the command.
    Argument,
    /// In a file, whose path stands in place of `{{ prompt }}` in the command.
    File,
}

/// A definition as it is written, every key optional, so that one can be laid over another.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DefinitionFile {
    command: Option<Vec<Text>>,
    prompt: Option<PromptBy>,
    events: Option<Format>,
    resume: Option<Vec<Text>>,
    model: Option<String>,
    model_arguments: Option<Vec<Text>>,
    #[serde(default)]
    env: BTreeMap<String, Text>,
    #[serde(default)]
    files: BTreeMap<String, Text>,
    check: Option<Vec<String>>,
    install: Option<String>,
    builtin: Option<Builtin>,
}

impl DefinitionFile {
    fn parse(file: &str, text: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            let problem = TomlProblem::new(text, &error);
            bad(file, &problem.to_string()).detail(&problem.excerpt)
        })
    }

    /// This one, with the other's keys on top.
    fn under(mut self, top: Self) -> Self {
        self.env.extend(top.env);
        self.files.extend(top.files);
        Self {
            command: top.command.or(self.command),
            prompt: top.prompt.or(self.prompt),
            events: top.events.or(self.events),
            resume: top.resume.or(self.resume),
            model: top.model.or(self.model),
            model_arguments: top.model_arguments.or(self.model_arguments),
            check: top.check.or(self.check),
            install: top.install.or(self.install),
            builtin: top.builtin.or(self.builtin),
            env: self.env,
            files: self.files,
        }
    }

    fn finish(self, file: &str, name: AgentName) -> Result<AgentDefinition, Failure> {
        let command = self.command.filter(|command| !command.is_empty());
        let command = match (command, &self.builtin) {
            (Some(_), Some(_)) => {
                return Err(bad(file, "`command` and `builtin` exclude each other; keep the one that is meant"));
            }
            (None, Some(_)) if self.model.is_none() => {
                return Err(bad(file, "`model` is missing; name the model of its provider"));
            }
            (None, Some(_)) => Vec::new(),
            (Some(command), None) => command,
            (None, None) => {
                return Err(bad(file, "`command` is missing; write the program and its arguments as a list"));
            }
        };
        let definition = AgentDefinition {
            name,
            command,
            prompt: self.prompt.unwrap_or(PromptBy::Stdin),
            // What the built-in agent does is told in the words of another one.
            events: self.events.unwrap_or(if self.builtin.is_some() { Format::Claude } else { Format::Plain }),
            resume: self.resume,
            model: self.model.filter(|model| !model.is_empty()),
            model_arguments: self.model_arguments.unwrap_or_default(),
            env: self.env,
            files: self.files,
            install: self.install,
            builtin: self.builtin,
            check: self.check,
        };
        definition.placeholders_fit().map_err(|wrong| bad(file, &wrong))?;
        Ok(definition)
    }
}

impl AgentDefinition {
    /// How to bring it into a sandbox, in words.
    pub fn install(&self) -> Option<&str> {
        self.install.as_deref()
    }

    /// The providers of models that it talks to, or whose gateway it is told of.
    pub fn providers(&self) -> BTreeSet<&str> {
        let texts = self.command.iter().chain(self.env.values()).chain(self.files.values());
        let told = texts.flat_map(Text::names).filter_map(|name| name.strip_prefix("gateway."));
        let own = self.builtin.iter().map(|builtin| builtin.provider.as_str());
        told.filter(|name| *name != "token").chain(own).collect()
    }

    /// The failure when its program is not in the sandbox.
    pub fn missing(&self, reason: &str) -> Failure {
        super::not_installed(self, self.name.as_str(), reason)
    }

    /// The command line that tells whether the program is there, when the definition has one.
    pub fn check(&self) -> Option<&[String]> {
        self.check.as_deref()
    }

    /// Each placeholder only where it can have a value.
    fn placeholders_fit(&self) -> Result<(), String> {
        let in_command = |word| self.command.iter().any(|text| text.uses(word));
        match self.prompt {
            PromptBy::Stdin if in_command("prompt") => {
                return Err(
                    "`command` uses {{ prompt }}, but `prompt` is \"stdin\"; write \"argument\" or \"file\"".into()
                );
            }
            PromptBy::Argument | PromptBy::File if !in_command("prompt") => {
                return Err("`command` does not use {{ prompt }}, so the agent would not get its prompt".into());
            }
            PromptBy::Stdin | PromptBy::Argument | PromptBy::File => {}
        }
        let resume = self.resume.iter().flatten().map(|text| ("resume", text));
        let model = self.model_arguments.iter().map(|text| ("model_arguments", text));
        let command = self.command.iter().map(|text| ("command", text));
        let env = self.env.values().map(|text| ("env", text));
        let files = self.files.values().map(|text| ("files", text));
        for (key, text) in resume.chain(model).chain(command).chain(env).chain(files) {
            for (word, home) in [("session", "resume"), ("model", "model_arguments"), ("prompt", "command")] {
                if text.uses(word) && key != home {
                    return Err(format!("`{key}` uses {{{{ {word} }}}}, which has a value only in `{home}`"));
                }
            }
        }
        for path in self.files.keys() {
            let inside =
                !path.is_empty() && !path.starts_with('/') && path.split('/').all(|p| !matches!(p, "" | "." | ".."));
            if !inside {
                return Err(format!("`files` names {path:?}; write a path relative to the home directory"));
            }
        }
        Ok(())
    }
}

impl Agents {
    /// The embedded definitions, overridden and extended by `*.toml` in `dir`. Blocking: called once, at start.
    ///
    /// # Errors
    /// E006 naming the file and the key.
    pub fn load(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let mut files: BTreeMap<AgentName, (String, DefinitionFile)> = BTreeMap::new();
        for (file, text) in templates::AGENTS {
            files.insert(name_of(Path::new(file))?, ((*file).to_owned(), DefinitionFile::parse(file, text)?));
        }
        for path in dir.map(|dir| toml_files(&dir)).transpose()?.into_iter().flatten() {
            let shown = path.display().to_string();
            let text =
                std::fs::read_to_string(&path).map_err(|error| bad(&shown, &format!("it cannot be read: {error}")))?;
            let top = DefinitionFile::parse(&shown, &text)?;
            let name = name_of(&path)?;
            let under = files.remove(&name).map(|(_, under)| under).unwrap_or_default();
            files.insert(name, (shown, under.under(top)));
        }
        let finished = files.into_iter().map(|(name, (shown, file))| Ok((name.clone(), file.finish(&shown, name)?)));
        Ok(Self { by_name: finished.collect::<Result<_, Failure>>()? })
    }

    /// One agent by name. E020 lists the known names.
    ///
    /// # Errors
    /// E020.
    pub fn get(&self, name: &AgentName) -> Result<&AgentDefinition, Failure> {
        self.by_name.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.names().map(AgentName::as_str).collect();
            let hint = did_you_mean(name.as_str(), &known)
                .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            Failure::new(Code::UnknownAgent, format!("No agent is called `{name}`{hint}"))
                .next(format!("Use {}, or add {name}.toml to the agents directory.", quoted_list(&known)))
        })
    }

    /// The known names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &AgentName> {
        self.by_name.keys()
    }

    /// Adds an agent that is any command line, with the name `command`-like semantics: exit code and changed files count.
    /// The prompt comes on standard input; the words of the command line are taken as they are.
    pub fn insert_command(&mut self, name: AgentName, argv: Vec<String>) {
        let definition = AgentDefinition {
            name: name.clone(),
            command: argv.into_iter().map(Text::literal).collect(),
            prompt: PromptBy::Stdin,
            events: Format::Plain,
            resume: None,
            model: None,
            model_arguments: Vec::new(),
            env: BTreeMap::new(),
            files: BTreeMap::new(),
            install: None,
            builtin: None,
            check: None,
        };
        self.by_name.insert(name, definition);
    }
}

fn bad(file: &str, wrong: &str) -> Failure {
    Failure::new(Code::BadConfig, format!("The agent definition {file} cannot be used: {wrong}"))
        .next("Mend the key named above; the definitions that ship with Onramp show every key.")
}

fn name_of(path: &Path) -> Result<AgentName, Failure> {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    stem.parse().map_err(|error| bad(&path.display().to_string(), &format!("its file name {error}")))
}

fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::new(Code::BadConfig, format!("The agents directory {} cannot be read: {error}", dir.display()))
            .next("Make the directory, or take the key out of the configuration.")
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AgentName {
        text.parse().unwrap()
    }

    /// Loads with these operator files; failures without the directory's own path.
    fn load(files: &[(&str, &str)]) -> Result<Agents, String> {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let shown = format!("{}/", dir.path().display());
        Agents::load(Some(dir.path().to_owned())).map_err(|failure| failure.message.replace(&shown, ""))
    }

    #[test]
    fn the_embedded_definitions_load_and_name_their_programs() {
        let agents = Agents::load(None).unwrap();
        let names: Vec<_> = agents.names().map(AgentName::as_str).collect();
        assert_eq!(names, ["aider", "builtin", "claude", "codex", "command", "opencode"]);
        for name in agents.names() {
            let agent = agents.get(name).unwrap();
            assert!(agent.install.as_ref().is_some_and(|text| text.ends_with('.')), "{name}");
        }
        assert_eq!(agents.get(&name("claude")).unwrap().check().unwrap(), ["claude", "--version"]);
    }

    #[test]
    fn an_operators_file_is_laid_over_the_embedded_one_key_by_key() {
        let agents = load(&[
            ("claude.toml", "model = \"opus\"\n[env]\nEXTRA = \"1\"\n"),
            ("mine.toml", "command = [\"mine\", \"{{ prompt }}\"]\nprompt = \"argument\"\n"),
            ("README.md", "not read"),
        ])
        .unwrap();
        let claude = agents.get(&name("claude")).unwrap();
        assert_eq!(claude.model.as_deref(), Some("opus"));
        assert_eq!(claude.events, Format::Claude);
        assert!(claude.env.contains_key("EXTRA") && claude.env.contains_key("ANTHROPIC_BASE_URL"));
        assert_eq!(agents.get(&name("mine")).unwrap().prompt, PromptBy::Argument);
    }

    #[test]
    fn a_mistake_names_the_file_the_key_and_what_is_right() {
        let wrong = |text: &str| load(&[("mine.toml", text)]).unwrap_err();
        insta::assert_snapshot!(wrong("comand = [\"x\"]"), @"The agent definition mine.toml cannot be used: line 1, column 1: there is no `comand`; did you mean `command`?");
        insta::assert_snapshot!(wrong("prompt = \"stdin\""), @"The agent definition mine.toml cannot be used: `command` is missing; write the program and its arguments as a list");
        insta::assert_snapshot!(wrong("command = [\"x\"]\nevents = \"cladue\""), @"The agent definition mine.toml cannot be used: line 2, column 10: there is no `cladue`; did you mean `claude`?");
        insta::assert_snapshot!(wrong("command = [\"x\", \"{{ promt }}\"]"), @"The agent definition mine.toml cannot be used: line 1, column 11: {{ promt }} is no placeholder; did you mean `prompt`?");
        insta::assert_snapshot!(wrong("command = [\"{{ prompt }}\"]"), @r#"The agent definition mine.toml cannot be used: `command` uses {{ prompt }}, but `prompt` is "stdin"; write "argument" or "file""#);
        insta::assert_snapshot!(wrong("command = [\"x\"]\nprompt = \"file\""), @"The agent definition mine.toml cannot be used: `command` does not use {{ prompt }}, so the agent would not get its prompt");
        insta::assert_snapshot!(wrong("command = [\"x\", \"{{ session }}\"]"), @"The agent definition mine.toml cannot be used: `command` uses {{ session }}, which has a value only in `resume`");
        insta::assert_snapshot!(wrong("command = [\"x\"]\n[files]\n\"../x\" = \"\""), @r#"The agent definition mine.toml cannot be used: `files` names "../x"; write a path relative to the home directory"#);
        insta::assert_snapshot!(wrong("command = [\"x\"]\n[builtin]\nprovider = \"a\"\nmax_turns = 1"), @"The agent definition mine.toml cannot be used: `command` and `builtin` exclude each other; keep the one that is meant");
        insta::assert_snapshot!(wrong("[builtin]\nprovider = \"a\"\nmax_turns = 1"), @"The agent definition mine.toml cannot be used: `model` is missing; name the model of its provider");
        let bad_name = load(&[("Mine.toml", "command = [\"x\"]")]).unwrap_err();
        insta::assert_snapshot!(bad_name, @r#"The agent definition Mine.toml cannot be used: its file name "Mine" is not an agent name (lower-case letters, digits and hyphens)"#);
        assert!(
            Agents::load(Some("/does/not/exist".into())).unwrap_err().message.starts_with("The agents directory /does")
        );
    }

    #[test]
    fn an_unknown_agent_is_answered_with_the_known_ones() {
        let mut agents = Agents::load(None).unwrap();
        agents.insert_command(name("demo"), vec!["sh".into(), "{{ not a placeholder }}".into()]);
        assert!(agents.get(&name("demo")).is_ok());
        let failure = agents.get(&name("clade")).unwrap_err();
        assert_eq!(failure.code, Code::UnknownAgent);
        insta::assert_snapshot!(failure.message, @"No agent is called `clade`; did you mean `claude`?");
        insta::assert_snapshot!(failure.next_step, @"Use `aider`, `builtin`, `claude`, `codex`, `command`, `demo` and `opencode`, or add clade.toml to the agents directory.");
    }
}
