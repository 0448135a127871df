//! A run's directory: written while it runs, read by checkers and people.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    calls::{Call, Fault, NodeId, Record, Run},
    feed::FeedEvent,
    finals::Finals,
};

/// Everything a checker may look at.
#[derive(Clone, Debug, Default)]
pub struct RunData {
    pub run: Run,
    pub calls: Vec<Call>,
    pub faults: Vec<Fault>,
    /// The whole feed by node.
    pub feeds: BTreeMap<NodeId, Vec<FeedEvent>>,
    pub finals: Finals,
}

/// A directory of the documented layout.
#[derive(Clone, Debug)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// Names it; nothing is made yet.
    pub fn new(root: impl Into<PathBuf>) -> RunDir {
        RunDir { root: root.into() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a whole run.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, data: &RunData) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        let mut out = BufWriter::new(File::create(self.root.join("history.jsonl"))?);
        line(&mut out, &Record::Run(data.run.clone()))?;
        for call in &data.calls {
            line(&mut out, &Record::Call(Box::new(call.clone())))?;
        }
        for fault in &data.faults {
            line(&mut out, &Record::Fault(fault.clone()))?;
        }
        out.flush()?;
        for (node, feed) in &data.feeds {
            let mut out = BufWriter::new(File::create(self.feed_path(*node))?);
            for event in feed {
                line(&mut out, event)?;
            }
            out.flush()?;
        }
        let mut out = BufWriter::new(File::create(self.root.join("finals.json"))?);
        serde_json::to_writer_pretty(&mut out, &data.finals)?;
        out.flush()
    }

    /// Reads a whole run.
    ///
    /// # Errors
    /// Those of the file system, and `InvalidData` naming file and line for what cannot be understood.
    pub fn read(&self) -> io::Result<RunData> {
        let mut data = RunData::default();
        for record in lines::<Record>(&self.root.join("history.jsonl"))? {
            match record {
                Record::Run(run) => data.run = run,
                Record::Call(call) => data.calls.push(*call),
                Record::Fault(fault) => data.faults.push(fault),
            }
        }
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let node = name.strip_prefix("feed-").and_then(|rest| rest.strip_suffix(".jsonl"));
            if let Some(node) = node.and_then(|node| node.parse().ok()) {
                data.feeds.insert(node, lines(&path)?);
            }
        }
        data.finals = serde_json::from_reader(BufReader::new(File::open(self.root.join("finals.json"))?))?;
        Ok(data)
    }

    fn feed_path(&self, node: NodeId) -> PathBuf {
        self.root.join(format!("feed-{node}.jsonl"))
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn lines<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    BufReader::new(File::open(path)?)
        .lines()
        .enumerate()
        .map(|(number, text)| {
            serde_json::from_str(&text?).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}:{}: {error}", path.display(), number + 1))
            })
        })
        .collect()
}
