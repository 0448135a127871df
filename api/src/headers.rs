//! Request headers: each read once into a type that cannot be wrong, or refused with its name.

use std::time::Duration;

use agora_actors::Consistency;
use http::{
    HeaderMap, HeaderValue,
    header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH},
};

use crate::problem::{Code, FieldError, Outcome, Problem};

/// Characters of an idempotency key.
pub const KEY_CHARS_MAX: usize = 255;
/// The age of rows that a bounded read may ask for at most: beyond it, ask for `local`.
pub const STALENESS_MS_MAX: u64 = 3_600_000;

/// The write's key, from `Idempotency-Key` or `X-Idempotency-Key`.
///
/// # Errors
/// 400 when there is none, two different ones, or one of a wrong form.
pub fn idempotency_key(headers: &HeaderMap) -> Outcome<&str> {
    const NAMES: [&str; 2] = ["idempotency-key", "x-idempotency-key"];
    let invalid = |message: &str| {
        let error = FieldError::header("Idempotency-Key", "INVALID", message);
        Problem::of_errors(Code::IdempotencyKeyInvalid, vec![error])
    };
    let mut values = NAMES.iter().flat_map(|name| headers.get_all(*name));
    let Some(key) = values.next() else {
        let error = FieldError::header(
            "Idempotency-Key",
            "REQUIRED",
            "every write needs an Idempotency-Key header of 1 to 255 printable characters, such as a UUID",
        );
        return Err(Problem::of_errors(Code::IdempotencyKeyMissing, vec![error]));
    };
    if values.any(|other| other != key) {
        return Err(invalid("Idempotency-Key and X-Idempotency-Key differ: send one of them"));
    }
    let is_printable = key.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte));
    let is_short = (1..=KEY_CHARS_MAX).contains(&key.len());
    match key.to_str() {
        Ok(text) if is_printable && is_short && !text.trim().is_empty() => Ok(text),
        _ => Err(invalid("an idempotency key is 1 to 255 printable ASCII characters")),
    }
}

/// `If-Match: "v42"`.
///
/// # Errors
/// 428 when it is missing, 400 when it names no version.
pub fn if_match(headers: &HeaderMap) -> Outcome<u64> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Err(Problem::new(
            Code::PreconditionRequired,
            "read the resource and send its ETag back as If-Match, such as If-Match: \"v42\"",
        ));
    };
    let version = value.to_str().ok().and_then(version_of);
    version.filter(|_| values.next().is_none()).ok_or_else(|| {
        Problem::invalid(FieldError::header("If-Match", "INVALID", "If-Match must name one version, such as \"v42\""))
    })
}

fn version_of(tag: &str) -> Option<u64> {
    let digits = tag.trim().strip_prefix("\"v")?.strip_suffix('"')?;
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { digits.parse().ok() } else { None }
}

/// True when `If-None-Match` names the version that would be sent.
pub fn has_already(headers: &HeaderMap, version: u64) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|tag| tag.trim() == "*" || version_of(tag.trim().trim_start_matches("W/")) == Some(version))
}

/// An entity tag.
pub fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"v{version}\"")).unwrap_or(HeaderValue::from_static("\"v0\""))
}

/// What kind of thing is read, which decides how fresh it is unless the request says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// One resource by id: linearizable.
    One,
    /// A list or a report: at most two seconds old.
    Many,
}

const LIST_STALENESS: Duration = Duration::from_secs(2);

/// How fresh a read must be.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    /// From `Consistency` and `Max-Staleness`.
    pub consistency: Consistency,
    /// From `Min-Index`.
    pub min_index: Option<u64>,
}

/// Reads `Consistency`, `Max-Staleness` and `Min-Index`.
///
/// # Errors
/// 400 for a value that is none, and for a bound on a read that has none.
pub fn freshness(headers: &HeaderMap, reading: Reading) -> Outcome<Freshness> {
    let mut errors = Vec::new();
    let max_staleness = text(headers, "max-staleness").map(|given| {
        given.and_then(duration).filter(|bound| bound.as_millis() <= u128::from(STALENESS_MS_MAX)).unwrap_or_else(
            || {
                errors.push(FieldError::header(
                    "Max-Staleness",
                    "INVALID",
                    "Max-Staleness must be a duration of at most 1h, such as 500ms or 2s",
                ));
                LIST_STALENESS
            },
        )
    });
    let bounded = Consistency::Bounded { max_staleness: max_staleness.unwrap_or(LIST_STALENESS) };
    let consistency = match (text(headers, "consistency"), reading) {
        (None, Reading::One) if max_staleness.is_none() => Consistency::Linearizable,
        (None, _) => bounded,
        (Some(Some(given)), _) => match given.to_ascii_lowercase().as_str() {
            "bounded" => bounded,
            exact @ ("linearizable" | "leader" | "local") => {
                if max_staleness.is_some() {
                    errors.push(FieldError::header(
                        "Max-Staleness",
                        "INVALID",
                        format!("Max-Staleness goes with Consistency: bounded, not with {exact}"),
                    ));
                }
                match exact {
                    "linearizable" => Consistency::Linearizable,
                    "leader" => Consistency::Leader,
                    _ => Consistency::Local,
                }
            }
            _ => {
                errors.push(no_consistency());
                bounded
            }
        },
        (Some(None), _) => {
            errors.push(no_consistency());
            bounded
        }
    };
    let min_index = text(headers, "min-index").and_then(|given| {
        let index = given.and_then(|text| text.parse().ok());
        if index.is_none() {
            errors.push(FieldError::header("Min-Index", "INVALID", "Min-Index must be a log index, such as 120331"));
        }
        index
    });
    if errors.is_empty() { Ok(Freshness { consistency, min_index }) } else { Err(Problem::invalid_all(errors)) }
}

