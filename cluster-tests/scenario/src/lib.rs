//! Attacks and loads written once, for simulated and for real clusters, with their reports.
//!
//! [`cluster`] is the seam to what is attacked. A [`schedule::Nemesis`] attacks; clients load and write down what they
//! were answered in a [`recorder::Recorder`].

pub mod admin;
pub mod cluster;
pub mod nemesis;
pub mod recorder;
pub mod rng;
pub mod schedule;
