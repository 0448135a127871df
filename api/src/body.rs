//! Request bodies: bounded in bytes, in time and in number, then read as JSON into a type without a tree in between.
//!
//! The good case is one pass. Only a body that does not fit is read a second time, with its path kept, to say where.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{Deserialize, de::DeserializeOwned};
use serde_path_to_error::{Path, Segment};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::dto::Object;
use crate::problem::{Code, FieldError, Outcome, Problem};

/// Bytes of bodies being received at once over all connections, in the unit of [`PERMIT_BYTES`].
const PERMITS_MAX: usize = 4_096;
/// Small bodies need one permit each.
const PERMIT_BYTES: usize = 16 * 1_024;
/// Characters of an unknown key that are shown.
const KEY_CHARS_SHOWN: usize = 80;
/// Characters of a reader's message that are shown.
const MESSAGE_CHARS_SHOWN: usize = 300;

/// Bounds what all bodies together may hold: 64 MiB.
pub struct BodyBudget(Semaphore);

impl Default for BodyBudget {
    fn default() -> Self {
        Self(Semaphore::new(PERMITS_MAX))
    }
}

impl BodyBudget {
    fn take(&self, bytes: usize) -> Outcome<SemaphorePermit<'_>> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES).clamp(1, PERMITS_MAX)).unwrap_or(u32::MAX);
        self.0.try_acquire_many(permits).map_err(|_| {
            Problem::new(Code::Overloaded, "too many large bodies at once: nothing was done, repeat the request")
                .after(Duration::from_secs(1))
        })
    }
}

/// Receives a whole body.
///
/// # Errors
/// 413 beyond `bytes_max`, 408 after `timeout`, 503 when too many large bodies arrive at once, 400 when the connection
/// breaks off.
pub async fn receive(
    body: axum::body::Body,
    length: Option<u64>,
    bytes_max: usize,
    timeout: Duration,
    budget: &BodyBudget,
) -> Outcome<Bytes> {
    let too_large = || Problem::new(Code::PayloadTooLarge, format!("the body may have {bytes_max} bytes at most"));
    // Without a length the body may grow up to the limit, so that much is set aside.
    let expected = match length {
        Some(length) => usize::try_from(length).ok().filter(|length| *length <= bytes_max).ok_or_else(too_large)?,
        None => bytes_max,
    };
    let _permit = budget.take(expected)?;
    match tokio::time::timeout(timeout, Limited::new(body, bytes_max).collect()).await {
        Err(_) => Err(Problem::new(
            Code::RequestTimeout,
            format!("the body did not arrive within {} ms: nothing was done", timeout.as_millis()),
        )),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(malformed(format!("the body broke off: {error}"))),
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
    }
}

/// Reads JSON into a type that may borrow from the bytes.
///
/// # Errors
/// 400: malformed, unknown field, or a value of a wrong type, each with a pointer.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Outcome<T> {
    match serde_json::from_slice::<Object<T>>(bytes) {
        Ok(Object(value)) => Ok(value),
        Err(error) => Err(explain::<Object<T>>(bytes, &error)),
    }
}

/// The same for a body that may be left out: nothing stands for an empty object.
///
/// # Errors
/// As for [`parse`].
pub fn parse_or_empty<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
    parse(if bytes.is_empty() { b"{}" } else { bytes })
}

fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> Box<Problem> {
    let text = error.to_string();
    let is_number_range = text.starts_with("number out of range");
    if !error.is_data() && !is_number_range {
        let message = if bytes.is_empty() { "a JSON body is needed".to_owned() } else { format!("not JSON: {text}") };
        return malformed(message);
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut at = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) => pointer(error.path()),
        // Trailing bytes are the only thing that the first pass sees and this one does not.
        Ok(_) => String::new(),
    };
    let message = shown(strip_place(&text));
    if message.starts_with("unknown field") {
        return Problem::of_errors(Code::UnknownField, vec![FieldError::body(at, "UNKNOWN_FIELD", message)]);
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        at = format!("{at}/{field}");
        return Problem::invalid(FieldError::body(at, "REQUIRED", message));
    }
    if let Some(field) = message.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
        at = format!("{at}/{field}");
        return Problem::invalid(FieldError::body(at, "DUPLICATE", message));
    }
    let code = if is_number_range { "OUT_OF_RANGE" } else { "WRONG_TYPE" };
    Problem::invalid(FieldError::body(at, code, message))
}

