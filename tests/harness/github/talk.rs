//! Conversation: comments that ask for something, reviews with comments on lines, reactions.

use serde_json::{Value, json};

use super::{
    GitHub,
    api::{Answer, InRepository, Need, Reply, text},
    history::issue_or_pull,
    json,
    pulls::find as find_pull,
    state::{Repository, State, now},
};
use crate::delivery::Delivery;

/// A comment on a line of a pull request.
#[derive(Debug, Clone)]
pub struct LineComment {
    /// Its id, unique in the whole fake.
    pub id: u64,
    /// The pull request.
    pub pull: u64,
    /// The review that it belongs to, if any.
    pub review: Option<u64>,
    /// The comment that it answers.
    pub in_reply_to: Option<u64>,
    /// Who wrote it.
    pub author: String,
    /// The file.
    pub path: String,
    /// The line.
    pub line: u64,
    /// Its text.
    pub body: String,
    pub(super) created_at: String,
    pub(super) updated_at: String,
}

/// A submitted review.
#[derive(Debug, Clone)]
pub(super) struct Review {
    pub(super) id: u64,
    pub(super) pull: u64,
    pub(super) author: String,
    pub(super) state: &'static str,
    pub(super) body: String,
    pub(super) submitted_at: String,
}

/// A reaction to an issue, a pull request or a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reacted {
    /// `issues/12` or `issues/comments/1007`.
    pub to: String,
    /// `eyes`, `rocket`, …
    pub content: String,
    /// Who.
    pub login: String,
}

/// What was said, in all repositories: the tests have one.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) reviews: Vec<Review>,
    pub(super) line_comments: Vec<LineComment>,
    pub(super) reactions: Vec<Reacted>,
}

impl GitHub {
    /// A comment by a person, with the delivery that GitHub sends for it. `number`: an issue or a pull request.
    pub fn say(&self, repo: &str, number: u64, sender: &str, body: &str) -> Delivery {
        let mut state = self.server.state();
        let comment = state.add_comment(repo, number, sender, body).clone();
        let found = state.repository(repo);
        let mut event = json::event(&state, "created", found, sender);
        event["comment"] = json::comment(&state, found, &comment);
        event["issue"] = issue_or_pull(&state, repo, number).expect("the issue or pull request is there");
        Delivery::new("issue_comment", &event)
    }

    /// A person submits a review with comments on lines (file, line, text).
    pub fn review(
        &self,
        repo: &str,
        pull: u64,
        sender: &str,
        review_state: &'static str,
        body: &str,
        comments: &[(&str, u64, &str)],
    ) -> Delivery {
        let mut state = self.server.state();
        let (id, at) = (state.fresh_id(), now());
        for (path, line, text) in comments {
            let comment = LineComment {
                id: state.fresh_id(),
                pull,
                review: Some(id),
                in_reply_to: None,
                author: sender.to_owned(),
                path: (*path).to_owned(),
                line: *line,
                body: (*text).to_owned(),
                created_at: at.clone(),
                updated_at: at.clone(),
            };
            state.talk.line_comments.push(comment);
        }
        let review = Review {
            id,
            pull,
            author: sender.to_owned(),
            state: review_state,
            body: body.to_owned(),
            submitted_at: at,
        };
        state.talk.reviews.push(review.clone());
        let mut event = json::pull_event(&state, "submitted", repo, pull, sender);
        event["review"] = review_json(&state, &review);
        Delivery::new("pull_request_review", &event)
    }

    /// Somebody pushed to a branch.
    pub fn pushed(&self, repo: &str, branch: &str, sender: &str) -> Delivery {
        let state = self.server.state();
        let found = state.repository(repo);
        let mut event = json::event(&state, "", found, sender);
        event["ref"] = json!(format!("refs/heads/{branch}"));
        event["deleted"] = json!(false);
        event["after"] = json!(found.bare().tip(branch));
        Delivery::new("push", &event)
    }

    /// Changes a comment on a line after it was written.
    pub fn edit_line_comment(&self, pull: u64, body: &str) -> &Self {
        let mut state = self.server.state();
        for comment in state.talk.line_comments.iter_mut().filter(|comment| comment.pull == pull) {
            body.clone_into(&mut comment.body);
            "2099-01-01T00:00:00Z".clone_into(&mut comment.updated_at);
        }
        drop(state);
        self
    }

