//! How much of a test to run: the short version within `cargo test`, or the long one on request.
//!
//! `AGORA_LONG=1` chooses the long versions. Nothing is hidden behind `#[ignore]` or a feature: both versions check the
//! same promise with the same assertions, only the figures differ.

/// Whether the long versions were asked for.
pub fn long() -> bool {
    std::env::var("AGORA_LONG").is_ok_and(|value| value == "1")
}

/// The first figure in the short version, the second in the long one.
pub fn scaled<T>(short: T, long_figure: T) -> T {
    if long() { long_figure } else { short }
}
