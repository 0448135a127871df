//! Bugs planted on purpose.
