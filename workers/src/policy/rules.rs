//! The rules of policy: their names, what follows from each by itself, and the globs that two of them start from.

use tasks::Action;

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal, $key:literal, $default:ident;)+) => {
        /// A rule of policy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Rule {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in findings: `protected_path`.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Its key under `[policy]`: `protected_paths`.
            pub fn key(self) -> &'static str {
                match self { $(Self::$variant => $key),+ }
            }

            /// What follows where nobody says anything else.
            pub fn default_action(self) -> Action {
                match self { $(Self::$variant => Action::$default),+ }
            }

            /// What it looks for, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

rules! {
    /// More files than `max_files`.
    MaxFiles = "max_files", "size", Block;
    /// More bytes than `max_bytes`.
    MaxBytes = "max_bytes", "size", Block;
    /// A file that a glob of `protected` names.
    ProtectedPath = "protected_path", "protected_paths", Block;
    /// A workflow, or another file that a CI system runs with its own rights.
    Workflow = "workflow", "workflows", Block;
    /// A lock file, a manifest or a build script: what runs on the machines of whoever builds the project.
    BuildFile = "build_file", "build_files", Ask;
    /// A file outside of `allowed`.
    NotAllowedPath = "not_allowed_path", "allowed_paths", Block;
    /// A binary file, which nobody can review.
    Binary = "binary", "binaries", Block;
    /// A link that leaves the tree, or leads into `.git`.
    SymlinkEscape = "symlink_escape", "symlinks", Block;
    /// What looks like a credential.
    Secret = "secret", "secrets", Block;
    /// A dependency that was not there before.
    NewDependency = "new_dependency", "new_dependencies", Ask;
    /// Characters that show other text than a compiler reads.
    HiddenCharacters = "hidden_characters", "hidden_characters", Ask;
    /// A new test that passes without the change too, and so proves nothing.
    VacuousTest = "vacuous_test", "vacuous_tests", Ask;
    /// A test that failed before, and was changed until it passed without the change too.
    LoosenedTest = "loosened_test", "loosened_tests", Ask;
    /// A test that is gone.
    DeletedTest = "deleted_test", "deleted_tests", Ask;
    /// A test that ran before and is skipped now.
    SkippedTest = "skipped_test", "skipped_tests", Ask;
    /// The change belongs to a higher tier of risk than the agent worked under.
    TierRose = "tier_rose", "tier_rises", Note;
}

/// Keys of `[policy]` that are no rule and can be locked too.
pub const LIMIT_KEYS: &[&str] = &["protected", "allowed", "max_files", "max_bytes", "reviewers"];

/// What no change may touch, in any repository, unless its owner takes it away under `[policy] unprotect`: what decides who
/// reviews, what instructs agents, what runs when a directory is entered or a commit made, and what changes how git reads
/// the tree.
pub const PROTECTED: &[&str] = &[
    "CODEOWNERS",
    ".github/CODEOWNERS",
    ".gitlab/CODEOWNERS",
    "docs/CODEOWNERS",
    "**/AGENTS.md",
    "**/AGENTS.override.md",
    "**/CLAUDE.md",
    "**/CLAUDE.local.md",
    "**/GEMINI.md",
    "**/.github/copilot-instructions.md",
    ".github/instructions/**",
    ".github/prompts/**",
    ".github/chatmodes/**",
    ".github/agents/**",
    "**/.claude/**",
    "**/.codex/**",
    "**/.gemini/**",
    "**/.opencode/**",
    "opencode.json",
    "opencode.jsonc",
    "**/.cursor/**",
    "**/.cursorrules",
    "**/.windsurf/**",
    "**/.windsurfrules",
    "**/.clinerules",
    "**/.clinerules/**",
    "**/.roo/**",
    "**/.continue/**",
    ".goosehints",
    ".aider.conf.yml",
    "**/.mcp.json",
    ".vscode/tasks.json",
    ".vscode/settings.json",
    ".vscode/launch.json",
    ".vscode/mcp.json",
    ".idea/runConfigurations/**",
    ".devcontainer/**",
    ".devcontainer.json",
    "**/.envrc",
    ".onramp.toml",
    "**/.gitattributes",
    ".gitmodules",
    ".husky/**",
    ".githooks/**",
    ".pre-commit-config.yaml",
    ".pre-commit-config.yml",
    "lefthook.yml",
    "lefthook.yaml",
    "SECURITY.md",
    ".github/SECURITY.md",
    ".github/dependabot.yml",
    ".github/dependabot.yaml",
    "renovate.json",
    ".github/renovate.json",
];

