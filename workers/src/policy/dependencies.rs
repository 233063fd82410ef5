//! Dependencies that a change adds, out of manifests and lock files: what nobody approved yet is told by name and version.
//!
//! A manifest that cannot be read is told too: its dependencies are not known, which is not none.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tasks::Finding;
use toml::Value as Toml;

use super::{Policy, Rule};
use crate::patch::FileChange;

/// Dependencies that are named in a finding; the rest is counted.
const MAX_NAMED: usize = 20;

/// What a file says: name, and the version with its source where that is not the registry.
type Wanted = BTreeMap<String, String>;

/// How a file is read. `None`: it cannot be.
type Read = fn(&str) -> Option<Wanted>;

/// The reader of a file, by its name.
fn reader(path: &str) -> Option<Read> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_requirements = path.rsplit('/').nth(1) == Some("requirements");
    Some(match name {
        "Cargo.toml" => cargo_manifest,
        "Cargo.lock" | "poetry.lock" | "uv.lock" | "pdm.lock" => locked_packages,
        "package.json" => package_manifest,
        "package-lock.json" | "npm-shrinkwrap.json" => package_lock,
        "yarn.lock" => yarn_lock,
        "pnpm-lock.yaml" => pnpm_lock,
        "pyproject.toml" => pyproject,
        "Pipfile" => pipfile,
        "go.mod" => go_manifest,
        "composer.json" => composer_manifest,
        "Gemfile.lock" => gem_lock,
        name if name.ends_with(".txt") && (name.starts_with("requirements") || in_requirements) => requirements,
        _ => return None,
    })
}

/// What a change of a manifest or of a lock file adds.
pub(super) fn added(path: &str, change: &FileChange, policy: &Policy) -> Option<Finding> {
    let read = reader(path)?;
    let (_, after) = change.after.as_ref()?;
    let mend = "Add it by hand, or set [policy] new_dependencies to \"ask\" or \"note\" on the base branch.";
    let parse = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(read);
    let Some(after) = parse(after) else {
        let what = format!("`{path}` cannot be read, so its dependencies are not known.");
        return Some(policy.finding(Rule::NewDependency, Some(path), what, mend));
    };
    let before = change.before.as_ref().and_then(|(_, bytes)| parse(bytes)).unwrap_or_default();
    let is_new = |name: &str, wanted: &str| {
        before.get(name).is_none_or(|known| {
            // Another version is an update; another place is another dependency.
            source(known) != source(wanted)
        })
    };
    let new: Vec<String> = after
        .iter()
        .filter(|(name, wanted)| is_new(name, wanted))
        .map(|(name, wanted)| format!("`{}`", plain(format!("{name} {wanted}").trim())))
        .collect();
    if new.is_empty() {
        return None;
    }
    let more = new.len().saturating_sub(MAX_NAMED);
    let mut named = new[..new.len().min(MAX_NAMED)].join(", ");
    if more > 0 {
        named.push_str(&format!(" and {more} more"));
    }
    let what = match new.len() {
        1 => format!("`{path}` adds a dependency: {named}."),
        n => format!("`{path}` adds {n} dependencies: {named}."),
    };
    Some(policy.finding(Rule::NewDependency, Some(path), what, mend))
}

/// Text of a stranger's file as part of a sentence.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && *c != '`').take(120).collect()
}

/// Where it comes from, when that is not the registry.
fn source(wanted: &str) -> &str {
    match wanted.find(" from ") {
        Some(at) => &wanted[at..],
        None => match wanted.starts_with("from ") {
            true => wanted,
            false => "",
        },
    }
}

fn at(version: &str, source: Option<String>) -> String {
    match source {
        Some(source) => format!("{version} from {source}").trim().to_owned(),
        None => version.to_owned(),
    }
}

