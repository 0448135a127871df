//! The table of endpoints, and the one path that every request takes through the API.
//!
//! An [`Endpoint`] says everything about itself: method, path, who may use it, which query parameters it reads, what
//! it takes and gives. The router, the OpenAPI document, the metrics and the tests over all routes are made from the
//! same table, so none of them can know of a route that the others do not.
//!
//! The path: trace id, bearer key, query parameters, idempotency key, then the handler; then its answer, yes or no,
//! becomes HTTP. Middleware would do the same in more places.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use agora_actors::{ReadView, WriteRequest, Written};
use agora_domain::{
    Answer, Command,
    id::{BadId, PrefixedId},
};
use agora_planted::{self as planted, Bug};
use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{FromRequestParts, RawPathParams, Request},
    response::Response,
    routing::{MethodFilter, MethodRouter},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Uri};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    ApiState,
    auth::{Access, Principal, key_ref},
    body,
    headers::{self, Freshness, Reading},
    language::Language,
    problem::{Applied, Code, FieldError, Outcome, Problem},
    query::Query,
    reply::{Marks, Reply, refuse, respond},
    views::Trace,
};

/// What answers a call.
pub type Handler = Arc<dyn Fn(Call) -> BoxFuture<'static, Outcome<Reply>> + Send + Sync>;

/// One method on one path.
#[derive(Clone)]
pub struct Endpoint {
    /// `GET`, `POST` …
    pub method: Method,
    /// Route template, with `{names}` of path parameters.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// Name in the OpenAPI document, camelCase.
    pub operation: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// Query parameters it reads.
    pub query: &'static [&'static str],
    /// A write, which needs an idempotency key.
    pub is_keyed: bool,
    /// Needs `If-Match`.
    pub needs_version: bool,
    /// Schema of the body it takes.
    pub takes: Option<&'static str>,
    /// Schema of what it gives, and whether that is new.
    pub gives: Option<(&'static str, bool)>,
    handler: Handler,
}

