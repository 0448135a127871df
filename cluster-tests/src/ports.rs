//! Free TCP ports on loopback that stay free while a node is down.
//!
//! Ports are taken below the range the kernel gives to outgoing connections: a port from that range could be used by a
//! client's own connection in the moment a killed node has released it, and the node could not come back.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// First port ever handed out.
const FIRST: u16 = 10_000;
/// One past the last port: the kernel's range for outgoing connections starts at 32,768.
const END: u16 = 32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port nobody listens on, not handed out before by this process.
///
/// # Panics
/// When no port of the range is free.
pub fn free() -> u16 {
    free_row(1)
}

/// The first of `count` ports in a row that nobody listens on, none of them handed out before by this process.
///
/// # Panics
/// When the range has no such row.
pub fn free_row(count: u16) -> u16 {
    let span = END - FIRST;
    // Test binaries that run side by side begin at different places.
    let start = (std::process::id().wrapping_mul(97) % u32::from(span)) as u16;
    for _ in 0..span / count {
        let step = NEXT.fetch_add(count, Ordering::Relaxed);
        let first = FIRST + start.wrapping_add(step) % (span - count);
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row between {FIRST} and {END}");
}
