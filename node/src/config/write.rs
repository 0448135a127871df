//! Writes a configuration file: every key, with its comment, unit and default from the table of keys.

use std::fmt::Write as _;

use super::{
    Address, Member,
    keys::{KEYS, Key, Rule, SECTIONS},
};

/// What a new file says; everything else is written with its default.
pub struct Draft {
    /// Lines for the top of the file, without `#`.
    pub header: String,
    /// This node's id.
    pub node_id: u64,
    /// Its data directory.
    pub data_dir: String,
    /// Name of the cluster.
    pub cluster: String,
    /// 32 hex digits.
    pub lineage: String,
    /// The nodes it begins with.
    pub members: Vec<Member>,
    /// Where to listen for clients.
    pub http_listen: Address,
    /// Where to listen for peers.
    pub peer_listen: Address,
    /// Bearer key of the shop.
    pub shop_key: String,
    /// Bearer key of cluster administration.
    pub admin_key: String,
    /// 64 hex digits.
    pub peer_secret: String,
    /// `(section, name, value)` for keys that shall not have their default.
    pub changed: Vec<(&'static str, &'static str, toml::Value)>,
}

impl Draft {
    /// The text of the file.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for line in self.header.lines() {
            comment(&mut out, line);
        }
        for (section, about) in SECTIONS {
            out.push('\n');
            comment(&mut out, about);
            if *section == "cluster.members" {
                self.members(&mut out);
                continue;
            }
            let _ = writeln!(out, "[{section}]");
            for key in KEYS.iter().filter(|key| key.section == *section) {
                comment(&mut out, &explained(key));
                let _ = writeln!(out, "{} = {}", key.name, self.value(key));
            }
        }
        out
    }

    fn members(&self, out: &mut String) {
        for key in KEYS.iter().filter(|key| key.section == "cluster.members") {
            comment(out, &format!("{}: {}", key.name, explained(key)));
        }
        for member in &self.members {
            let _ = writeln!(out, "[[cluster.members]]\nid = {}", member.id);
            let _ = writeln!(
                out,
                "peer = {}\nhttp = {}",
                quoted(&member.peer.to_string()),
                quoted(&member.http.to_string())
            );
        }
    }

    fn value(&self, key: &Key) -> String {
        if let Some((_, _, value)) =
            self.changed.iter().find(|(section, name, _)| (*section, *name) == (key.section, key.name))
        {
            return value.to_string();
        }
        match (key.section, key.name) {
            ("node", "id") => self.node_id.to_string(),
            ("node", "data_dir") => quoted(&self.data_dir),
            ("cluster", "name") => quoted(&self.cluster),
            ("cluster", "lineage") => quoted(&self.lineage),
            ("http", "listen") => quoted(&self.http_listen.to_string()),
            ("peer", "listen") => quoted(&self.peer_listen.to_string()),
            ("keys", "shop") => quoted(&self.shop_key),
            ("keys", "admin") => quoted(&self.admin_key),
            ("keys", "peer") => quoted(&self.peer_secret),
            _ => match key.rule {
                Rule::Number { default, .. } => default.to_string(),
                Rule::Choice { default, .. } | Rule::Text { default } => quoted(default),
                Rule::NumberGiven { .. } | Rule::TextGiven | Rule::Secret => {
                    unreachable!("{}.{} has no default and is not in a draft", key.section, key.name)
                }
            },
        }
    }
}

/// The comment of a key: what it does, its unit, its default.
fn explained(key: &Key) -> String {
    match key.rule {
        Rule::Number { default, min, max } => {
            format!("{} Unit: {}; default: {default}; from {min} to {max}.", key.about, key.unit)
        }
        Rule::Choice { default, allowed } => {
            format!("{} One of: {}; default: {default}.", key.about, allowed.join(", "))
        }
        Rule::Text { default } => format!("{} Default: {default:?}.", key.about),
        Rule::NumberGiven { .. } | Rule::TextGiven | Rule::Secret => format!("{} No default.", key.about),
    }
}

fn comment(out: &mut String, text: &str) {
    /// Width of a line of comment, in characters.
    const WIDTH: usize = 110;
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
