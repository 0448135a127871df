//! Frames: how messages are cut out of a byte stream, and how those that wait share one write.
//!
//! ```text
//! +--------------------+-----------+--------------------+-----------------------------+
//! | length (u32 LE)    | kind (u8) | id (u64 LE)        | body, `length` - 9 bytes    |
//! +--------------------+-----------+--------------------+-----------------------------+
//! ```
//!
//! A length beyond the limit, or below a header, closes the connection before anything is allocated for it. The body
//! of a received frame shares the read buffer; large parts of a sent one go to the socket from where they lie.

use std::collections::VecDeque;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest body of a frame, in bytes: the largest entry, many small ones, or one snapshot chunk.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes before a body.
pub const HEADER_BYTES: usize = 13;
/// Most bytes that share one write.
pub const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// Parts smaller than this are copied together; larger ones are written from where they lie.
const COPY_BELOW_BYTES: usize = 4096;
/// Room kept for reading ahead.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the body is; see `wire`.
    pub kind: u8,
    /// Pairs an answer with its question.
    pub id: u64,
    /// The message.
    pub body: Body,
}

/// A body in one or several parts that are sent one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    parts: Vec<Bytes>,
    bytes: usize,
}

impl Body {
    /// Adds a part; empty ones are dropped.
    pub fn push(&mut self, part: Bytes) {
        self.bytes += part.len();
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The body in one piece: free when it has one part, as every received one has.
    pub fn into_bytes(mut self) -> Bytes {
        if self.parts.len() == 1 {
            return self.parts.remove(0);
        }
        let mut whole = BytesMut::with_capacity(self.bytes);
        for part in &self.parts {
            whole.extend_from_slice(part);
        }
        whole.freeze()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body::from(Bytes::from(bytes))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Body {
        let mut body = Body::default();
        body.push(bytes);
        body
    }
}

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames whose body is at most `body_bytes_max` long.
    pub fn new(stream: R, body_bytes_max: usize) -> FrameReader<R> {
        FrameReader { stream, buffer: BytesMut::new(), body_bytes_max }
    }

    /// The next frame, or `None` when the peer closed between two frames. Safe to drop while it waits.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.buffer.capacity() - self.buffer.len() < READ_AHEAD_BYTES / 8 {
                self.buffer.reserve(READ_AHEAD_BYTES);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed inside a frame"));
            }
        }
    }

    /// A frame that is already in the buffer, if one is.
    pub fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        let body_bytes = length.checked_sub(HEADER_BYTES - 4).filter(|bytes| *bytes <= self.body_bytes_max);
        let Some(body_bytes) = body_bytes else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "frame of {length} bytes, between {} and {} are allowed",
                    HEADER_BYTES - 4,
                    self.body_bytes_max
                ),
            ));
        };
        let whole = HEADER_BYTES + body_bytes;
        if self.buffer.len() < whole {
            // The length is within bounds, so it is safe to make room for it at once.
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(whole);
        frame.advance(4);
        let kind = frame.get_u8();
        let id = frame.get_u64_le();
        Ok(Some(Frame { kind, id, body: Body::from(frame.freeze()) }))
    }
}

/// Frames that wait to be written together.
#[derive(Debug, Default)]
pub struct WriteQueue {
    ready: VecDeque<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl WriteQueue {
    /// Adds a frame. Nothing is written yet.
    ///
    /// # Panics
    /// If the body is beyond [`FRAME_BYTES_MAX`]: senders bound their messages.
    pub fn push(&mut self, frame: Frame) {
        let body = frame.body.len();
        assert!(body <= FRAME_BYTES_MAX, "frame body of {body} bytes, at most {FRAME_BYTES_MAX}");
        self.small.put_u32_le((body + HEADER_BYTES - 4) as u32);
        self.small.put_u8(frame.kind);
        self.small.put_u64_le(frame.id);
        for part in frame.body.parts {
            if part.len() < COPY_BELOW_BYTES {
                self.small.extend_from_slice(&part);
            } else {
                self.ready.push_back(self.small.split().freeze());
                self.ready.push_back(part);
            }
        }
        self.bytes += body + HEADER_BYTES;
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Writes everything that waits, in as few system calls as the socket takes.
    pub async fn write_to(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if !self.small.is_empty() {
            self.ready.push_back(self.small.split().freeze());
        }
        let mut parts = Parts { ready: &mut self.ready };
        while parts.has_remaining() {
            if stream.write_buf(&mut parts).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.bytes = 0;
        stream.flush().await
    }
}

/// Several buffers seen as one, so that one system call writes many.
struct Parts<'a> {
    ready: &'a mut VecDeque<Bytes>,
}

impl Buf for Parts<'_> {
    fn remaining(&self) -> usize {
        self.ready.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.ready.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(self.ready.iter()) {
            *slice = io::IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let front = self.ready.front_mut().expect("a socket never writes more than it was given");
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.ready.pop_front();
        }
        while self.ready.front().is_some_and(Bytes::is_empty) {
            self.ready.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, id: u64, parts: &[&[u8]]) -> Frame {
        let mut body = Body::default();
        for part in parts {
            body.push(Bytes::copy_from_slice(part));
        }
        Frame { kind, id, body }
    }

    #[tokio::test]
    async fn frames_survive_any_cut_of_the_stream() {
        let large = vec![9_u8; 100_000];
        let sent = [frame(1, 2, &[b"ab", &large, b"c", &large]), frame(3, 4, &[]), frame(5, u64::MAX, &[b"x"])];
        let (mut near, far) = tokio::io::duplex(777);
        let writer = {
            let sent = sent.clone();
            tokio::spawn(async move {
                let mut queue = WriteQueue::default();
                for frame in sent {
                    queue.push(frame);
                }
                queue.write_to(&mut near).await.unwrap();
                assert_eq!(queue.len(), 0);
            })
        };
        let mut reader = FrameReader::new(far, FRAME_BYTES_MAX);
        for expected in sent {
            let got = reader.next().await.unwrap().unwrap();
            assert_eq!((got.kind, got.id), (expected.kind, expected.id));
            assert_eq!(got.body.into_bytes(), expected.body.into_bytes());
        }
        writer.await.unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn golden_bytes_of_a_frame() {
        let mut queue = WriteQueue::default();
        queue.push(frame(7, 0x0102, &[b"hi"]));
        let mut out = Vec::new();
        queue.write_to(&mut out).await.unwrap();
        assert_eq!(out, b"\x0b\0\0\0\x07\x02\x01\0\0\0\0\0\0hi");
    }

    #[tokio::test]
    async fn huge_and_impossible_lengths_are_refused_before_anything_is_allocated() {
        for head in [&b"\xff\xff\xff\xff"[..], b"\x01\0\0\0", b"GET / HTTP/1.1\r\n\r\n"] {
            let mut reader = FrameReader::new(head, 4096);
            let error = reader.next().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{head:?}");
            assert!(reader.buffer.capacity() < 1 << 20);
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let mut reader = FrameReader::new(&b"\x0b\0\0\0\x07"[..], 4096);
        assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
