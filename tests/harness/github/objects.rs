//! The Git Data API: blobs, trees and commits that no branch leads to yet, and the branches themselves.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use git2::{ObjectType, Oid, Repository, Signature};
use serde_json::{Value, json};

use super::{
    api::{Answer, InRepository, Need, Reply},
    json::BOT,
    state::Token,
};

/// How GitHub signs: it cannot be checked here, only seen.
const SIGNED: &str = "-----BEGIN PGP SIGNATURE-----\n\nwsBcBAABCAAQ\n-----END PGP SIGNATURE-----\n";

fn open(at: &InRepository<'_>) -> Result<Repository, Reply> {
    at.need(Need::WriteContents)?;
    Repository::open_bare(at.repo().bare().path()).map_err(refused)
}

fn refused(error: git2::Error) -> Reply {
    Reply::error(422, error.message())
}

fn oid(value: &Value) -> Result<Oid, Reply> {
    value.as_str().and_then(|text| Oid::from_str(text).ok()).ok_or_else(|| Reply::error(422, "not a SHA"))
}

pub(super) fn blob(at: &mut InRepository<'_>) -> Answer {
    let (repo, body) = (open(at)?, at.call.json()?);
    let content = body["content"].as_str().unwrap_or_default();
    let bytes = match body["encoding"].as_str() {
        Some("base64") => STANDARD.decode(content).map_err(|_| Reply::error(422, "content is not valid Base64"))?,
        _ => content.as_bytes().to_vec(),
    };
    let sha = repo.blob(&bytes).map_err(refused)?.to_string();
    Ok(Reply::created(json!({ "sha": sha, "url": "" })))
}

pub(super) fn tree(at: &mut InRepository<'_>) -> Answer {
    let (repo, body) = (open(at)?, at.call.json()?);
    let mangles = at.state.mangles_trees;
    let base = repo.find_tree(oid(&body["base_tree"])?).map_err(refused)?;
    let mut update = git2::build::TreeUpdateBuilder::new();
    for entry in body["tree"].as_array().into_iter().flatten() {
        let path = entry["path"].as_str().ok_or_else(|| Reply::error(422, "tree.path is missing"))?;
        let mode = match entry["mode"].as_str() {
            Some("100644") => git2::FileMode::Blob,
            Some("100755") => git2::FileMode::BlobExecutable,
            Some("120000") => git2::FileMode::Link,
            _ => return Err(Reply::error(422, "tree.mode must be one of: 040000, 100644, 100755, 120000, 160000")),
        };
        match (&entry["content"], &entry["sha"]) {
            (Value::String(content), _) => {
                let content = if mangles { content.replace('\n', "\r\n") } else { content.clone() };
                update.upsert(path, repo.blob(content.as_bytes()).map_err(refused)?, mode);
            }
            (_, Value::Null) => {
                update.remove(path);
            }
            (_, sha) => {
                update.upsert(path, oid(sha)?, mode);
            }
        }
    }
    let sha = update.create_updated(&repo, &base).map_err(refused)?.to_string();
    Ok(Reply::created(json!({ "sha": sha, "url": "", "tree": [], "truncated": false })))
}

/// A commit of the app itself is signed; anybody else's is not.
pub(super) fn commit(at: &mut InRepository<'_>) -> Answer {
    let (repo, body) = (open(at)?, at.call.json()?);
    let tree = repo.find_tree(oid(&body["tree"])?).map_err(refused)?;
    let parents =
        body["parents"].as_array().into_iter().flatten().map(|sha| repo.find_commit(oid(sha)?).map_err(refused));
    let parents = parents.collect::<Result<Vec<_>, _>>()?;
    let is_app = matches!(at.token, Token::Installation { .. });
    let login = at.token.login().to_owned();
    let email = format!("{}+{login}@users.noreply.github.com", at.state.user_id(&login));
    let author = Signature::now(&login, &email).map_err(refused)?;
    let committer = Signature::now("GitHub", "noreply@github.com").map_err(refused)?;
    let message = body["message"].as_str().unwrap_or_default();
    let parents: Vec<_> = parents.iter().collect();
    let content = repo.commit_create_buffer(&author, &committer, message, &tree, &parents).map_err(refused)?;
    let content = String::from_utf8_lossy(&content).into_owned();
    let sha = match is_app {
        true => repo.commit_signed(&content, SIGNED, None).map_err(refused)?,
        false => repo.odb().and_then(|odb| odb.write(ObjectType::Commit, content.as_bytes())).map_err(refused)?,
    };
    let reason = if is_app { "valid" } else { "unsigned" };
    Ok(Reply::created(json!({
        "sha": sha.to_string(), "tree": { "sha": tree.id().to_string() }, "message": message,
        "verification": { "verified": is_app, "reason": reason },
    })))
}

/// The commit that a name leads to, with whom GitHub takes its author for.
pub(super) fn one_commit(at: &InRepository<'_>, name: &str) -> Answer {
    at.need(Need::ReadContents)?;
    let repo = Repository::open_bare(at.repo().bare().path()).map_err(refused)?;
    let sha = name.strip_prefix("heads/").map_or_else(|| Some(name.to_owned()), |branch| at.repo().bare().tip(branch));
    let sha = sha.ok_or_else(|| Reply::error(422, &format!("No commit found for SHA: {name}")))?;
    let commit = repo.find_commit(Oid::from_str(&sha).map_err(refused)?).map_err(refused)?;
    let is_bot = commit.author().email_bytes().ends_with(format!("+{BOT}@users.noreply.github.com").as_bytes());
    let parents: Vec<_> = commit.parent_ids().map(|id| json!({ "sha": id.to_string() })).collect();
    let author = is_bot.then(|| json!({ "login": BOT }));
    Ok(Reply::ok(json!({
        "sha": sha, "parents": parents, "author": author,
        "commit": {
            "message": String::from_utf8_lossy(commit.message_bytes()),
            "tree": { "sha": commit.tree_id().to_string() },
        },
    })))
}

/// Makes a branch; one that is there is left alone.
pub(super) fn create_reference(at: &mut InRepository<'_>) -> Answer {
    let (repo, body) = (open(at)?, at.call.json()?);
    let name = body["ref"].as_str().unwrap_or_default().to_owned();
    let made = repo.reference(&name, oid(&body["sha"])?, false, "made by the API");
    made.map_err(|_| Reply::error(422, "Reference already exists"))?;
    Ok(Reply::created(json!({ "ref": name, "object": { "type": "commit", "sha": body["sha"] } })))
}

/// Moves a branch forward; backwards or sideways only by force.
pub(super) fn update_reference(at: &mut InRepository<'_>, branch: &str) -> Answer {
    let (repo, body) = (open(at)?, at.call.json()?);
    let old = at.repo().bare().tip(branch).ok_or_else(|| Reply::error(422, "Reference does not exist"))?;
    let (old, new) = (Oid::from_str(&old).map_err(refused)?, oid(&body["sha"])?);
    if body["force"] != true && !repo.graph_descendant_of(new, old).map_err(refused)? {
        return Err(Reply::error(422, "Update is not a fast forward"));
    }
    at.repo().bare().point(branch, &new.to_string());
    Ok(Reply::ok(json!({ "ref": format!("refs/heads/{branch}"), "object": { "type": "commit", "sha": body["sha"] } })))
}
