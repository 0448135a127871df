//! `/api/v2/openapi.json`: OpenAPI 3.1, made from the table of endpoints, so that it cannot leave one out.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    auth::Access,
    endpoint::{Call, Endpoint},
    headers::KEY_CHARS_MAX,
    problem::{Code, Outcome},
    query::{LIMIT_DEFAULT, LIMIT_MAX},
    reply::Reply,
    schemas::schemas,
};

/// This resource's part of the table.
pub fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::get("/api/v2/openapi.json", Access::Shop, "getOpenApi", show).about("This document.")]
}

async fn show(call: Call) -> Outcome<Reply> {
    let document = call.api.openapi.get_or_init(|| Bytes::from(document(&crate::endpoints()).to_string()));
    Ok(Reply::text(String::from_utf8_lossy(document).into_owned(), "application/json"))
}

/// The whole document.
pub fn document(endpoints: &[Endpoint]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        if let Some(methods) = path.as_object_mut() {
            methods.insert(endpoint.method.as_str().to_ascii_lowercase(), operation(endpoint));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Agora",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A replicated shop back end. Every node answers every endpoint. A write is a definite yes \
                (2xx), a definite no (4xx, and 5xx with `applied: false`), or unknown (504): then repeat it with the \
                same Idempotency-Key, on any node.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {"Problem": {
                "description": "Not done, or not known to be; see `code`.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }},
            "securitySchemes": {
                "shopKey": {"type": "http", "scheme": "bearer", "description": "The shop's key."},
                "adminKey": {"type": "http", "scheme": "bearer", "description": "The administrator's key."},
            },
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = json!({
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        "parameters": parameters(endpoint),
        "responses": responses(endpoint),
        "security": match endpoint.access {
            Access::Open => json!([]),
            Access::Shop => json!([{"shopKey": []}]),
            Access::Admin => json!([{"adminKey": []}]),
        },
    });
    if let (Some(schema), Some(fields)) = (endpoint.takes, operation.as_object_mut()) {
        let content = json!({"application/json": {"schema": reference(schema)}});
        // Acts without mandatory fields may be asked for without a body.
        let is_required = !matches!(schema, "Nothing" | "Cancellation" | "Shipment" | "Transfer");
        fields.insert("requestBody".to_owned(), json!({"required": is_required, "content": content}));
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn responses(endpoint: &Endpoint) -> Value {
    let (status, response) = match endpoint.gives {
        Some((schema, is_new)) => {
            let content = json!({"application/json": {"schema": reference(schema)}});
            (if is_new { "201" } else { "200" }, json!({"description": endpoint.summary, "content": content}))
        }
        None => ("200", json!({"description": endpoint.summary})),
    };
    json!({status: response, "default": {"$ref": "#/components/responses/Problem"}})
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in endpoint.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    for name in endpoint.query {
        parameters.push(json!({"name": name, "in": "query", "schema": query_schema(name, endpoint.path)}));
    }
    let header = |name: &str, required: bool, schema: Value| json!({"name": name, "in": "header", "required": required, "schema": schema});
    if endpoint.is_keyed {
        let schema = json!({"type": "string", "minLength": 1, "maxLength": KEY_CHARS_MAX});
        parameters.push(header("Idempotency-Key", true, schema));
    }
    if endpoint.needs_version {
        parameters.push(header("If-Match", true, json!({"type": "string", "pattern": "^\"v[0-9]+\"$"})));
    }
    if endpoint.access == Access::Shop && endpoint.method == http::Method::GET && endpoint.gives.is_some() {
        let levels = json!({"type": "string", "enum": ["linearizable", "leader", "bounded", "local"]});
        parameters.push(header("Consistency", false, levels));
        parameters.push(header("Max-Staleness", false, json!({"type": "string", "examples": ["500ms", "2s"]})));
        parameters.push(header("Min-Index", false, json!({"type": "integer", "minimum": 0})));
    }
    parameters
}

fn query_schema(name: &str, path: &str) -> Value {
    match name {
        "limit" if path.ends_with("/changes") => {
            json!({
                "type": "integer",
                "minimum": 1,
                "maximum": crate::changes::EVENTS_MAX,
                "default": crate::changes::EVENTS_DEFAULT,
            })
        }
        "limit" => json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}),
        "after" => json!({"type": "integer", "minimum": 0, "default": 0}),
        "wait" => json!({"type": "string", "examples": ["30s"], "description": "At most 30s."}),
        "sort" => json!({"type": "string", "enum": ["created_at", "-created_at"], "default": "-created_at"}),
        "status" => json!({"$ref": "#/components/schemas/OrderStatus"}),
        _ => json!({"type": "string"}),
    }
}

/// Every code with its status, for the schema of problems.
pub fn codes() -> Vec<&'static str> {
    Code::ALL.into_iter().map(Code::as_str).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_in_the_document_once_with_a_summary_and_a_name_of_its_own() {
        let endpoints = crate::endpoints();
        let document = document(&endpoints);
        let mut names = BTreeSet::new();
        for endpoint in &endpoints {
            let method = endpoint.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][endpoint.path][&method];
            assert_eq!(operation["operationId"], endpoint.operation, "{} {}", endpoint.method, endpoint.path);
            assert!(names.insert(endpoint.operation), "{} is there twice", endpoint.operation);
            assert!(endpoint.summary.ends_with('.'), "{} has no sentence about it", endpoint.operation);
        }
        let told: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(told, endpoints.len());
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        fn walk(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| walk(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = document(&crate::endpoints());
        let mut found = BTreeSet::new();
        walk(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is used nowhere");
        }
    }
}
