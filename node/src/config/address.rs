//! An address as people write it, `host:port`, checked when it is read and resolved when it is used.

use std::{fmt, str::FromStr};

/// A host name or IP address, and a port that is not 0. IPv6 addresses stand in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// Text that is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not host:port with a port from 1 to 65535, such as 10.0.0.1:8081 or [::1]:8081")
    }
}

impl std::error::Error for BadAddress {}

impl Address {
    /// Puts an address together.
    pub fn new(host: impl Into<String>, port: u16) -> Result<Address, BadAddress> {
        format!("{}:{port}", host.into()).parse()
    }

    /// From 1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it means "all interfaces": good to listen on, useless to dial.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "0.0.0.0" | "[::]")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress)?;
        let port: u16 = port.parse().map_err(|_| BadAddress)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let good = match bracketed {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
                !host.is_empty() && host.len() <= 253 && host.chars().all(allowed)
            }
        };
        if !good || port == 0 {
            return Err(BadAddress);
        }
        Ok(Address { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ones_print_as_they_were_written() {
        for text in ["127.0.0.1:8081", "n1:7400", "shop-1.example.com:443", "[::1]:65535", "0.0.0.0:1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert!("[::]:80".parse::<Address>().unwrap().is_wildcard());
    }

    #[test]
    fn bad_ones_are_refused() {
        for text in ["", ":80", "host", "host:", "host:0", "host:65536", "::1:80", "a b:80", "http://host:80", "[x]:80"]
        {
            assert_eq!(text.parse::<Address>(), Err(BadAddress), "{text}");
        }
    }
}
