//! The API's description says what the service does.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde_json::{Value, json};

use crate::fixture::Fixture;

async fn document(f: &Fixture) -> Value {
    f.get("/openapi.json")
        .without_key()
        .send()
        .await
        .expect(200)
}

/// What a reference stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document
            .pointer(reference.strip_prefix('#').unwrap())
            .unwrap(),
        None => value,
    }
}

/// Every call there is: path, method, description.
fn operations(document: &Value) -> Vec<(String, Method, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            operations.push((path.clone(), method, operation.clone()));
        }
    }
    operations
}

/// All objects in a schema, by their JSON pointers in a body.
fn objects(
    document: &Value,
    schema: &Value,
    at: &str,
    found: &mut BTreeMap<String, BTreeSet<String>>,
) {
    let schema = resolved(document, schema);
    for part in ["oneOf", "anyOf", "allOf"] {
        for part in schema[part].as_array().into_iter().flatten() {
            objects(document, part, at, found);
        }
    }
    if schema["additionalProperties"] == json!(false) {
        let properties = schema["properties"].as_object().unwrap();
        found.insert(at.to_owned(), properties.keys().cloned().collect());
        for (name, property) in properties {
            objects(document, property, &format!("{at}/{name}"), found);
        }
    }
}

/// Puts a field nobody knows into every object that is described.
fn with_unknown_fields(body: &Value, objects: &BTreeMap<String, BTreeSet<String>>) -> Value {
    let mut body = body.clone();
    for at in objects.keys() {
        let object = body
            .pointer_mut(at)
            .unwrap_or_else(|| panic!("the example lacks {at}"));
        object["no_such_field"] = json!(1);
    }
    body
}

/// A path with ids that are there.
async fn real_path(f: &Fixture, path: &str) -> String {
    let id = match path {
        path if path.starts_with("/v1/notifications/{id}") => f.requested().await,
        path if path.starts_with("/v1/webhook-sources/{id}") => {
            let new = json!({"provider": "novu", "name": "n", "secrets": ["whsec_c2VjcmV0LW9mLTI0LWJ5dGVzLi4u"]});
            let made = f.post("/v1/webhook-sources", &new).send().await.expect(201);
            made["id"].as_str().unwrap().to_owned()
        }
        path if path.starts_with("/v1/tenants") => "acme".to_owned(),
        _ => uuid::Uuid::nil().to_string(),
    };
    path.replace("{id}", &id)
        .replace("{source_id}", &id)
        .replace("{file}", "index.css")
}

fn is_for_operators(path: &str) -> bool {
    path.starts_with("/v1/tenants") || path.starts_with("/v1/keys") || path.starts_with("/v1/admin")
}

#[tokio::test]
async fn every_example_works_and_names_every_field_the_service_knows() {
    let f = Fixture::new().await;
    let document = document(&f).await;
    let mut tried = 0;
    for (path, method, operation) in operations(&document) {
        let content = &operation["requestBody"]["content"]["application/json"]["schema"];
        let schema = resolved(&document, content);
        // What Novu sends is Novu's; a webhook that waits is made elsewhere.
        if schema.is_null() || path.starts_with("/webhooks") || path.contains("quarantine") {
            continue;
        }
        let examples = schema["examples"].as_array();
        let examples = examples.unwrap_or_else(|| panic!("{path} has no example"));
        for example in examples {
            let path = real_path(&f, &path).await;
            let key = if is_for_operators(&path) {
                &f.operator
            } else {
                &f.acme
            };
            let reply = f
                .call(method.clone(), &path)
                .key(key)
                .json(example)
                .send()
                .await;
            assert!(
                reply.status.is_success(),
                "{path} {example} {}",
                reply.text()
            );
            tried += 1;
        }
        let mut described = BTreeMap::new();
        objects(&document, content, "", &mut described);
        described.retain(|at, _| !at.contains("/commands"));
        // The fullest example has all objects there are.
        let full = examples
            .iter()
            .max_by_key(|example| example.to_string().len())
            .unwrap();
        let path = real_path(&f, &path).await;
        let key = if is_for_operators(&path) {
            &f.operator
        } else {
            &f.acme
        };
        let body = with_unknown_fields(full, &described);
        let refused = f.call(method, &path).key(key).json(&body).send().await;
        assert_eq!(
            known_fields(&refused.problem(422, "invalid")),
            described,
            "{path}"
        );
        for (at, fields) in &described {
            let shown = full.pointer(at).unwrap().as_object().unwrap();
            let shown: BTreeSet<String> = shown.keys().cloned().collect();
            assert_eq!(
                &shown, fields,
                "{path}: the example of {at:?} leaves something out"
            );
        }
    }
    assert!(tried >= 17, "{tried}");
}

