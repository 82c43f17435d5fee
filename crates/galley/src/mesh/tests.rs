use super::*;

fn said(text: &str) -> (Vec<String>, Vec<String>) {
    let (config, findings) = mesh_config(text, "data[\"mesh\"]");
    assert_eq!(config.is_some(), findings.errors.is_empty());
    let lines = |problems: &[crate::FieldProblem]| problems.iter().map(ToString::to_string).collect();
    (lines(&findings.errors), lines(&findings.warnings))
}

#[test]
fn what_is_carried_out_is_read() {
    let text = "
accessLogFile: ''
protocolDetectionTimeout: 100ms
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
defaultServiceExportTo: ['.']
defaultHttpRetryPolicy: {attempts: 0}
inboundTrafficPolicy: {mode: LOCALHOST}
accessLogEncoding: TEXT
defaultConfig:
  gatewayTopology: {numTrustedProxies: 2, proxyProtocol: {}}
  proxyHeaders: {server: {disabled: true}}
  proxyMetadata: {ISTIO_META_HTTP10: '1'}
";
    let (config, findings) = mesh_config(text, "");
    assert_eq!(findings, Findings::default());
    let config = config.unwrap();
    assert_eq!(config.inbound_traffic_policy.mode, InboundMode::Localhost);
    assert_eq!(config.path_normalization.unwrap().normalization, Normalization::DecodeAndMergeSlashes);
    assert_eq!(config.default_config.gateway_topology.unwrap().num_trusted_proxies, 2);
    assert_eq!(mesh_config("", "").0, Some(MeshConfig::default()));
}

#[test]
fn nothing_is_passed_over() {
    assert_eq!(
        said("acessLogFile: /dev/stdout\nenableTracing: true\nconfigSources: [{address: x}]\n"),
        (
            vec![
                "data[\"mesh\"]: configSources: not supported yet".to_owned(),
                "data[\"mesh\"]: acessLogFile: unknown field, did you mean \"accessLogFile\"?".to_owned(),
            ],
            vec!["data[\"mesh\"]: enableTracing: has no effect here".to_owned()],
        )
    );
    assert_eq!(
        said("protocolDetectionTimeout: 1us").0,
        ["data[\"mesh\"]: protocolDetectionTimeout: 0.000001s is too short: 1ms at least"]
    );
    assert_eq!(
        said("connectTimeout: 1us\ntcpKeepalive: {probes: 3, time: 10ms}\nh2UpgradePolicy: UPGRADE").0,
        [
            "data[\"mesh\"]: tcpKeepalive.time: a second at least",
            "data[\"mesh\"]: connectTimeout: 0.000001s is too short: 1ms at least",
        ]
    );
    let selector = |requirement: &str| format!("discoverySelectors: [{{matchExpressions: [{requirement}]}}]");
    assert_eq!(
        said(&selector("{key: a, operator: In}, {key: b, operator: Exists, values: [x]}")).0,
        [
            "data[\"mesh\"]: discoverySelectors[0].matchExpressions[0].values: must be given",
            "data[\"mesh\"]: discoverySelectors[0].matchExpressions[1].values: can be given with In and NotIn alone",
        ]
    );
    assert_eq!(said(&selector("{key: a, operator: NotIn, values: [x]}")).0, [""; 0]);
    assert_eq!(said("accessLogEncoding: JSON\naccessLogFormat: '{\"status\": \"%RESPONSE_CODE%\"}'").0, [""; 0]);
    assert_eq!(
        said("accessLogFormat: '%REQ_WITHOUT_QUERY(:PATH)%'").0,
        ["data[\"mesh\"]: accessLogFormat: %REQ_WITHOUT_QUERY% is not supported yet"]
    );
    assert_eq!(
        said("defaultConfig: {interceptionMode: TPROXY, proxyMetadata: {A: b}, proxyHeaders: {x: {}}}").0,
        [
            "data[\"mesh\"]: defaultConfig: interceptionMode: not supported yet",
            "data[\"mesh\"]: defaultConfig.proxyHeaders.x: unknown field",
        ]
    );
    assert_eq!(
        said("defaultConfig: {proxyMetadata: {WORKLOAD_RSA_KEY_SIZE: '4096', ECC_SIGNATURE_ALGORITHM: ECDSA}}"),
        (
            vec![
                "data[\"mesh\"]: defaultConfig: proxyMetadata.WORKLOAD_RSA_KEY_SIZE: \"4096\" is not supported, only \"2048\""
                    .to_owned()
            ],
            Vec::new(),
        )
    );
    assert_eq!(said("[]").0, ["data[\"mesh\"]: expected an object, found a list"]);
    assert_eq!(said("a: [").0.len(), 1);
}

