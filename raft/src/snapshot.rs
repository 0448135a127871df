//! Snapshots on their way: from a live view to a peer, from a peer into a new generation, and into files for operators.
//!
//! ```text
//! leader → follower   INSTALL · CHUNK … · END        follower → leader   INSTALLED (its vote)
//! any    → any        PULL (need index)               answer              CHUNK … · END
//! ```
//!
//! Both ends work in bounded memory: the storage format is written and read by a thread of its own, joined to the
//! socket by a few chunks. What arrives goes straight into a new row generation, is verified as a whole, and only then
//! offered to the engine; whatever goes wrong before that leaves nothing behind.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use agora_storage::disk::{Disk, SnapshotInfo};
use agora_storage::rows::{RowView, Rows};
use agora_storage::snapshot::{SNAPSHOT_FORMAT, SnapshotHeader, install_snapshot, write_snapshot};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::counters::Counters;
use crate::identity::Who;
use crate::machine::{SnapshotHandle, Syncer};
use crate::rows_cell::{RowsCell, RowsMeta};
use crate::transport::Lane;
use crate::transport::frame::{Body, FRAME_BYTES_MAX, Frame, FrameReader, WriteQueue};
use crate::transport::link::Links;
use crate::transport::wire::{self, Install, Pull, kind};
use crate::types::VoteRecord;
use crate::world::{Clock, Exec, NetStream};

/// Size of one chunk on the wire.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks between the socket and the thread that reads or writes the format.
const CHUNKS_WAITING_MAX: usize = 4;
/// Snapshots sent at once by one node.
const SENDS_MAX: usize = 2;
/// Deadline for one step: a chunk written, a chunk received.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Deadline for the end: what was received is verified, made durable and made current.
const FINISH_TIMEOUT: Duration = Duration::from_secs(300);
/// After a snapshot, the log that follows it is kept so long: until the peer reads it, which keeps it, too.
const CATCH_UP_GRACE: Duration = Duration::from_secs(5);

/// Why a snapshot did not get through.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TransferError(pub(crate) String);

fn error(message: impl std::fmt::Display) -> TransferError {
    TransferError(message.to_string())
}

/// What all snapshots of a node have in common, and where new generations are made.
pub(crate) struct Template {
    pub(crate) who: Arc<Who>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) exec: Exec,
    /// Numbers given to generations that are being made; also keeps two of them from being made at once.
    pub(crate) making: Mutex<Making>,
}

/// State of making generations.
#[derive(Default)]
pub(crate) struct Making {
    last: u64,
    busy: bool,
}

/// One consistent state of our rows, ready to be streamed.
pub(crate) struct Source {
    // The engine shares what it carries between threads; only one ever reads it.
    view: Mutex<Box<dyn RowView>>,
    header: SnapshotHeader,
    // Keeps the generation from being removed under the view.
    _rows: Arc<dyn Rows>,
}

impl Source {
    /// Opens a view of the current rows; its own meta rows say what it is.
    pub(crate) fn open(rows: &RowsCell, template: &Template) -> agora_storage::Result<Source> {
        let rows = rows.rows();
        let view = rows.view()?;
        let meta = RowsMeta::read(&*view)?;
        let header = SnapshotHeader {
            format: SNAPSHOT_FORMAT,
            cluster: template.who.cluster().to_owned(),
            lineage: template.who.lineage(),
            index: meta.applied.index,
            term: meta.applied.term,
            membership: meta.membership,
            state: meta.state,
            created_ms: template.clock.wall_ms(),
        };
        Ok(Source { view: Mutex::new(view), header, _rows: rows })
    }

    /// What it is a snapshot of.
    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    fn write(&self, out: &mut dyn Write) -> agora_storage::Result<()> {
        write_snapshot(&**self.view.lock(), &self.header, out, &mut |_| Ok(())).map(|_| ())
    }
}

/// A complete, verified, durable generation that is not current yet. Dropped unused, it is removed.
pub(crate) struct Prepared {
    template: Arc<Template>,
    generation: u64,
    header: SnapshotHeader,
    rows: Option<Arc<dyn Rows>>,
    kept: bool,
}

