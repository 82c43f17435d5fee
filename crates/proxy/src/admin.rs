//! The administration interface.

pub mod memory;
