//! The scenarios: each makes what it needs and says what its connections do.

pub mod basket;
pub mod flash;
pub mod marketplace;
pub mod mixed;
pub mod orders;
pub mod pay;
pub mod reads;

use super::engine::Script;

/// A scenario ready to run.
pub struct Prepared {
    /// What is counted, in the singular: `order`, `request`.
    pub unit: &'static str,
    /// Kinds of requests, by the numbers scripts give them.
    pub ops: &'static [&'static str],
    /// Those of them that write.
    pub writes: &'static [usize],
    /// One per connection.
    pub scripts: Vec<Box<dyn Script>>,
    /// Sessions per second; `None` for a closed loop.
    pub rate: Option<f64>,
    /// Whether every connection ends by itself, and nothing is to be left out as warm-up.
    pub ends: bool,
}

/// What a body says between a name such as `"order_no":"` and the next quote.
pub fn text_after<'a>(body: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let start = body.windows(name.len()).position(|window| window == name)? + name.len();
    let length = body[start..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&body[start..start + length]).ok()
}

/// The number after a name such as `"version":`.
pub fn number_after(body: &[u8], name: &[u8]) -> Option<u64> {
    let start = body.windows(name.len()).position(|window| window == name)? + name.len();
    let digits = body[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&body[start..start + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_without_a_parser() {
        let body = br#"{"id":"ord_1","order_no":"1a","version":42,"log_index":7}"#;
        assert_eq!(text_after(body, b"\"order_no\":\""), Some("1a"));
        assert_eq!(number_after(body, b"\"version\":"), Some(42));
        assert_eq!(text_after(body, b"\"none\":\""), None);
        assert_eq!(text_after(b"{\"id\":\"ord", b"\"id\":\""), None);
        assert_eq!(number_after(body, b"\"id\":"), None);
    }
}
