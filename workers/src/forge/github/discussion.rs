//! What people said on an issue before a moment.

use std::collections::HashMap;

use serde::Deserialize;
use tasks::{Actor, Code, Failure, Timestamp};

use super::{Reach, errors::Trouble, permission_of};
use crate::forge::{Permission, Said};

const PER_PAGE: usize = 100;
/// Of a longer discussion the beginning is shown: later pages are not read.
const MAX_PAGES: usize = 3;
/// So many people are asked about; what others say is not trusted.
const MAX_PEOPLE: usize = 10;

#[derive(Deserialize)]
struct Comment {
    id: u64,
    body: Option<String>,
    user: Option<User>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// There when a program wrote it, in whoever's name.
    performed_via_github_app: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct User {
    id: u64,
    login: String,
    #[serde(rename = "type", default)]
    kind: String,
}

/// The comments of people that were there at `until` as they are now; one that was written or changed later is left out,
/// because whoever asked did not see it. `but`: the comment that asked. Whoever may write is asked live, and a comment is
/// trusted only when they may.
///
/// # Errors
/// E050, E051, E054.
pub(super) async fn before(at: &Reach, issue: u64, until: Timestamp, but: Option<u64>) -> Result<Vec<Said>, Failure> {
    let repo = &at.repository.full_name;
    let failure = |trouble: Trouble| trouble.failure(&format!("read {repo}#{issue}"), Code::PermissionDenied);
    let mut said = Vec::new();
    let mut may_write: HashMap<u64, bool> = HashMap::new();
    for page in 1..=MAX_PAGES {
        let route = format!("/repos/{repo}/issues/{issue}/comments?per_page={PER_PAGE}&page={page}");
        let answer = at.api.get::<Vec<Comment>>(&route).await.map_err(failure)?;
        let is_last = !answer.more || answer.value.iter().any(|comment| comment.created_at > until);
        for comment in answer.value {
            let Comment { id, body, user, created_at, updated_at, performed_via_github_app } = comment;
            let (Some(body), Some(user)) = (body, user) else { continue };
            let is_ours = body.contains("<!-- onramp:");
            if created_at > until || updated_at > until || Some(id) == but || user.kind == "Bot" || is_ours {
                continue;
            }
            let trusted = match may_write.get(&user.id) {
                Some(known) => *known,
                None if may_write.len() >= MAX_PEOPLE => false,
                None => {
                    let may = match permission_of(&at.api, repo, &user.login, user.id).await {
                        Ok(permission) => permission >= Permission::Write,
                        // The login is somebody else's by now.
                        Err(failure) if failure.code == Code::PermissionDenied => false,
                        Err(failure) => return Err(failure),
                    };
                    may_write.insert(user.id, may);
                    may
                }
            };
            let by = Actor { login: user.login, id: Some(user.id) };
            said.push(Said { by, text: body, trusted: trusted && performed_via_github_app.is_none() });
        }
        if is_last {
            break;
        }
    }
    Ok(said)
}
