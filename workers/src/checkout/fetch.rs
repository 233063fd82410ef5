//! Bringing a mirror up to date, and finding the base in it.
//!
//! The references of the mirror are set by us and not by libgit2's fetch: stale ones go first, so that a branch `a` which
//! became `a/b` does not stand in its own way.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use git2::{
    AutotagOption, Direction, ErrorCode, FetchOptions, Oid, RemoteCallbacks, Repository, RepositoryInitOptions,
};
use tasks::{BranchName, Code, Failure};

use super::{
    Base, Remote, commit_sha, init_libgit2,
    transport::{Call, Refusal, shown_url},
    tree::unsupported,
};

/// References that a remote may have.
const MAX_REFERENCES: usize = 200_000;
/// Where the remote's HEAD is kept in the mirror of a local checkout, which may be on no branch.
const HEAD_COPY: &str = "refs/onramp/head";

/// What the remote said of itself.
struct Advertised {
    /// (name, object), without peeled tags.
    references: Vec<(String, Oid)>,
    /// The branch that HEAD stands for.
    head_branch: Option<String>,
    /// Where HEAD is.
    head: Option<Oid>,
}

/// Fetches and resolves under the mirror's lock, so that two tasks of one repository take turns.
pub(super) fn bring_up_to_date(
    path: &Path,
    remote: &Remote,
    base: Option<&str>,
    call: &Arc<Call>,
) -> Result<Base, Failure> {
    init_libgit2()?;
    check_remote(remote)?;
    let _lock = lock(path).map_err(|error| {
        Failure::internal("the mirror of the repository cannot be locked").detail(error.to_string())
    })?;
    let mirror = open_or_create(path)?;
    let advertised = call.enter(|| fetch(&mirror, remote, call))?;
    match base {
        None => default_base(remote, &advertised),
        Some(base) => named_base(&mirror, remote, &advertised, base),
    }
}

/// Refuses what cannot be fetched from before libgit2 is asked: it has more transports than we want.
fn check_remote(remote: &Remote) -> Result<(), Failure> {
    if !remote.is_local() {
        return if remote.url.starts_with("https://") || remote.url.starts_with("http://") {
            Ok(())
        } else {
            Err(Failure::new(
                Code::RepositoryNotFound,
                format!("{} cannot be fetched from: only https, http and local paths can", shown_url(&remote.url)),
            ))
        };
    }
    let path = remote.local_path();
    let bare = ["HEAD", "objects", "refs"].iter().all(|name| path.join(name).exists());
    if bare || path.join(".git").exists() {
        return Ok(());
    }
    let message = if !path.exists() {
        format!("There is nothing at {}", path.display())
    } else if let Some(top) = path.ancestors().skip(1).find(|dir| dir.join(".git").exists()) {
        let failure = Failure::new(
            Code::NotARepository,
            format!("{} is inside a git repository but not its top", path.display()),
        );
        return Err(failure.next(format!("Use --repo {}", top.display())));
    } else {
        format!("{} is not a git repository", path.display())
    };
    Err(Failure::new(Code::NotARepository, message))
}

/// Waits for the mirror's turn, across threads and across programs. A fetch ends by its deadline, so the wait ends too.
fn lock(path: &Path) -> std::io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::create(path.with_extension("lock"))?;
    file.lock()?;
    Ok(file)
}

/// The mirror, made beside its place and moved there, so that a half-made one is never found.
fn open_or_create(path: &Path) -> Result<Repository, Failure> {
    match Repository::open_bare(path) {
        Ok(mirror) => return Ok(mirror),
        Err(error) if error.code() == ErrorCode::NotFound => {}
        Err(error) => {
            let text = error.message().to_owned();
            return Err(Failure::internal("the mirror of the repository cannot be opened").detail(text));
        }
    }
    let create = || -> anyhow::Result<Repository> {
        let unfinished = path.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let mut options = RepositoryInitOptions::new();
        options.bare(true).external_template(false).initial_head("main");
        let mirror = Repository::init_opts(&unfinished, &options)?;
        let mut config = mirror.config()?;
        config.set_bool("core.protectHFS", true)?;
        config.set_bool("core.protectNTFS", true)?;
        drop((config, mirror));
        fs::rename(&unfinished, path)?;
        Ok(Repository::open_bare(path)?)
    };
    create().map_err(|error| Failure::internal("the mirror of the repository cannot be made").detail(error.to_string()))
}

/// Callbacks that stop libgit2 when the call is over.
pub(crate) fn callbacks(call: &Arc<Call>) -> RemoteCallbacks<'static> {
    let mut callbacks = RemoteCallbacks::new();
    let (transfer, side) = (call.clone(), call.clone());
    callbacks.transfer_progress(move |_| transfer.may_go_on());
    callbacks.sideband_progress(move |text| {
        side.hear(text);
        side.may_go_on()
    });
    callbacks
}

