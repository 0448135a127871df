//! The language of what people read: `message` and `status_text`. Codes and details are never translated.

use http::{HeaderMap, header::ACCEPT_LANGUAGE};

/// A language Agora speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Language {
    /// The shops' own.
    #[default]
    Chinese,
    /// For everyone else.
    English,
}

impl Language {
    /// The first language of `Accept-Language` that is spoken here. Weights are not read: clients list what they like
    /// best first.
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(wanted) = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()) else {
            return Self::default();
        };
        for tag in wanted.split(',') {
            let tag = tag.trim_start();
            let starts = |with: &str| tag.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(with));
            if starts("zh") {
                return Self::Chinese;
            }
            if starts("en") {
                return Self::English;
            }
        }
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_language_that_is_spoken_wins() {
        for (wanted, expected) in [
            ("zh-CN, en", Language::Chinese),
            ("en-GB;q=0.9, zh", Language::English),
            ("de, EN;q=0.5", Language::English),
            ("de", Language::Chinese),
            ("", Language::Chinese),
            ("元", Language::Chinese),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_LANGUAGE, http::HeaderValue::from_bytes(wanted.as_bytes()).unwrap());
            assert_eq!(Language::of(&headers), expected, "{wanted}");
        }
    }
}
