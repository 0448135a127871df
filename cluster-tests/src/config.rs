//! Configuration files of the nodes under test.
//!
//! Written by the bench, not by `agora init`, so that a test can set any key; that `agora init` writes a file that
//! starts is a test of its own.

use std::path::Path;

use toml::{Table, Value};

/// The shop key of every test cluster.
pub const SHOP_KEY: &str = "shop-key-for-tests-0123456789abcdef0123456789abcdef";
/// The administrator's key of every test cluster.
pub const ADMIN_KEY: &str = "admin-key-for-tests-0123456789abcdef0123456789abcdef";
/// The peers' shared secret of every test cluster.
pub const PEER_KEY: &str = "6f1d2c3b4a5968778695a4b3c2d1e0f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// What a test changes of the defaults: (section, key, value).
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(String, String, Value)>);

impl Overrides {
    /// Nothing changed.
    pub fn none() -> Overrides {
        Overrides::default()
    }

    /// Sets one key.
    pub fn set(mut self, section: &str, key: &str, value: impl Into<Value>) -> Overrides {
        self.0.push((section.to_owned(), key.to_owned(), value.into()));
        self
    }
}

/// Where one node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Node id.
    pub id: u64,
    /// HTTP port on loopback.
    pub http_port: u16,
    /// Peer port on loopback.
    pub peer_port: u16,
}

/// One cluster's identity and its first members.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Cluster name.
    pub name: String,
    /// Lineage, 32 hex digits.
    pub lineage: String,
    /// The members it was founded with, equal in all files.
    pub members: Vec<Place>,
}

/// The file of one node.
pub fn render(founding: &Founding, place: &Place, data_dir: &Path, overrides: &Overrides) -> String {
    let mut root = Table::new();
    let mut set = |section: &str, key: &str, value: Value| {
        let table = root.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(table) = table {
            table.insert(key.to_owned(), value);
        }
    };
    set("node", "id", int(place.id));
    set("node", "data_dir", data_dir.display().to_string().into());
    set("cluster", "name", founding.name.clone().into());
    set("cluster", "lineage", founding.lineage.clone().into());
    let members = founding.members.iter().map(|member| {
        let mut table = Table::new();
        table.insert("id".to_owned(), int(member.id));
        table.insert("peer".to_owned(), format!("127.0.0.1:{}", member.peer_port).into());
        table.insert("http".to_owned(), format!("127.0.0.1:{}", member.http_port).into());
        Value::Table(table)
    });
    set("cluster", "members", Value::Array(members.collect()));
    set("http", "listen", format!("127.0.0.1:{}", place.http_port).into());
    set("peer", "listen", format!("127.0.0.1:{}", place.peer_port).into());
    set("keys", "shop", SHOP_KEY.into());
    set("keys", "admin", ADMIN_KEY.into());
    set("keys", "peer", PEER_KEY.into());
    for (section, key, value) in &overrides.0 {
        set(section, key, value.clone());
    }
    toml::to_string(&root).expect("a table of strings and numbers is TOML")
}

fn int(number: u64) -> Value {
    Value::Integer(i64::try_from(number).expect("figures of a configuration fit 63 bits"))
}