/// A version that names a place itself, as many tools allow: `git+https://…`, `file:../x`, `npm:other@1`.
fn spec(text: &str) -> String {
    let place =
        ["://", "git@", "file:", "link:", "npm:", "github:", "workspace:"].iter().any(|mark| text.contains(mark));
    // `owner/name` is a repository on GitHub to npm.
    let short = text.split('/').count() == 2 && !text.starts_with(['^', '~', '>', '<', '@']) && !text.contains(' ');
    if place || short { at("", Some(text.to_owned())) } else { text.to_owned() }
}

fn cargo_manifest(text: &str) -> Option<Wanted> {
    fn tables(table: &toml::Table, found: &mut Wanted) {
        for key in ["dependencies", "dev-dependencies", "build-dependencies", "dev_dependencies", "build_dependencies"]
        {
            let Some(Toml::Table(dependencies)) = table.get(key) else { continue };
            for (name, value) in dependencies {
                let wanted = match value {
                    Toml::String(version) => version.clone(),
                    Toml::Table(table) => {
                        let word = |key: &str| table.get(key).and_then(Toml::as_str);
                        let place = ["git", "path", "registry", "registry-index"].into_iter().find_map(word);
                        let package = word("package").map(|package| format!("package {package}"));
                        let place = place.map(str::to_owned).or(package);
                        at(word("version").unwrap_or_default(), place)
                    }
                    _ => String::new(),
                };
                found.insert(name.clone(), wanted);
            }
        }
    }
    let manifest: toml::Table = toml::from_str(text).ok()?;
    let mut found = Wanted::new();
    tables(&manifest, &mut found);
    if let Some(Toml::Table(workspace)) = manifest.get("workspace") {
        tables(workspace, &mut found);
    }
    if let Some(Toml::Table(targets)) = manifest.get("target") {
        targets.values().filter_map(Toml::as_table).for_each(|target| tables(target, &mut found));
    }
    for key in ["patch", "replace"] {
        if let Some(Toml::Table(patches)) = manifest.get(key) {
            patches.keys().for_each(|name| {
                found.insert(format!("[{key}] {name}"), String::new());
            });
        }
    }
    Some(found)
}

/// `[[package]]` of Cargo, Poetry, uv and PDM.
fn locked_packages(text: &str) -> Option<Wanted> {
    let lock: toml::Table = toml::from_str(text).ok()?;
    let packages = lock.get("package").and_then(Toml::as_array).map(Vec::as_slice).unwrap_or_default();
    let package = |package: &Toml| {
        let word = |key: &str| package.get(key).and_then(Toml::as_str);
        let registry = |source: &&str| !source.starts_with("registry+https://github.com/rust-lang/crates.io-index");
        let source =
            word("source").filter(registry).map(|source| source.split('#').next().unwrap_or(source).to_owned());
        Some((word("name")?.to_owned(), at(word("version").unwrap_or_default(), source)))
    };
    Some(packages.iter().filter_map(package).collect())
}

fn json_tables(text: &str, keys: &[&str]) -> Option<Wanted> {
    let manifest: Json = serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()?;
    let tables = keys.iter().filter_map(|key| manifest.get(key)?.as_object());
    let entries = tables.flatten();
    Some(entries.map(|(name, wanted)| (name.clone(), spec(wanted.as_str().unwrap_or_default()))).collect())
}