fn no_consistency() -> FieldError {
    FieldError::header("Consistency", "INVALID", "Consistency must be linearizable, leader, bounded or local")
}

/// `None`: no such header; `Some(None)`: twice, or not text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a str>> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    Some(if values.next().is_some() { None } else { value.to_str().ok().map(str::trim) })
}

/// `500ms`, `30s`, `15m`, `1h`; a bare number is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// The trace id of a W3C `traceparent`, if there is a good one.
pub fn trace_parent(headers: &HeaderMap) -> Option<u128> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, chars: usize| {
        text.len() == chars && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    if !is_hex(version, 2) || version == "ff" || !is_hex(trace, 32) || !is_hex(span, 16) {
        return None;
    }
    u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)
}

/// Whether a body says of itself that it is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(text) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_write_has_one_printable_key() {
        let long = "k".repeat(256);
        let most = "k".repeat(255);
        for (pairs, expected) in [
            (&[("idempotency-key", "a b")][..], Ok("a b")),
            (&[("x-idempotency-key", most.as_str())], Ok(most.as_str())),
            (&[("idempotency-key", "a"), ("x-idempotency-key", "a")], Ok("a")),
            (&[], Err(Code::IdempotencyKeyMissing)),
            (&[("idempotency-key", "a"), ("x-idempotency-key", "b")], Err(Code::IdempotencyKeyInvalid)),
            (&[("idempotency-key", "a"), ("idempotency-key", "b")], Err(Code::IdempotencyKeyInvalid)),
            (&[("idempotency-key", "")], Err(Code::IdempotencyKeyInvalid)),
            (&[("idempotency-key", " ")], Err(Code::IdempotencyKeyInvalid)),
            (&[("idempotency-key", "a\tb")], Err(Code::IdempotencyKeyInvalid)),
            (&[("idempotency-key", "键")], Err(Code::IdempotencyKeyInvalid)),
            (&[("idempotency-key", long.as_str())], Err(Code::IdempotencyKeyInvalid)),
        ] {
            let headers = headers(pairs);
            assert_eq!(idempotency_key(&headers).map_err(|problem| problem.code), expected, "{pairs:?}");
        }
    }

    #[test]
    fn if_match_names_one_version() {
        for (value, expected) in [
            (Some("\"v42\""), Ok(42)),
            (Some("\"v0\""), Ok(0)),
            (None, Err(Code::PreconditionRequired)),
            (Some("*"), Err(Code::ValidationFailed)),
            (Some("v42"), Err(Code::ValidationFailed)),
            (Some("\"42\""), Err(Code::ValidationFailed)),
            (Some("W/\"v42\""), Err(Code::ValidationFailed)),
            (Some("\"v+1\""), Err(Code::ValidationFailed)),
            (Some("\"v1\", \"v2\""), Err(Code::ValidationFailed)),
            (Some("\"v99999999999999999999\""), Err(Code::ValidationFailed)),
        ] {
            let headers = value.map_or_else(HeaderMap::new, |value| headers(&[("if-match", value)]));
            assert_eq!(if_match(&headers).map_err(|problem| problem.code), expected, "{value:?}");
        }
    }

    #[test]
    fn if_none_match_takes_lists_weak_tags_and_the_star() {
        for (value, expected) in
            [("\"v3\"", true), ("W/\"v3\"", true), ("\"v2\", \"v3\"", true), ("*", true), ("\"v4\"", false)]
        {
            assert_eq!(has_already(&headers(&[("if-none-match", value)]), 3), expected, "{value}");
        }
    }

    #[test]
    fn one_thing_is_read_linearizable_and_a_list_at_most_two_seconds_old() {
        let read = |pairs: &[(&'static str, &str)], reading| {
            freshness(&headers(pairs), reading)
                .map(|fresh| (format!("{:?}", fresh.consistency), fresh.min_index))
                .map_err(|problem| problem.code)
        };
        let ok = |text: &str, min| Ok((text.to_owned(), min));
        assert_eq!(read(&[], Reading::One), ok("Linearizable", None));
        assert_eq!(read(&[], Reading::Many), ok("Bounded { max_staleness: 2s }", None));
        assert_eq!(read(&[("max-staleness", "500ms")], Reading::One), ok("Bounded { max_staleness: 500ms }", None));
        assert_eq!(read(&[("consistency", "Leader"), ("min-index", "7")], Reading::Many), ok("Leader", Some(7)));
        assert_eq!(read(&[("consistency", "local")], Reading::One), ok("Local", None));
        for bad in [
            &[("consistency", "eventual")][..],
            &[("consistency", "local"), ("consistency", "local")],
            &[("consistency", "local"), ("max-staleness", "1s")],
            &[("max-staleness", "-1s")],
            &[("max-staleness", "2h")],
            &[("max-staleness", "99999999999999999999s")],
            &[("min-index", "-1")],
            &[("min-index", "many")],
        ] {
            assert_eq!(read(bad, Reading::One), Err(Code::ValidationFailed), "{bad:?}");
        }
    }

    #[test]
    fn a_broken_traceparent_is_no_traceparent() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace_parent(&headers(&[("traceparent", good)])), Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf9-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47元-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_parent(&headers(&[("traceparent", bad)])), None, "{bad}");
        }
    }

    #[test]
    fn only_json_is_json() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/jsonp", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_json(&headers(&[("content-type", value)])), expected, "{value}");
        }
    }
}
