//! Kinds with little to check: keys of ConfigMaps and Secrets, addresses and ports of endpoints.

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Findings, names};
use crate::mesh;

fn key(name: &str) -> Result<(), String> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.len() <= 253 && name.bytes().all(inside) && name != "." && !name.starts_with("..") {
        return Ok(());
    }
    Err(format!("{name:?} is not a key: letters, digits, '-', '_', '.'"))
}

pub(super) fn check_secret(secret: &Secret, findings: &mut Findings) {
    for name in secret.data.iter().flatten().map(|(name, _)| name) {
        findings.check(&format!("data[{name:?}]"), key(name));
    }
    for name in secret.string_data.iter().flatten().map(|(name, _)| name) {
        findings.check(&format!("stringData[{name:?}]"), key(name));
    }
}

pub(super) fn check_config_map(config: &ConfigMap, findings: &mut Findings) {
    let meta = &config.metadata;
    if meta.name.as_deref() == Some(mesh::NAME) && meta.namespace.as_deref() == Some(mesh::NAMESPACE) {
        settings(config, findings);
    }
    for name in config.data.iter().flatten().map(|(name, _)| name) {
        findings.check(&format!("data[{name:?}]"), key(name));
        if config.binary_data.as_ref().is_some_and(|binary| binary.contains_key(name)) {
            findings.error(format!("binaryData[{name:?}]"), "is given in data too");
        }
    }
    for name in config.binary_data.iter().flatten().map(|(name, _)| name) {
        findings.check(&format!("binaryData[{name:?}]"), key(name));
    }
}

/// The ConfigMap that holds the mesh's settings.
fn settings(config: &ConfigMap, findings: &mut Findings) {
    for (name, text) in config.data.iter().flatten() {
        let at = format!("data[{name:?}]");
        match name.as_str() {
            mesh::KEY => findings.append(mesh::mesh_config(text, &at).1),
            // What installers write where there are no networks.
            "meshNetworks" if text.trim() == "networks: {}" => {}
            "meshNetworks" => findings.error(at, "reaching other networks is not supported yet"),
            _ => findings.warning(at, format!("has no effect: the settings are read from {:?}", mesh::KEY)),
        }
    }
}

fn address(text: &str) -> Result<(), String> {
    if names::is_ip(text) { Ok(()) } else { Err(format!("{text:?} is not an IP address")) }
}

pub(super) fn check_endpoints(endpoints: &Endpoints, findings: &mut Findings) {
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let at = format!("subsets[{index}]");
        for (list, addresses) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
        {
            for (index, given) in addresses.iter().flatten().enumerate() {
                findings.check(&format!("{at}.{list}[{index}].ip"), address(&given.ip));
            }
        }
        for (index, port) in subset.ports.iter().flatten().enumerate() {
            findings.check(&format!("{at}.ports[{index}].port"), names::port(port.port.into()));
        }
    }
}

pub(super) fn check_endpoint_slice(slice: &EndpointSlice, findings: &mut Findings) {
    let kinds = ["IPv4", "IPv6", "FQDN"];
    if !kinds.contains(&slice.address_type.as_str()) {
        findings.error("addressType", format!("{:?} is not one of {}", slice.address_type, kinds.join(", ")));
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let at = format!("endpoints[{index}].addresses");
        if endpoint.addresses.is_empty() {
            findings.error(&at, "required: at least one address");
        }
        for (index, given) in endpoint.addresses.iter().enumerate() {
            let form = match slice.address_type.as_str() {
                "IPv4" if given.parse::<std::net::Ipv4Addr>().is_err() => {
                    Err(format!("{given:?} is not an IPv4 address"))
                }
                "IPv6" if given.parse::<std::net::Ipv6Addr>().is_err() => {
                    Err(format!("{given:?} is not an IPv6 address"))
                }
                "FQDN" => names::fqdn(given),
                _ => Ok(()),
            };
            findings.check(&format!("{at}[{index}]"), form);
        }
    }
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            findings.check(&format!("ports[{index}].port"), names::port(number.into()));
        }
    }
}