fn package_manifest(text: &str) -> Option<Wanted> {
    json_tables(
        text,
        &["dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "overrides", "resolutions"],
    )
}

fn composer_manifest(text: &str) -> Option<Wanted> {
    json_tables(text, &["require", "require-dev"])
}

fn package_lock(text: &str) -> Option<Wanted> {
    let lock: Json = serde_json::from_str(text).ok()?;
    let version = |entry: &Json| {
        let word = |key: &str| entry.get(key).and_then(Json::as_str);
        let host = word("resolved").and_then(|url| url.split_once("://")).map(|(_, rest)| rest);
        let host = host.and_then(|rest| rest.split('/').next()).filter(|host| *host != "registry.npmjs.org");
        at(word("version").unwrap_or_default(), host.map(str::to_owned))
    };
    let mut found = Wanted::new();
    for (path, entry) in lock.get("packages").and_then(Json::as_object).into_iter().flatten() {
        if let Some((_, name)) = path.rsplit_once("node_modules/") {
            found.insert(name.to_owned(), version(entry));
        }
    }
    for (name, entry) in lock.get("dependencies").and_then(Json::as_object).into_iter().flatten() {
        found.entry(name.clone()).or_insert_with(|| version(entry));
    }
    Some(found)
}

/// `"@scope/name@^1.0", name@^2:` heads an entry, and `version "1.2.3"` stands in it.
fn yarn_lock(text: &str) -> Option<Wanted> {
    let mut found = Wanted::new();
    let mut head: Option<String> = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if !line.starts_with(' ') && line.ends_with(':') {
            let first = line.split(',').next().unwrap_or_default().trim_matches(['"', ':']);
            head = first.get(1..).and_then(|rest| rest.find('@')).map(|at| first[..=at].to_owned());
        } else if let Some(version) = line.trim().strip_prefix("version")
            && let Some(name) = head.take()
        {
            found.insert(name, version.trim_matches([' ', ':', '"']).to_owned());
        }
    }
    Some(found)
}

/// Keys of `packages:` such as `/name@1.2.3:`, `'@scope/name@1.2.3(peer)':`.
fn pnpm_lock(text: &str) -> Option<Wanted> {
    let lines = text.lines().skip_while(|line| *line != "packages:").skip(1);
    let keys = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
    let keys = keys.filter(|line| line.starts_with("  ") && !line.starts_with("   ") && line.trim_end().ends_with(':'));
    let package = |line: &str| {
        let key = line.trim().trim_end_matches(':').trim_matches(['\'', '"']).trim_start_matches('/');
        let key = key.split('(').next().unwrap_or(key);
        let at = key.get(1..)?.rfind('@')? + 1;
        Some((key[..at].to_owned(), key[at + 1..].to_owned()))
    };
    Some(keys.filter_map(package).collect())
}

/// `name[extra]>=1.0; marker`, as PEP 508 has it, or an address.
fn requirement(line: &str) -> Option<(String, String)> {
    let line = line.split(" #").next().unwrap_or(line).trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    // Other indexes and files are another place for everything.
    if let Some(option) = line.strip_prefix("--").or_else(|| line.strip_prefix('-')) {
        return Some((
            format!("-{}", option.split([' ', '=']).next().unwrap_or(option)),
            at("", Some(line.to_owned())),
        ));
    }
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let rest = rest.split(';').next().unwrap_or(rest).trim();
    let wanted = match rest.strip_prefix('@').or_else(|| rest.contains("://").then_some(rest)) {
        Some(place) => at("", Some(place.trim().to_owned())),
        None => rest.to_owned(),
    };
    Some((name.to_lowercase().replace(['_', '.'], "-"), wanted))
}

fn requirements(text: &str) -> Option<Wanted> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(|line| line.split(" --hash").next().unwrap_or(line));
    Some(lines.filter_map(requirement).collect())
}

