//! The same configuration and the same requests for Envoy and for `lateen proxy`; whatever differs
//! fails, unless the row says why it must.

mod admin;
mod alpn;
mod bad_requests;
mod cors;
mod counters;
mod drawn;
mod ext_authz;
mod faults;
mod first_words;
mod generated;
mod grpc_web;
mod handshakes;
mod hashing;
mod headers;
mod health_checks;
mod http2;
mod jwt;
mod limits;
mod local_replies;
mod localities;
mod mirror;
mod outliers;
mod paths;
mod pools;
mod proxy_protocol;
mod rbac;
mod retries;
mod retry_policies;
mod routing;
mod streams;
mod tls;
mod turns;
mod warmup;
mod weights;
mod xds;