#[test]
fn identity_is_read_and_doubted() {
    let root = "-----BEGIN CERTIFICATE-----\\nAA\\n-----END CERTIFICATE-----";
    let text = format!(
        "
trustDomain: mesh.example
trustDomainAliases: [old.example, cluster.local]
caCertificates: [{{pem: \"{root}\", trustDomains: [partner.example]}}]
meshMTLS: {{minProtocolVersion: TLSV1_3}}
tlsDefaults: {{ecdhCurves: [P-256], cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}}
"
    );
    let (config, findings) = mesh_config(&text, "");
    assert_eq!(findings, Findings::default());
    let config = config.unwrap();
    assert_eq!(config.trust_domain.as_deref(), Some("mesh.example"));
    assert_eq!(config.mesh_mtls.min_protocol_version, TlsVersion::V1_3);
    assert_eq!(config.ca_certificates[0].trust_domains, ["partner.example"]);
    let wrong = "
trustDomain: Mesh
trustDomainAliases: [a_b]
caCertificates:
- pem: none
  trustDomains: ['']
- spiffeBundleUrl: https://example.com/bundle
  certSigners: [clusterissuers.example/a]
meshMTLS: {ecdhCurves: [P-256], cipherSuites: [RC4-SHA]}
tlsDefaults: {ecdhCurves: [P-512]}
";
    let errors = said(wrong).0;
    let paths: Vec<&str> = errors.iter().map(|error| error.split(": ").nth(1).unwrap()).collect();
    assert_eq!(
        paths,
        [
            "trustDomain",
            "trustDomainAliases[0]",
            "caCertificates[0].pem",
            "caCertificates[0].trustDomains[0]",
            "caCertificates[1].spiffeBundleUrl",
            "caCertificates[1].certSigners",
            "meshMTLS.cipherSuites",
            "meshMTLS.ecdhCurves",
            "tlsDefaults.ecdhCurves[0]",
        ]
    );
    assert!(!said("meshMTLS: {minProtocolVersion: TLSV1_1}").0.is_empty());
    let suites = "cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]";
    let (errors, warnings) = said(&format!("meshMTLS: {{{suites}}}"));
    assert!(errors.is_empty());
    assert!(warnings[0].contains("meshMTLS.cipherSuites: are of TLS 1.2"), "{warnings:?}");
    assert!(said(&format!("meshMTLS: {{{suites}, minProtocolVersion: TLSV1_2}}")).1.is_empty());
}

#[test]
fn a_proxy_s_word_goes_over_the_meshs() {
    let read = |text| proxy_config(text, "").0.unwrap();
    let mesh = read(
        "
gatewayTopology: {numTrustedProxies: 1, forwardClientCertDetails: SANITIZE}
proxyHeaders: {server: {value: mesh}, requestId: {disabled: true}}
proxyMetadata: {ISTIO_META_HTTP10: '1'}
",
    );
    let own = read(
        "
gatewayTopology: {numTrustedProxies: 3}
proxyHeaders: {server: {value: own}}
proxyMetadata: {ISTIO_META_IDLE_TIMEOUT: 3s}
",
    );
    let all = read(
        "
gatewayTopology: {numTrustedProxies: 3, forwardClientCertDetails: SANITIZE}
proxyHeaders: {server: {value: own}, requestId: {disabled: true}}
proxyMetadata: {ISTIO_META_HTTP10: '1', ISTIO_META_IDLE_TIMEOUT: 3s}
",
    );
    assert_eq!(own.over(&mesh), all);
    assert_eq!(ProxyConfig::default().over(&mesh), mesh);
}

#[test]
fn the_objects_that_hold_settings_are_checked() {
    let errors = |object: serde_json::Value| -> Vec<String> {
        let object = crate::Object::decode(object).unwrap();
        crate::validate::object(&object).errors.iter().map(ToString::to_string).collect()
    };
    let map = |name: &str, data: serde_json::Value| {
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "istio-system"}, "data": data})
    };
    let mesh = serde_json::json!({"mesh": "rootNamespace: A\n", "meshNetworks": "networks: {}"});
    assert_eq!(errors(map("istio", mesh.clone())), ["data[\"mesh\"]: rootNamespace: \"A\" is not a namespace"]);
    assert!(errors(map("another", mesh)).is_empty());
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "image": "b"}]},
        "metadata": {"name": "a", "namespace": "b", "annotations": {"proxy.istio.io/config": "concurency: 2"}}});
    let deployment = serde_json::json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"proxy.istio.io/config": "tracing: {}\nx: 1"}},
            "spec": {"containers": [{"name": "a", "image": "b"}]}}}});
    assert_eq!(errors(pod), ["metadata.annotations[\"proxy.istio.io/config\"]: concurency: unknown field"]);
    assert_eq!(errors(deployment), ["spec.template.metadata.annotations[\"proxy.istio.io/config\"]: x: unknown field"]);
}

