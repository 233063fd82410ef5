//! Pull requests: one for each branch and base, and only for what is ahead of its base.

use serde_json::{Value, json};

use super::{
    api::{Answer, InRepository, Need, Reply, text},
    json,
    state::{Pull, now},
};

pub(super) fn find<'a>(at: &'a InRepository<'_>, number: &str) -> Result<&'a Pull, Reply> {
    let number: u64 = number.parse().map_err(|_| Reply::not_found())?;
    at.repo().pulls.get(&number).ok_or_else(Reply::not_found)
}

pub(super) fn one(at: &InRepository<'_>, number: &str) -> Answer {
    at.need(Need::ReadPulls)?;
    reply(at, find(at, number)?)
}

fn reply(at: &InRepository<'_>, pull: &Pull) -> Answer {
    Ok(Reply::ok(json::pull(at.state, at.repo(), pull)))
}

pub(super) fn list(at: &InRepository<'_>) -> Answer {
    at.need(Need::ReadPulls)?;
    let query = &at.call.query;
    let state = query.get("state").map_or("open", String::as_str);
    let base = query.get("base");
    // Like GitHub, a head without an owner filters nothing.
    let head = query.get("head").filter(|head| head.contains(':'));
    let owner = &at.repo().owner;
    let shown = at.repo().pulls.values().rev().filter(|pull| {
        (state == "all" || pull.open == (state == "open"))
            && base.is_none_or(|base| *base == pull.base)
            && head.is_none_or(|head| *head == format!("{owner}:{}", pull.head))
    });
    Ok(at.page(shown.map(|pull| json::pull(at.state, at.repo(), pull)).collect()))
}

pub(super) fn create(at: &mut InRepository<'_>) -> Answer {
    at.need(Need::WritePulls)?;
    let body = at.call.json()?;
    let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let (head, base, title) = (field("head"), field("base"), field("title"));
    let owner = at.repo().owner.clone();
    let head = head.strip_prefix(&format!("{owner}:")).unwrap_or(&head).to_owned();
    may_become_a_pull(at, &owner, &head, &base)?;
    if body["body"].as_str().is_some_and(|text| !text.is_empty()) {
        text(&body, "PullRequest")?;
    }
    if title.is_empty() {
        return Err(Reply::invalid(&json!({ "resource": "PullRequest", "field": "title", "code": "missing_field" })));
    }
    let pull = Pull {
        number: at.state.repository_mut(&at.name).fresh_number(),
        id: at.state.fresh_id(),
        head,
        base,
        title,
        body: field("body"),
        draft: body["draft"].as_bool().unwrap_or(false),
        open: true,
        merged: false,
        author: at.token.login().to_owned(),
        labels: Vec::new(),
        reviewers: Vec::new(),
        created_at: now(),
        updated_at: now(),
    };
    at.state.repository_mut(&at.name).pulls.insert(pull.number, pull.clone());
    Ok(Reply::created(json::pull(at.state, at.repo(), &pull)))
}

fn may_become_a_pull(at: &InRepository<'_>, owner: &str, head: &str, base: &str) -> Result<(), Reply> {
    let invalid =
        |field: &str| Reply::invalid(&json!({ "resource": "PullRequest", "field": field, "code": "invalid" }));
    let custom =
        |message: String| Reply::invalid(&json!({ "resource": "PullRequest", "code": "custom", "message": message }));
    let bare = at.repo().bare();
    let head_tip = bare.tip(head).ok_or_else(|| invalid("head"))?;
    let base_tip = bare.tip(base).ok_or_else(|| invalid("base"))?;
    if bare.ahead(&base_tip, &head_tip) == 0 {
        return Err(custom(format!("No commits between {base} and {head}")));
    }
    if at.repo().pulls.values().any(|pull| pull.open && pull.head == head && pull.base == base) {
        return Err(custom(format!("A pull request already exists for {owner}:{head}.")));
    }
    Ok(())
}

pub(super) fn update(at: &mut InRepository<'_>, number: &str) -> Answer {
    at.need(Need::WritePulls)?;
    let body = at.call.json()?;
    let number = find(at, number)?.number;
    let pull = at.state.pull_mut(&at.name, number);
    for (field, place) in [("title", &mut pull.title), ("body", &mut pull.body), ("base", &mut pull.base)] {
        if let Some(text) = body[field].as_str() {
            text.clone_into(place);
        }
    }
    if let Some(state) = body["state"].as_str() {
        pull.open = state == "open";
    }
    pull.updated_at = now();
    let pull = pull.clone();
    reply(at, &pull)
}

pub(super) fn request_reviewers(at: &mut InRepository<'_>, number: &str) -> Answer {
    at.need(Need::WritePulls)?;
    let body = at.call.json()?;
    let found = find(at, number)?;
    let (number, author) = (found.number, found.author.clone());
    let wanted = body["reviewers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted: Vec<_> = wanted.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if wanted.contains(&author) {
        return Err(Reply::error(422, "Review cannot be requested from pull request author."));
    }
    if wanted.iter().any(|login| !at.repo().permissions.contains_key(login)) {
        let message = "Reviews may only be requested from collaborators. One or more of the users or teams you \
                       specified is not a collaborator of the repository.";
        return Err(Reply::error(422, message));
    }
    let pull = at.state.pull_mut(&at.name, number);
    pull.reviewers.extend(wanted);
    let pull = pull.clone();
    Ok(Reply::created(json::pull(at.state, at.repo(), &pull)))
}
