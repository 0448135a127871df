//! What is written down while a run goes on: calls and faults, with what is under way.
//!
//! Calls are kept in memory up to a bound and, where a run asks for it, written to a file as well, so that a run that is
//! killed leaves what it saw. Nothing here waits: a client records and goes on.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use agora_history::{Call, Fault, Level, Micros, NodeId, Op, Record, Reply, Run, Target};

/// Calls of one run that are kept; a run that would make more stops its load.
pub const CALLS_MAX: usize = 4_000_000;
/// Faults of one run.
const FAULTS_MAX: usize = 10_000;

/// Names a fault that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(usize);

/// An intention of a client, before it is tried.
#[derive(Clone, Debug)]
pub struct Intent {
    pub op: u64,
    pub client: u32,
    pub key: Option<String>,
    pub trace: String,
    pub level: Option<Level>,
    pub min_index: Option<u64>,
    pub request: Op,
}

/// How one attempt ended, before it is written down.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    pub reply: Reply,
    pub index: Option<u64>,
    pub staleness_ms: Option<u64>,
    pub replayed: bool,
    pub body_hash: Option<u64>,
}

/// The record of a run.
pub struct Recorder {
    seed: u64,
    ops: AtomicU64,
    in_flight: AtomicU64,
    writes_in_flight: AtomicU64,
    nodes: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    calls: Vec<Call>,
    faults: Vec<Fault>,
    stream: Option<BufWriter<File>>,
    trouble: Option<String>,
}

/// Counts a request as under way until dropped.
pub struct UnderWay<'a> {
    recorder: &'a Recorder,
    is_write: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.recorder.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.is_write {
            self.recorder.writes_in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Recorder {
    /// An empty one. The seed goes into keys and trace ids, so that two runs against one cluster do not share any.
    pub fn new(seed: u64) -> Recorder {
        Recorder {
            seed,
            ops: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            writes_in_flight: AtomicU64::new(0),
            nodes: AtomicU64::new(0),
            inner: Mutex::default(),
        }
    }

    /// Writes every record to a file as well, as it comes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn stream_to(&self, path: &Path, run: &Run) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        line(&mut out, &Record::Run(run.clone()))?;
        self.inner().stream = Some(out);
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock panics half-way; what a panicking task left is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new intention, with an id, a trace id and, for a write, a key that no other has.
    pub fn intend(&self, client: u32, request: Op) -> Intent {
        let op = self.ops.fetch_add(1, Ordering::Relaxed) + 1;
        let key = request.is_write().then(|| format!("{:016x}-{op:x}", self.seed));
        Intent { op, client, key, trace: self.trace(op), level: None, min_index: None, request }
    }

    /// The same intention with another body: the same key, but an op and a trace of its own.
    pub fn altered(&self, intent: &Intent, request: Op) -> Intent {
        let op = self.ops.fetch_add(1, Ordering::Relaxed) + 1;
        Intent { op, trace: self.trace(op), request, ..intent.clone() }
    }

    fn trace(&self, op: u64) -> String {
        // The upper half is the seed with a bit set, for an all-zero trace id is not valid.
        format!("{:016x}{op:016x}", self.seed | 1 << 63)
    }

    /// A node id that nobody else in this run was given, from what the cluster says is free.
    pub fn fresh_node(&self, free: NodeId) -> NodeId {
        let given = self.nodes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(free.max(last + 1)));
        free.max(given.unwrap_or(0) + 1)
    }

    /// Counts a request as under way.
    pub fn begin(&self, intent: &Intent) -> UnderWay<'_> {
        let is_write = intent.request.is_write();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        if is_write {
            self.writes_in_flight.fetch_add(1, Ordering::Relaxed);
        }
        UnderWay { recorder: self, is_write }
    }

    /// Writes an attempt down.
    pub fn record(&self, intent: &Intent, attempt: u32, node: NodeId, times: (Micros, Micros), answered: Answered) {
        let (invoked, returned) = times;
        let Answered { reply, index, staleness_ms, replayed, body_hash } = answered;
        let Intent { op, client, key, trace, level, min_index, request } = intent.clone();
        let call = Call {
            op,
            attempt,
            client,
            node,
            invoked,
            returned,
            key,
            trace,
            level,
            min_index,
            request,
            reply,
            index,
            staleness_ms,
            replayed,
            body_hash,
        };
        let mut inner = self.inner();
        if inner.calls.len() >= CALLS_MAX {
            inner.trouble.get_or_insert_with(|| format!("more than {CALLS_MAX} calls in one run"));
            return;
        }
        if inner.stream.is_some() {
            inner.write(&Record::Call(Box::new(call.clone())));
        }
        inner.calls.push(call);
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Writes under way.
    pub fn writes_in_flight(&self) -> u64 {
        self.writes_in_flight.load(Ordering::Relaxed)
    }

    /// Whether there is no room for more calls.
    pub fn is_full(&self) -> bool {
        self.inner().calls.len() >= CALLS_MAX
    }

    /// Attempts written down so far.
    pub fn calls_count(&self) -> usize {
        self.inner().calls.len()
    }

    /// A fault begins now. It hits what is under way at this moment.
    pub fn begin_fault(&self, nemesis: &str, kind: &str, from: Micros, targets: Vec<Target>, detail: &str) -> FaultId {
        let mut inner = self.inner();
        if inner.faults.len() >= FAULTS_MAX {
            inner.trouble.get_or_insert_with(|| format!("more than {FAULTS_MAX} faults in one run"));
        }
        inner.faults.push(Fault {
            nemesis: nemesis.to_owned(),
            kind: kind.to_owned(),
            from,
            until: None,
            targets,
            in_flight: self.in_flight(),
            detail: detail.to_owned(),
        });
        FaultId(inner.faults.len() - 1)
    }

    /// It is healed. The second time nothing happens.
    pub fn end_fault(&self, fault: FaultId, until: Micros) {
        let mut inner = self.inner();
        let Some(known) = inner.faults.get_mut(fault.0) else { return };
        if known.until.is_some() {
            return;
        }
        known.until = Some(until);
        let known = known.clone();
        inner.write(&Record::Fault(known));
    }

    /// Whatever is still on is healed now.
    pub fn end_all_faults(&self, until: Micros) {
        let count = self.inner().faults.len();
        for fault in 0..count {
            self.end_fault(FaultId(fault), until);
        }
    }

    /// Takes everything out. The error says why the record is not whole.
    ///
    /// # Errors
    /// When a bound was reached or the file could not be written.
    pub fn take(&self) -> Result<(Vec<Call>, Vec<Fault>), String> {
        let mut inner = self.inner();
        if let Some(Err(error)) = inner.stream.as_mut().map(Write::flush) {
            inner.trouble.get_or_insert(format!("the history could not be written: {error}"));
        }
        inner.stream = None;
        match inner.trouble.take() {
            Some(trouble) => Err(trouble),
            None => Ok((std::mem::take(&mut inner.calls), std::mem::take(&mut inner.faults))),
        }
    }
}

impl Inner {
    fn write(&mut self, record: &Record) {
        let Some(out) = self.stream.as_mut() else { return };
        if let Err(error) = line(out, record) {
            self.trouble.get_or_insert(format!("the history could not be written: {error}"));
            self.stream = None;
        }
    }
}

fn line(out: &mut impl Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *out, record)?;
    out.write_all(b"\n")
}
