//! A whole cluster in one thread, on simulated time, network and disks.
//!
//! The real shop, actors, journal, openraft, transport and HTTP API of three to five nodes run under turmoil, each on a
//! host of its own, over disks in memory. One process runs one seed; the same seed runs the same way to the last byte,
//! which is why the process takes chance and time from [`entropy`] and nowhere else.
//!
//! Reading order: [`entropy`], [`world`] and [`machine`] (a node), [`wires`] and [`stream`] (what is between them),
//! [`cluster`] (what scenarios see), [`driver`] (steps), [`safety`] (looked at after every step), [`seed`] (one run),
//! [`fleet`] (many).
//!
//! **What is not simulated.** Work on a disk takes no time, so a slow or hung disk cannot be played; and turmoil runs
//! every host at every step, so a process cannot stand still while its clock goes on. Both are for real processes.

pub mod clients;
pub mod cluster;
pub mod commands;
pub mod driver;
pub mod entropy;
pub mod fleet;
pub mod machine;
pub mod pick;
pub mod safety;
pub mod seed;
pub mod stream;
pub mod trace;
pub mod wires;
pub mod world;
