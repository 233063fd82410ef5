//! One operation of the API: its path, who may use it, what goes in and out, and what does it. The routes and the OpenAPI
//! document are both made from this, so neither can say what the other does not.

use axum::{
    Router,
    handler::Handler,
    middleware,
    routing::{MethodRouter, get, post},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{entrance, problem::Problem};
use crate::front::{Front, Scope};

/// Where all paths begin.
pub const ROOT: &str = "/api/v1";

type Shape = fn(&mut SchemaGenerator) -> Schema;

/// One operation.
pub(super) struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    scope: Scope,
    summary: &'static str,
    does: MethodRouter<Front>,
    query: Option<Shape>,
    body: Option<Shape>,
    headers: Vec<(&'static str, &'static str)>,
    answer: (u16, &'static str, Option<Shape>),
}

impl Operation {
    pub(super) fn get<H: Handler<T, Front>, T: 'static>(path: &'static str, id: &'static str, does: H) -> Self {
        Self::new("get", path, id, Scope::Read, get(does))
    }

    pub(super) fn post<H: Handler<T, Front>, T: 'static>(path: &'static str, id: &'static str, does: H) -> Self {
        Self::new("post", path, id, Scope::Act, post(does))
    }

    fn new(
        method: &'static str,
        path: &'static str,
        id: &'static str,
        scope: Scope,
        does: MethodRouter<Front>,
    ) -> Self {
        let answer = (200, "application/json", None);
        Self { method, path, id, scope, summary: "", does, query: None, body: None, headers: Vec::new(), answer }
    }

    /// For whom it is, where that is not whom the method says.
    pub(super) fn needs(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    pub(super) fn summary(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    pub(super) fn takes<T: JsonSchema>(mut self) -> Self {
        self.body = Some(|shapes| shapes.subschema_for::<T>());
        self
    }

    pub(super) fn asks<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    pub(super) fn header(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.headers.push((name, meaning));
        self
    }

    pub(super) fn answers<T: JsonSchema>(mut self) -> Self {
        self.answer.2 = Some(|shapes| shapes.subschema_for::<T>());
        self
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.answer.0 = status;
        self
    }

    pub(super) fn answers_with(mut self, media: &'static str) -> Self {
        self.answer.1 = media;
        self
    }

    /// As the OpenAPI document has it.
    fn described(&self, shapes: &mut SchemaGenerator) -> Value {
        let in_path = self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = in_path.map(path_parameter).collect();
        parameters.extend(self.query.into_iter().flat_map(|shape| query_parameters(&shape(shapes))));
        parameters.extend(self.headers.iter().map(|(name, meaning)| {
            json!({ "name": name, "in": "header", "description": meaning, "schema": { "type": "string" } })
        }));
        let (status, media, shape) = self.answer;
        let schema = shape.map_or_else(|| json!({ "type": "string" }), |shape| shape(shapes).to_value());
        let mut described = json!({
            "operationId": self.id,
            "summary": self.summary,
            "description": format!("Needs the scope `{}`.", self.scope.word()),
            "parameters": parameters,
            "responses": {
                status.to_string(): { "description": "As asked.", "content": { media: { "schema": schema } } },
                "default": { "$ref": "#/components/responses/Problem" },
            },
        });
        if let Some(shape) = self.body {
            let schema = shape(shapes).to_value();
            described["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        described
    }
}

/// The routes.
pub(super) fn routes(operations: Vec<Operation>) -> Router<Front> {
    operations.into_iter().fold(Router::new(), |router, operation| {
        let may = middleware::from_fn_with_state(operation.scope, entrance::demand);
        router.route(&format!("{ROOT}{}", operation.path), operation.does.layer(may))
    })
}

/// The OpenAPI 3.1 document.
pub(super) fn document(operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut shapes = settings.for_serialize().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let described = operation.described(&mut shapes);
        let path = paths.entry(format!("{ROOT}{}", operation.path)).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let problem = shapes.subschema_for::<Problem>().to_value();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Onramp",
            "version": "1",
            "description": "Tasks of an Onramp: ask for one, look at it, say what is to become of it.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "Made with `onramp token create`." },
            },
            "responses": {
                "Problem": {
                    "description": "It was not done (RFC 9457).",
                    "content": { "application/problem+json": { "schema": problem } },
                },
            },
            "schemas": shapes.take_definitions(true),
        },
    })
}

fn path_parameter(name: &str) -> Value {
    let (meaning, schema) = match name {
        "task" => (
            "The id of the task, its beginning or end (at least 4 digits), `#12`, `owner/name#12`, the address of an issue \
             or pull request, or `last`; percent-encoded.",
            json!({ "type": "string" }),
        ),
        "attempt" => ("The number of the attempt.", json!({ "type": "integer", "minimum": 1 })),
        _ => ("Its name.", json!({ "type": "string" })),
    };
    json!({ "name": name, "in": "path", "required": true, "description": meaning, "schema": schema })
}

fn query_parameters(shape: &Schema) -> Vec<Value> {
    let properties = shape.get("properties").and_then(Value::as_object);
    let parameter = |(name, property): (&String, &Value)| {
        let mut schema = property.clone();
        let meaning = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "description": meaning, "schema": schema })
    };
    properties.into_iter().flatten().map(parameter).collect()
}
