//! Takes from the `envoy-types` crate the descriptors of the messages Lateen reads and writes as JSON.
//!
//! `envoy-types` ships the compiled descriptor set its Rust types were generated from. What is embedded is the part
//! reachable from [`ROOTS`], without comments and options, so that a proxy does not carry the whole of Envoy's API.
//! From the same descriptors comes a table of where protobuf maps are: their entries have no order on the wire, and
//! a content hash needs one (see `src/canonical.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions,
};

/// Files whose messages can stand in a bootstrap, in an `Any` of it or of an xDS resource, or in an admin answer.
const ROOTS: &[&str] = &[
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/metrics/v3/metrics_service.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/config/trace/v3/trace.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/admin/v3/config_dump.proto",
    "envoy/admin/v3/server_info.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/access_loggers/grpc/v3/als.proto",
    "envoy/extensions/access_loggers/stream/v3/stream.proto",
    "envoy/extensions/bootstrap/internal_listener/v3/internal_listener.proto",
    "envoy/extensions/clusters/dns/v3/dns_cluster.proto",
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    "envoy/extensions/compression/brotli/compressor/v3/brotli.proto",
    "envoy/extensions/compression/gzip/compressor/v3/gzip.proto",
    "envoy/extensions/compression/zstd/compressor/v3/zstd.proto",
    "envoy/extensions/filters/http/compressor/v3/compressor.proto",
    "envoy/extensions/filters/http/cors/v3/cors.proto",
    "envoy/extensions/filters/http/dynamic_forward_proxy/v3/dynamic_forward_proxy.proto",
    "envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/http/fault/v3/fault.proto",
    "envoy/extensions/filters/http/grpc_stats/v3/config.proto",
    "envoy/extensions/filters/http/grpc_web/v3/grpc_web.proto",
    "envoy/extensions/filters/http/jwt_authn/v3/config.proto",
    "envoy/extensions/filters/http/local_ratelimit/v3/local_rate_limit.proto",
    "envoy/extensions/filters/http/rbac/v3/rbac.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/original_src/v3/original_src.proto",
    "envoy/extensions/filters/listener/proxy_protocol/v3/proxy_protocol.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/ext_authz/v3/ext_authz.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/rbac/v3/rbac.proto",
    "envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3/sni_dynamic_forward_proxy.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.proto",
    "envoy/extensions/load_balancing_policies/least_request/v3/least_request.proto",
    "envoy/extensions/load_balancing_policies/maglev/v3/maglev.proto",
    "envoy/extensions/load_balancing_policies/random/v3/random.proto",
    "envoy/extensions/load_balancing_policies/ring_hash/v3/ring_hash.proto",
    "envoy/extensions/load_balancing_policies/round_robin/v3/round_robin.proto",
    "envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.proto",
    "envoy/extensions/path/match/uri_template/v3/uri_template_match.proto",
    "envoy/extensions/request_id/uuid/v3/uuid.proto",
    "envoy/extensions/resource_monitors/downstream_connections/v3/downstream_connections.proto",
    "envoy/extensions/resource_monitors/fixed_heap/v3/fixed_heap.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/retry/priority/previous_priorities/v3/previous_priorities_config.proto",
    "envoy/extensions/transport_sockets/proxy_protocol/v3/upstream_proxy_protocol.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let types = envoy_types_dir(&out)?.join("src/generated/types.bin");
    println!("cargo::rerun-if-changed={}", types.display());
    let all = std::fs::read(&types).map_err(|e| format!("{}: {e}", types.display()))?;
    let mut set = FileDescriptorSet::decode(all.as_slice())?;
    keep_reachable(&mut set, ROOTS)?;
    set.file.iter_mut().for_each(strip);
    set.file.extend([typed_struct("udpa.type.v1"), typed_struct("xds.type.v3"), istio_alpn()]);

    std::fs::write(out.join("envoy.bin"), set.encode_to_vec())?;
    std::fs::write(out.join("unordered.rs"), unordered_table(&set)?)?;
    Ok(())
}