/// By the object they belong to, the fields that the faults about unknown ones name.
fn known_fields(problem: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let faults = problem["errors"].as_array().unwrap();
    let known = faults.iter().filter_map(|fault| {
        let at = fault["pointer"]
            .as_str()
            .unwrap()
            .strip_suffix("/no_such_field")?;
        let (_, names) = fault["message"]
            .as_str()
            .unwrap()
            .split_once("known are: ")?;
        Some((
            at.to_owned(),
            names.split(", ").map(ToOwned::to_owned).collect(),
        ))
    });
    known.collect()
}

#[tokio::test]
async fn every_command_of_many_is_described_with_every_field() {
    let f = Fixture::new().await;
    let document = document(&f).await;
    let types = document["components"]["schemas"]["Command"]["oneOf"]
        .as_array()
        .unwrap();
    assert_eq!(types.len(), 11);
    for schema in types {
        let mut described = BTreeMap::new();
        objects(&document, schema, "", &mut described);
        let name = resolved(&document, schema)["properties"]["type"]["enum"][0].clone();
        let mut command = json!({"type": name, "no_such_field": 1});
        for at in described.keys().filter(|at| !at.is_empty()) {
            let object = at.strip_prefix('/').unwrap();
            command[object] = json!({"no_such_field": 1});
        }
        let body = json!({"commands": [command]});
        let answer = f.post("/v1/commands", &body).send().await.expect(200);
        let problem = &answer["results"][0]["problem"];
        assert_eq!(known_fields(problem), described, "{name}");
    }
}

#[tokio::test]
async fn every_route_is_described_and_every_description_is_a_route() {
    let f = Fixture::new().await;
    let document = document(&f).await;
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, method, _) in operations(&document) {
        described
            .entry(path)
            .or_default()
            .insert(method.to_string());
    }
    for (path, mut methods) in described.clone() {
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        let options = f
            .call(Method::OPTIONS, &real_path(&f, &path).await)
            .send()
            .await;
        let allow = options
            .header("allow")
            .unwrap_or_else(|| panic!("{path} is not there"));
        let allowed: BTreeSet<String> = allow.split(',').map(ToOwned::to_owned).collect();
        assert_eq!(allowed, methods, "{path}");
    }
    for path in [
        "/v1/notifications",
        "/v1/notifications/{id}",
        "/v1/notifications/{id}/events",
        "/v1/commands",
        "/v1/events",
        "/v1/webhook-sources",
        "/v1/webhook-sources/{id}",
        "/v1/webhook-quarantine",
        "/v1/webhook-quarantine/{id}",
        "/v1/webhook-quarantine/{id}/retry",
        "/webhooks/novu/{source_id}",
        "/v1/tenants",
        "/v1/tenants/{id}",
        "/v1/keys",
        "/v1/keys/{id}",
        "/v1/notification-logs",
        "/v1/timeline",
        "/v1/subscribers/{id}",
        "/v1/metrics",
        "/v1/admin/ledger",
        "/v1/admin/projections",
        "/healthz",
        "/readyz",
        "/metrics",
    ] {
        assert!(described.contains_key(path), "{path}");
    }
    for name in crate::bodies::ON_A_NOTIFICATION {
        assert!(
            described.contains_key(&format!("/v1/notifications/{{id}}/{name}")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_document_is_whole() {
    let f = Fixture::new().await;
    let document = document(&f).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        document["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    let mut ids = BTreeSet::new();
    let tags: Vec<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| &tag["name"])
        .collect();
    for (path, method, operation) in operations(&document) {
        let call = format!("{method} {path}");
        assert!(ids.insert(operation["operationId"].to_string()), "{call}");
        assert!(operation["summary"].is_string(), "{call}");
        assert!(
            tags.contains(&&operation["tags"][0]),
            "{call} {}",
            operation["tags"]
        );
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{call}");
        let ours = path.starts_with("/v1/");
        assert_eq!(
            operation["security"] == json!([{"key": []}]),
            ours,
            "{call}"
        );
        let responses = operation["responses"].as_object().unwrap();
        assert_eq!(
            responses.contains_key("401"),
            ours || path.starts_with("/webhooks"),
            "{call}"
        );
        let names: Vec<_> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| resolved(&document, parameter)["name"].as_str().unwrap())
            .collect();
        let post = ours && method == Method::POST;
        let once = post || path.starts_with("/v1/subscribers");
        assert_eq!(names.contains(&"Idempotency-Key"), once, "{call}");
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            names.len(),
            "{call}"
        );
    }
    let mut dangling = Vec::new();
    references(&document, &mut |reference| {
        if document
            .pointer(reference.strip_prefix('#').unwrap())
            .is_none()
        {
            dangling.push(reference.to_owned());
        }
    });
    assert_eq!(dangling, [""; 0]);
}

fn references(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                found(reference);
            }
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// What a schema says of an answer's fields: those that must be there, and those that may.
fn fields(document: &Value, schema: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let schema = resolved(document, schema);
    let mut required = BTreeSet::new();
    let mut known = BTreeSet::new();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let (more_required, more_known) = fields(document, part);
        required.extend(more_required);
        known.extend(more_known);
    }
    let names = schema["required"].as_array().into_iter().flatten();
    required.extend(names.map(|name| name.as_str().unwrap().to_owned()));
    known.extend(
        schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone()),
    );
    (required, known)
}

