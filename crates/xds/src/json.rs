//! Protobuf JSON, with `Any`s written out (`"@type"`), over the descriptors embedded at build time.
//!
//! This is how Envoy's configuration files and admin answers are written. Knows nothing of what the messages mean.

use std::fmt::Write as _;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;

/// The messages that can stand in an Envoy bootstrap, resource or admin answer. Cheap to clone; loading takes some
/// milliseconds and megabytes, so it is the caller's choice how long to keep one.
#[derive(Clone, Debug)]
pub struct Schema {
    pool: DescriptorPool,
}

/// Why something is not JSON of a message, or not a message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The embedded descriptors do not fit together: a fault of the build.
    #[error("the embedded protobuf descriptors cannot be used: {0}")]
    Descriptors(String),
    #[error("message type {0} is not known")]
    UnknownType(String),
    /// Where in the document, and what is wrong there.
    #[error("{path}: {reason}")]
    Field { path: String, reason: String },
    #[error("malformed {message}: {reason}")]
    Malformed { message: String, reason: String },
}

impl Schema {
    /// Loads the embedded descriptors.
    pub fn load() -> Result<Schema, JsonError> {
        let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));
        let pool = DescriptorPool::decode(bytes).map_err(|e| JsonError::Descriptors(e.to_string()))?;
        Ok(Schema { pool })
    }

    /// Reads a message. Field names may be in snake case or camel case; unknown fields are errors.
    pub fn from_json<M: Message + Name + Default>(&self, json: Value) -> Result<M, JsonError> {
        let dynamic = self.dynamic(&M::full_name(), json)?;
        M::decode(dynamic.encode_to_vec().as_slice())
            .map_err(|e| JsonError::Malformed { message: M::full_name(), reason: e.to_string() })
    }

    /// Reads an `Any`: an object with `"@type"`.
    pub fn any_from_json(&self, json: Value) -> Result<Any, JsonError> {
        self.from_json(json)
    }

    /// Writes a message, with proto field names (snake case), as Envoy's admin page does.
    pub fn to_json<M: Message + Name>(&self, message: &M) -> Result<Value, JsonError> {
        self.encoded_to_json(&M::full_name(), &message.encode_to_vec())
    }

    /// Writes an `Any` as an object with `"@type"`.
    pub fn any_to_json(&self, any: &Any) -> Result<Value, JsonError> {
        self.to_json(any)
    }

    /// Writes a message of which only the type's full name and the encoding are at hand.
    pub fn encoded_to_json(&self, type_name: &str, encoded: &[u8]) -> Result<Value, JsonError> {
        let malformed = |reason: String| JsonError::Malformed { message: type_name.to_owned(), reason };
        let dynamic =
            DynamicMessage::decode(self.message(type_name)?, encoded).map_err(|e| malformed(e.to_string()))?;
        let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
        dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| malformed(e.to_string()))
    }

    pub(crate) fn message(&self, type_name: &str) -> Result<MessageDescriptor, JsonError> {
        self.pool.get_message_by_name(type_name).ok_or_else(|| JsonError::UnknownType(type_name.to_owned()))
    }

    fn dynamic(&self, type_name: &str, json: Value) -> Result<DynamicMessage, JsonError> {
        let descriptor = self.message(type_name)?;
        DynamicMessage::deserialize(descriptor.clone(), &json).map_err(|e| {
            // The reader does not say where it stopped: look for the place.
            let (path, reason) = self.fault(&descriptor, &json).unwrap_or_else(|| (String::new(), e.to_string()));
            let path = if path.is_empty() { "(document)".to_owned() } else { path };
            JsonError::Field { path, reason }
        })
    }

    /// The first value of a document that is not what its field wants: the path to it and what is wrong.
    fn fault(&self, descriptor: &MessageDescriptor, json: &Value) -> Option<(String, String)> {
        let whole = match DynamicMessage::deserialize(descriptor.clone(), json) {
            Ok(_) => return None,
            Err(e) => (String::new(), e.to_string()),
        };
        let Value::Object(members) = json else { return Some(whole) };
        let mut inner = descriptor.clone();
        if descriptor.full_name() == "google.protobuf.Any" {
            let url = members.get("@type").and_then(Value::as_str).unwrap_or_default();
            let name = url.rsplit('/').next().unwrap_or_default();
            match self.pool.get_message_by_name(name) {
                Some(message) => inner = message,
                None if url.is_empty() => return Some((String::new(), "an Any without \"@type\"".to_owned())),
                None => return Some(("@type".to_owned(), format!("message type {name} is not known"))),
            }
        } else if descriptor.package_name() == "google.protobuf" {
            return Some(whole);
        }
        for (key, value) in members {
            if key == "@type" {
                continue;
            }
            let Some(field) = inner.get_field_by_json_name(key).or_else(|| inner.get_field_by_name(key)) else {
                return Some((key.clone(), format!("no such field in {}", inner.full_name())));
            };
            if let Some((path, reason)) = self.field_fault(&inner, &field, value) {
                return Some((join(key, &path), reason));
            }
        }
        Some(whole)
    }

    fn field_fault(&self, of: &MessageDescriptor, field: &FieldDescriptor, value: &Value) -> Option<(String, String)> {
        if let (Kind::Message(message), Value::Array(items)) = (field.kind(), value)
            && field.is_list()
        {
            let found = items.iter().enumerate().find_map(|(at, item)| Some((at, self.fault(&message, item)?)));
            return found.map(|(at, (path, reason))| (join(&format!("[{at}]"), &path), reason));
        }
        if let (Kind::Message(entry), Value::Object(members)) = (field.kind(), value)
            && field.is_map()
        {
            let Kind::Message(message) = entry.map_entry_value_field().kind() else { return None };
            let found = members.iter().find_map(|(key, item)| Some((key, self.fault(&message, item)?)));
            return found.map(|(key, (path, reason))| (join(&format!("[{key:?}]"), &path), reason));
        }
        if let (Kind::Message(message), false) = (field.kind(), field.is_list()) {
            return if value.is_null() { None } else { self.fault(&message, value) };
        }
        let alone = Value::Object([(field.name().to_owned(), value.clone())].into_iter().collect());
        let error = DynamicMessage::deserialize(of.clone(), &alone).err()?;
        Some((String::new(), error.to_string()))
    }
}