fn malformed(message: String) -> Box<Problem> {
    Problem::of_errors(Code::MalformedJson, vec![FieldError::body("", "MALFORMED_JSON", message)])
}

/// A message quotes the client's own text, of which some is enough.
fn shown(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_SHOWN) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// The message without serde's line and column: the pointer says it better.
fn strip_place(text: &str) -> &str {
    text.rfind(" at line ").map_or(text, |at| &text[..at])
}

fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                pointer.push('/');
                // A key is the client's own text: enough of it to be found is enough. Escapes are RFC 6901's.
                for letter in key.chars().take(KEY_CHARS_SHOWN) {
                    match letter {
                        '~' => pointer.push_str("~0"),
                        '/' => pointer.push_str("~1"),
                        other => pointer.push(other),
                    }
                }
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dto::NewOrder;

    #[track_caller]
    fn check(body: &[u8], code: Code, at: &str, error: &str) {
        let problem = parse::<NewOrder>(body).map(|_| ()).unwrap_err();
        let body = String::from_utf8_lossy(body);
        assert_eq!(problem.code, code, "{body}: {}", problem.detail);
        assert_eq!(problem.errors[0].pointer, at, "{body}: {}", problem.detail);
        assert_eq!(problem.errors[0].code, error, "{body}: {}", problem.detail);
    }

    #[test]
    fn a_body_that_does_not_fit_is_told_where() {
        let malformed = Code::MalformedJson;
        for body in [&b""[..], b"{", b"nonsense", b"{\"user_id\":\"a\",}", b"{\"user_id\":\"\xff\"}", b"{} {}", b"[1"] {
            let problem = parse::<NewOrder>(body).map(|_| ()).unwrap_err();
            assert!(matches!(problem.code, Code::MalformedJson | Code::ValidationFailed), "{problem:?}");
        }
        check(b"{", malformed, "", "MALFORMED_JSON");
        check(b"{\"user_id\":\"\xff\"}", malformed, "", "MALFORMED_JSON");
        let deep = [b"{\"items\":".to_vec(), b"[".repeat(100_000)].concat();
        assert!(parse::<NewOrder>(&deep).is_err());

        let bad = Code::ValidationFailed;
        check(b"[]", bad, "", "WRONG_TYPE");
        check(br#"["a",[],null,null,null]"#, bad, "", "WRONG_TYPE");
        check(br#"{"user_id":"a","items":[["s",1]]}"#, bad, "/items/0", "WRONG_TYPE");
        check(b"3", bad, "", "WRONG_TYPE");
        check(br#"{"user_id":"a"}"#, bad, "/items", "REQUIRED");
        check(br#"{"user_id":7,"items":[]}"#, bad, "/user_id", "WRONG_TYPE");
        check(br#"{"user_id":"a","items":[{"sku_id":"s","quantity":"2"}]}"#, bad, "/items/0/quantity", "WRONG_TYPE");
        check(br#"{"user_id":"a","items":[{"sku_id":"s"},{"quantity":1}]}"#, bad, "/items/0/quantity", "REQUIRED");
        check(
            br#"{"user_id":"a","items":[{"sku_id":"s","quantity":1e999}]}"#,
            bad,
            "/items/0/quantity",
            "OUT_OF_RANGE",
        );
        check(br#"{"user_id":"a","user_id":"b","items":[]}"#, bad, "/user_id", "DUPLICATE");

        let unknown = Code::UnknownField;
        check(br#"{"user_id":"a","item":[]}"#, unknown, "/item", "UNKNOWN_FIELD");
        check(br#"{"user_id":"a","items":[{"sku_id":"s","qty":1}]}"#, unknown, "/items/0/qty", "UNKNOWN_FIELD");
        check(br#"{"user_id":"a","a/b~c":[]}"#, unknown, "/a~1b~0c", "UNKNOWN_FIELD");
    }
}