#[tokio::test]
async fn answers_have_the_fields_that_are_described() {
    let f = Fixture::new().await;
    let document = document(&f).await;
    let id = f.requested().await;
    let path = format!("/v1/notifications/{id}");
    let failed = json!({"error": {"message": "m"}, "message": {"channel": "sms"}});
    let shown = f
        .post(&format!("{path}/failed"), &failed)
        .send()
        .await
        .expect(200);
    let events = f.get(&format!("{path}/events")).send().await.expect(200);
    let ledger = f
        .get("/v1/admin/ledger")
        .key(&f.operator)
        .send()
        .await
        .expect(200);
    let [listed, logged, timeline, metrics] = [
        "/v1/notifications",
        "/v1/notification-logs",
        "/v1/timeline",
        "/v1/metrics",
    ]
    .map(|path| f.fresh(path));
    let (listed, logged) = (listed.await, logged.await);
    let (timeline, metrics) = (timeline.await, metrics.await);
    let projections = f
        .get("/v1/admin/projections")
        .key(&f.operator)
        .send()
        .await
        .expect(200);
    let keys = f.get("/v1/keys").send().await.expect(200);
    let made = f.post("/v1/keys", &json!({})).send().await.expect(201);
    let tenants = f.get("/v1/tenants").send().await.expect(200);
    let problem = f.get("/nowhere").send().await.json();
    for (name, answer) in [
        ("NotificationView", &shown),
        ("MessageView", &shown["messages"][0]),
        ("LastErrorView", &shown["messages"][0]["last_error"]),
        ("SubscriberView", &shown["subscriber"]),
        ("Page_EventView", &events),
        ("EventView", &events["data"][0]),
        ("ActorView", &events["data"][0]["actor"]),
        ("LedgerView", &ledger),
        ("HeadView", &ledger["partitions"][0]),
        ("ListedNotification", &listed["data"][0]),
        ("LogView", &logged["data"][0]),
        ("TimelineView", &timeline["data"][0]),
        ("MetricsView", &metrics),
        ("SeriesView", &metrics["series"][0]),
        ("PointView", &metrics["series"][0]["points"][0]),
        ("TotalsView", &metrics["series"][0]["totals"]),
        ("LatencyView", &metrics["series"][0]["latency_ms"]),
        ("QuantilesView", &metrics["series"][0]["latency_ms"]["sent"]),
        ("ProjectionView", &projections["data"][0]),
        ("CheckpointView", &projections["data"][0]["partitions"][0]),
        ("KeyView", &keys["data"][0]),
        ("NewKeyView", &made),
        ("TenantView", &tenants["data"][0]),
        ("Problem", &problem),
    ] {
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name}");
        let (required, known) = fields(&document, schema);
        let there: BTreeSet<String> = answer.as_object().unwrap().keys().cloned().collect();
        assert!(
            required.is_subset(&there),
            "{name} lacks {:?}",
            required.difference(&there)
        );
        assert!(
            there.is_subset(&known),
            "{name} has {:?}",
            there.difference(&known)
        );
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_anywhere_else() {
    let f = Fixture::new().await;
    let page = f.get("/docs").without_key().send().await;
    assert_eq!(page.status.as_u16(), 200);
    assert_eq!(page.header("content-type"), Some("text/html"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("http"),
        "{policy}"
    );
    let text = page.text();
    assert!(
        !text.contains("http:") && !text.contains("https:") && !text.contains("//"),
        "{text}"
    );
    let links = text.split(['"']).filter(|part| part.starts_with("docs/"));
    let links: Vec<_> = links.collect();
    assert!(links.len() >= 6, "{links:?}");
    for link in links {
        let file = f.get(&format!("/{link}")).without_key().send().await;
        assert_eq!(file.status.as_u16(), 200, "{link}");
        assert_eq!(file.header("content-security-policy"), Some(policy));
    }
    let start = f
        .get("/docs/swagger-initializer.js")
        .without_key()
        .send()
        .await
        .text();
    assert!(
        start.contains("\"openapi.json\"") && start.contains("\"validatorUrl\": \"none\""),
        "{start}"
    );
    let slash = f.get("/docs/").without_key().send().await;
    assert!(slash.status.is_redirection() || slash.status.as_u16() == 404);
}