impl Prepared {
    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Hands out the rows; the generation stays.
    pub(crate) fn keep(mut self) -> Arc<dyn Rows> {
        self.kept = true;
        self.rows.take().expect("handed out once")
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.template.making.lock().busy = false;
        if !self.kept {
            self.rows = None;
            if let Err(error) = self.template.disk.remove_rows(self.generation) {
                tracing::warn!(generation = self.generation, %error, "rows that were not installed could not be removed");
            }
        }
    }
}

impl Template {
    /// Makes a new generation from a stream, verifies it and makes it durable. Blocks.
    pub(crate) fn prepare(self: &Arc<Self>, current: u64, input: &mut dyn Read) -> Result<Prepared, TransferError> {
        let generation = {
            let mut making = self.making.lock();
            if making.busy {
                return Err(error("another snapshot is being received"));
            }
            let on_disk = self.disk.list_generations().map_err(error)?.last().copied().unwrap_or(0);
            making.last = making.last.max(on_disk).max(current) + 1;
            making.busy = true;
            making.last
        };
        // From here on dropping it cleans up.
        let mut prepared = Prepared {
            template: self.clone(),
            generation,
            header: SnapshotHeader {
                format: SNAPSHOT_FORMAT,
                cluster: String::new(),
                lineage: 0,
                index: 0,
                term: 0,
                membership: Default::default(),
                state: Default::default(),
                created_ms: 0,
            },
            rows: None,
            kept: false,
        };
        let rows = self.disk.create_rows(generation).map_err(error)?;
        prepared.rows = Some(rows.clone());
        let header = install_snapshot(input, &*rows, &mut |_| Ok(())).map_err(error)?;
        if header.cluster != self.who.cluster() || header.lineage != self.who.lineage() {
            return Err(error(format!(
                "the snapshot is of cluster {:?} and lineage {:032x}, this node belongs to {:?} and {:032x}",
                header.cluster,
                header.lineage,
                self.who.cluster(),
                self.who.lineage()
            )));
        }
        self.disk.finish_rows(generation).map_err(error)?;
        prepared.header = header;
        Ok(prepared)
    }

    /// From our own format to a new generation without a network between.
    #[cfg(test)]
    pub(crate) fn prepare_from(self: &Arc<Self>, source: Source) -> Result<Prepared, TransferError> {
        let mut bytes = Vec::new();
        source.write(&mut bytes).map_err(error)?;
        drop(source);
        self.prepare(0, &mut bytes.as_slice())
    }
}

/// Sends snapshots.
pub(crate) struct Sender {
    pub(crate) counters: Arc<Counters>,
    pub(crate) exec: Exec,
    pub(crate) slots: Semaphore,
    /// What peers are given, and when that ended: by target.
    given: Mutex<BTreeMap<u64, Given>>,
}

#[derive(Clone, Copy)]
struct Given {
    index: u64,
    ended: Option<Instant>,
}

/// Notes the end of a transfer, however it ends.
struct Giving<'a> {
    sender: &'a Sender,
    target: u64,
}

impl Drop for Giving<'_> {
    fn drop(&mut self) {
        if let Some(given) = self.sender.given.lock().get_mut(&self.target) {
            given.ended = Some(Instant::now());
        }
    }
}

impl Sender {
    pub(crate) fn new(counters: Arc<Counters>, exec: Exec) -> Sender {
        Sender { counters, exec, slots: Semaphore::new(SENDS_MAX), given: Mutex::default() }
    }

