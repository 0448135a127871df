//! Bugs planted on purpose, to measure whether the tests would catch them.
//!
//! Each [`Bug`] stands in the product where the real one would be, as a line that asks [`is`]. In every build of the
//! product that is a constant `false` and the line is gone. With the feature `on`, which only the test crates forward, one
//! bug is chosen per process by the environment variable `AGORA_PLANTED`; none is, if it is not set. A build with
//! optimisations and the feature does not compile, so no release can contain them.

#[cfg(all(feature = "on", not(debug_assertions)))]
compile_error!("planted bugs must never be in a release build: leave the feature `on` of agora-planted off");

mod bug;
#[cfg(feature = "on")]
mod catalogue;
#[cfg(feature = "on")]
mod chosen;
mod wrong;

pub use crate::bug::Bug;
#[cfg(feature = "on")]
pub use crate::catalogue::{CATALOGUE, Harness, Plant};
#[cfg(feature = "on")]
pub use crate::chosen::{VARIABLE, chosen, is};
pub use crate::wrong::{times_as_float, without_order};

/// Whether this bug is planted: never.
#[cfg(not(feature = "on"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}
