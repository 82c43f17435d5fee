//! Secrets from a server of them (SDS), over a loopback connection.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    Secret as PbSecret, TlsCertificate, secret::Type,
};
use lateen_traffic::Config;
use lateen_traffic::tls::{Secret, SecretOrigin};
use rcgen::{CertificateParams, KeyPair};

use super::loopback::{FAR_TOO_LONG, Proxy, Server, bootstrap_of};
use crate::ads::server::StreamStatus;
use crate::json::Schema;
use crate::resource::Resource;
use crate::{ResourceSet, ResourceType};

/// A new certificate under the name `default`.
fn set(version: &str) -> (ResourceSet, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    let inline =
        |text: String| Some(DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() });
    let pair = TlsCertificate {
        certificate_chain: inline(pem),
        private_key: inline(key.serialize_pem()),
        ..Default::default()
    };
    let secret = PbSecret { name: "default".to_owned(), r#type: Some(Type::TlsCertificate(pair)) };
    (ResourceSet::new(version).with(ResourceType::Secret, [Resource::new("default", &secret)]), key)
}

fn bootstrap(port: u16, api_type: &str, timeout: &str) -> crate::bootstrap::Bootstrap {
    bootstrap_of(&written(port, api_type, timeout))
}

fn written(port: u16, api_type: &str, timeout: &str) -> String {
    format!(
        "
static_resources:
  clusters:
  - name: sds
    type: STATIC
    load_assignment: {{cluster_name: sds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}
  listeners:
  - name: tls
    address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy,
          stat_prefix: a, cluster: sds}}
      transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs:
            - name: default
              sds_config:
                resource_api_version: V3
                initial_fetch_timeout: {timeout}
                api_config_source: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{{envoy_grpc: \
         {{cluster_name: sds}}}}]}}
node: {{id: 'sidecar~10.1.1.1~a.default~default.svc.cluster.local', cluster: a.default}}
"
    )
}

fn served(config: &Config) -> Option<Vec<u8>> {
    let (name, secret) = config.secrets.iter().next()?;
    assert!(matches!(&name.origin, SecretOrigin::Server(server) if &*server.cluster == "sds"));
    let Secret::KeyPair(pair) = secret else { return None };
    Some(pair.key.der().to_vec())
}

/// `told_absent`: the server says that there is none, and nobody waits for it then.
async fn waits_and_follows(api_type: &str, told_absent: bool) {
    let server = Server::of_secrets(ResourceSet::new("0")).await;
    let mut proxy = Proxy::start(bootstrap(server.address.port(), api_type, "0s"));
    proxy.until("the bootstrap", |config| config.clusters.contains_key("sds")).await;
    let (first, key) = set("1");
    if told_absent {
        let config = proxy.until("the listener", |config| config.listeners.contains_key("tls")).await;
        assert!(config.secrets.is_empty());
    }
    server.everyone.set.send_replace(Arc::new(first));
    let config = match told_absent {
        true => proxy.until("the secret", |config| !config.secrets.is_empty()).await,
        false => proxy.until("the listener", |config| config.listeners.contains_key("tls")).await,
    };
    assert_eq!(served(&config), Some(key.serialize_der()));

    let listener = Arc::clone(&config.listeners["tls"]);
    let (second, key) = set("2");
    server.everyone.set.send_replace(Arc::new(second));
    let config = proxy.until("the new key", |config| served(config) == Some(key.serialize_der())).await;
    assert!(Arc::ptr_eq(&listener, &config.listeners["tls"]), "connections of the listener go on");

    let dump = proxy.handle.config_dump(true, &Schema::load().unwrap()).unwrap().to_string();
    assert!(dump.contains("[redacted]") && dump.contains("BEGIN CERTIFICATE") && !dump.contains("PRIVATE KEY"));
    proxy.task.abort();
    server.stop().await;
}

#[tokio::test]
async fn state_of_the_world_secrets_are_waited_for_and_followed() {
    waits_and_follows("GRPC", false).await;
}

#[tokio::test]
async fn delta_secrets_are_waited_for_until_there_are_none_and_followed() {
    waits_and_follows("DELTA_GRPC", true).await;
}

#[tokio::test]
async fn a_secret_that_does_not_come_holds_no_listener_for_ever() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    let mut proxy = Proxy::start(bootstrap(port, "GRPC", "0.2s"));
    let config = proxy.until("the listener", |config| config.listeners.contains_key("tls")).await;
    assert!(config.secrets.is_empty());
    proxy.task.abort();
}

#[tokio::test]
async fn a_control_plane_of_ours_hears_what_is_waited_for() {
    let secrets = Server::of_secrets(ResourceSet::new("0")).await;
    let control_plane = Server::start(ResourceSet::new("0"), "127.0.0.1:0").await;
    let cluster = format!(
        "  clusters:
  - name: xds
    type: STATIC
    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
",
        control_plane.address.port()
    );
    let text = written(secrets.address.port(), "GRPC", "0.2s").replace("  clusters:\n", &cluster)
        + "
dynamic_resources:
  ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}
  cds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}
";
    let mut proxy = Proxy::start(bootstrap_of(&text));
    let heard = async |awaited: &[&str]| {
        let said = |status: &StreamStatus| {
            status.awaited.iter().map(ToString::to_string).eq(awaited.iter().copied()) && status.synced()
        };
        let mut status = control_plane.everyone.status();
        let heard = tokio::time::timeout(FAR_TOO_LONG, status.wait_for(said)).await.expect("it is told");
        drop(heard.unwrap());
    };
    proxy.until_status("connected", |status| status.connected).await;
    heard(&["listener tls waits for the secret default"]).await;
    // Served without it, it lacks it all the same.
    proxy.until("the listener", |config| config.listeners.contains_key("tls")).await;
    heard(&["listener tls waits for the secret default"]).await;
    secrets.everyone.set.send_replace(Arc::new(set("1").0));
    heard(&[]).await;
    proxy.task.abort();
    control_plane.stop().await;
    secrets.stop().await;
}
