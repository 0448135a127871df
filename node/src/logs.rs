//! Structured logs: one event per line on standard error, as JSON or as text.
//!
//! An event about a request carries its `trace_id`, the one the client was told. Standard output stays free for what a command was asked for.

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Config, LogFormat};

/// Starts logging for the process. Does nothing if it was started before.
pub fn start(config: &Config) {
    // The level was checked when the configuration was read.
    let filter = EnvFilter::builder().parse_lossy(&config.log_level);
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