    fn giving(&self, target: u64, index: u64) -> Giving<'_> {
        self.given.lock().insert(target, Given { index, ended: None });
        Giving { sender: self, target }
    }

    /// The index from which on the log is needed by those who are being given a snapshot, or were a moment ago: without
    /// it, they need another one when they have this one, and so on for as long as the log moves faster than a snapshot.
    pub(crate) fn log_needed_after(&self) -> Option<u64> {
        let mut given = self.given.lock();
        given.retain(|_, given| given.ended.is_none_or(|at| at.elapsed() < CATCH_UP_GRACE));
        given.values().map(|given| given.index).min()
    }

    /// Sends a snapshot as the leader that `vote` names; returns the follower's vote when it is installed there.
    pub(crate) async fn send(
        &self,
        links: &Links,
        target: u64,
        vote: VoteRecord,
        snapshot: SnapshotHandle,
    ) -> Result<VoteRecord, TransferError> {
        let SnapshotHandle::Source(source) = snapshot else {
            return Err(error("only a view of our own rows can be sent"));
        };
        let index = source.header().index;
        let _giving = self.giving(target, index);
        let _slot = self.slots.acquire().await.map_err(error)?;
        tracing::info!(target_node = target, index, "sending a snapshot");
        let stream = links.dial_own(target, Lane::Snapshot).await.map_err(error)?;
        let (read, mut write) = tokio::io::split(stream);
        let mut answers = FrameReader::new(read, FRAME_BYTES_MAX);
        send_frame(&mut write, kind::INSTALL, wire::encode(&Install { vote })).await?;
        {
            let sending = stream_out(*source, &mut write, self.exec);
            let answer = answers.next();
            tokio::select! {
                sent = sending => sent?,
                // It may say early that it will not take it.
                answer = answer => return read_verdict(answer.map_err(error)?),
            }
        }
        let answer = tokio::time::timeout(FINISH_TIMEOUT, answers.next())
            .await
            .map_err(|_| error("no answer after the last chunk"))?;
        let verdict = read_verdict(answer.map_err(error)?);
        if verdict.is_ok() {
            self.counters.snapshots_sent.one();
            tracing::info!(target_node = target, index, "a snapshot was installed by a peer");
        }
        verdict
    }

    /// Answers a pull: streams the rows as they are now.
    pub(crate) async fn answer_pull(
        &self,
        write: &mut WriteHalf<Box<dyn NetStream>>,
        pull: Pull,
        rows: &RowsCell,
        template: &Template,
    ) -> Result<(), TransferError> {
        let source = Source::open(rows, template).map_err(error)?;
        let index = source.header().index;
        if index < pull.need_index || index == 0 {
            return refuse(write, &format!("rows stand at index {index}, {} is needed", pull.need_index)).await;
        }
        let Ok(_slot) = self.slots.try_acquire() else { return refuse(write, "busy sending other snapshots").await };
        stream_out(source, write, self.exec).await?;
        self.counters.snapshots_sent.one();
        Ok(())
    }
}

fn read_verdict(frame: Option<Frame>) -> Result<VoteRecord, TransferError> {
    match frame {
        Some(Frame { kind: kind::INSTALLED, body, .. }) => wire::decode(&body.into_bytes()).map_err(error),
        Some(Frame { kind: kind::FAILED, body, .. }) => {
            Err(error(format!("the peer failed: {}", String::from_utf8_lossy(&body.into_bytes()))))
        }
        Some(frame) => Err(error(format!("answer of kind {} to a snapshot", frame.kind))),
        None => Err(error("the peer closed the connection")),
    }
}

/// Refuses with a reason and fails.
async fn refuse(write: &mut WriteHalf<Box<dyn NetStream>>, reason: &str) -> Result<(), TransferError> {
    send_frame(write, kind::FAILED, Body::from(Bytes::copy_from_slice(reason.as_bytes()))).await?;
    Err(error(reason))
}

async fn send_frame(write: &mut WriteHalf<Box<dyn NetStream>>, kind: u8, body: Body) -> Result<(), TransferError> {
    let mut queue = WriteQueue::default();
    queue.push(Frame { kind, id: 0, body });
    match tokio::time::timeout(STEP_TIMEOUT, queue.write_to(write)).await {
        Ok(written) => written.map_err(error),
        Err(_) => Err(error("the peer does not read")),
    }
}

