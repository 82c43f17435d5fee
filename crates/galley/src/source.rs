//! Where objects come from. Reading disks and networks is the callers'; what was read is turned into changes here.

pub mod files;
