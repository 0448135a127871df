//! The configuration of one node: read, then validated into a type that cannot be wrong.
//!
//! [`Config`] has no invalid value: whoever holds one may start a node with it. Reading collects every problem of a file
//! before it refuses, so that a file is put right in one go, and an unknown key is a problem, named together with
//! the known key it resembles. Secrets may come from the environment instead of the file.

mod address;
pub mod keys;
mod reader;
pub mod write;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

pub use address::{Address, BadAddress};
use reader::Reader;

/// Shortest bearer key that is accepted, in characters.
pub const KEY_CHARS_MIN: usize = 32;
/// Longest bearer key, in characters.
pub const KEY_CHARS_MAX: usize = 512;
/// Different characters a bearer key must have at least: `aaaa…` is long, but no secret.
const KEY_DISTINCT_MIN: usize = 10;
/// What stands in files that nobody has filled in yet.
pub const PLACEHOLDER: &str = "run-agora-init-to-make-this-secret";

/// A secret that does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A node the cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Node id, from 1.
    pub id: u64,
    /// Where the other nodes reach it.
    pub peer: Address,
    /// Where clients reach it.
    pub http: Address,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Lines for people.
    Text,
}

/// A valid configuration. Times are in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's id, from 1.
    pub node_id: u64,
    /// Where everything is kept; already relative to the working directory, not to the file.
    pub data_dir: PathBuf,
    /// Threads that answer requests.
    pub worker_threads: usize,
    /// Name of the cluster.
    pub cluster: String,
    /// Identity of the cluster's history.
    pub lineage: u128,
    /// The nodes it begins with; ids and addresses are unique.
    pub members: Vec<Member>,
    /// Client side.
    pub http: Http,
    /// Where to listen for peers.
    pub peer_listen: Address,
    /// Bearer key of the shop.
    pub shop_key: Secret,
    /// Bearer key of cluster administration.
    pub admin_key: Secret,
    /// What nodes prove to each other.
    pub peer_secret: [u8; 32],
    /// The shop.
    pub shop: ShopSettings,
    /// Agreement.
    pub raft: RaftSettings,
    /// Rows on disk.
    pub storage: StorageSettings,
    /// Form of the logs.
    pub log_format: LogFormat,
    /// A valid filter directive.
    pub log_level: String,
}

/// `[http]`.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to listen.
    pub listen: Address,
    /// What others are told.
    pub advertise: Address,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Deadline of a request.
    pub request_timeout_ms: u64,
    /// Deadline of a request's head, and of silence between two.
    pub header_timeout_ms: u64,
    /// Connections open at once.
    pub connections_max: usize,
}

/// `[shop]`.
#[derive(Clone, Debug)]
pub struct ShopSettings {
    /// Life of an unpaid order.
    pub order_ttl_ms: u64,
    /// Entities in memory.
    pub live_entities_max: usize,
    /// Actors that share them.
    pub hosts: usize,
    /// Requests being decided at once.
    pub admission_max: u64,
    /// How often timers are looked at.
    pub timer_tick_ms: u64,
}

/// `[raft]`. Holds: heartbeat × 2 ≤ election_min < election_max, snapshot_log_bytes ≤ log_bytes_max.
#[derive(Clone, Debug)]
pub struct RaftSettings {
    /// Interval of heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest random part of the election timeout.
    pub election_min_ms: u64,
    /// Longest random part, and the lease.
    pub election_max_ms: u64,
    /// Transactions per entry.
    pub entry_count_max: usize,
    /// Bytes per entry.
    pub entry_bytes_max: usize,
    /// Entries on their way.
    pub entries_in_flight_max: usize,
    /// Log on disk.
    pub log_bytes_max: u64,
    /// Log between two syncs of the rows.
    pub snapshot_log_bytes: u64,
}

/// `[storage]`.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// Block cache.
    pub cache_bytes: u64,
    /// Memtable per keyspace.
    pub memtable_bytes: u64,
    /// Journals kept.
    pub journal_bytes_max: u64,
}

/// Everything that is wrong with a file, at once.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    problems: Vec<String>,
}

