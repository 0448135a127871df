//! `agora cluster …` and `agora snapshot …`: looks at a cluster and changes its members, over HTTP, at any node.
//!
//! What a node answers is shown as a table, or as it is with `--json`. Every change is safe to repeat; the node that is
//! asked finds the leader by itself.

use std::{io::Write, time::Duration};

use http::Method;
use serde_json::{Value, json};

use crate::{
    cli::{Access, ClusterCommand, SnapshotCommand},
    client::{self, Answer, Client, KeyOf},
    init,
    table::{self, Column, figures, words},
};

/// Deadline of a command, its repetitions included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline of making a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);
/// Hex digits of a digest shown in a table; all of them are in the JSON.
const DIGEST_CHARS: usize = 12;

/// `agora cluster …`.
pub async fn cluster(command: &ClusterCommand) -> anyhow::Result<()> {
    match command {
        ClusterCommand::Status { access } => {
            let status = connect(access, TIMEOUT)?.get("/api/v2/cluster/status").await?;
            show(access, &status, status_text)
        }
        ClusterCommand::Members { access } => {
            let members = connect(access, TIMEOUT)?.get("/api/v2/cluster/members").await?;
            show(access, &members, members_text)
        }
        ClusterCommand::Add { id, peer, http, access } => {
            let body = json!({"id": id, "peer": client::endpoint(peer)?.to_string(), "http": client::endpoint(http)?.to_string()});
            let answer = change(access, Method::POST, "/api/v2/cluster/members", Some(body)).await?;
            show(access, &answer, |answer| added_text(*id, answer))
        }
        ClusterCommand::Promote { id, access } => {
            let answer =
                change(access, Method::POST, &format!("/api/v2/cluster/members/{id}/promote"), Some(json!({}))).await?;
            show(access, &answer, |_| format!("node {id} is a voter\n"))
        }
        ClusterCommand::Remove { id, access } => {
            let answer = change(access, Method::DELETE, &format!("/api/v2/cluster/members/{id}"), None).await?;
            show(access, &answer, |_| format!("node {id} is removed; stop it, and never use its id again\n"))
        }
        ClusterCommand::Transfer { to, access } => {
            let body = to.map_or_else(|| json!({}), |to| json!({"to": to}));
            let answer = change(access, Method::POST, "/api/v2/cluster/leader/transfer", Some(body)).await?;
            show(access, &answer, |answer| format!("node {} leads\n", text(answer, "leader")))
        }
    }
}

/// `agora snapshot …`.
pub async fn snapshot(command: &SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Create { access } => {
            let client = connect(access, SNAPSHOT_TIMEOUT)?.patient();
            let key = init::random_hex(16)?;
            let answer = client.post("/api/v2/cluster/snapshots", &key, &json!({})).await?;
            show(access, &answer, |answer| snapshots_text(&json!({"data": [answer]})))
        }
        SnapshotCommand::List { access } => {
            let answer = connect(access, TIMEOUT)?.get("/api/v2/cluster/snapshots").await?;
            show(access, &answer, snapshots_text)
        }
    }
}

fn connect(access: &Access, deadline: Duration) -> anyhow::Result<Client> {
    let env = |name: &str| std::env::var(name).ok();
    let (endpoints, key) = client::resolve(access, access.admin_key.as_deref(), KeyOf::Admin, &env)?;
    Client::new(endpoints, Some(&key), deadline)
}

/// A change of the cluster, under a fresh idempotency key.
async fn change(access: &Access, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Answer> {
    let key = init::random_hex(16)?;
    connect(access, TIMEOUT)?.send(method, path, Some(&key), body.as_ref()).await?.success()
}

fn show(access: &Access, answer: &Answer, text: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if access.json {
        out.write_all(&answer.raw)?;
        writeln!(out)?;
    } else {
        out.write_all(text(&answer.body).as_bytes())?;
    }
    Ok(())
}

/// The table of `cluster status`, and a line that sums it up.
fn status_text(status: &Value) -> String {
    const COLUMNS: [Column; 10] = [
        words("NODE"),
        words("ADDR"),
        words("ROLE"),
        figures("TERM"),
        figures("COMMIT"),
        figures("APPLIED"),
        figures("LAG"),
        words("VERSION"),
        words("HEALTH"),
        words("DIGEST"),
    ];
    let members = list(status, "members");
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|member| {
            vec![
                node_name(member),
                text(member, "http"),
                text(member, "role"),
                text(member, "term"),
                text(member, "commit_index"),
                text(member, "applied_index"),
                text(member, "lag"),
                text(member, "version"),
                text(member, "health"),
                digest(member),
            ]
        })
        .collect();
    let leader = match status.get("leader").and_then(Value::as_u64) {
        Some(leader) => format!("leader n{leader}"),
        None => "no leader".to_owned(),
    };
    let voters = members.iter().filter(|member| text(member, "role") != "learner").count();
    let healthy =
        members.iter().filter(|member| text(member, "role") != "learner" && text(member, "health") == "ok").count();
    let quorum = voters / 2 + 1;
    format!("{}{leader} · {healthy} of {voters} voters ok, {quorum} needed\n", table::render(&COLUMNS, &rows))
}

