//! Bytes on a socket, for clients that do not behave.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Bytes of an answer read.
const READ_BYTES_MAX: usize = 1 << 20;

/// How a connection ended after it was sent something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The other side closed it, after these bytes.
    Closed(Vec<u8>),
    /// It was still open when patience was over, after these bytes.
    Open(Vec<u8>),
}

impl Ending {
    /// What was read.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Ending::Closed(bytes) | Ending::Open(bytes) => bytes,
        }
    }

    /// HTTP status of the first answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(self.bytes()).into_owned();
        text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }
}

/// Opens a connection.
///
/// # Panics
/// When nobody listens.
pub async fn open(address: &str) -> TcpStream {
    match timeout(Duration::from_secs(10), TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => panic!("cannot connect to {address}: {error}"),
        Err(_) => panic!("no connection to {address} within 10 s"),
    }
}

/// Sends bytes and reads until the other side closes or patience is over.
pub async fn send(address: &str, bytes: &[u8], patience: Duration) -> Ending {
    let mut stream = open(address).await;
    // The other side may close before it has read everything.
    let _ = timeout(patience, stream.write_all(bytes)).await;
    read_on(&mut stream, patience).await
}

/// Reads until the other side closes or patience is over.
pub async fn read_on(stream: &mut TcpStream, patience: Duration) -> Ending {
    let mut seen = Vec::new();
    let mut chunk = vec![0; 16 << 10];
    let closed = timeout(patience, async {
        while seen.len() < READ_BYTES_MAX {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => seen.extend_from_slice(&chunk[..count]),
            }
        }
    })
    .await
    .is_ok();
    if closed { Ending::Closed(seen) } else { Ending::Open(seen) }
}
