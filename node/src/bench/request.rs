//! Requests as bytes, built in one buffer that is used again and again.
//!
//! The generator shares the processors with the nodes it measures: what it spends, they do not have. Nothing is
//! allocated for a request, and what never changes is copied.

use crate::config::Address;

/// Builds the requests of one connection.
pub struct Request {
    /// Headers of every request, per endpoint.
    common: Vec<Vec<u8>>,
    /// The endpoint in use.
    at: usize,
    /// Beginning of this connection's idempotency keys.
    keys: String,
    sequence: u64,
    head: Vec<u8>,
    body: Vec<u8>,
    whole: Vec<u8>,
}

impl Request {
    /// For a connection of a run; `run` is new for every run, so that keys are.
    pub fn new(endpoints: &[Address], shop_key: &str, run: &str, connection: usize) -> Request {
        let common = endpoints.iter().map(|endpoint| {
            format!(" HTTP/1.1\r\nHost: {endpoint}\r\nAuthorization: Bearer {shop_key}\r\n").into_bytes()
        });
        Request {
            common: common.collect(),
            at: 0,
            keys: format!("{run}-{connection}-"),
            sequence: 0,
            head: Vec::new(),
            body: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// Requests go to this endpoint from now on.
    pub fn at(&mut self, endpoint: usize) {
        self.at = endpoint;
    }

    /// Begins a request.
    pub fn begin(&mut self, method: &str, path: &[&str]) -> &mut Request {
        self.body.clear();
        self.head.clear();
        self.head.extend_from_slice(method.as_bytes());
        self.head.push(b' ');
        for part in path {
            self.head.extend_from_slice(part.as_bytes());
        }
        self.head.extend_from_slice(&self.common[self.at]);
        self
    }

    /// Begins a write: a JSON body and an idempotency key never used before.
    pub fn write(&mut self, method: &str, path: &[&str]) -> &mut Request {
        self.begin(method, path);
        self.sequence += 1;
        self.head.extend_from_slice(b"Content-Type: application/json\r\nIdempotency-Key: ");
        self.head.extend_from_slice(self.keys.as_bytes());
        decimal(&mut self.head, self.sequence);
        self.head.extend_from_slice(b"\r\n");
        self
    }

    /// Adds a header.
    pub fn header(&mut self, name: &str, value: &str) -> &mut Request {
        for part in [name, ": ", value, "\r\n"] {
            self.head.extend_from_slice(part.as_bytes());
        }
        self
    }

    /// Where the body goes.
    pub fn body(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    /// The whole request.
    pub fn bytes(&mut self) -> &[u8] {
        self.whole.clear();
        self.whole.extend_from_slice(&self.head);
        if !self.body.is_empty() {
            self.whole.extend_from_slice(b"Content-Length: ");
            decimal(&mut self.whole, self.body.len() as u64);
            self.whole.extend_from_slice(b"\r\n");
        }
        self.whole.extend_from_slice(b"\r\n");
        self.whole.extend_from_slice(&self.body);
        &self.whole
    }
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_a_client_would_send() {
        let endpoints = ["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
        let mut request = Request::new(&endpoints, "key", "r", 7);
        request.at(1);
        request.write("POST", &["/api/v2/orders/", "x", "/pay"]).body().extend_from_slice(b"{}");
        assert_eq!(
            std::str::from_utf8(request.bytes()).unwrap(),
            "POST /api/v2/orders/x/pay HTTP/1.1\r\nHost: 127.0.0.1:2\r\nAuthorization: Bearer key\r\n\
             Content-Type: application/json\r\nIdempotency-Key: r-7-1\r\nContent-Length: 2\r\n\r\n{}"
        );
        request.at(0);
        request.begin("GET", &["/api/v2/skus"]).header("Consistency", "local");
        assert_eq!(
            std::str::from_utf8(request.bytes()).unwrap(),
            "GET /api/v2/skus HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer key\r\nConsistency: local\r\n\r\n"
        );
    }

    #[test]
    fn no_two_writes_share_a_key() {
        let endpoints = ["127.0.0.1:1".parse().unwrap()];
        let keys: std::collections::BTreeSet<String> = (0..3)
            .flat_map(|connection| {
                let mut request = Request::new(&endpoints, "key", "r", connection);
                (0..100).map(move |_| String::from_utf8(request.write("POST", &["/"]).bytes().to_vec()).unwrap())
            })
            .collect();
        assert_eq!(keys.len(), 300);
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 9, 10, 1_234_567, u64::MAX] {
            let mut out = Vec::new();
            decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