fn pyproject(text: &str) -> Option<Wanted> {
    let manifest: Toml = Toml::Table(toml::from_str(text).ok()?);
    let mut found = Wanted::new();
    let lists = |value: Option<&Toml>, found: &mut Wanted| {
        let items = value.and_then(Toml::as_array).map(Vec::as_slice).unwrap_or_default();
        found.extend(items.iter().filter_map(Toml::as_str).filter_map(requirement));
    };
    let tables = |value: Option<&Toml>, found: &mut Wanted| {
        for (name, wanted) in value.and_then(Toml::as_table).into_iter().flatten() {
            let word = |key: &str| wanted.get(key).and_then(Toml::as_str);
            let place = ["git", "url", "path", "source"].into_iter().find_map(word).map(str::to_owned);
            let version = wanted.as_str().or_else(|| word("version")).unwrap_or_default();
            found.insert(name.to_lowercase(), at(version, place));
        }
    };
    let project = manifest.get("project");
    lists(project.and_then(|project| project.get("dependencies")), &mut found);
    lists(manifest.get("build-system").and_then(|build| build.get("requires")), &mut found);
    let groups = [project.and_then(|project| project.get("optional-dependencies")), manifest.get("dependency-groups")];
    for group in groups.into_iter().flatten().filter_map(Toml::as_table).flat_map(toml::Table::values) {
        lists(Some(group), &mut found);
    }
    let poetry = manifest.get("tool").and_then(|tool| tool.get("poetry"));
    for key in ["dependencies", "dev-dependencies"] {
        tables(poetry.and_then(|poetry| poetry.get(key)), &mut found);
    }
    for group in poetry.and_then(|poetry| poetry.get("group")).and_then(Toml::as_table).into_iter().flatten() {
        tables(group.1.get("dependencies"), &mut found);
    }
    Some(found)
}

fn pipfile(text: &str) -> Option<Wanted> {
    let manifest: toml::Table = toml::from_str(text).ok()?;
    let tables = ["packages", "dev-packages"].into_iter().filter_map(|key| manifest.get(key)?.as_table());
    Some(
        tables
            .flatten()
            .map(|(name, wanted)| (name.to_lowercase(), wanted.as_str().unwrap_or_default().to_owned()))
            .collect(),
    )
}

fn go_manifest(text: &str) -> Option<Wanted> {
    let mut found = Wanted::new();
    let mut block = None;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or(line).trim();
        let words: Vec<&str> = line.split_whitespace().collect();
        match (block, words.as_slice()) {
            (None, [verb @ ("require" | "replace"), "("]) => block = Some(*verb),
            (Some(_), [")"]) => block = None,
            (None, ["require", name, version]) | (Some("require"), [name, version]) => {
                found.insert((*name).to_owned(), (*version).to_owned());
            }
            (None, ["replace", name, rest @ ..]) | (Some("replace"), [name, rest @ ..]) => {
                let to = rest.iter().skip_while(|word| **word != "=>").skip(1).copied().collect::<Vec<_>>();
                found.insert(format!("replace {name}"), at("", Some(to.join(" "))));
            }
            _ => {}
        }
    }
    Some(found)
}