/// Streams a source as chunks and an end.
async fn stream_out(
    source: Source,
    write: &mut WriteHalf<Box<dyn NetStream>>,
    exec: Exec,
) -> Result<(), TransferError> {
    if exec == Exec::Inline {
        let mut whole = Vec::new();
        source.write(&mut whole).map_err(error)?;
        for chunk in whole.chunks(CHUNK_BYTES) {
            send_frame(write, kind::CHUNK, Body::from(Bytes::copy_from_slice(chunk))).await?;
        }
        return send_frame(write, kind::END, Body::default()).await;
    }
    let (chunks, mut waiting) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
    let writing = spawn("agora-snap-out", move || {
        let mut out = ChunkWriter { chunks, buffer: BytesMut::new() };
        source.write(&mut out).map_err(error)?;
        out.flush().map_err(error)
    })?;
    while let Some(chunk) = waiting.recv().await {
        send_frame(write, kind::CHUNK, Body::from(chunk)).await?;
    }
    writing.await.map_err(error)??;
    send_frame(write, kind::END, Body::default()).await
}

/// Receives chunks into a new generation.
async fn stream_in(
    answers: &mut FrameReader<ReadHalf<Box<dyn NetStream>>>,
    template: &Arc<Template>,
    current: u64,
) -> Result<Prepared, TransferError> {
    if template.exec == Exec::Inline {
        let mut whole = Vec::new();
        while let Some(chunk) = next_chunk(answers).await? {
            whole.extend_from_slice(&chunk);
        }
        return template.prepare(current, &mut whole.as_slice());
    }
    let (chunks, waiting) = mpsc::channel::<Bytes>(CHUNKS_WAITING_MAX);
    let template = template.clone();
    let preparing = spawn("agora-snap-in", move || {
        let mut input = ChunkReader { waiting, rest: Bytes::new() };
        let prepared = template.prepare(current, &mut input)?;
        if !input.at_end() {
            return Err(error("bytes after the end of the snapshot"));
        }
        Ok(prepared)
    })?;
    let received = async {
        while let Some(chunk) = next_chunk(answers).await? {
            if chunks.send(chunk).await.is_err() {
                // The other end found something wrong and says so below.
                break;
            }
        }
        drop(chunks);
        Ok::<(), TransferError>(())
    }
    .await;
    let prepared = preparing.await.map_err(error)?;
    // A network error explains a cut stream better than "unexpected end" does.
    received?;
    prepared
}

async fn next_chunk(answers: &mut FrameReader<ReadHalf<Box<dyn NetStream>>>) -> Result<Option<Bytes>, TransferError> {
    let frame =
        tokio::time::timeout(STEP_TIMEOUT, answers.next()).await.map_err(|_| error("the peer stopped sending"))?;
    match frame.map_err(error)? {
        Some(Frame { kind: kind::CHUNK, body, .. }) => Ok(Some(body.into_bytes())),
        Some(Frame { kind: kind::END, .. }) => Ok(None),
        Some(Frame { kind: kind::FAILED, body, .. }) => {
            Err(error(format!("the peer failed: {}", String::from_utf8_lossy(&body.into_bytes()))))
        }
        Some(frame) => Err(error(format!("frame of kind {} inside a snapshot", frame.kind))),
        None => Err(error("the peer closed the connection before the end of the snapshot")),
    }
}

/// What the receiving side hands a finished generation to: the engine.
pub(crate) type Offer<'a> =
    &'a (dyn Fn(VoteRecord, Prepared) -> crate::world::BoxFuture<'static, Result<VoteRecord, String>> + Send + Sync);