impl Endpoint {
    fn new<F, R>(method: Method, path: &'static str, access: Access, operation: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome<Reply>> + Send + 'static,
    {
        Self {
            method,
            path,
            access,
            operation,
            summary: "",
            query: &[],
            is_keyed: false,
            needs_version: false,
            takes: None,
            gives: None,
            handler: Arc::new(move |call| Box::pin(handler(call))),
        }
    }

    /// A read.
    pub fn get<F, R>(path: &'static str, access: Access, operation: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome<Reply>> + Send + 'static,
    {
        Self::new(Method::GET, path, access, operation, handler)
    }

    /// A write to the shop: it needs an idempotency key.
    pub fn write<F, R>(method: Method, path: &'static str, operation: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome<Reply>> + Send + 'static,
    {
        let mut endpoint = Self::new(method, path, Access::Shop, operation, handler);
        endpoint.is_keyed = true;
        endpoint
    }

    /// An act of administration. It is safe to repeat by nature, so it needs no key.
    pub fn act<F, R>(method: Method, path: &'static str, operation: &'static str, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome<Reply>> + Send + 'static,
    {
        let access = if planted::is(Bug::AdminRouteOpen) { Access::Open } else { Access::Admin };
        Self::new(method, path, access, operation, handler)
    }

    /// One sentence about it.
    pub fn about(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// The query parameters it reads.
    pub fn reads(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }

    /// It needs `If-Match`.
    pub fn versioned(mut self) -> Self {
        self.needs_version = true;
        self
    }

    /// The schema of its body.
    pub fn takes(mut self, schema: &'static str) -> Self {
        self.takes = Some(schema);
        self
    }

    /// The schema of its answer, with 200.
    pub fn gives(mut self, schema: &'static str) -> Self {
        self.gives = Some((schema, false));
        self
    }

    /// The schema of its answer, with 201.
    pub fn makes(mut self, schema: &'static str) -> Self {
        self.gives = Some((schema, true));
        self
    }
}

/// One request on its way.
pub struct Call {
    /// Everything a handler may use.
    pub api: ApiState,
    /// Who asks.
    pub principal: Principal,
    /// Trace id.
    pub trace: u128,
    /// Language of messages.
    pub language: Language,
    /// When its head was there.
    pub started: Instant,
    /// When the outcome of a write must be there.
    pub deadline: Instant,
    /// Request headers.
    pub headers: HeaderMap,
    /// As asked.
    pub uri: Uri,
    endpoint: Arc<Endpoint>,
    params: Vec<(String, String)>,
    /// Never locked: the mutex only makes a body, which cannot be shared, a field of what can.
    body: Mutex<Body>,
}

impl Call {
    /// A path parameter, decoded.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// A path parameter as an id. What cannot be an id names nothing, so it is not found.
    ///
    /// # Errors
    /// 404.
    pub fn id<I: PrefixedId>(&self, name: &str) -> Outcome<I> {
        self.parsed(name, I::KIND, I::parse_prefixed)
    }

    /// A path parameter read by `parse`, 404 when it cannot be.
    ///
    /// # Errors
    /// 404.
    pub fn parsed<T>(
        &self,
        name: &str,
        kind: &'static str,
        parse: impl FnOnce(&str) -> Result<T, BadId>,
    ) -> Outcome<T> {
        let text = self.param(name);
        parse(text).map_err(|_| Problem::not_found(kind, text.chars().take(80).collect::<String>()))
    }

    /// The query parameters. They were checked before the handler was called.
    ///
    /// # Errors
    /// 400, as then.
    pub fn query(&self) -> Outcome<Query<'_>> {
        Query::parse(self.uri.query(), self.endpoint.query)
    }

    /// Receives the body. Nothing at all is a body too; whether it will do is for the parser to say.
    ///
    /// # Errors
    /// 415 when it does not claim to be JSON, and all that [`body::receive`] says.
    pub async fn body(&mut self) -> Outcome<Bytes> {
        let body = std::mem::take(self.body.get_mut());
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        if !headers::is_json(&self.headers) {
            return Err(Problem::new(Code::UnsupportedMedia, "send the body as content-type: application/json"));
        }
        let config = &self.api.config;
        let length = body.size_hint().exact();
        body::receive(
            body,
            length,
            config.body_bytes_max,
            Duration::from_millis(config.body_timeout_ms),
            &self.api.bodies,
        )
        .await
    }

    /// Asks the shop for a write, under the request's key.
    ///
    /// # Errors
    /// Whatever says that it was not done, or that nobody can tell.
    pub async fn write(&self, command: Command) -> Outcome<Written> {
        let key = headers::idempotency_key(&self.headers)?;
        let key = key_ref(self.principal, self.endpoint.method.as_str(), self.endpoint.path, key, &command);
        let request = WriteRequest { key, trace: self.trace, command };
        self.api.metrics.receive.record(Duration::ZERO, self.started.elapsed());
        let written = self.api.shop.submit(request, self.deadline).await?;
        match &written.answer {
            Answer::Refused(rejection) => {
                Err(Problem::rejected(rejection, written.index, written.trace, written.replayed))
            }
            _ => Ok(written),
        }
    }

    /// A view of the rows, as fresh as the request wants it.
    ///
    /// # Errors
    /// 400 for bad headers, 503 when it cannot be had.
    pub async fn view(&self, reading: Reading) -> Outcome<ReadView> {
        self.view_from(reading, 0).await
    }

    /// The same, and not older than an index, such as a cursor's.
    ///
    /// # Errors
    /// As for [`Self::view`].
    pub async fn view_from(&self, reading: Reading, index: u64) -> Outcome<ReadView> {
        let Freshness { consistency, min_index } = headers::freshness(&self.headers, reading)?;
        let wanted = min_index.unwrap_or(0).max(index);
        let min_index = (wanted > 0).then_some(wanted);
        let deadline = Instant::now() + Duration::from_millis(self.api.config.read_timeout_ms);
        Ok(self.api.shop.read(consistency, min_index, deadline).await?)
    }
}

/// What a write was answered is not what its command is answered with: a bug, noticed after the fact.
pub fn odd_answer(written: &Written) -> Box<Problem> {
    tracing::error!(index = written.index, answer = ?written.answer, "an answer of a wrong kind");
    let mut problem = Problem::new(Code::Internal, "the write was answered with something else than it asked for");
    problem.applied = Applied::Unknown;
    problem
}

/// Builds a router from the table. Unknown paths and methods are problems like any other, and need a key like any
/// other: who has none does not learn which paths exist.
pub fn router(endpoints: &[Endpoint], api: &ApiState) -> Router {
    let mut paths: BTreeMap<&'static str, (MethodRouter, Vec<String>)> = BTreeMap::new();
    for (number, endpoint) in endpoints.iter().enumerate() {
        let shared = Arc::new(endpoint.clone());
        let api = api.clone();
        let handler = move |request: Request| answer(api.clone(), Arc::clone(&shared), number, request);
        let filter = MethodFilter::try_from(endpoint.method.clone()).unwrap_or(MethodFilter::GET);
        let (router, methods) = paths.entry(endpoint.path).or_default();
        *router = std::mem::take(router).on(filter, handler);
        methods.push(endpoint.method.to_string());
    }
    let mut router = Router::new();
    for (path, (methods, names)) in paths {
        let allow = names.join(", ");
        let fallback_api = api.clone();
        let refuse_method = move |request: Request| {
            let mut problem = Problem::new(Code::MethodNotAllowed, format!("this path knows {allow}"));
            problem.allow = Some(allow.clone());
            nowhere(fallback_api.clone(), request, problem)
        };
        router = router.route(path, methods.fallback(refuse_method));
    }
    let api = api.clone();
    router.fallback(move |request: Request| {
        nowhere(api.clone(), request, Problem::new(Code::NotFound, "no such path: see /api/v2/openapi.json"))
    })
}

/// Answers a request that no endpoint takes.
async fn nowhere(api: ApiState, request: Request, problem: Box<Problem>) -> Response {
    let started = Instant::now();
    let (parts, _) = request.into_parts();
    let trace = headers::trace_parent(&parts.headers).unwrap_or_else(|| api.new_trace());
    let problem = match api.keys.who(&parts.headers) {
        Ok(_) => problem,
        Err(unauthenticated) => unauthenticated,
    };
    let response = finish(&api, Err(problem), parts.uri.path(), trace, Language::of(&parts.headers));
    api.metrics.observe(None, response.status(), started.elapsed());
    response
}

async fn answer(api: ApiState, endpoint: Arc<Endpoint>, number: usize, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let trace = headers::trace_parent(&parts.headers).unwrap_or_else(|| api.new_trace());
    let language = Language::of(&parts.headers);
    let uri = parts.uri.clone();
    let result = run(&api, &endpoint, parts, body, trace, language, started).await;
    let response = finish(&api, result, uri.path(), trace, language);
    api.metrics.observe(Some(number), response.status(), started.elapsed());
    response
}

async fn run(
    api: &ApiState,
    endpoint: &Arc<Endpoint>,
    mut parts: http::request::Parts,
    body: Body,
    trace: u128,
    language: Language,
    started: Instant,
) -> Outcome<Reply> {
    let principal = api.keys.admit(endpoint.access, &parts.headers)?;
    let uri_bytes = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    if uri_bytes > api.config.uri_bytes_max {
        let detail = format!("path and query have {uri_bytes} bytes, {} are allowed", api.config.uri_bytes_max);
        return Err(Problem::new(Code::UriTooLong, detail));
    }
    Query::parse(parts.uri.query(), endpoint.query)?;
    if endpoint.is_keyed {
        headers::idempotency_key(&parts.headers)?;
    }
    let params = if endpoint.path.contains('{') { path_params(&mut parts).await? } else { Vec::new() };
    let call = Call {
        api: api.clone(),
        principal,
        trace,
        language,
        started,
        deadline: started + Duration::from_millis(api.config.request_timeout_ms),
        headers: parts.headers,
        uri: parts.uri,
        endpoint: Arc::clone(endpoint),
        params,
        body: Mutex::new(body),
    };
    (endpoint.handler)(call).await
}

async fn path_params(parts: &mut http::request::Parts) -> Outcome<Vec<(String, String)>> {
    let params = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| {
        Problem::invalid(FieldError::parameter("path", "INVALID", "the path is not UTF-8 after percent decoding"))
    })?;
    Ok(params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn finish(api: &ApiState, result: Outcome<Reply>, path: &str, trace: u128, language: Language) -> Response {
    let marks = Marks { trace, node: api.node, leader: api.leader() };
    match result {
        Ok(reply) => respond(reply, &marks),
        Err(problem) => {
            // A shop without a quorum says so thousands of times a second; only a fault is an event of its own.
            if problem.code == Code::Internal {
                tracing::error!(trace_id = %Trace(trace), path, detail = %problem.detail, "request failed");
            } else {
                let code = problem.code.as_str();
                tracing::debug!(trace_id = %Trace(trace), code, path, detail = %problem.detail, "request refused");
            }
            refuse(&problem, path, language, &marks)
        }
    }
}