impl ConfigError {
    /// One line per problem.
    #[cfg(test)]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.problems.len() == 1 { "problem" } else { "problems" };
        write!(f, "{}: {} {plural}", self.path.display(), self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and validates a file, with secrets from the environment where it holds them.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            path: path.to_owned(),
            problems: vec![format!("cannot be read: {error}; `agora init` writes configuration files")],
        })?;
        Config::parse(path, &text, &|name| std::env::var(name).ok())
    }

    /// Validates the text of a file. `env` gives the value of an environment variable, if it is set.
    pub fn parse(path: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let refused = |problems| ConfigError { path: path.to_owned(), problems };
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| refused(vec![not_toml(text, &error)]))?;
        let mut reader = Reader::new(&table);
        let config = validate(path, &mut reader, env);
        reader.refuse_unknown();
        let problems = reader.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(refused(problems)),
        }
    }

    /// This node's place among the first members; `None` for a node that joins later.
    pub fn own_member(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.id == self.node_id)
    }
}

/// Where a file is no TOML, and why. The line itself is not shown, as the parser's own message would: it may hold a
/// secret, and this message ends up in logs.
fn not_toml(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("is not TOML: line {line}: {}", error.message().trim_end().replace('\n', "; "))
}

/// Takes everything out of the file. `None` where a value is missing whose absence the reader has noted.
fn validate(path: &Path, reader: &mut Reader<'_>, env: &dyn Fn(&str) -> Option<String>) -> Option<Config> {
    let node_id = reader.number("node", "id");
    let data_dir = reader.text("node", "data_dir").filter(|dir| !dir.is_empty());
    let worker_threads = reader.size("node", "worker_threads");
    let cluster = cluster_name(reader);
    let lineage = lineage(reader);
    let members = members(reader);
    let own = members.as_ref().and_then(|members| members.iter().find(|member| Some(member.id) == node_id));
    let http_listen = listen(reader, "http");
    let http_advertise = advertise(reader, http_listen.as_ref(), own.map(|own| &own.http));
    let peer_listen = listen(reader, "peer");
    let shop_key = bearer_key(reader, "shop", "AGORA_SHOP_KEY", env);
    let admin_key = bearer_key(reader, "admin", "AGORA_ADMIN_KEY", env);
    let peer_secret = peer_secret(reader, env);
    if shop_key.is_some() && shop_key == admin_key {
        reader.problem("keys.shop and keys.admin are equal: give each its own, `agora init` makes strong ones");
    }
    let http = (|| {
        Some(Http {
            listen: http_listen?,
            advertise: http_advertise?,
            body_bytes_max: reader.size("http", "body_bytes_max")?,
            request_timeout_ms: reader.number("http", "request_timeout_ms")?,
            header_timeout_ms: reader.number("http", "header_timeout_ms")?,
            connections_max: reader.size("http", "connections_max")?,
        })
    })();
    let shop = shop(reader);
    let raft = raft(reader);
    let storage = storage(reader);
    let log_format =
        reader.text("log", "format").map(|word| if word == "text" { LogFormat::Text } else { LogFormat::Json });
    let log_level = log_level(reader);
    let folder = path.parent().unwrap_or(Path::new(""));
    Some(Config {
        node_id: node_id?,
        data_dir: folder.join(data_dir?),
        worker_threads: worker_threads?,
        cluster: cluster?,
        lineage: lineage?,
        members: members?,
        http: http?,
        peer_listen: peer_listen?,
        shop_key: shop_key?,
        admin_key: admin_key?,
        peer_secret: peer_secret?,
        shop: shop?,
        raft: raft?,
        storage: storage?,
        log_format: log_format?,
        log_level: log_level?,
    })
}

fn cluster_name(reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text("cluster", "name")?;
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        reader.problem(format!("cluster.name is {name:?}: give 1 to 64 of a-z, 0-9 and '-'"));
        return None;
    }
    Some(name)
}

fn lineage(reader: &mut Reader<'_>) -> Option<u128> {
    let text = reader.text("cluster", "lineage")?;
    if text == PLACEHOLDER {
        reader
            .problem("cluster.lineage is still the placeholder: run `agora init` to make a configuration of your own");
        return None;
    }
    let value = if text.len() == 32 { u128::from_str_radix(&text, 16).ok().filter(|value| *value != 0) } else { None };
    if value.is_none() {
        reader.problem("cluster.lineage is not 32 hex digits: run `agora init` to draw one");
    }
    value
}