/// Serves one connection of the snapshot lane.
pub(crate) async fn serve(
    stream: Box<dyn NetStream>,
    from: u64,
    sender: &Sender,
    rows: &RowsCell,
    template: &Arc<Template>,
    own_vote: impl Fn() -> VoteRecord,
    offer: Offer<'_>,
) -> Result<(), TransferError> {
    let (read, mut write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, FRAME_BYTES_MAX);
    let first = tokio::time::timeout(STEP_TIMEOUT, reader.next()).await.map_err(|_| error("nothing was asked"))?;
    let Some(frame) = first.map_err(error)? else { return Ok(()) };
    match frame.kind {
        kind::PULL => {
            let pull: Pull = wire::decode(&frame.body.into_bytes()).map_err(error)?;
            sender.answer_pull(&mut write, pull, rows, template).await
        }
        kind::INSTALL => {
            let install: Install = wire::decode(&frame.body.into_bytes()).map_err(error)?;
            let own = own_vote();
            if own.term > install.vote.term {
                return send_frame(&mut write, kind::INSTALLED, wire::encode(&own)).await;
            }
            tracing::info!(from, "receiving a snapshot");
            let current = rows.current().0;
            let prepared = match stream_in(&mut reader, template, current).await {
                Ok(prepared) => prepared,
                Err(failure) => return refuse(&mut write, &failure.to_string()).await,
            };
            match offer(install.vote, prepared).await {
                Ok(vote) => send_frame(&mut write, kind::INSTALLED, wire::encode(&vote)).await,
                Err(reason) => refuse(&mut write, &reason).await,
            }
        }
        other => refuse(&mut write, &format!("unknown question {other} on the snapshot lane")).await,
    }
}

/// Pulls a snapshot at or past an index from one peer, before the engine runs.
pub(crate) async fn pull(
    links: &Links,
    from: u64,
    need_index: u64,
    template: &Arc<Template>,
    current: u64,
) -> Result<Prepared, TransferError> {
    let stream = links.dial_own(from, Lane::Snapshot).await.map_err(error)?;
    let (read, mut write) = tokio::io::split(stream);
    let mut answers = FrameReader::new(read, FRAME_BYTES_MAX);
    send_frame(&mut write, kind::PULL, wire::encode(&Pull { need_index })).await?;
    let prepared = stream_in(&mut answers, template, current).await?;
    if prepared.header().index < need_index {
        return Err(error(format!(
            "node {from} sent rows at index {}, {need_index} is needed",
            prepared.header().index
        )));
    }
    Ok(prepared)
}

/// Writes a snapshot file: rows made durable first, that written down, then the file.
pub(crate) async fn create_file(
    rows: &RowsCell,
    template: &Arc<Template>,
    syncer: &Syncer,
) -> Result<SnapshotInfo, TransferError> {
    let (generation, current) = rows.current();
    syncer.sync(generation, current).await.map_err(error)?;
    let source = Source::open(rows, template).map_err(error)?;
    if source.header().index == 0 {
        return Err(error("nothing was applied yet"));
    }
    let name = format!("snapshot-{:020}-{:010}", source.header().index, source.header().term);
    let work = {
        let (template, name) = (template.clone(), name.clone());
        move || {
            let mut file =
                io::BufWriter::with_capacity(CHUNK_BYTES, template.disk.snapshot_create(&name).map_err(error)?);
            source.write(&mut file).map_err(error)?;
            file.into_inner().map_err(error)?.finish().map_err(error)
        }
    };
    match template.exec {
        Exec::Inline => work()?,
        Exec::Threads => spawn("agora-snap-file", work)?.await.map_err(error)??,
    }
    syncer.counters.snapshots_built.one();
    let files = template.disk.snapshot_list().map_err(error)?;
    files.into_iter().find(|file| file.name == name).ok_or_else(|| error("the snapshot is not where it was written"))
}

/// Runs blocking work on a thread of its own.
fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<tokio::sync::oneshot::Receiver<Result<T, TransferError>>, TransferError> {
    let (done, wait) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Whoever waited may have given up; then the result is dropped, which cleans up after itself.
            let _ = done.send(work());
        })
        .map_err(error)?;
    Ok(wait)
}

/// Turns writes into chunks.
struct ChunkWriter {
    chunks: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.chunks.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Turns chunks into reads.
struct ChunkReader {
    waiting: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl ChunkReader {
    fn at_end(&mut self) -> bool {
        self.rest.is_empty() && self.waiting.blocking_recv().is_none()
    }
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.waiting.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let taken = out.len().min(self.rest.len());
        out[..taken].copy_from_slice(&self.rest[..taken]);
        self.rest.advance(taken);
        Ok(taken)
    }
}
