//! Answers that say yes, and the headers that every answer carries.

use std::time::Duration;

use axum::{body::Body, response::Response};
use http::{
    HeaderValue,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;

use crate::{
    headers::etag,
    language::Language,
    problem::{Code, Problem, Success},
    views::Trace,
};

const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");
const X_LOG_INDEX: HeaderName = HeaderName::from_static("x-log-index");
const X_NODE: HeaderName = HeaderName::from_static("x-node");
const X_LEADER: HeaderName = HeaderName::from_static("x-leader");
const X_STALENESS_MS: HeaderName = HeaderName::from_static("x-staleness-ms");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A yes, before it is HTTP.
#[derive(Debug)]
pub struct Reply {
    success: Success,
    body: Vec<u8>,
    content_type: HeaderValue,
    etag: Option<u64>,
    location: Option<String>,
    log_index: Option<u64>,
    staleness: Option<Duration>,
    replayed: bool,
}

impl Reply {
    /// A value as JSON.
    pub fn json<T: Serialize>(success: Success, value: &T) -> Self {
        let mut body = Vec::with_capacity(1_024);
        // Writing views into a vector cannot fail: none of them has a map with keys that are no text.
        serde_json::to_writer(&mut body, value).expect("an answer is made of text, numbers and lists");
        Self::bytes(success, body, JSON)
    }

    /// Text of another type.
    pub fn text(body: String, content_type: &'static str) -> Self {
        Self::bytes(Success::Ok, body.into_bytes(), HeaderValue::from_static(content_type))
    }

    /// The caller has this version already.
    pub fn not_modified(version: u64) -> Self {
        Self::bytes(Success::NotModified, Vec::new(), JSON).version(version)
    }

    fn bytes(success: Success, body: Vec<u8>, content_type: HeaderValue) -> Self {
        Self {
            success,
            body,
            content_type,
            etag: None,
            location: None,
            log_index: None,
            staleness: None,
            replayed: false,
        }
    }

    /// Adds `ETag`.
    pub fn version(mut self, version: u64) -> Self {
        self.etag = Some(version);
        self
    }

    /// Adds `Location`.
    pub fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// Adds `X-Log-Index`, and says whether the answer was found under the key.
    pub fn written(mut self, index: u64, replayed: bool) -> Self {
        self.log_index = Some(index);
        self.replayed = replayed;
        self
    }

    /// Adds `X-Log-Index` and, where it is known, `X-Staleness-Ms`.
    pub fn read(mut self, index: u64, staleness: Option<Duration>) -> Self {
        self.log_index = Some(index);
        self.staleness = staleness;
        self
    }
}

/// What every answer tells about who gave it.
pub struct Marks {
    /// Trace id of the request.
    pub trace: u128,
    /// The node that was asked.
    pub node: u64,
    /// The node that leads, as far as the asked one knows.
    pub leader: Option<u64>,
}

impl Marks {
    fn put(&self, response: &mut Response, log_index: Option<u64>, replayed: bool) {
        let headers = response.headers_mut();
        if let Ok(trace) = HeaderValue::try_from(Trace(self.trace).to_string()) {
            headers.insert(X_TRACE_ID, trace);
        }
        headers.insert(X_NODE, HeaderValue::from(self.node));
        if let Some(leader) = self.leader {
            headers.insert(X_LEADER, HeaderValue::from(leader));
        }
        if let Some(index) = log_index {
            headers.insert(X_LOG_INDEX, HeaderValue::from(index));
        }
        if replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        // Prices and stock of a minute ago are wrong ones: nobody may hand them out without asking again.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
}

/// A yes as HTTP.
pub fn respond(reply: Reply, marks: &Marks) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = reply.success.status();
    let headers = response.headers_mut();
    if reply.success != Success::NotModified {
        headers.insert(CONTENT_TYPE, reply.content_type);
    }
    if let Some(version) = reply.etag {
        headers.insert(ETAG, etag(version));
    }
    if let Some(location) = reply.location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(LOCATION, location);
    }
    if let Some(staleness) = reply.staleness {
        let staleness_ms = u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_STALENESS_MS, HeaderValue::from(staleness_ms));
    }
    marks.put(&mut response, reply.log_index, reply.replayed);
    response
}

/// A no as HTTP.
pub fn refuse(problem: &Problem, instance: &str, language: Language, marks: &Marks) -> Response {
    let mut response = Response::new(Body::from(problem.body(instance, marks.trace, language)));
    *response.status_mut() = problem.code.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    if let Some(delay) = problem.retry_after {
        // Whole seconds, rounded up: coming back early is what the header is there to prevent.
        let seconds = delay.as_millis().div_ceil(1_000).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)));
    }
    if let Some(allow) = problem.allow.as_deref().and_then(|allow| HeaderValue::try_from(allow).ok()) {
        headers.insert(ALLOW, allow);
    }
    if let Some(version) = problem.etag {
        headers.insert(ETAG, etag(version));
    }
    if problem.code == Code::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    marks.put(&mut response, problem.log_index, problem.replayed);
    response
}
