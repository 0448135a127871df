//! Attacks and loads written once, for simulated and for real clusters, with their reports.

pub mod cluster;
