//! GitHub's own description of its API, which every request in every test is held against.
//!
//! A fake takes what its author believes that GitHub takes. So what a request may look like is not said here, but by the
//! OpenAPI description that GitHub publishes; `tests/bring-up.sh` fetches it and cuts it down to requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{LazyLock, OnceLock},
};

use axum::http::Method;
use jsonschema::Validator;
use serde::Deserialize;
use serde_json::Value;

use super::percent_decoded;
use crate::target;

/// Read once for all tests of a process; what no test sends is never compiled.
static PUBLISHED: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let text = std::fs::read_to_string(target::published("requests.json")).expect("what was fetched can be read");
    let paths: BTreeMap<String, BTreeMap<String, Described>> = serde_json::from_str(&text).expect("it is JSON of ours");
    let mut operations = Vec::new();
    for (path, methods) in paths {
        let parts: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
        operations.extend(methods.into_iter().map(|(method, described)| Operation {
            method,
            path: parts.clone(),
            described,
            validator: OnceLock::new(),
        }));
    }
    operations
});

/// What GitHub says about one request.
#[derive(Deserialize)]
struct Described {
    /// The parameters of the query, each with its schema.
    query: BTreeMap<String, Value>,
    /// The parameters of the path that may have slashes in them.
    multi: Vec<String>,
    /// Whether there has to be a body.
    required: bool,
    body: Option<Value>,
}

struct Operation {
    method: String,
    path: Vec<String>,
    described: Described,
    validator: OnceLock<Validator>,
}

impl Operation {
    /// How many parts of the path are those of the description word for word; `None`: it is another path.
    fn fits(&self, path: &[String]) -> Option<usize> {
        self.fits_from(&self.path, path)
    }

    fn fits_from(&self, described: &[String], path: &[String]) -> Option<usize> {
        let Some((first, rest)) = described.split_first() else { return path.is_empty().then_some(0) };
        let Some(name) = first.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            let (part, others) = path.split_first()?;
            return (part == first).then(|| self.fits_from(rest, others)).flatten().map(|n| n + 1);
        };
        let longest = if self.described.multi.iter().any(|multi| multi == name) { path.len() } else { 1 };
        (1..=longest.min(path.len())).find_map(|n| self.fits_from(rest, &path[n..]))
    }

    fn body(&self) -> Option<&Validator> {
        let schema = self.described.body.as_ref()?;
        Some(self.validator.get_or_init(|| jsonschema::validator_for(schema).expect("GitHub publishes a JSON Schema")))
    }
}

/// Reads the description, so that a test without one ends at once and says what to run.
pub(super) fn read() {
    LazyLock::force(&PUBLISHED);
}

/// What GitHub's description has against a request; nothing when it is described just so.
pub(super) fn objections(method: &Method, path: &str, query: &BTreeMap<String, String>, body: &[u8]) -> Vec<String> {
    // Questions in GraphQL are no part of that description.
    if *method == Method::POST && path.ends_with("/graphql") {
        return Vec::new();
    }
    let mut parts: Vec<String> = path.split('/').skip(1).map(percent_decoded).collect();
    // Where GitHub leads from an old name: a repository by its number, with everything else as under its name.
    if parts[0] == "repositories" {
        parts.splice(..parts.len().min(2), ["repos".to_owned(), "owner".to_owned(), "name".to_owned()]);
    }
    let described = PUBLISHED.iter().filter(|operation| operation.method == method.as_str());
    let fitting = described.filter_map(|operation| operation.fits(&parts).map(|n| (n, operation)));
    let Some((_, operation)) = fitting.max_by_key(|(n, _)| *n) else {
        return vec![format!("{method} {path}: there is no such request")];
    };
    let mut found = Vec::new();
    for (name, value) in query {
        match operation.described.query.get(name) {
            Some(schema) if is_one(schema, value) => {}
            Some(schema) => found.push(format!("the parameter {name}={value} is not {schema}")),
            None => found.push(format!("there is no parameter {name}")),
        }
    }
    found.extend(against_body(operation, body));
    found.into_iter().map(|objection| format!("{method} {path}: {objection}")).collect()
}

/// Whether the text of a query is a value of this schema.
fn is_one(schema: &Value, text: &str) -> bool {
    let value = match schema["type"].as_str() {
        Some("integer" | "number" | "boolean") => serde_json::from_str(text).unwrap_or(Value::Null),
        _ => Value::from(text),
    };
    jsonschema::is_valid(schema, &value)
}

fn against_body(operation: &Operation, body: &[u8]) -> Vec<String> {
    let value: Value = match body {
        [] => Value::Null,
        body => match serde_json::from_slice(body) {
            Ok(value) => value,
            Err(error) => return vec![format!("the body is no JSON: {error}")],
        },
    };
    let is_empty = value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    let Some(validator) = operation.body() else {
        return if is_empty { Vec::new() } else { vec![format!("it takes no body, and got {value}")] };
    };
    if value.is_null() {
        return if operation.described.required { vec!["it needs a body".to_owned()] } else { Vec::new() };
    }
    let wrong = validator.iter_errors(&value);
    let mut found: Vec<String> = wrong.map(|error| format!("{}: {error:.300}", error.instance_path())).collect();
    // GitHub passes over what it does not know, so a field with a wrong name would do nothing, unnoticed.
    let known = operation.described.body.as_ref().map(fields).unwrap_or_default();
    let unknown = value.as_object().into_iter().flat_map(serde_json::Map::keys).filter(|name| !known.contains(name));
    found.extend(unknown.map(|name| format!("there is no field {name}")));
    found
}

/// The names of all fields of an object, whichever of its forms it takes.
fn fields(schema: &Value) -> BTreeSet<&String> {
    let own = schema["properties"].as_object().into_iter().flat_map(serde_json::Map::keys);
    let forms = ["oneOf", "anyOf", "allOf"].iter().filter_map(|form| schema[form].as_array()).flatten();
    own.chain(forms.flat_map(fields)).collect()
}