fn members(reader: &mut Reader<'_>) -> Option<Vec<Member>> {
    let before = reader.problem_count();
    let mut members: Vec<Member> = Vec::new();
    let tables = reader.members()?;
    if tables.is_empty() || tables.len() > keys::MEMBERS_MAX {
        reader.problem(format!("cluster.members has {} nodes: give 1 to {}", tables.len(), keys::MEMBERS_MAX));
    }
    let mut ids = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for at in 0..tables.len() {
        let Some(id) = reader.member_number(at, "id") else { continue };
        let peer = reader.member_text(at, "peer").and_then(|text| address(reader, "cluster.members.peer", &text));
        let http = reader.member_text(at, "http").and_then(|text| address(reader, "cluster.members.http", &text));
        let (Some(peer), Some(http)) = (peer, http) else { continue };
        if !ids.insert(id) {
            reader.problem(format!("cluster.members names node {id} twice: every node has its own id"));
        }
        for address in [&peer, &http] {
            if address.is_wildcard() {
                reader.problem(format!(
                    "cluster.members says {address} of node {id}, which nobody can dial: name its host"
                ));
            }
            if !addresses.insert(address.to_string()) {
                reader.problem(format!("cluster.members names {address} twice: every port has its own address"));
            }
        }
        members.push(Member { id, peer, http });
    }
    (reader.problem_count() == before).then_some(members)
}

fn address(reader: &mut Reader<'_>, key: &str, text: &str) -> Option<Address> {
    text.parse().map_err(|error: BadAddress| reader.problem(format!("{key} is {text:?}: {error}"))).ok()
}

/// Where to listen, of `[http]` or `[peer]`.
fn listen(reader: &mut Reader<'_>, section: &str) -> Option<Address> {
    let text = reader.text(section, "listen")?;
    address(reader, &format!("{section}.listen"), &text)
}

/// What others are told of `[http]`: what the file says, else what the list of members says, else where we listen.
fn advertise(reader: &mut Reader<'_>, listen: Option<&Address>, own: Option<&Address>) -> Option<Address> {
    let text = reader.text("http", "advertise")?;
    if text.is_empty() {
        let told = own.or(listen)?;
        if told.is_wildcard() {
            reader.problem(format!(
                "http.advertise is empty and http.listen is {told}, which nobody can dial: say where others reach this node"
            ));
            return None;
        }
        return Some(told.clone());
    }
    let told = address(reader, "http.advertise", &text)?;
    if let Some(own) = own.filter(|own| **own != told) {
        reader.problem(format!(
            "http.advertise is {told}, but cluster.members says {own}: make them equal, or leave it empty"
        ));
    }
    Some(told)
}

