use super::*;
use crate::testing::Cluster;
use PeerMode::{Disable, Permissive, Strict};

/// A policy of `namespace`, made `age` seconds after another one.
fn policy(namespace: &str, name: &str, age: u32, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}, \
         creationTimestamp: \"2026-01-01T00:00:{age:02}Z\"}}\nspec: {spec}\n---\n"
    )
}

fn rules(policies: &[String]) -> PeerRules {
    PeerRules::new(&Cluster::read(&policies.concat()).0, &MeshSettings::default())
}

fn labels(app: &str) -> Labels {
    [("app".to_owned(), app.to_owned())].into()
}

#[test]
fn without_a_word_both_are_taken() {
    let rules = rules(&[]);
    assert_eq!(rules.of_namespace("shop"), Permissive);
    assert_eq!(rules.of_workload("shop", &labels("web")), PeerModes::default());
}

#[test]
fn the_narrowest_word_holds() {
    let rules = rules(&[
        policy("istio-system", "mesh", 0, "{mtls: {mode: STRICT}}"),
        policy("shop", "all", 1, "{mtls: {mode: PERMISSIVE}}"),
        policy(
            "shop",
            "web",
            2,
            "{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}, \
             portLevelMtls: {8080: {mode: STRICT}, 9090: {mode: UNSET}}}",
        ),
    ]);
    assert_eq!(rules.of_namespace("elsewhere"), Strict);
    assert_eq!(rules.of_workload("elsewhere", &labels("web")).at(8080), Strict);
    assert_eq!(rules.of_namespace("shop"), Permissive);
    assert_eq!(rules.of_workload("shop", &labels("cart")).at(8080), Permissive);
    let web = rules.of_workload("shop", &labels("web"));
    assert_eq!((web.at(8080), web.at(9090), web.at(80)), (Strict, Disable, Disable));
    assert_eq!(web.ports.keys().copied().collect::<Vec<_>>(), [8080, 9090]);
}

#[test]
fn who_says_nothing_leaves_it_to_the_next_wider_one() {
    let rules = rules(&[
        policy("istio-system", "mesh", 0, "{mtls: {mode: STRICT}}"),
        policy("shop", "all", 1, "{mtls: {}}"),
        policy("shop", "web", 2, "{selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: DISABLE}, 81: {}}}"),
    ]);
    assert_eq!(rules.of_namespace("shop"), Strict);
    let web = rules.of_workload("shop", &labels("web"));
    assert_eq!((web.at(80), web.at(81), web.at(82)), (Disable, Strict, Strict));
}

#[test]
fn the_oldest_of_one_width_holds_even_if_it_says_nothing() {
    let rules = rules(&[
        policy("istio-system", "b", 5, "{mtls: {mode: DISABLE}}"),
        policy("istio-system", "a", 1, "{mtls: {mode: STRICT}}"),
        policy("shop", "new", 5, "{mtls: {mode: DISABLE}}"),
        policy("shop", "old", 1, "{}"),
        policy("shop", "web-new", 5, "{selector: {matchLabels: {app: web}}, mtls: {mode: DISABLE}}"),
        policy("shop", "web-old", 1, "{selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}"),
    ]);
    assert_eq!(rules.of_namespace("shop"), Strict);
    assert_eq!(rules.of_workload("shop", &labels("web")).mode, Permissive);
}

#[test]
fn the_root_namespace_speaks_of_the_whole_mesh_only() {
    let rules = rules(&[
        policy("istio-system", "gateway", 0, "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}"),
        policy("istio-system", "mesh", 1, "{selector: {matchLabels: {}}, mtls: {mode: DISABLE}}"),
    ]);
    assert_eq!(rules.of_workload("istio-system", &labels("web")).mode, Disable);
    assert_eq!(rules.of_workload("shop", &labels("web")).mode, Disable);
}

#[test]
fn old_policies_are_what_they_meant() {
    let old = |kind: &str, namespace: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: authentication.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\n\
             spec: {spec}\n---\n"
        )
    };
    let shop = ", namespace: shop";
    let rules = rules(&[
        old("MeshPolicy", "", "default", "{peers: [{mtls: {}}]}"),
        old("Policy", ", namespace: old", "default", "{}"),
        old("Policy", ", namespace: both", "default", "{peers: [{mtls: }], peerIsOptional: true}"),
        old("Policy", shop, "web", "{targets: [{name: web}], peers: [{mtls: {mode: PERMISSIVE}}]}"),
        old("Policy", shop, "api", "{targets: [{name: api, ports: [{number: 80}, {name: admin}]}, {name: none}]}"),
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
         spec: {selector: {app: web}, ports: [{port: 80}]}\n---\n"
            .to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\nspec: {selector: {app: api}, ports: [\
         {name: http, port: 80, targetPort: 8080}, {name: admin, port: 81, targetPort: inner}, {name: c, port: 82}]}\n---\n"
            .to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: api, namespace: shop, labels: {app: api}}\nspec: {containers: [\
         {name: a, ports: [{name: inner, containerPort: 9090}]}]}\n---\n"
            .to_owned(),
    ]);
    assert_eq!(rules.of_namespace("elsewhere"), Strict);
    assert_eq!((rules.of_namespace("old"), rules.of_namespace("both")), (Disable, Permissive));
    assert_eq!(rules.of_workload("shop", &labels("web")).at(80), Permissive);
    let api = rules.of_workload("shop", &labels("api"));
    assert_eq!([8080, 9090, 82, 80].map(|port| api.at(port)), [Disable, Disable, Strict, Strict]);
    assert!(rules.name_services);
}
