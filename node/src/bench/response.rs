//! Just enough of HTTP/1.1 to read a node's answers: status, length, and whether the connection stays open.
//!
//! The generator shares the processors with the nodes it measures, so it does not parse what it does not need. Nodes
//! always give a `Content-Length`; an answer without one is an error here, not a guess.

/// Headers of an answer, in bytes, at most.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A whole answer, in bytes, at most.
pub const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Where the body begins.
    pub body_at: usize,
    /// Its length in bytes.
    pub body_len: usize,
    /// The node closes the connection after this answer.
    pub close: bool,
}

impl Head {
    /// Where the answer ends.
    pub fn end(&self) -> usize {
        self.body_at + self.body_len
    }
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the head at the start of `bytes`. `Ok(None)`: not all of it is there yet.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(Malformed("headers do not end"));
        }
        return Ok(None);
    };
    let mut lines = bytes[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status = status(lines.next().unwrap_or_default())?;
    let mut length = None;
    let mut close = false;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(Malformed("a header without a colon"));
        };
        let value = line[colon + 1..].trim_ascii();
        if line[..colon].eq_ignore_ascii_case(b"content-length") {
            length = Some(number(value).ok_or(Malformed("content-length is no number"))?);
        } else if line[..colon].eq_ignore_ascii_case(b"connection") {
            close = value.eq_ignore_ascii_case(b"close");
        }
    }
    let body_len = length.ok_or(Malformed("no content-length"))?;
    let body_at = end + 4;
    if body_len > ANSWER_BYTES_MAX {
        return Err(Malformed("body too long"));
    }
    Ok(Some(Head { status, body_at, body_len, close }))
}

/// `HTTP/1.1 201 Created` → 201.
fn status(line: &[u8]) -> Result<u16, Malformed> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").ok_or(Malformed("no HTTP/1.1 answer"))?;
    let digits = rest.get(..3).ok_or(Malformed("no status"))?;
    number(digits).and_then(|status| u16::try_from(status).ok()).ok_or(Malformed("status is no number"))
}

fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 12 {
        return None;
    }
    let mut number = 0;
    for digit in digits {
        number = number * 10 + usize::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    Some(number)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// How often `what` occurs.
pub fn count(bytes: &[u8], what: &[u8]) -> u64 {
    bytes.windows(what.len()).filter(|window| *window == what).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_its_head_is_complete() {
        let bytes = b"HTTP/1.1 201 Created\r\nX-Node: 2\r\ncontent-LENGTH:  5 \r\n\r\nhelloHTTP";
        let end = bytes.len() - 9;
        for cut in 0..end {
            assert_eq!(head(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let expected = Head { status: 201, body_at: end, body_len: 5, close: false };
        assert_eq!(head(bytes), Ok(Some(expected)));
        assert_eq!(expected.end(), bytes.len() - 4);
    }

    #[test]
    fn a_closing_answer_says_so() {
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(head(bytes).unwrap().map(|head| (head.status, head.close)), Some((503, true)));
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, why) in [
            (&b"SSH-2.0\r\n\r\n"[..], "no HTTP/1.1 answer"),
            (b"HTTP/1.1 2x1 OK\r\ncontent-length: 0\r\n\r\n", "status is no number"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "no content-length"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "content-length is no number"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", "body too long"),
            (b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "a header without a colon"),
        ] {
            assert_eq!(head(bytes), Err(Malformed(why)));
        }
        assert_eq!(head(&vec![b'x'; HEAD_BYTES_MAX + 1]), Err(Malformed("headers do not end")));
    }

    #[test]
    fn items_are_counted() {
        assert_eq!(count(b"{\"status\":201},{\"status\":409},{\"status\":201}", b"\"status\":201"), 2);
        assert_eq!(count(b"", b"x"), 0);
    }
}