/// A bearer key, from the environment or the file.
fn bearer_key(
    reader: &mut Reader<'_>,
    name: &str,
    variable: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<Secret> {
    let (from, text) = secret(reader, name, variable, env)?;
    if let Some(weakness) = weakness(&text) {
        reader.problem(format!("{from} {weakness}: run `agora init` to make a strong one"));
        return None;
    }
    Some(Secret(text))
}

/// Where a secret comes from, for messages, and the secret.
fn secret(
    reader: &mut Reader<'_>,
    name: &str,
    variable: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<(String, String)> {
    match env(variable) {
        Some(text) => {
            reader.skip("keys", name);
            Some((format!("{variable} (environment)"), text))
        }
        None => reader.text("keys", name).map(|text| (format!("keys.{name}"), text)),
    }
}

/// What makes a bearer key too weak to be one.
fn weakness(text: &str) -> Option<String> {
    if text == PLACEHOLDER {
        return Some("is still the placeholder".to_owned());
    }
    let chars = text.chars().count();
    if !(KEY_CHARS_MIN..=KEY_CHARS_MAX).contains(&chars) {
        return Some(format!("has {chars} characters, {KEY_CHARS_MIN} to {KEY_CHARS_MAX} are needed"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("has a character that cannot stand in a header (printable ASCII without spaces can)".to_owned());
    }
    let distinct = text.bytes().collect::<BTreeSet<_>>().len();
    (distinct < KEY_DISTINCT_MIN).then(|| format!("has {distinct} different characters, {KEY_DISTINCT_MIN} are needed"))
}

fn peer_secret(reader: &mut Reader<'_>, env: &dyn Fn(&str) -> Option<String>) -> Option<[u8; 32]> {
    let (from, text) = secret(reader, "peer", "AGORA_PEER_SECRET", env)?;
    if text == PLACEHOLDER {
        reader.problem(format!("{from} is still the placeholder: run `agora init` to make a strong one"));
        return None;
    }
    let bytes = from_hex(&text).filter(|bytes| bytes.iter().collect::<BTreeSet<_>>().len() >= KEY_DISTINCT_MIN);
    if bytes.is_none() {
        reader.problem(format!("{from} is not 64 random hex digits: run `agora init` to make a strong one"));
    }
    bytes
}

/// 64 hex digits as 32 bytes.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0_u8; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

fn shop(reader: &mut Reader<'_>) -> Option<ShopSettings> {
    let order_ttl_ms = reader.number("shop", "order_ttl_ms");
    let live_entities_max = reader.size("shop", "live_entities_max");
    let hosts = reader.size("shop", "hosts");
    let admission_max = reader.number("shop", "admission_max");
    let timer_tick_ms = reader.number("shop", "timer_tick_ms");
    Some(ShopSettings {
        order_ttl_ms: order_ttl_ms?,
        live_entities_max: live_entities_max?,
        hosts: hosts?,
        admission_max: admission_max?,
        timer_tick_ms: timer_tick_ms?,
    })
}

fn raft(reader: &mut Reader<'_>) -> Option<RaftSettings> {
    let heartbeat_ms = reader.number("raft", "heartbeat_ms");
    let election_min_ms = reader.number("raft", "election_min_ms");
    let election_max_ms = reader.number("raft", "election_max_ms");
    let entry_count_max = reader.size("raft", "entry_count_max");
    let entry_bytes_max = reader.size("raft", "entry_bytes_max");
    let entries_in_flight_max = reader.size("raft", "entries_in_flight_max");
    let log_bytes_max = reader.number("raft", "log_bytes_max");
    let snapshot_log_bytes = reader.number("raft", "snapshot_log_bytes");
    let settings = RaftSettings {
        heartbeat_ms: heartbeat_ms?,
        election_min_ms: election_min_ms?,
        election_max_ms: election_max_ms?,
        entry_count_max: entry_count_max?,
        entry_bytes_max: entry_bytes_max?,
        entries_in_flight_max: entries_in_flight_max?,
        log_bytes_max: log_bytes_max?,
        snapshot_log_bytes: snapshot_log_bytes?,
    };
    if settings.election_min_ms < 2 * settings.heartbeat_ms {
        reader.problem(format!(
            "raft.election_min_ms is {}: give at least twice raft.heartbeat_ms, {}",
            settings.election_min_ms,
            2 * settings.heartbeat_ms
        ));
    }
    if settings.election_max_ms <= settings.election_min_ms {
        reader.problem(format!(
            "raft.election_max_ms is {}: give more than raft.election_min_ms, {}",
            settings.election_max_ms, settings.election_min_ms
        ));
    }
    if settings.snapshot_log_bytes > settings.log_bytes_max {
        reader.problem(format!(
            "raft.snapshot_log_bytes is {}: give at most raft.log_bytes_max, {}",
            settings.snapshot_log_bytes, settings.log_bytes_max
        ));
    }
    Some(settings)
}

fn storage(reader: &mut Reader<'_>) -> Option<StorageSettings> {
    let cache_bytes = reader.number("storage", "cache_bytes");
    let memtable_bytes = reader.number("storage", "memtable_bytes");
    let journal_bytes_max = reader.number("storage", "journal_bytes_max");
    Some(StorageSettings {
        cache_bytes: cache_bytes?,
        memtable_bytes: memtable_bytes?,
        journal_bytes_max: journal_bytes_max?,
    })
}

fn log_level(reader: &mut Reader<'_>) -> Option<String> {
    let level = reader.text("log", "level")?;
    match tracing_subscriber::EnvFilter::builder().parse(&level) {
        Ok(_) if !level.trim().is_empty() => Some(level),
        Ok(_) => {
            reader.problem("log.level is empty: give error, warn, info, debug or trace");
            None
        }
        Err(error) => {
            reader.problem(format!("log.level is {level:?}: {error}; give error, warn, info, debug or trace"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