fn join(parent: &str, path: &str) -> String {
    let mut joined = parent.to_owned();
    if !path.is_empty() {
        let dot = if path.starts_with('[') { "" } else { "." };
        // Writing to a string cannot fail.
        let _ = write!(joined, "{dot}{path}");
    }
    joined
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use prost::Name as _;
    use serde_json::json;

    use super::*;

    fn error(json: Value) -> String {
        Schema::load().unwrap().from_json::<Bootstrap>(json).unwrap_err().to_string()
    }

    #[test]
    fn reads_and_writes_typed_anys() {
        let schema = Schema::load().unwrap();
        let json = json!({
            "@type": Cluster::type_url(), "name": "x", "connect_timeout": "0.250s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
            }},
        });
        let any = schema.any_from_json(json.clone()).unwrap();
        let cluster = Cluster::decode(any.value.as_slice()).unwrap();
        assert_eq!(cluster.connect_timeout.unwrap().nanos, 250_000_000);
        assert_eq!(schema.any_to_json(&any).unwrap(), json);
    }

    #[test]
    fn errors_say_where() {
        let unknown = json!({"static_resources": {"clusters": [{"name": "a"}, {"name": "b", "conect_timeout": "1s"}]}});
        assert_eq!(
            error(unknown),
            "static_resources.clusters[1].conect_timeout: no such field in envoy.config.cluster.v3.Cluster"
        );
        let kind = json!({"static_resources": {"clusters": [{"name": "a", "connect_timeout": "soon"}]}});
        assert!(error(kind).starts_with("static_resources.clusters[0].connect_timeout: "));
        let scalar = json!({"admin": {"address": {"socket_address": {"port_value": "x"}}}});
        assert!(error(scalar).starts_with("admin.address.socket_address.port_value: "));
        let any = json!({"static_resources": {"listeners": [{"filter_chains": [{"filters": [{"typed_config":
            {"@type": "type.googleapis.com/stats.PluginConfig"}}]}]}]}});
        assert_eq!(
            error(any),
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.@type: \
             message type stats.PluginConfig is not known"
        );
        let inside = json!({"static_resources": {"listeners": [{"filter_chains": [{"filters": [{"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "clutser": "x"
        }}]}]}]}});
        assert!(error(inside).starts_with(
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.clutser: no such field"
        ));
    }
}
