//! Query strings: an allow-list per endpoint. A parameter nobody reads is refused, with the nearest one that is read:
//! a filter that is silently ignored answers another question than the one that was asked.

use std::borrow::Cow;

use crate::problem::{Code, FieldError, Outcome, Problem};

/// Items on a page unless the request says otherwise.
pub const LIMIT_DEFAULT: usize = 50;
/// Items on a page at most.
pub const LIMIT_MAX: usize = 200;
/// Parameters looked at in one query string.
const PARAMETERS_MAX: usize = 64;

/// A query string's parameters, each named at most once.
#[derive(Debug, Default)]
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads a query string against the names that are allowed.
    ///
    /// # Errors
    /// 400 for an unknown or repeated name, and for bytes that are no UTF-8.
    pub fn parse(text: Option<&'a str>, allowed: &[&'static str]) -> Outcome<Self> {
        let mut query = Self::default();
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(query) };
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            if query.pairs.len() >= PARAMETERS_MAX {
                let message = format!("more than {PARAMETERS_MAX} query parameters");
                return Err(Problem::invalid(FieldError::parameter("", "TOO_MANY", message)));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                let message = "the query string is not UTF-8 after percent decoding";
                return Err(Problem::invalid(FieldError::parameter("", "INVALID", message)));
            };
            if !allowed.contains(&&*name) {
                return Err(unknown(&name, allowed));
            }
            if query.get(&name).is_some() {
                let message = format!("query parameter {name} is given twice");
                return Err(Problem::invalid(FieldError::parameter(name.into_owned(), "DUPLICATE", message)));
            }
            query.pairs.push((name, value));
        }
        Ok(query)
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter, read into a type.
    ///
    /// # Errors
    /// 400 naming the parameter and what it must be.
    pub fn read<T>(
        &self,
        name: &'static str,
        must_be: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Outcome<Option<T>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| {
            Problem::invalid(FieldError::parameter(name, "INVALID", format!("{name} must be {must_be}")))
        })
    }

    /// `limit`, 1 to 200.
    ///
    /// # Errors
    /// 400.
    pub fn limit(&self) -> Outcome<usize> {
        let must_be = format!("a whole number from 1 to {LIMIT_MAX}");
        let limit =
            self.read("limit", &must_be, |text| text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)))?;
        Ok(limit.unwrap_or(LIMIT_DEFAULT))
    }
}

fn unknown(name: &str, allowed: &[&'static str]) -> Box<Problem> {
    let shown: String = name.chars().take(60).collect();
    let nearest = allowed.iter().min_by_key(|known| distance(&shown, known));
    let message = match nearest {
        Some(nearest) => format!("unknown query parameter {shown}: the nearest valid one is {nearest}"),
        None => format!("unknown query parameter {shown}: there are none here"),
    };
    Problem::of_errors(Code::UnknownParameter, vec![FieldError::parameter(shown, "UNKNOWN_PARAMETER", message)])
}

/// Percent decoding, `+` as a space. `None`: no UTF-8, or a broken escape.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Levenshtein's: letters to change, add or drop. Both texts are short.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: &[&str] = &["limit", "cursor", "status", "user_id"];

    #[test]
    fn an_unknown_parameter_is_answered_with_the_nearest_one() {
        for (text, nearest) in
            [("limt=5", "limit"), ("state=X", "status"), ("userid=1", "user_id"), ("curser", "cursor")]
        {
            let problem = Query::parse(Some(text), ALLOWED).unwrap_err();
            assert_eq!(problem.code, Code::UnknownParameter, "{text}");
            assert!(problem.errors[0].message.ends_with(nearest), "{text}: {}", problem.errors[0].message);
        }
        assert_eq!(Query::parse(Some("a=1"), &[]).unwrap_err().code, Code::UnknownParameter);
    }

    #[test]
    fn values_are_decoded() {
        let query = Query::parse(Some("status=A%20B+C&cursor=%E5%85%83&limit"), ALLOWED).unwrap();
        assert_eq!(query.get("status"), Some("A B C"));
        assert_eq!(query.get("cursor"), Some("元"));
        assert_eq!(query.get("limit"), Some(""));
        assert_eq!(query.get("user_id"), None);
        assert!(Query::parse(Some(""), ALLOWED).unwrap().pairs.is_empty());
        assert!(Query::parse(Some("&&"), ALLOWED).unwrap().pairs.is_empty());
    }

    #[test]
    fn odd_bytes_and_repeats_are_refused() {
        let many = "limit=1&".repeat(100);
        for text in ["limit=%", "limit=%f", "limit=%zz", "limit=%ff", "%ff=1", "limit=1&limit=2", many.as_str()] {
            assert_eq!(Query::parse(Some(text), ALLOWED).unwrap_err().code, Code::ValidationFailed, "{text}");
        }
    }

    #[test]
    fn a_limit_is_1_to_200() {
        let limit = |text| Query::parse(Some(text), ALLOWED).unwrap().limit().map_err(|problem| problem.code);
        assert_eq!(limit("limit=1"), Ok(1));
        assert_eq!(limit("limit=200"), Ok(200));
        assert_eq!(limit("cursor=x"), Ok(LIMIT_DEFAULT));
        for bad in ["limit=0", "limit=201", "limit=-1", "limit=", "limit=1e2", "limit=99999999999999999999"] {
            assert_eq!(limit(bad), Err(Code::ValidationFailed), "{bad}");
        }
    }
}
