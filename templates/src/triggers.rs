//! What others send, read as a request: one definition for each kind of sender, in templates of its own.
//!
//! A definition is written by the operator or ships with Onramp; what fills it comes from outside, and is data to
//! whoever reads the result.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

/// The definitions that ship with Onramp: (name, TOML).
pub static TRIGGERS: &[(&str, &str)] = &[
    ("alertmanager", include_str!("../triggers/alertmanager.toml")),
    ("generic", include_str!("../triggers/generic.toml")),
    ("jira", include_str!("../triggers/jira.toml")),
    ("linear", include_str!("../triggers/linear.toml")),
    ("pagerduty", include_str!("../triggers/pagerduty.toml")),
    ("sentry", include_str!("../triggers/sentry.toml")),
];

/// The templates of one definition.
#[derive(Debug, Clone, Default)]
pub struct TriggerTexts {
    /// An expression: whether what was sent asks for something.
    pub when: String,
    /// What makes two of them the same request. May come out empty.
    pub dedupe: String,
    /// Which repository, as owner/name.
    pub repository: String,
    /// One line.
    pub title: String,
    /// What is to be done.
    pub prompt: String,
    /// What it is about.
    pub about: String,
}

/// What was sent, as templates see it.
#[derive(Debug, Serialize)]
pub struct Sent<'a, B: Serialize> {
    /// The headers, in lower case.
    pub headers: &'a BTreeMap<String, String>,
    /// The JSON.
    pub body: &'a B,
    /// What the sender calls things, and which repository each is.
    pub routes: &'a BTreeMap<String, String>,
}

/// What a definition makes of what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Triggered {
    /// See [`TriggerTexts`].
    pub dedupe: String,
    /// See [`TriggerTexts`].
    pub repository: String,
    /// See [`TriggerTexts`].
    pub title: String,
    /// See [`TriggerTexts`].
    pub prompt: String,
    /// See [`TriggerTexts`].
    pub about: String,
}

/// A definition that is no template, or does not fit what was sent.
#[derive(Debug, thiserror::Error)]
#[error("`{part}` of the trigger: {source}")]
pub struct TriggerError {
    /// Which part of the definition.
    pub part: &'static str,
    /// Why.
    #[source]
    pub source: minijinja::Error,
}

/// A definition that was looked at.
pub struct Trigger {
    env: Environment<'static>,
    when: String,
}

const PARTS: [&str; 5] = ["dedupe", "repository", "title", "prompt", "about"];

impl Trigger {
    /// Looks at every part.
    ///
    /// # Errors
    /// Which part is no template, and where.
    pub fn new(texts: TriggerTexts) -> Result<Self, TriggerError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.expect("only delimiters can be wrong, and those are the usual ones"));
        // A field that a sender left out is empty, and so is everything below it.
        env.set_undefined_behavior(UndefinedBehavior::Chainable);
        let TriggerTexts { when, dedupe, repository, title, prompt, about } = texts;
        env.compile_expression(&when).map_err(|source| TriggerError { part: "when", source })?;
        for (part, text) in PARTS.into_iter().zip([dedupe, repository, title, prompt, about]) {
            env.add_template_owned(part, text).map_err(|source| TriggerError { part, source })?;
        }
        Ok(Self { env, when })
    }

    /// What was asked for; `None`: nothing.
    ///
    /// # Errors
    /// Which part does not fit what was sent.
    pub fn read<B: Serialize>(&self, sent: &Sent<'_, B>) -> Result<Option<Triggered>, TriggerError> {
        let wrong = |part| move |source| TriggerError { part, source };
        let when = self.env.compile_expression(&self.when).map_err(wrong("when"))?;
        if !when.eval(Serde(sent)).map_err(wrong("when"))?.is_true() {
            return Ok(None);
        }
        let render = |part: &'static str| {
            let text = self.env.get_template(part).and_then(|template| template.render(Serde(sent)));
            text.map(|text| text.trim().to_owned()).map_err(wrong(part))
        };
        let [dedupe, repository, title, prompt, about] = PARTS;
        Ok(Some(Triggered {
            dedupe: render(dedupe)?,
            repository: render(repository)?,
            title: crate::clean::one_line(&render(title)?),
            prompt: render(prompt)?,
            about: render(about)?,
        }))
    }
}

impl std::fmt::Debug for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trigger").field("when", &self.when).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> TriggerTexts {
        TriggerTexts {
            when: "body.kind == 'bug' and body.more.level in ['error', 'fatal']".into(),
            dedupe: "{{ body.id }}".into(),
            repository: "{{ routes[body.project] }}".into(),
            title: "{{ body.title }}".into(),
            prompt: "Fix it.".into(),
            about: "{{ body.more.text }} {{ body.nothing.at.all }}".into(),
        }
    }

    type Body = BTreeMap<&'static str, Part>;

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Part {
        Text(&'static str),
        More(BTreeMap<&'static str, &'static str>),
    }

    fn body(level: &'static str) -> Body {
        let more = BTreeMap::from([("level", level), ("text", "{{ 7 * 6 }}")]);
        let texts = [("kind", "bug"), ("id", "17"), ("project", "web"), ("title", "It\nbroke <!-- x -->")];
        let mut body: Body = texts.into_iter().map(|(name, text)| (name, Part::Text(text))).collect();
        body.insert("more", Part::More(more));
        body
    }

    fn read(body: &Body) -> Option<Triggered> {
        let routes = BTreeMap::from([("web".to_owned(), "acme/web".to_owned())]);
        Trigger::new(texts()).unwrap().read(&Sent { headers: &BTreeMap::new(), body, routes: &routes }).unwrap()
    }

    #[test]
    fn what_fits_becomes_a_request_and_what_was_sent_is_never_a_template() {
        let triggered = read(&body("error")).unwrap();
        let expected = Triggered {
            dedupe: "17".into(),
            repository: "acme/web".into(),
            title: "It broke".into(),
            prompt: "Fix it.".into(),
            about: "{{ 7 * 6 }}".into(),
        };
        assert_eq!(triggered, expected);
        assert_eq!(read(&body("info")), None);
        assert_eq!(read(&Body::new()), None, "fields that are not there fit nothing");
    }

    #[test]
    fn a_part_that_is_no_template_is_named() {
        let error = Trigger::new(TriggerTexts { title: "{{ body. }}".into(), ..texts() }).unwrap_err();
        assert!(error.to_string().starts_with("`title` of the trigger: "), "{error}");
        let error = Trigger::new(TriggerTexts { when: "body ==".into(), ..texts() }).unwrap_err();
        assert!(error.to_string().starts_with("`when` of the trigger: "), "{error}");
    }
}
