//! The repository's own template for pull requests, from the base branch: where the forge would look for it.

use tasks::{CommitSha, Failure};

use crate::{checkout::Mirror, repo_config::PullRequestTemplate};

/// Where templates lie, in the order in which the forge looks.
const PLACES: [&str; 3] = [".github/", "", "docs/"];
const NAME: &str = "pull_request_template";
/// Of several, one of these is meant for us, or for everybody.
const CHOSEN: [&str; 2] = ["onramp.md", "default.md"];

/// Its text, if there is one that is meant.
pub(super) async fn find(
    mirror: &Mirror,
    base: &CommitSha,
    wanted: &PullRequestTemplate,
) -> Result<Option<String>, Failure> {
    let path = match wanted {
        PullRequestTemplate::None => None,
        PullRequestTemplate::At(path) => Some(path.clone()),
        PullRequestTemplate::Usual => {
            let outline = mirror.outline(&mirror.tree_of(base).await?).await?;
            let paths: Vec<_> = outline.iter().filter_map(|file| std::str::from_utf8(&file.path).ok()).collect();
            choose(&paths).map(str::to_owned)
        }
    };
    let Some(path) = path else { return Ok(None) };
    let bytes = mirror.file(base, &path).await?;
    if bytes.is_none() {
        tracing::warn!(path, "there is no such template for pull requests on the base branch");
    }
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The template among all paths of a tree. Of several in a folder none is meant unless its name says so: the forge asks
/// people to choose, too.
fn choose<'a>(paths: &[&'a str]) -> Option<&'a str> {
    PLACES.iter().find_map(|place| {
        let here = |path: &str| -> Option<String> {
            let (folder, rest) = path.split_at_checked(place.len())?;
            folder.eq_ignore_ascii_case(place).then(|| rest.to_ascii_lowercase())
        };
        let is_it = |name: &str| name.strip_prefix(NAME).is_some_and(|end| matches!(end, "" | ".md" | ".txt"));
        if let Some(found) = paths.iter().find(|path| here(path).is_some_and(|name| is_it(&name))) {
            return Some(*found);
        }
        let in_folder = |path: &str| {
            let name = here(path)?.strip_prefix(NAME)?.strip_prefix('/')?.to_owned();
            (!name.contains('/') && name.ends_with(".md")).then_some(name)
        };
        let several: Vec<_> = paths.iter().filter(|path| in_folder(path).is_some()).collect();
        match several.as_slice() {
            [only] => Some(**only),
            several => CHOSEN.iter().find_map(|chosen| {
                several.iter().find(|path| in_folder(path).as_deref() == Some(chosen)).map(|path| **path)
            }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_found_where_the_forge_looks() {
        for (paths, found) in [
            (
                &["README.md", "docs/pull_request_template.md", "PULL_REQUEST_TEMPLATE.md"][..],
                Some("PULL_REQUEST_TEMPLATE.md"),
            ),
            (
                &["PULL_REQUEST_TEMPLATE", ".github/Pull_Request_Template.txt"],
                Some(".github/Pull_Request_Template.txt"),
            ),
            (&["docs/PULL_REQUEST_TEMPLATE.md"], Some("docs/PULL_REQUEST_TEMPLATE.md")),
            (&[".github/PULL_REQUEST_TEMPLATE/fix.md"], Some(".github/PULL_REQUEST_TEMPLATE/fix.md")),
            (&[".github/PULL_REQUEST_TEMPLATE/fix.md", ".github/PULL_REQUEST_TEMPLATE/new.md"], None),
            (
                &[".github/PULL_REQUEST_TEMPLATE/default.md", ".github/PULL_REQUEST_TEMPLATE/onramp.md"],
                Some(".github/PULL_REQUEST_TEMPLATE/onramp.md"),
            ),
            (&["src/pull_request_template.md", "pull_request_template.rs", "é"], None),
        ] {
            assert_eq!(choose(paths), found, "{paths:?}");
        }
    }
}
