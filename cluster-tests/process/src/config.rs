//! Configuration files of the nodes under attack.

use std::path::Path;

use agora_history::NodeId;
use toml::{Table, Value};

use crate::net::address_of;

/// The shop key of every cluster under attack.
pub const SHOP_KEY: &str = "shop-key-for-tests-0123456789abcdef0123456789abcdef";
/// The administrator's key of every cluster under attack.
pub const ADMIN_KEY: &str = "admin-key-for-tests-0123456789abcdef0123456789abcdef";
/// The peers' shared secret of every cluster under attack.
pub const PEER_KEY: &str = "6f1d2c3b4a5968778695a4b3c2d1e0f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// Ports, the same on every machine.
const HTTP_PORT: u16 = 8081;
const PEER_PORT: u16 = 7401;

/// What is changed of the defaults: (section, key, value).
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(String, String, Value)>);

impl Overrides {
    /// Nothing changed.
    pub fn none() -> Overrides {
        Overrides::default()
    }

    /// Sets one key; a later one wins.
    pub fn set(mut self, section: &str, key: &str, value: impl Into<Value>) -> Overrides {
        self.0.push((section.to_owned(), key.to_owned(), value.into()));
        self
    }

    /// Writes them into a file's table.
    pub fn apply(&self, root: &mut Table) {
        for (section, key, value) in &self.0 {
            put(root, section, key, value.clone());
        }
    }

    /// These, then those.
    pub fn and(mut self, more: &Overrides) -> Overrides {
        self.0.extend(more.0.iter().cloned());
        self
    }
}

/// Sets one key of a section.
pub fn put(root: &mut Table, section: &str, key: &str, value: Value) {
    let table = root.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(table) = table {
        table.insert(key.to_owned(), value);
    }
}

/// Where a node is reached: peers, clients.
pub fn addresses(node: NodeId) -> (String, String) {
    let host = address_of(node);
    (format!("{host}:{PEER_PORT}"), format!("{host}:{HTTP_PORT}"))
}

/// The file of one node of a cluster founded with nodes 1 to `founders`.
pub fn render(lineage: u128, founders: u64, node: NodeId, data: &Path, overrides: &Overrides) -> String {
    let mut root = Table::new();
    let mut set = |section: &str, key: &str, value: Value| put(&mut root, section, key, value);
    let (peer, http) = addresses(node);
    set("node", "id", int(node));
    set("node", "data_dir", data.display().to_string().into());
    set("cluster", "name", "attacked".into());
    set("cluster", "lineage", format!("{lineage:032x}").into());
    let members = (1..=founders).map(|id| {
        let (peer, http) = addresses(id);
        let pairs = [("id", int(id)), ("peer", peer.into()), ("http", http.into())];
        Value::Table(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    });
    set("cluster", "members", Value::Array(members.collect()));
    set("http", "listen", http.clone().into());
    set("http", "advertise", http.into());
    set("peer", "listen", peer.into());
    set("keys", "shop", SHOP_KEY.into());
    set("keys", "admin", ADMIN_KEY.into());
    set("keys", "peer", PEER_KEY.into());
    overrides.apply(&mut root);
    toml::to_string(&root).expect("a table of strings and numbers is TOML")
}

/// A number as a value.
///
/// # Panics
/// When it has more than 63 bits.
pub fn int(number: u64) -> Value {
    Value::Integer(i64::try_from(number).expect("figures of a configuration fit 63 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joiner_knows_the_founders_and_is_none_of_them() {
        let overrides = Overrides::none().set("raft", "heartbeat_ms", 50).set("raft", "heartbeat_ms", 70);
        let file = render(1, 3, 4, Path::new("/data"), &overrides);
        let table: Table = file.parse().unwrap();
        assert_eq!(table["node"]["id"].as_integer(), Some(4));
        assert_eq!(table["cluster"]["members"].as_array().unwrap().len(), 3);
        assert_eq!(table["http"]["advertise"].as_str(), Some("198.18.0.4:8081"));
        assert_eq!(table["raft"]["heartbeat_ms"].as_integer(), Some(70));
    }
}