#[test]
fn providers_are_read_and_checked() {
    let text = "
extensionProviders:
- name: a
  envoyExtAuthzHttp: {service: shop/a.test, port: 80, timeout: 1s, includeRequestHeadersInCheck: [x-*]}
- name: b
  envoyExtAuthzGrpc: {service: b.test, port: 9000, statusOnError: '503'}
- name: told
  prometheus: {}
  zipkin: {service: z, port: 1}
";
    let (config, findings) = mesh_config(text, "");
    let warnings: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, [": extensionProviders[2].zipkin: has no effect here".replacen("[2].", "[2]: ", 1)]);
    let providers = config.unwrap().extension_providers;
    assert_eq!(providers[0].envoy_ext_authz_http.as_ref().unwrap().service, "shop/a.test");
    assert_eq!(providers[1].envoy_ext_authz_grpc.as_ref().unwrap().port, 9000);
    let bad = "
extensionProviders:
- envoyExtAuthzHttp: {port: 0, pathPrefix: x, statusOnError: '999', headersToUpstreamOnAllow: ['*'], includeAdditionalHeadersInCheck: {'a b': c}}
- name: a
  envoyExtAuthzGrpc: {service: a/b/c, port: 70000, includeRequestBodyInCheck: {}}
- name: a
  envoyExtAuthzHttp: {service: a, port: 1}
  envoyExtAuthzGrpc: {service: a, port: 1}
";
    let at = "m: extensionProviders";
    let (config, findings) = mesh_config(bad, "m");
    assert!(config.is_none());
    let errors: Vec<String> = findings.errors.iter().map(ToString::to_string).collect();
    let http = format!("{at}[0].envoyExtAuthzHttp");
    let grpc = format!("{at}[1].envoyExtAuthzGrpc");
    assert_eq!(
        errors,
        [
            format!("{at}[0].name: required"),
            format!("{http}.service: \"\" is neither HOST nor NAMESPACE/HOST"),
            format!("{http}.port: 0 is no port"),
            format!("{http}.statusOnError: \"999\" is no HTTP status"),
            format!("{http}.pathPrefix: should begin with a slash"),
            format!("{http}.headersToUpstreamOnAllow[0]: should be a name, or one that begins or ends in *"),
            format!("{http}.includeAdditionalHeadersInCheck: \"a b\" is no header name"),
            format!("{grpc}.service: \"a/b/c\" is neither HOST nor NAMESPACE/HOST"),
            format!("{grpc}.port: 70000 is no port"),
            format!("{grpc}.includeRequestBodyInCheck.maxRequestBytes: should be above 0"),
            format!("{at}[2].name: another provider is called \"a\" too"),
            format!("{at}[2]: more than one kind of provider"),
        ]
    );
}