/// `    name (1.2.3)` below `specs:`.
fn gem_lock(text: &str) -> Option<Wanted> {
    let gems = text.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
    let gem = |line: &str| {
        let (name, version) = line.trim().split_once(" (")?;
        Some((name.to_owned(), version.trim_end_matches(')').to_owned()))
    };
    Some(gems.filter_map(gem).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::FileKind;

    fn told(path: &str, before: &str, after: &str) -> String {
        let file = |text: &str| Some((FileKind::Regular, text.as_bytes().to_vec()));
        let before = if before.is_empty() { None } else { file(before) };
        let change = FileChange { path: path.into(), before, after: file(after) };
        added(path, &change, &Policy::default()).map(|finding| finding.message).unwrap_or_default()
    }

    #[test]
    fn what_is_new_is_told_with_its_version_and_a_place_that_is_no_registry() {
        let cases = [
            (
                "Cargo.toml",
                "[dependencies]\nserde = \"1\"",
                "[dependencies]\nserde = \"2\"\n[target.'cfg(unix)'.dev-dependencies]\nnix = { version = \"0.29\", features = [\"fs\"] }",
                "`nix 0.29`",
            ),
            (
                "Cargo.toml",
                "[dependencies]\nserde = \"1\"",
                "[dependencies]\nserde = { git = \"https://evil.example/serde\" }",
                "`serde from https://evil.example/serde`",
            ),
            ("Cargo.toml", "", "[patch.crates-io]\nserde = { path = \"x\" }", "`[patch] crates-io`"),
            (
                "Cargo.lock",
                "",
                "[[package]]\nname = \"left\"\nversion = \"1.0.0\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"",
                "`left 1.0.0`",
            ),
            (
                "web/package.json",
                "{\"dependencies\":{\"react\":\"^18\"}}",
                "{\"dependencies\":{\"react\":\"^19\"},\"devDependencies\":{\"left-pad\":\"^1.3.0\"}}",
                "`left-pad ^1.3.0`",
            ),
            (
                "package.json",
                "{\"dependencies\":{\"react\":\"^18\"}}",
                "{\"dependencies\":{\"react\":\"evil/react\"}}",
                "`react from evil/react`",
            ),
            (
                "package-lock.json",
                "{\"packages\":{}}",
                "{\"packages\":{\"node_modules/a/node_modules/@s/b\":{\"version\":\"1.0.1\"}}}",
                "`@s/b 1.0.1`",
            ),
            ("yarn.lock", "# yarn lockfile v1\n", "\"@s/b@^1\", \"@s/b@^2\":\n  version \"1.2.0\"\n", "`@s/b 1.2.0`"),
            (
                "pnpm-lock.yaml",
                "packages:\n",
                "lockfileVersion: '9.0'\npackages:\n\n  '@s/b@1.2.0(react@18)':\n    resolution: {}\n",
                "`@s/b 1.2.0`",
            ),
            (
                "requirements-dev.txt",
                "flask==3.0\n",
                "Flask==3.1\nrequests>=2 ; python_version > '3'\n",
                "`requests >=2`",
            ),
            (
                "requirements.txt",
                "flask\n",
                "flask\n--extra-index-url https://evil.example/simple\n",
                "`-extra-index-url from --extra-index-url https://evil.example/simple`",
            ),
            (
                "pyproject.toml",
                "",
                "[project]\nname = \"x\"\ndependencies = [\"httpx[http2]>=0.27\"]",
                "`httpx [http2]>=0.27`",
            ),
            (
                "pyproject.toml",
                "",
                "[tool.poetry.group.dev.dependencies]\npytest = { version = \"^8\" }",
                "`pytest ^8`",
            ),
            (
                "go.mod",
                "module x\n",
                "module x\nrequire (\n\tgithub.com/a/b v1.2.3 // indirect\n)\n",
                "`github.com/a/b v1.2.3`",
            ),
            (
                "go.mod",
                "module x\n",
                "module x\nreplace github.com/a/b => ../b\n",
                "`replace github.com/a/b from ../b`",
            ),
            ("composer.json", "{}", "{\"require\":{\"monolog/monolog\":\"^3\"}}", "`monolog/monolog ^3`"),
            ("Gemfile.lock", "GEM\n", "GEM\n  specs:\n    rack (3.0.0)\n      base64\n", "`rack 3.0.0`"),
        ];
        for (path, before, after, wanted) in cases {
            assert_eq!(told(path, before, after), format!("`{path}` adds a dependency: {wanted}."), "{after}");
        }
    }

    #[test]
    fn updates_and_removals_are_no_news_and_what_cannot_be_read_is() {
        assert_eq!(told("Cargo.toml", "[dependencies]\na = \"1\"\nb = \"1\"", "[dependencies]\na = \"2\""), "");
        assert_eq!(
            told("package.json", "{\"dependencies\":{\"a\":\"1\"}}", "{\"name\":\"x\",\"dependencies\":{\"a\":\"1\"}}"),
            ""
        );
        assert_eq!(told("src/main.rs", "", "fn main() {}"), "");
        assert_eq!(
            told("package.json", "{}", "{\"dependencies\":"),
            "`package.json` cannot be read, so its dependencies are not known."
        );
        let many: String = (0..30).map(|n| format!("p{n:02} = \"1\"\n")).collect();
        let told = told("Cargo.toml", "", &format!("[dependencies]\n{many}"));
        assert!(
            told.starts_with("`Cargo.toml` adds 30 dependencies: `p00 1`, ") && told.ends_with(" and 10 more."),
            "{told}"
        );
    }
}