    /// The comments on lines of a pull request, answers among them, oldest first.
    pub fn line_comments(&self, pull: u64) -> Vec<LineComment> {
        let state = self.server.state();
        state.talk.line_comments.iter().filter(|comment| comment.pull == pull).cloned().collect()
    }

    /// Every reaction, oldest first.
    pub fn reactions(&self) -> Vec<Reacted> {
        self.server.state().talk.reactions.clone()
    }
}

pub(super) fn review_json(state: &State, review: &Review) -> Value {
    json!({
        "id": review.id, "node_id": format!("PRR_{}", review.id), "user": json::user(state, &review.author),
        "body": review.body, "state": review.state, "submitted_at": review.submitted_at,
        "author_association": "COLLABORATOR",
    })
}

pub(super) fn line_comment_json(state: &State, repo: &Repository, comment: &LineComment) -> Value {
    let api = format!("{}/repos/{}/pulls", state.api_url(), repo.full_name());
    let mut shown = json!({
        "id": comment.id, "node_id": format!("PRRC_{}", comment.id), "pull_request_review_id": comment.review,
        "path": comment.path, "line": comment.line, "original_line": comment.line, "side": "RIGHT",
        "diff_hunk": format!("@@ -{line},1 +{line},1 @@\n+changed", line = comment.line), "body": comment.body,
        "user": json::user(state, &comment.author), "author_association": "COLLABORATOR",
        "url": format!("{api}/comments/{}", comment.id), "pull_request_url": format!("{api}/{}", comment.pull),
        "created_at": comment.created_at, "updated_at": comment.updated_at,
    });
    if let Some(to) = comment.in_reply_to {
        shown["in_reply_to_id"] = json!(to);
    }
    shown
}

// ---- the routes

pub(super) fn one_review(at: &InRepository<'_>, number: &str, id: &str) -> Answer {
    at.need(Need::ReadPulls)?;
    let pull = find_pull(at, number)?.number;
    let found = at.state.talk.reviews.iter().find(|review| review.pull == pull && review.id.to_string() == id);
    Ok(Reply::ok(review_json(at.state, found.ok_or_else(Reply::not_found)?)))
}

pub(super) fn line_comments(at: &InRepository<'_>, number: &str, review: Option<&str>) -> Answer {
    at.need(Need::ReadPulls)?;
    let pull = find_pull(at, number)?.number;
    let comments = at.state.talk.line_comments.iter().filter(|comment| {
        let in_review = review.is_none_or(|id| comment.review.is_some_and(|review| review.to_string() == id));
        comment.pull == pull && in_review
    });
    Ok(at.page(comments.map(|comment| line_comment_json(at.state, at.repo(), comment)).collect()))
}

pub(super) fn reply(at: &mut InRepository<'_>, number: &str, id: &str) -> Answer {
    at.need(Need::WritePulls)?;
    let pull = find_pull(at, number)?.number;
    let text = text(&at.call.json()?, "PullRequestReviewComment")?;
    let known = at.state.talk.line_comments.iter().find(|comment| comment.pull == pull && comment.id.to_string() == id);
    let known = known.ok_or_else(Reply::not_found)?.clone();
    let answer = LineComment {
        id: at.state.fresh_id(),
        review: None,
        in_reply_to: Some(known.id),
        author: at.token.login().to_owned(),
        body: text,
        created_at: now(),
        updated_at: now(),
        ..known
    };
    at.state.talk.line_comments.push(answer.clone());
    Ok(Reply::created(line_comment_json(at.state, at.repo(), &answer)))
}

pub(super) fn react(at: &mut InRepository<'_>, to: String) -> Answer {
    at.need(Need::WriteIssues)?;
    let body = at.call.json()?;
    let content = body["content"].as_str().unwrap_or_default().to_owned();
    if !["+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"].contains(&content.as_str()) {
        return Err(Reply::error(422, "Validation Failed"));
    }
    let reacted = Reacted { to, content, login: at.token.login().to_owned() };
    let is_there = at.state.talk.reactions.contains(&reacted);
    let shown = json!({ "id": 1, "content": reacted.content, "user": json::user(at.state, &reacted.login) });
    if is_there {
        return Ok(Reply::ok(shown));
    }
    at.state.talk.reactions.push(reacted);
    Ok(Reply::created(shown))
}