/// The directory of the `envoy-types` crate this package is being built with.
///
/// Cargo is asked about a package that depends on nothing else, with the same lock file: about this workspace it can
/// only answer offline if the dependencies of all its tests have been downloaded too.
fn envoy_types_dir(out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let lock = here.ancestors().map(|parent| parent.join("Cargo.lock")).find(|lock| lock.is_file());
    let lock = lock.ok_or("there is no Cargo.lock")?;
    println!("cargo::rerun-if-changed={}", lock.display());
    let probe = out.join("envoy-types-probe");
    std::fs::create_dir_all(&probe)?;
    std::fs::copy(lock, probe.join("Cargo.lock"))?;
    std::fs::write(probe.join("lib.rs"), "")?;
    let manifest = "[package]\nname = \"probe\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
                    [dependencies]\nenvoy-types = \"*\"\n[workspace]\n";
    std::fs::write(probe.join("Cargo.toml"), manifest)?;
    let output = Command::new(std::env::var("CARGO")?)
        // Only this target's packages: others may never have been downloaded.
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform"])
        .arg(std::env::var("TARGET")?)
        .arg("--manifest-path")
        .arg(probe.join("Cargo.toml"))
        // Where the workspace's own Cargo configuration (vendored sources, say) is found.
        .current_dir(here)
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifests: Vec<&str> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|package| package["name"] == "envoy-types")
        .filter_map(|package| package["manifest_path"].as_str())
        .collect();
    match manifests.as_slice() {
        [manifest] => Ok(Path::new(manifest).parent().ok_or("envoy-types has no directory")?.to_owned()),
        found => Err(format!("expected one envoy-types among the dependencies, found {found:?}").into()),
    }
}

fn keep_reachable(set: &mut FileDescriptorSet, roots: &[&str]) -> Result<(), Box<dyn Error>> {
    let by_name: BTreeMap<String, Vec<String>> =
        set.file.iter().map(|file| (file.name().to_owned(), file.dependency.clone())).collect();
    let mut keep = BTreeSet::new();
    let mut todo: Vec<String> = roots.iter().map(|&root| root.to_owned()).collect();
    while let Some(name) = todo.pop() {
        let dependencies = by_name.get(&name).ok_or_else(|| format!("envoy-types does not describe {name}"))?;
        if keep.insert(name) {
            todo.extend(dependencies.iter().cloned());
        }
    }
    set.file.retain(|file| keep.contains(file.name()));
    Ok(())
}

/// Drops comments and options: validation rules and version notes, most of the size, none of it needed for JSON.
fn strip(file: &mut FileDescriptorProto) {
    file.source_code_info = None;
    file.options = None;
    file.service.clear();
    file.extension.clear();
    for r#enum in &mut file.enum_type {
        strip_enum(r#enum);
    }
    file.message_type.iter_mut().for_each(strip_message);
}

fn strip_message(message: &mut DescriptorProto) {
    let is_map = message.options.as_ref().and_then(|options| options.map_entry);
    message.options = is_map.map(|_| MessageOptions { map_entry: is_map, ..MessageOptions::default() });
    message.extension.clear();
    for field in &mut message.field {
        field.options = None;
    }
    for oneof in &mut message.oneof_decl {
        oneof.options = None;
    }
    for r#enum in &mut message.enum_type {
        strip_enum(r#enum);
    }
    message.nested_type.iter_mut().for_each(strip_message);
}

fn strip_enum(r#enum: &mut prost_types::EnumDescriptorProto) {
    let allow_alias = r#enum.options.as_ref().and_then(|options| options.allow_alias);
    r#enum.options = allow_alias.map(|_| EnumOptions { allow_alias, ..EnumOptions::default() });
    for value in &mut r#enum.value {
        value.options = None;
    }
}