fn fetch(mirror: &Repository, remote: &Remote, call: &Arc<Call>) -> Result<Advertised, Failure> {
    let failed = |error| failure(&error, remote, call);
    let mut handle = mirror.remote_anonymous(&remote.url).map_err(failed)?;
    let mut connection = handle.connect_auth(Direction::Fetch, Some(callbacks(call)), None).map_err(failed)?;
    let advertised = advertised(connection.list().map_err(failed)?)?;

    let mut specs = vec!["+refs/heads/*:refs/heads/*"];
    if remote.is_local() {
        // A person names tags, other people's branches and a detached HEAD as well.
        specs.extend(["+refs/tags/*:refs/tags/*", "+refs/remotes/*:refs/remotes/*"]);
        if advertised.head.is_some() {
            specs.push("+HEAD:refs/onramp/head");
        }
    }
    let mut options = FetchOptions::new();
    options.download_tags(AutotagOption::None).remote_callbacks(callbacks(call));
    connection.remote().download(&specs, Some(&mut options)).map_err(failed)?;
    set_references(mirror, remote, &advertised).map_err(failed)?;
    Ok(advertised)
}

fn advertised(heads: &[git2::RemoteHead<'_>]) -> Result<Advertised, Failure> {
    if heads.len() > MAX_REFERENCES {
        return Err(unsupported(format!("The repository has more than {MAX_REFERENCES} references")));
    }
    let head = heads.iter().find(|head| head.name() == "HEAD");
    let names_head = |name: &str| -> bool { heads.iter().any(|head| head.name() == name) };
    let guess = head.and_then(|head| {
        // A server that does not tell what HEAD stands for: a branch at the same commit, a usual name first.
        let same = |name: &&str| heads.iter().any(|other| other.name() == *name && other.oid() == head.oid());
        ["refs/heads/main", "refs/heads/master"].into_iter().find(same)
    });
    let head_branch = match head.and_then(|head| head.symref_target()) {
        Some(target) => Some(target).filter(|target| names_head(target)),
        None if head.is_some_and(|head| !head.is_local()) => guess,
        None => None,
    };
    Ok(Advertised {
        head_branch: head_branch.and_then(|name| name.strip_prefix("refs/heads/")).map(str::to_owned),
        head: head.map(git2::RemoteHead::oid),
        references: heads
            .iter()
            .filter(|head| git2::Reference::is_valid_name(head.name()) && head.name().starts_with("refs/"))
            .map(|head| (head.name().to_owned(), head.oid()))
            .collect(),
    })
}

/// Makes the mirror's references those of the remote: stale ones go first, equal ones are not written.
fn set_references(mirror: &Repository, remote: &Remote, advertised: &Advertised) -> Result<(), git2::Error> {
    let kept = |name: &str| {
        name.starts_with("refs/heads/")
            || (remote.is_local() && (name.starts_with("refs/tags/") || name.starts_with("refs/remotes/")))
    };
    let mut wanted: HashMap<&str, Oid> = HashMap::new();
    wanted.extend(advertised.references.iter().filter(|(name, _)| kept(name)).map(|(name, oid)| (name.as_str(), *oid)));
    if let (Some(head), true) = (advertised.head, remote.is_local()) {
        wanted.insert(HEAD_COPY, head);
    }
    for reference in mirror.references()? {
        let mut reference = reference?;
        let Ok(name) = reference.name().map(str::to_owned) else { continue };
        match wanted.get(name.as_str()) {
            Some(oid) if reference.target() == Some(*oid) => {
                wanted.remove(name.as_str());
            }
            Some(_) => {}
            None if kept(&name) || name == HEAD_COPY => reference.delete()?,
            None => {}
        }
    }
    for (name, oid) in wanted {
        mirror.reference(name, oid, true, "")?;
    }
    Ok(())
}

fn default_base(remote: &Remote, advertised: &Advertised) -> Result<Base, Failure> {
    let no_commit = || Failure::new(Code::BaseNotFound, format!("The repository {} has no commit yet", remote.shown()));
    if let Some(name) = &advertised.head_branch {
        let target = find(advertised, &format!("refs/heads/{name}")).ok_or_else(no_commit)?;
        return Ok(Base { branch: Some(branch(name)?), commit: commit_sha(target) });
    }
    match advertised.head {
        Some(head) if remote.is_local() => Ok(Base { branch: None, commit: commit_sha(head) }),
        _ if advertised.references.is_empty() => Err(no_commit()),
        _ => Err(Failure::new(Code::BaseNotFound, format!("The default branch of {} has no commit", remote.shown()))
            .next("Name a branch that exists with --base.")),
    }
}

fn named_base(mirror: &Repository, remote: &Remote, advertised: &Advertised, base: &str) -> Result<Base, Failure> {
    if let Some(target) = find(advertised, &format!("refs/heads/{base}")) {
        return Ok(Base { branch: Some(branch(base)?), commit: commit_sha(target) });
    }
    if remote.is_local() {
        // HEAD of the mirror itself means nothing; the person means the HEAD of the checkout.
        let revision = match base.strip_prefix("HEAD") {
            Some(rest) if !rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | '.')) => {
                format!("{HEAD_COPY}{rest}")
            }
            _ => base.to_owned(),
        };
        let commit = mirror.revparse_single(&revision).and_then(|object| object.peel_to_commit());
        if let Ok(commit) = commit {
            let branch = advertised.head_branch.as_deref().filter(|_| base == "HEAD").map(branch).transpose()?;
            return Ok(Base { branch, commit: commit_sha(commit.id()) });
        }
    }
    if advertised.references.is_empty() {
        return Err(Failure::new(Code::BaseNotFound, format!("The repository {} has no commit yet", remote.shown())));
    }
    let what = if remote.is_local() { "branch or revision" } else { "branch" };
    let message = format!("There is no {what} {base:?} in {}", remote.shown());
    let failure = Failure::new(Code::BaseNotFound, message);
    Err(match closest(advertised, base) {
        Some(name) => failure.next(format!("Did you mean {name}? Name a branch that exists with --base.")),
        None => failure,
    })
}