/// What CI systems run with rights of their own; protected in every repository too.
pub const WORKFLOWS: &[&str] = &[
    ".github/workflows/**",
    ".github/actions/**",
    "action.yml",
    "action.yaml",
    ".forgejo/workflows/**",
    ".gitea/workflows/**",
    ".gitlab-ci.yml",
    ".gitlab/ci/**",
    ".circleci/**",
    ".buildkite/**",
    ".woodpecker/**",
    ".woodpecker.yml",
    ".travis.yml",
    ".drone.yml",
    ".cirrus.yml",
    ".appveyor.yml",
    "appveyor.yml",
    "azure-pipelines.yml",
    ".azure-pipelines/**",
    "bitbucket-pipelines.yml",
    "Jenkinsfile",
    ".tekton/**",
    "cloudbuild.yaml",
    "buildspec.yml",
];

/// What is installed, and what runs while it is: lock files, manifests and build scripts.
pub const BUILD_FILES: &[&str] = &[
    // Rust
    "**/Cargo.toml",
    "**/Cargo.lock",
    "**/build.rs",
    "**/.cargo/**",
    "**/rust-toolchain",
    "**/rust-toolchain.toml",
    // JavaScript
    "**/package.json",
    "**/package-lock.json",
    "**/npm-shrinkwrap.json",
    "**/yarn.lock",
    "**/pnpm-lock.yaml",
    "**/pnpm-workspace.yaml",
    "**/.pnpmfile.cjs",
    "**/bun.lock",
    "**/bun.lockb",
    "**/deno.json",
    "**/deno.lock",
    "**/.npmrc",
    "**/.yarnrc",
    "**/.yarnrc.yml",
    "**/.yarn/**",
    // Python
    "**/pyproject.toml",
    "**/setup.py",
    "**/setup.cfg",
    "**/conftest.py",
    "**/requirements*.txt",
    "**/requirements/*.txt",
    "**/constraints*.txt",
    "**/poetry.lock",
    "**/uv.lock",
    "**/pdm.lock",
    "**/Pipfile",
    "**/Pipfile.lock",
    "**/environment.yml",
    "**/tox.ini",
    "**/noxfile.py",
    "**/pip.conf",
    // Go
    "**/go.mod",
    "**/go.sum",
    "**/go.work",
    "**/go.work.sum",
    // JVM
    "**/pom.xml",
    "**/build.gradle",
    "**/build.gradle.kts",
    "**/settings.gradle",
    "**/settings.gradle.kts",
    "**/gradle.properties",
    "**/gradle.lockfile",
    "**/gradle/wrapper/**",
    "**/gradlew",
    "**/gradlew.bat",
    "**/.mvn/**",
    "**/mvnw",
    "**/build.sbt",
    "**/libs.versions.toml",
    // Ruby, PHP, .NET, Elixir, Dart, Swift, Haskell, Nix
    "**/Gemfile",
    "**/Gemfile.lock",
    "**/*.gemspec",
    "**/Rakefile",
    "**/composer.json",
    "**/composer.lock",
    "**/*.csproj",
    "**/*.fsproj",
    "**/Directory.Build.props",
    "**/Directory.Build.targets",
    "**/packages.lock.json",
    "**/NuGet.config",
    "**/mix.exs",
    "**/mix.lock",
    "**/pubspec.yaml",
    "**/pubspec.lock",
    "**/Package.swift",
    "**/Package.resolved",
    "**/Podfile",
    "**/Podfile.lock",
    "**/*.cabal",
    "**/stack.yaml.lock",
    "flake.nix",
    "flake.lock",
    // C, C++ and everything
    "**/CMakeLists.txt",
    "**/conanfile.*",
    "**/vcpkg.json",
    "**/meson.build",
    "**/configure.ac",
    "**/Makefile",
    "**/GNUmakefile",
    "**/*.mk",
    "**/justfile",
    "**/Taskfile.yml",
    "**/BUILD.bazel",
    "**/MODULE.bazel",
    "**/MODULE.bazel.lock",
    "**/WORKSPACE",
    "**/.bazelrc",
    "**/Dockerfile",
    "**/Dockerfile.*",
    "**/*.dockerfile",
    "**/Containerfile",
    "**/docker-compose.yml",
    "**/docker-compose.yaml",
    "**/compose.yaml",
    "**/compose.yml",
    "**/.tool-versions",
    "**/mise.toml",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_rule_has_a_word_of_its_own_and_says_what_it_looks_for() {
        let words: HashSet<_> = Rule::ALL.iter().map(|rule| rule.word()).collect();
        assert_eq!(words.len(), Rule::ALL.len());
        assert!(Rule::ALL.iter().all(|rule| rule.meaning().ends_with('.')));
    }

    #[test]
    fn no_glob_stands_in_two_lists_and_each_can_be_read() {
        let all: Vec<_> = [PROTECTED, WORKFLOWS, BUILD_FILES].concat();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        for pattern in all {
            assert!(crate::repo_config::glob(pattern, true).is_ok(), "{pattern}");
        }
    }
}
