//! Which bug this process has: chosen once, by the environment.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::{Bug, Plant};

/// The environment variable that names the bug of a process.
pub const VARIABLE: &str = "AGORA_PLANTED";

static CHOSEN: OnceLock<Option<&'static Plant>> = OnceLock::new();
static REACHED: AtomicBool = AtomicBool::new(false);

/// The bug of this process, if it has one.
///
/// # Panics
/// On a name that no bug has: a run of it would prove nothing.
pub fn chosen() -> Option<&'static Plant> {
    *CHOSEN.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
        Some(Plant::named(&name).unwrap_or_else(|| panic!("{VARIABLE}: no planted bug is called {name:?}")))
    })
}

/// Whether this bug is planted in this process. Says so on standard error when it is asked for the first time: a bug that
/// was never reached cannot have been caught.
pub fn is(bug: Bug) -> bool {
    let planted = chosen().is_some_and(|plant| plant.bug == bug);
    if planted && !REACHED.swap(true, Ordering::Relaxed) {
        eprintln!("planted bug reached: {}", chosen().map_or("", |plant| plant.name));
    }
    planted
}
