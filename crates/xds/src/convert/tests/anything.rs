//! Whatever bytes arrive: they are refused or converted, and nothing panics.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::google::protobuf::Any;
use proptest::prelude::*;
use proptest::test_runner::TestRng;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::convert::{Addresses, Notes};
use crate::json::Schema;

/// Messages whose every field is as likely set as not, with values near the edges of what is allowed.
struct Filler<'a> {
    rng: TestRng,
    /// Types an `Any` may hold.
    inside: &'a [MessageDescriptor],
}

const TEXTS: [&str; 12] =
    ["", "a", "a.test", "*", "*.test", "127.0.0.1", "::1", "/", "x-header", "%PROTOCOL%", "(", "raw_buffer"];
const NUMBERS: [u32; 8] = [0, 1, 2, 80, 200, 65_535, 65_536, u32::MAX];

impl Filler<'_> {
    fn roll(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    fn message(&mut self, of: &MessageDescriptor, depth: usize) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        if of.full_name() == "google.protobuf.Any" {
            let inside = self.inside;
            let kind = &inside[self.roll(inside.len())];
            let value = self.message(kind, depth.saturating_sub(1));
            let any =
                Any { type_url: format!("type.googleapis.com/{}", kind.full_name()), value: value.encode_to_vec() };
            message.merge(any.encode_to_vec().as_slice()).unwrap();
            return message;
        }
        for field in of.fields() {
            // Few fields of one message, or nearly every message would be refused at the first.
            let odds = if of.fields().len() > 12 { 8 } else { 2 };
            if self.roll(odds) != 0 || (depth == 0 && matches!(field.kind(), Kind::Message(_))) {
                continue;
            }
            let value = if field.is_map() {
                Value::Map([(MapKey::String("k".into()), self.map_value(&field, depth))].into_iter().collect())
            } else if field.is_list() {
                Value::List((0..self.roll(3)).map(|_| self.value(&field, depth)).collect())
            } else {
                self.value(&field, depth)
            };
            message.set_field(&field, value);
        }
        message
    }

    fn map_value(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        match field.kind() {
            Kind::Message(entry) => self.value(&entry.map_entry_value_field(), depth),
            _ => Value::Bool(false),
        }
    }

    fn value(&mut self, field: &FieldDescriptor, depth: usize) -> Value {
        let number = NUMBERS[self.roll(NUMBERS.len())];
        match field.kind() {
            Kind::Message(of) => Value::Message(self.message(&of, depth.saturating_sub(1))),
            Kind::String => Value::String(TEXTS[self.roll(TEXTS.len())].to_owned()),
            Kind::Bytes => Value::Bytes(vec![0xff; self.roll(3)].into()),
            Kind::Bool => Value::Bool(self.roll(2) == 1),
            Kind::Enum(_) => Value::EnumNumber(self.roll(9) as i32 - 1),
            Kind::Double => Value::F64(f64::from(number) - 1.0),
            Kind::Float => Value::F32(number as f32),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(number as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::from(number) - 1),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(number),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number.into()),
        }
    }
}

fn convert_all(bytes: &[u8]) -> usize {
    let notes = &mut Notes::default();
    let mut good = 0;
    if let Ok(message) = Cluster::decode(bytes) {
        good += usize::from(super::super::cluster(message, notes).is_ok());
    }
    if let Ok(message) = ClusterLoadAssignment::decode(bytes) {
        good += usize::from(super::super::endpoints(message, Addresses::Ready, notes).is_ok());
    }
    if let Ok(message) = Listener::decode(bytes) {
        good += usize::from(super::super::listener(message, notes).is_ok());
    }
    if let Ok(message) = RouteConfiguration::decode(bytes) {
        good += usize::from(super::super::route_config(message, notes).is_ok());
    }
    good
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        convert_all(&bytes);
        crate::canonical::canonical("envoy.config.listener.v3.Listener", bytes);
    }
}

#[test]
fn arbitrary_messages() {
    let schema = Schema::load().unwrap();
    let of = |name: &str| schema.message(name).unwrap();
    let inside = [
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "envoy.extensions.filters.http.router.v3.Router",
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    ]
    .map(of);
    let roots = [
        "envoy.config.cluster.v3.Cluster",
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "envoy.config.listener.v3.Listener",
        "envoy.config.route.v3.RouteConfiguration",
    ]
    .map(of);
    let rng = TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let mut filler = Filler { rng, inside: &inside };
    let mut good = [0; 4];
    for (root, good) in roots.iter().zip(&mut good) {
        for _ in 0..3000 {
            let bytes = filler.message(root, 6).encode_to_vec();
            *good += convert_all(&bytes);
            // Canonical form changes the order of maps, not the meaning.
            let canonical = crate::canonical::canonical(root.full_name(), bytes.clone());
            assert_eq!(canonical.len(), bytes.len());
        }
    }
    // If none were good, the test would only see how messages are refused.
    assert!(good.iter().sum::<usize>() > 100, "{good:?}");
}
