//! Attacks and loads written once, for simulated and for real clusters, with their reports.
//!
//! [`cluster`] is the seam to what is attacked. [`runner`] runs a plan: clients of [`workloads`] load and write down what they
//! were answered in a [`recorder::Recorder`], a [`schedule::Nemesis`] attacks, and in the end every node's word is
//! [`collect`]ed. [`child`] runs what harnesses need beside themselves.

pub mod admin;
pub mod child;
pub mod client;
pub mod cluster;
pub mod codec;
pub mod collect;
pub mod invariants;
pub mod nemesis;
pub mod recorder;
pub mod report;
pub mod rng;
pub mod runner;
pub mod schedule;
pub mod workloads;
