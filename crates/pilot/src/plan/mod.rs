//! Plans of listeners, made before anything is generated: who wants which address and port, who gets it, and who loses
//! to whom and why.

pub mod gateway;
pub mod outbound;