/// The two messages that hold the JSON of another one, which `envoy-types` leaves out: a type URL and a structure.
fn typed_struct(package: &str) -> FileDescriptorProto {
    let message = DescriptorProto {
        name: Some("TypedStruct".to_owned()),
        field: vec![
            field("type_url", 1, Label::Optional, Type::String, None),
            field("value", 2, Label::Optional, Type::Message, Some(".google.protobuf.Struct")),
        ],
        ..DescriptorProto::default()
    };
    FileDescriptorProto {
        name: Some(format!("{}/typed_struct.proto", package.replace('.', "/"))),
        package: Some(package.to_owned()),
        dependency: vec!["google/protobuf/struct.proto".to_owned()],
        message_type: vec![message],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

/// The settings of Istio's filter `istio.alpn` (see `src/istio.rs`).
fn istio_alpn() -> FileDescriptorProto {
    const PACKAGE: &str = "istio.envoy.config.filter.http.alpn.v2alpha1";
    let inner = |name: &str| format!(".{PACKAGE}.FilterConfig.{name}");
    let versions = ["HTTP10", "HTTP11", "HTTP2"].into_iter().zip(0..).map(|(name, number)| EnumValueDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        options: None,
    });
    let protocol = EnumDescriptorProto {
        name: Some("Protocol".to_owned()),
        value: versions.collect(),
        ..EnumDescriptorProto::default()
    };
    let one = DescriptorProto {
        name: Some("AlpnOverride".to_owned()),
        field: vec![
            field("upstream_protocol", 1, Label::Optional, Type::Enum, Some(&inner("Protocol"))),
            field("alpn_override", 2, Label::Repeated, Type::String, None),
        ],
        ..DescriptorProto::default()
    };
    let config = DescriptorProto {
        name: Some("FilterConfig".to_owned()),
        field: vec![field("alpn_override", 1, Label::Repeated, Type::Message, Some(&inner("AlpnOverride")))],
        nested_type: vec![one],
        enum_type: vec![protocol],
        ..DescriptorProto::default()
    };
    FileDescriptorProto {
        name: Some("envoy/config/filter/http/alpn/v2alpha1/config.proto".to_owned()),
        package: Some(PACKAGE.to_owned()),
        message_type: vec![config],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

fn field(name: &str, number: i32, label: Label, r#type: Type, type_name: Option<&str>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(label.into()),
        r#type: Some(r#type.into()),
        type_name: type_name.map(str::to_owned),
        ..FieldDescriptorProto::default()
    }
}

/// What a field of a message means for order: its number, and what stands in it.
enum Field {
    Map(String),
    Message(String),
    Any,
}

/// A Rust table of the messages that hold, at any depth, a map or an `Any`.
fn unordered_table(set: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut messages = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            collect(&format!(".{}", file.package()), message, &mut messages);
        }
    }
    let mut interesting: BTreeSet<String> = BTreeSet::new();
    loop {
        let before = interesting.len();
        for (name, fields) in &messages {
            if fields.iter().any(|(_, field)| match field {
                Field::Map(_) | Field::Any => true,
                Field::Message(of) => interesting.contains(of),
            }) {
                interesting.insert(name.clone());
            }
        }
        if interesting.len() == before {
            break;
        }
    }
    let index: BTreeMap<&String, usize> = interesting.iter().enumerate().map(|(i, name)| (name, i)).collect();
    let mut table = String::from("&[\n");
    for name in &interesting {
        write!(table, "    (\"{}\", &[", name.trim_start_matches('.'))?;
        for (number, field) in &messages[name] {
            match field {
                Field::Any => write!(table, "({number}, Any), ")?,
                Field::Message(of) => {
                    if let Some(of) = index.get(of) {
                        write!(table, "({number}, Message({of})), ")?;
                    }
                }
                Field::Map(entry) => match index.get(entry) {
                    Some(entry) => write!(table, "({number}, Map(Some({entry}))), ")?,
                    None => write!(table, "({number}, Map(None)), ")?,
                },
            }
        }
        table.push_str("]),\n");
    }
    table.push(']');
    Ok(table)
}

type Messages = BTreeMap<String, Vec<(i32, Field)>>;

fn collect(scope: &str, message: &DescriptorProto, into: &mut Messages) {
    let name = format!("{scope}.{}", message.name());
    let entries: BTreeSet<String> = message
        .nested_type
        .iter()
        .filter(|nested| nested.options.as_ref().is_some_and(|options| options.map_entry()))
        .map(|nested| format!("{name}.{}", nested.name()))
        .collect();
    let fields = message
        .field
        .iter()
        .filter(|field| field.r#type() == Type::Message)
        .map(|field| {
            let of = field.type_name().to_owned();
            let field_kind = if entries.contains(&of) {
                Field::Map(of)
            } else if of == ".google.protobuf.Any" {
                Field::Any
            } else {
                Field::Message(of)
            };
            (field.number(), field_kind)
        })
        .collect();
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
    into.insert(name, fields);
}
