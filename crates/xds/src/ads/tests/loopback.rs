//! The gRPC adapters over a loopback connection.
