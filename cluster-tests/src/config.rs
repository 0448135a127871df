//! Configuration files of the nodes under test.
//!
//! Written by the bench, not by `agora init`, so that a test can set any key; that `agora init` writes a file that
//! starts is a test of its own.

use std::path::Path;

use agora_process::config::{int, put};
pub use agora_process::{
    Overrides,
    config::{ADMIN_KEY, PEER_KEY, SHOP_KEY},
};
use toml::{Table, Value};

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
    let mut set = |section: &str, key: &str, value: Value| put(&mut root, section, key, value);
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
    overrides.apply(&mut root);
    toml::to_string(&root).expect("a table of strings and numbers is TOML")
}
