//! Real processes in network namespaces of their own, on disks that lose power.
//!
//! - [`inside`]: the program runs itself again in namespaces of its own, so that nothing outlives it.
//! - [`probe`]: what the machine must have; what is missing is a failure.
//! - [`net`]: a namespace per machine and a wire between them that loses, delays, doubles, reorders and throttles packets.
//! - [`volume`]: a disk in a file, whose power can go.
//! - [`clock`]: a wall clock per node that can be set wrong.
//! - [`disk`]: what disks do to nodes: calls that fail or are the last one, bytes that rot, and two runs made of that.
//! - [`machine`]: one node's process, disk, clock and configuration.
//! - [`client`]: HTTP from the clients' machine.
//! - [`processes`]: all of it as the [`Cluster`](agora_scenario::cluster::Cluster) that scenarios attack.
//! - [`chaos`]: attacks until the time is over.
//!
//! It needs root, and nothing of it is seen outside: addresses, interfaces and mounts exist in its own namespaces only.

pub mod chaos;
pub mod client;
pub mod clock;
pub mod config;
pub mod disk;
pub mod inside;
mod kernel;
pub mod machine;
pub mod net;
pub mod probe;
pub mod processes;
pub mod shell;
pub mod volume;

pub use config::Overrides;
pub use inside::{Inside, NotInside, enter};
pub use machine::NodeProgram;
pub use processes::{Processes, Settings};
