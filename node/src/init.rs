//! `agora init`: configuration files for a new cluster, with strong fresh secrets.
//!
//! Every secret is drawn from the operating system here and nowhere else; the same are written into the files of all
//! nodes. Files are readable by their owner alone, and an existing file is never overwritten: it may hold the only
//! copy of a running cluster's secrets.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

use crate::{
    cli::InitArgs,
    config::{Address, Member, keys::MEMBERS_MAX, write::Draft},
};

/// What all nodes of a cluster share and nobody else knows.
pub struct Secrets {
    /// Bearer key of the shop, `sk_live_…`.
    pub shop_key: String,
    /// Bearer key of cluster administration, `sk_admin_…`.
    pub admin_key: String,
    /// 64 hex digits.
    pub peer_secret: String,
    /// 32 hex digits; not secret, but drawn once.
    pub lineage: String,
}

impl Secrets {
    /// Draws all of them, 256 bits each, the lineage 128.
    pub fn fresh() -> anyhow::Result<Secrets> {
        Ok(Secrets {
            shop_key: format!("sk_live_{}", random_hex(32)?),
            admin_key: format!("sk_admin_{}", random_hex(32)?),
            peer_secret: random_hex(32)?,
            lineage: random_hex(16)?,
        })
    }
}

/// Where the nodes of a new cluster shall be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the cluster.
    pub cluster: String,
    /// How many nodes.
    pub nodes: u16,
    /// One host per node; none: all on 127.0.0.1, with ports in a row.
    pub hosts: Vec<String>,
    /// HTTP port, of the first node when they share a host.
    pub http_port: u16,
    /// Peer port, likewise.
    pub peer_port: u16,
    /// Data directory of every node; `None`: `data/n<id>` beside the file.
    pub data_dir: Option<String>,
    /// For the top of the files.
    pub header: String,
    /// Keys that shall not have their default.
    pub changed: Vec<(&'static str, &'static str, toml::Value)>,
}

impl Plan {
    /// That many nodes on this machine.
    pub fn new(nodes: u16) -> Plan {
        Plan {
            cluster: "agora".to_owned(),
            nodes,
            hosts: Vec::new(),
            http_port: 8081,
            peer_port: 7401,
            data_dir: None,
            header: "Configuration of one Agora node, written by `agora init`. It holds secrets: keep it readable by the service alone."
                .to_owned(),
            changed: Vec::new(),
        }
    }

    /// The files, one per node.
    pub fn drafts(&self, secrets: &Secrets) -> anyhow::Result<Vec<Draft>> {
        let members = self.members()?;
        let draft = |member: &Member| -> anyhow::Result<Draft> {
            let host = if self.hosts.is_empty() { "127.0.0.1" } else { "0.0.0.0" };
            Ok(Draft {
                header: self.header.clone(),
                node_id: member.id,
                data_dir: self.data_dir.clone().unwrap_or_else(|| format!("data/n{}", member.id)),
                cluster: self.cluster.clone(),
                lineage: secrets.lineage.clone(),
                members: members.clone(),
                http_listen: Address::new(host, member.http.port())?,
                peer_listen: Address::new(host, member.peer.port())?,
                shop_key: secrets.shop_key.clone(),
                admin_key: secrets.admin_key.clone(),
                peer_secret: secrets.peer_secret.clone(),
                changed: self.changed.clone(),
            })
        };
        members.iter().map(draft).collect()
    }

    fn members(&self) -> anyhow::Result<Vec<Member>> {
        ensure!((1..=MEMBERS_MAX).contains(&usize::from(self.nodes)), "{} nodes: give 1 to {MEMBERS_MAX}", self.nodes);
        if !self.hosts.is_empty() && self.hosts.len() != usize::from(self.nodes) {
            bail!("{} hosts for {} nodes: name one host for each node", self.hosts.len(), self.nodes);
        }
        (0..self.nodes).map(|at| self.member(at)).collect()
    }

    fn member(&self, at: u16) -> anyhow::Result<Member> {
        let (host, step) = match self.hosts.get(usize::from(at)) {
            Some(host) => (host.as_str(), 0),
            None => ("127.0.0.1", at),
        };
        let address = |port: u16| -> anyhow::Result<Address> {
            let port = port.checked_add(step).with_context(|| format!("port {port} + {step} is above 65535"))?;
            Address::new(host, port).with_context(|| format!("{host}:{port}"))
        };
        Ok(Member { id: u64::from(at) + 1, peer: address(self.peer_port)?, http: address(self.http_port)? })
    }
}

