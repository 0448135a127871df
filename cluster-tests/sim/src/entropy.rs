//! Takes chance and time away from a process: the only `unsafe` of the simulation.
//!
//! What a library draws or reads behind our back (hash maps, tokio's `select!`, the election timeout of the engine, uuids)
//! comes in the end from two calls of the C library, `getrandom` and `clock_gettime`. This module defines both, so the
//! linker binds every caller in the process to it. On a thread that called [`seed_this_thread`] they answer from a seed and
//! from simulated time; on all others they ask the kernel, as before.
//!
//! A seed must be given on a thread that has done nothing yet: the standard library and `rand` keep what they drew in
//! thread-local state. So a simulation runs on a new thread of a new process.
#![allow(unsafe_code)]

use std::{
    cell::Cell,
    ffi::{c_int, c_long, c_uint, c_void},
    time::Duration,
};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const GETRANDOM: std::ffi::c_long = 318;
    pub const CLOCK_GETTIME: std::ffi::c_long = 228;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const GETRANDOM: std::ffi::c_long = 278;
    pub const CLOCK_GETTIME: std::ffi::c_long = 113;
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

const CLOCK_REALTIME: c_int = 0;
const CLOCK_MONOTONIC: c_int = 1;
const CLOCK_PROCESS_CPUTIME: c_int = 2;
const CLOCK_BOOTTIME: c_int = 7;
/// Simulated wall time at the beginning of every run: 2025-01-01 00:00 UTC.
pub const EPOCH_MS: u64 = 1_735_689_600_000;
/// Monotonic time at the beginning; small, so that a deadline made from it is in the kernel's past.
const MONOTONIC_START: Duration = Duration::from_secs(1);

thread_local! {
    /// State of the generator; `None` on threads of the real world.
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// From here on this thread lives in simulated time and draws from this seed.
pub fn seed_this_thread(seed: u64) {
    CHANCE.with(|chance| chance.set(Some(seed ^ 0x5eed_5eed_5eed_5eed)));
}

/// Simulated time since the beginning, for whoever asks the operating system.
pub fn set_now(now: Duration) {
    NOW.with(|cell| cell.set(now));
}

/// Simulated time since the beginning, as far as it was told here.
pub fn now() -> Duration {
    NOW.with(Cell::get)
}

/// What this thread's chance has come to: differs if one draw more or less was made.
pub fn drawn() -> u64 {
    CHANCE.with(Cell::get).unwrap_or(0)
}

/// Real time, also on a seeded thread.
pub fn real_now() -> Duration {
    ask_kernel(CLOCK_MONOTONIC)
}

/// What this process has taken of the processors.
pub fn processor_time() -> Duration {
    ask_kernel(CLOCK_PROCESS_CPUTIME)
}

fn ask_kernel(clock: c_int) -> Duration {
    let mut time = Timespec { seconds: 0, nanos: 0 };
    // SAFETY: the kernel writes one timespec to a place that is one.
    unsafe { syscall(number::CLOCK_GETTIME, c_long::from(clock), &raw mut time) };
    Duration::new(time.seconds.unsigned_abs(), u32::try_from(time.nanos).unwrap_or(0))
}

/// The next word of this thread's chance, if it was seeded (SplitMix64).
fn draw() -> Option<u64> {
    CHANCE.with(|chance| {
        let state = chance.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        chance.set(Some(state));
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(word ^ (word >> 31))
    })
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

/// `ssize_t getrandom(void *buffer, size_t bytes, unsigned flags)`.
///
/// # Safety
/// As the C library's: `buffer` must have room for `bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, bytes: usize, flags: c_uint) -> isize {
    if CHANCE.with(|chance| chance.get().is_none()) {
        // SAFETY: the caller's promise is passed on to the kernel.
        let got = unsafe { syscall(number::GETRANDOM, buffer, bytes, c_long::from(flags)) };
        return isize::try_from(got).unwrap_or(-1);
    }
    // Nothing is drawn for no bytes: the first caller in a process asks for them, to see whether there is a kernel that gives.
    let mut word = 0;
    for at in 0..bytes {
        if at % 8 == 0 {
            word = draw().unwrap_or(0);
        }
        // SAFETY: `at` is below `bytes`, which the caller has room for.
        unsafe { buffer.cast::<u8>().add(at).write((word >> (at % 8 * 8)) as u8) };
    }
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// `int clock_gettime(clockid_t clock, struct timespec *time)`.
///
/// # Safety
/// As the C library's: `time` must be a place for a timespec.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut c_void) -> c_int {
    let seeded = CHANCE.with(|chance| chance.get().is_some());
    let simulated = match clock {
        CLOCK_REALTIME if seeded => Duration::from_millis(EPOCH_MS) + now(),
        CLOCK_MONOTONIC | CLOCK_BOOTTIME if seeded => MONOTONIC_START + now(),
        // Processor time and the like are real everywhere.
        _ => {
            // SAFETY: the caller's promise is passed on to the kernel.
            let done = unsafe { syscall(number::CLOCK_GETTIME, c_long::from(clock), time) };
            return c_int::try_from(done).unwrap_or(-1);
        }
    };
    let told = Timespec {
        seconds: i64::try_from(simulated.as_secs()).unwrap_or(i64::MAX),
        nanos: i64::from(simulated.subsec_nanos()),
    };
    // SAFETY: the caller has room for a timespec, of which this is one on 64-bit Linux.
    unsafe { time.cast::<Timespec>().write(told) };
    0
}

#[cfg(test)]
mod tests {
    use std::{
        collections::hash_map::RandomState,
        hash::BuildHasher,
        thread,
        time::{Instant, SystemTime, UNIX_EPOCH},
    };

    use super::*;

    fn drawn(seed: Option<u64>) -> (u64, [u8; 12]) {
        thread::spawn(move || {
            if let Some(seed) = seed {
                seed_this_thread(seed);
            }
            let mut bytes = [0; 12];
            // By the crate that the product draws nonces with.
            ::getrandom::fill(&mut bytes).unwrap();
            (RandomState::new().hash_one(7), bytes)
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_seed_decides_what_libraries_draw_and_only_there() {
        assert_eq!(drawn(Some(1)), drawn(Some(1)));
        let (one, two) = (drawn(Some(1)), drawn(Some(2)));
        assert!(one.0 != two.0 && one.1 != two.1);
        let (one, two) = (drawn(None), drawn(None));
        assert!(one.0 != two.0 && one.1 != two.1);
    }

    #[test]
    fn clocks_stand_still_on_a_seeded_thread() {
        thread::spawn(|| {
            let before = real_now();
            seed_this_thread(1);
            let (start, wall) = (Instant::now(), SystemTime::now());
            assert_eq!(wall.duration_since(UNIX_EPOCH).unwrap(), Duration::from_millis(EPOCH_MS));
            while real_now() == before {}
            assert_eq!(start.elapsed(), Duration::ZERO);
            set_now(Duration::from_millis(1_500));
            assert_eq!(start.elapsed(), Duration::from_millis(1_500));
            assert_eq!(wall.elapsed().unwrap(), Duration::from_millis(1_500));
        })
        .join()
        .unwrap();
        assert!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap() > Duration::from_millis(EPOCH_MS));
    }
}
