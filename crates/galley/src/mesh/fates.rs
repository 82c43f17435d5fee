//! Fields of `MeshConfig` and `ProxyConfig` that Istio knows and nothing here carries out.
//!
//! They are taken out before the rest is decoded. One table each; a feature that comes into being takes its lines out.

use serde_json::Value;

use crate::validate::Findings;

/// What becomes of a field that is not carried out.
enum Fate {
    /// Nothing here has a use for it.
    NoEffect,
    /// Traffic would be treated otherwise than meant.
    Refused,
    /// The same, unless it says this: what happens anyway.
    RefusedUnless(&'static str),
}
use Fate::{NoEffect, Refused, RefusedUnless};

const MESH: &[(&str, Fate)] = &[
    ("proxyListenPort", RefusedUnless("15001")),
    ("proxyInboundListenPort", RefusedUnless("15006")),
    ("proxyHttpPort", RefusedUnless("0")),
    ("hboneIdleTimeout", NoEffect),
    ("ingressClass", NoEffect),
    ("ingressService", NoEffect),
    ("ingressControllerMode", NoEffect),
    ("ingressSelector", NoEffect),
    ("authPolicy", NoEffect),
    ("enableTracing", NoEffect),
    ("enableEnvoyAccessLogService", RefusedUnless("false")),
    ("disableEnvoyListenerLog", RefusedUnless("false")),
    ("configSources", Refused),
    ("zoneAwareLbSetting", Refused),
    ("inboundClusterStatName", Refused),
    ("outboundClusterStatName", Refused),
    ("certificates", NoEffect),
    ("serviceSettings", NoEffect),
    ("serviceScopeConfigs", NoEffect),
    ("enablePrometheusMerge", NoEffect),
    ("verifyCertificateAtClient", NoEffect),
    ("ca", NoEffect),
    ("defaultProviders", NoEffect),
    ("defaultTrafficPolicy", Refused),
    ("serviceEntryVisibility", Refused),
];

/// Providers for telemetry, of which there is none: a Telemetry that names one is refused itself.
const PROVIDER: &[(&str, Fate)] = &[
    ("zipkin", NoEffect),
    ("lightstep", NoEffect),
    ("datadog", NoEffect),
    ("stackdriver", NoEffect),
    ("opencensus", NoEffect),
    ("skywalking", NoEffect),
    ("opentelemetry", NoEffect),
    ("prometheus", NoEffect),
    ("envoyFileAccessLog", NoEffect),
    ("envoyHttpAls", NoEffect),
    ("envoyTcpAls", NoEffect),
    ("envoyOtelAls", NoEffect),
    ("sds", NoEffect),
];

const PROXY: &[(&str, Fate)] = &[
    ("configPath", NoEffect),
    ("binaryPath", NoEffect),
    ("serviceCluster", NoEffect),
    ("tracingServiceName", NoEffect),
    ("drainDuration", NoEffect),
    ("discoveryAddress", NoEffect),
    ("discoveryRefreshDelay", NoEffect),
    ("zipkinAddress", NoEffect),
    ("statsdUdpAddress", NoEffect),
    ("envoyMetricsServiceAddress", NoEffect),
    ("proxyAdminPort", RefusedUnless("15000")),
    ("availabilityZone", NoEffect),
    ("controlPlaneAuthPolicy", NoEffect),
    ("customConfigFile", Refused),
    ("statNameLength", NoEffect),
    ("concurrency", NoEffect),
    ("proxyBootstrapTemplatePath", Refused),
    ("interceptionMode", RefusedUnless("REDIRECT")),
    ("tracing", NoEffect),
    ("sds", NoEffect),
    ("envoyAccessLogService", Refused),
    ("envoyMetricsService", NoEffect),
    ("runtimeValues", Refused),
    ("statusPort", NoEffect),
    ("extraStatTags", NoEffect),
    ("terminationDrainDuration", NoEffect),
    ("meshId", NoEffect),
    ("proxyStatsMatcher", NoEffect),
    ("holdApplicationUntilProxyStarts", NoEffect),
    ("caCertificatesPem", NoEffect),
    ("image", NoEffect),
    ("privateKeyProvider", NoEffect),
    ("fileFlushInterval", NoEffect),
    ("fileFlushMinSizeKb", NoEffect),
    ("statsCompression", NoEffect),
    ("connectionSettings", Refused),
];

const PROXY_HEADERS: &[(&str, Fate)] = &[
    // They tell Istio's own filters of the peer, which no proxy here has.
    ("metadataExchangeHeaders", NoEffect),
    ("preserveHttp1HeaderCase", RefusedUnless("false")),
    ("xForwardedPort", RefusedUnless("false")),
];

/// Takes out of a `MeshConfig` what is not carried out.
pub(super) fn mesh(value: &mut Value, at: &str, findings: &mut Findings) {
    take_out(value, at, MESH, findings);
    if let Some(Value::Array(providers)) = value.get_mut("extensionProviders") {
        for (index, provider) in providers.iter_mut().enumerate() {
            take_out(provider, &format!("{at}: extensionProviders[{index}]"), PROVIDER, findings);
        }
    }
    if let Some(proxy_config) = value.get_mut("defaultConfig") {
        proxy(proxy_config, &format!("{at}: defaultConfig"), findings);
    }
}

/// Takes out of a `ProxyConfig` what is not carried out.
pub(super) fn proxy(value: &mut Value, at: &str, findings: &mut Findings) {
    take_out(value, at, PROXY, findings);
    if let Some(headers) = value.get_mut("proxyHeaders") {
        take_out(headers, &format!("{at}: proxyHeaders"), PROXY_HEADERS, findings);
    }
}

fn take_out(value: &mut Value, at: &str, table: &[(&str, Fate)], findings: &mut Findings) {
    let Some(fields) = value.as_object_mut() else { return };
    for (name, fate) in table {
        let Some(said) = fields.remove(*name).filter(|said| !says_nothing(said)) else { continue };
        let path = format!("{at}: {name}");
        match fate {
            NoEffect => findings.warning(path, "has no effect here"),
            RefusedUnless(usual) if is(&said, usual) => {}
            Refused | RefusedUnless(_) => findings.error(path, "not supported yet"),
        }
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(says_nothing),
    }
}

/// Whether a value is the usual one; a message with one field (`{mode: PASSTHROUGH}`) counts as that field.
fn is(value: &Value, usual: &str) -> bool {
    match value {
        Value::String(text) => text == usual,
        Value::Bool(truth) => usual.parse() == Ok(*truth),
        Value::Number(number) => number.as_u64().is_some_and(|number| usual.parse() == Ok(number)),
        Value::Object(fields) => fields.len() == 1 && fields.values().all(|field| is(field, usual)),
        Value::Null | Value::Array(_) => false,
    }
}
