//! What disks do to nodes: calls that fail, hang or are the last one, and bytes that rot.
//!
//! - [`inject`]: strace attached to a running node, so that its N-th fsync, write or rename kills it, fails or takes longer.
//! - [`faults`]: the acts of a scenario upon one node's disk, made of that, of full file systems and of frozen ones.
//! - [`corrupt`]: which bytes of which file are spoiled, with the formats known down to their fields.
//! - [`crash_points`]: a run that walks N over every phase of a node's life and asks each time whether all is still there.
//! - [`corruption`]: a run that spoils every kind of file and asks whether wrong rows are served or a promise is lost.
//! - [`lab`] and [`shopper`]: the small cluster on loopback and the buyers these two runs work with.

pub mod corrupt;
pub mod corruption;
pub mod corruption_cases;
pub mod crash_plan;
pub mod crash_points;
pub mod faults;
pub mod inject;
pub mod judge;
pub mod lab;
pub mod shopper;