/// What adding a node came to. It is safe to repeat, so the node may be a voter already.
fn added_text(id: u64, answer: &Value) -> String {
    let is_it = |member: &&Value| member.get("id").and_then(Value::as_u64) == Some(id);
    match list(answer, "members").iter().find(is_it).map(|member| text(member, "role")) {
        Some(role) if role != "learner" => format!("node {id} is a voter already; nothing was changed\n"),
        _ => format!("node {id} is a learner; when it has caught up: agora cluster promote {id}\n"),
    }
}

/// `n12345`: a name, so its digits are not grouped.
fn node_name(member: &Value) -> String {
    member.get("id").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), |id| format!("n{id}"))
}

/// The digest at a member's last checkpoint, and that checkpoint's index: digests are equal only at equal indexes.
fn digest(member: &Value) -> String {
    let start: String = text(member, "digest").chars().take(DIGEST_CHARS).collect();
    match member.pointer("/checkpoint/index").and_then(Value::as_u64) {
        Some(index) => format!("{start}@{index}"),
        None => start,
    }
}

fn members_text(answer: &Value) -> String {
    const COLUMNS: [Column; 4] = [words("NODE"), words("ROLE"), words("PEER"), words("HTTP")];
    let rows: Vec<Vec<String>> = list(answer, "members")
        .iter()
        .map(|member| vec![node_name(member), text(member, "role"), text(member, "peer"), text(member, "http")])
        .collect();
    table::render(&COLUMNS, &rows)
}

fn snapshots_text(answer: &Value) -> String {
    const COLUMNS: [Column; 4] = [words("NAME"), figures("INDEX"), figures("TERM"), figures("BYTES")];
    let rows: Vec<Vec<String>> = list(answer, "data")
        .iter()
        .map(|one| vec![text(one, "name"), text(one, "index"), text(one, "term"), text(one, "bytes")])
        .collect();
    if rows.is_empty() {
        return "no snapshots; agora snapshot create makes one\n".to_owned();
    }
    table::render(&COLUMNS, &rows)
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A field as a cell: figures grouped by thousands, `-` for what is not known.
fn text(object: &Value, name: &str) -> String {
    match object.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.as_u64().map_or_else(|| number.to_string(), table::grouped),
        Some(Value::Bool(yes)) => yes.to_string(),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_a_table_and_a_sum() {
        let member = |id: u64, role: &str, applied: Value, health: &str| {
            json!({
                "id": id, "http": format!("10.0.0.{id}:8081"), "role": role, "term": 3, "commit_index": 120_331,
                "applied_index": applied, "lag": 0, "version": "0.1.0", "health": health,
                "digest": "0123456789abcdef0123456789abcdef", "checkpoint": {"index": 120_000},
            })
        };
        let status = json!({
            "leader": 1,
            "members": [
                member(1, "leader", json!(120_331), "ok"),
                member(2, "follower", json!(120_329), "ok"),
                member(3, "follower", Value::Null, "unreachable"),
            ],
        });
        let expected = "\
NODE  ADDR           ROLE      TERM   COMMIT  APPLIED  LAG  VERSION  HEALTH       DIGEST
n1    10.0.0.1:8081  leader       3  120 331  120 331    0  0.1.0    ok           0123456789ab@120000
n2    10.0.0.2:8081  follower     3  120 331  120 329    0  0.1.0    ok           0123456789ab@120000
n3    10.0.0.3:8081  follower     3  120 331        -    0  0.1.0    unreachable  0123456789ab@120000
leader n1 · 2 of 3 voters ok, 2 needed
";
        assert_eq!(status_text(&status), expected);
    }

    #[test]
    fn adding_again_says_what_the_node_is_and_names_are_not_figures() {
        let answer = json!({"members": [{"id": 2, "role": "follower"}, {"id": 12_345, "role": "learner"}]});
        assert_eq!(added_text(2, &answer), "node 2 is a voter already; nothing was changed\n");
        assert!(added_text(12_345, &answer).starts_with("node 12345 is a learner; "));
        assert!(members_text(&answer).contains("\nn12345  learner"));
    }

    #[test]
    fn no_snapshots_say_how_to_make_one() {
        assert!(snapshots_text(&json!({"data": []})).starts_with("no snapshots"));
    }
}