fn find(advertised: &Advertised, name: &str) -> Option<Oid> {
    advertised.references.iter().find(|(known, _)| known == name).map(|(_, oid)| *oid)
}

fn branch(name: &str) -> Result<BranchName, Failure> {
    name.parse().map_err(|error: tasks::repo::NameError| unsupported(error.to_string()))
}

/// The branch whose name is most like this one, if any is.
fn closest<'a>(advertised: &'a Advertised, base: &str) -> Option<&'a str> {
    let names = advertised.references.iter().filter_map(|(name, _)| name.strip_prefix("refs/heads/"));
    let rated = names.take(1000).map(|name| (strsim::damerau_levenshtein(name, base), name));
    rated.min().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name)
}

/// What an error of libgit2 means to a person, for a fetch.
pub(crate) fn failure(error: &git2::Error, remote: &Remote, call: &Call) -> Failure {
    let place = remote.shown();
    if call.is_cancelled() {
        return Failure::new(Code::Cancelled, format!("The fetch from {place} was stopped"));
    }
    if call.is_late() {
        return Failure::new(Code::ForgeUnavailable, format!("{place} did not send everything in time"));
    }
    if let Some(refusal) = call.refusal() {
        return refused(refusal, &place, call);
    }
    let text = error.message().to_owned();
    if text.contains("sha256") || text.contains("objectformat") || text.contains("object format") {
        return unsupported(format!("The repository {place} uses SHA-256 object ids")).detail(text);
    }
    if !remote.is_local() {
        return Failure::new(Code::ForgeUnavailable, format!("Git could not work with {place}")).detail(text);
    }
    if error.code() == ErrorCode::Owner || text.contains("not owned by") {
        return Failure::new(Code::NotARepository, format!("The repository {place} belongs to another user"))
            .next("Run as the user who owns it, or use a clone of your own.")
            .detail(text);
    }
    Failure::new(Code::NotARepository, format!("The repository {place} cannot be read"))
        .next("Check it with `git fsck`; a broken reference or a missing object stops it from being copied.")
        .detail(text)
}

/// What a refusal over HTTP means to a person, for a fetch.
fn refused(refusal: Refusal, place: &str, call: &Call) -> Failure {
    match refusal {
        Refusal::Status(401 | 403, text) if call.token().is_some() => {
            Failure::new(Code::ForgeAuth, format!("The forge refused the credentials for {place}")).detail(text)
        }
        Refusal::Status(401 | 403 | 404 | 410, text) => Failure::new(
            Code::RepositoryNotFound,
            format!("The repository {place} cannot be found, or may not be read with these credentials"),
        )
        .detail(text),
        Refusal::Status(status, text) => {
            Failure::new(Code::ForgeUnavailable, format!("{place} answered with HTTP status {status}")).detail(text)
        }
        Refusal::Redirect(to) => Failure::new(
            Code::RepositoryNotFound,
            format!("{place} redirects to {to}, and credentials are never sent to another host"),
        )
        .next("Use the address that it redirects to."),
        Refusal::NotGit => {
            Failure::new(Code::RepositoryNotFound, format!("What answers at {place} is not a git server"))
        }
        Refusal::Unreachable(text) => {
            Failure::new(Code::ForgeUnavailable, format!("{place} cannot be reached")).detail(text)
        }
        Refusal::TooManyReferences => unsupported(format!("The repository {place} has too many references")),
    }
}