/// Random bytes as hex digits, two each.
pub fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut raw = vec![0_u8; bytes];
    getrandom::fill(&mut raw)
        .map_err(|error| anyhow::anyhow!("the operating system gives no random bytes: {error}"))?;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes one file per node into `dir`, or none if one of them exists. Their paths, in order of node.
pub fn write_files(dir: &Path, drafts: &[Draft]) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let paths: Vec<PathBuf> = drafts.iter().map(|draft| dir.join(format!("n{}.toml", draft.node_id))).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        bail!(
            "{} exists and is not overwritten: it may hold the secrets of a running cluster; choose another --dir",
            path.display()
        );
    }
    for (path, draft) in paths.iter().zip(drafts) {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        file.write_all(draft.render().as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(paths)
}

/// The command.
pub fn run(args: &InitArgs) -> anyhow::Result<()> {
    let mut plan = Plan::new(args.nodes.unwrap_or(if args.hosts.is_empty() { 3 } else { args.hosts.len() as u16 }));
    plan.cluster.clone_from(&args.cluster);
    plan.hosts.clone_from(&args.hosts);
    plan.http_port = args.http_port;
    plan.peer_port = args.peer_port;
    plan.data_dir = args.data_dir.clone().or_else(|| (!args.hosts.is_empty()).then(|| "/var/lib/agora".to_owned()));
    let drafts = plan.drafts(&Secrets::fresh()?)?;
    // What is written must start: a cluster name that validation refuses is refused here already.
    for draft in &drafts {
        crate::config::Config::parse(&args.dir, &draft.render(), &|_| None)?;
    }
    let paths = write_files(&args.dir, &drafts)?;
    if args.json {
        let files: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        println!("{}", serde_json::json!({ "cluster": plan.cluster, "files": files }));
        return Ok(());
    }
    println!("wrote {} configuration files with fresh secrets, readable by you alone:", paths.len());
    for (path, draft) in paths.iter().zip(&drafts) {
        let member = &draft.members[draft.node_id as usize - 1];
        println!("  {}   node {}, http {}, peers {}", path.display(), draft.node_id, member.http, member.peer);
    }
    println!("\nstart each node{}:", if args.hosts.is_empty() { "" } else { " on its host" });
    for path in &paths {
        println!("  agora start --config {}", path.display());
    }
    println!("then look:\n  agora cluster status --config {}", paths[0].display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_written_is_accepted_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::new(3);
        let drafts = plan.drafts(&Secrets::fresh().unwrap()).unwrap();
        let paths = write_files(dir.path(), &drafts).unwrap();
        let configs: Vec<Config> = paths
            .iter()
            .map(|path| Config::parse(path, &fs::read_to_string(path).unwrap(), &|_| None).unwrap())
            .collect();
        assert_eq!(fs::metadata(&paths[0]).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(configs[2].http.listen.to_string(), "127.0.0.1:8083");
        assert_eq!(configs[1].data_dir, dir.path().join("data/n2"));
        for config in &configs {
            assert_eq!((config.lineage, &config.peer_secret), (configs[0].lineage, &configs[0].peer_secret));
            assert_eq!(config.members, configs[0].members);
        }
        let before = fs::read_to_string(&paths[0]).unwrap();
        let error = write_files(dir.path(), &plan.drafts(&Secrets::fresh().unwrap()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("is not overwritten"), "{error}");
        assert_eq!(fs::read_to_string(&paths[0]).unwrap(), before);
    }

    #[test]
    fn two_draws_share_nothing() {
        let (a, b) = (Secrets::fresh().unwrap(), Secrets::fresh().unwrap());
        assert!(a.shop_key.starts_with("sk_live_") && a.shop_key != b.shop_key);
        assert!(a.admin_key != b.admin_key && a.peer_secret != b.peer_secret && a.lineage != b.lineage);
    }

    #[test]
    fn hosts_share_ports_and_listen_everywhere() {
        let mut plan = Plan::new(2);
        plan.hosts = vec!["a.example".to_owned(), "10.0.0.2".to_owned()];
        let drafts = plan.drafts(&Secrets::fresh().unwrap()).unwrap();
        assert_eq!(drafts[1].members[1].peer.to_string(), "10.0.0.2:7401");
        assert_eq!(drafts[1].http_listen.to_string(), "0.0.0.0:8081");
        plan.hosts.pop();
        assert_eq!(
            plan.drafts(&Secrets::fresh().unwrap()).err().unwrap().to_string(),
            "1 hosts for 2 nodes: name one host for each node"
        );
    }
}
