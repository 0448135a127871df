//! The accept loop on a real socket: slow, silent, too many, and a stop in the middle.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
    bench: Bench,
}

async fn serve(config: ApiConfig) -> Served {
    let bench = Bench::with(config).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let state = bench.state.clone();
    let done = tokio::spawn(async move {
        crate::serve(listener, state, async {
            let _ = stopped.await;
        })
        .await;
    });
    Served { address, stop, done, bench }
}

fn quick() -> ApiConfig {
    ApiConfig { header_timeout_ms: 300, body_timeout_ms: 300, drain_timeout_ms: 3_000, ..ApiConfig::default() }
}

/// Sends bytes and reads until the other side closes.
async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> String {
    // The other side may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("left hanging");
    String::from_utf8_lossy(&answer).into_owned()
}

/// One request on a connection that stays; returns the status line.
async fn request(stream: &mut TcpStream, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {SHOP_KEY}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 16 * 1_024];
    let count = timeout(Duration::from_secs(10), stream.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..count]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_silent_and_the_slow_are_shown_out() {
    let served = serve(quick()).await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(exchange(&mut silent, b"").await, "");
    let mut loris = TcpStream::connect(served.address).await.unwrap();
    let answer = exchange(&mut loris, b"GET /livez HTTP/1.1\r\nhost: a\r\nx-slow: ").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let mut bodiless = TcpStream::connect(served.address).await.unwrap();
    let head = format!(
        "POST /api/v2/accounts HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {SHOP_KEY}\r\nidempotency-key: k\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    let answer = exchange(&mut bodiless, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(9), "took {:?}", begun.elapsed());
    // Who keeps talking keeps the connection.
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(request(&mut stream, "/livez").await, "HTTP/1.1 200 OK");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_connections_are_closed_and_room_is_given_back() {
    let served = serve(ApiConfig { connections_max: 3, ..ApiConfig::default() }).await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        assert_eq!(request(&mut stream, "/livez").await, "HTTP/1.1 200 OK");
        inside.push(stream);
    }
    let mut outside = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(exchange(&mut outside, b"").await, "");
    inside.pop();
    let begun = Instant::now();
    loop {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let head = "GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        if exchange(&mut stream, head.as_bytes()).await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "room is not given back");
    }
    let page = served.bench.send(get("/metrics")).await;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(page.contains("agora_http_connections 2\n") || page.contains("agora_http_connections 3\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_bytes_are_a_4xx_or_a_closed_door() {
    let served = serve(quick()).await;
    let long_path = format!("GET /api/v2/{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(200_000));
    let many_headers = format!("GET /livez HTTP/1.1\r\nhost: a\r\n{}\r\n", "x-a: b\r\n".repeat(20_000));
    for bytes in [
        b"hello\r\n\r\n".to_vec(),
        vec![0x16, 0x03, 0x01, 0x02, 0x00],
        vec![0; 4_096],
        b"GET /api/v2/skus/\xff\xfe%zz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_vec(),
        b"POST /api/v2/orders HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"POST /api/v2/orders HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        long_path.into_bytes(),
        many_headers.into_bytes(),
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let answer = exchange(&mut stream, &bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_on_its_way_and_closes_the_rest() {
    let served = serve(ApiConfig { drain_timeout_ms: 5_000, ..ApiConfig::default() }).await;
    served.bench.sku("A", 1, 1).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(request(&mut idle, "/livez").await, "HTTP/1.1 200 OK");
    let silent = TcpStream::connect(served.address).await.unwrap();
    let address = served.address;
    let waiting = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        request(&mut stream, "/api/v2/changes?after=1000000&wait=30s").await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    served.stop.send(()).unwrap();
    served.done.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "the stop took {:?}", begun.elapsed());
    assert_eq!(waiting.await.unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(exchange(&mut idle, b"").await, "");
    drop(silent);
    assert!(TcpStream::connect(served.address).await.is_err(), "the port is still open");
}
