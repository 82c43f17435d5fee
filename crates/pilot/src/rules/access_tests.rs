use super::*;
use crate::testing::Cluster;

const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";

/// A policy of each kind with this target.
fn policies(namespace: &str, target: &str) -> String {
    let policy = |kind: &str, rules: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\n\
             spec: {{{target}, {rules}}}\n---\n"
        )
    };
    policy("AuthorizationPolicy", "rules: [{}]") + &policy("RequestAuthentication", "jwtRules: [{issuer: i, jwks: j}]")
}

/// Whether they hold for a workload with this label.
fn hold(policies: &str, namespace: &str, labels: &[(&str, &str)]) -> bool {
    let rules = AccessRules::new(&Cluster::read(policies).0, &MeshSettings::default(), &Keys::default());
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let access = rules.find(&Registry::default(), namespace, &labels);
    assert_eq!(access.policies.len(), access.tokens.len());
    !access.policies.is_empty()
}

#[test]
fn what_refers_to_a_gateway_holds_for_its_pods_alone() {
    let edge = &[("app", "edge"), (GATEWAY_NAME, "edge")][..];
    for target in [format!("targetRef: {GATEWAY}"), format!("targetRefs: [{{kind: Service, name: web}}, {GATEWAY}]")] {
        let given = policies("shop", &target);
        assert!(hold(&given, "shop", edge), "{target}");
        assert!(!hold(&given, "shop", &[(GATEWAY_NAME, "other")]), "{target}");
        assert!(!hold(&given, "shop", &[("app", "edge")]), "{target}");
        assert!(!hold(&given, "other", edge), "{target}");
        let of_root = policies("istio-system", &target);
        assert!(!hold(&of_root, "shop", edge), "{target}: in the root namespace it holds for gateways there");
        assert!(hold(&of_root, "istio-system", edge), "{target}");
    }
    let others =
        "targetRefs: [{kind: Service, name: edge}, {group: gateway.networking.k8s.io, kind: GatewayClass, name: edge}]";
    assert!(!hold(&policies("shop", others), "shop", edge), "what waypoints enforce holds for nobody else");
}

#[test]
fn a_selector_selects_gateways_too() {
    let edge = &[("app", "edge"), (GATEWAY_NAME, "edge")][..];
    assert!(hold(&policies("istio-system", "selector: {matchLabels: {app: edge}}"), "shop", edge));
    assert!(!hold(&policies("shop", "selector: {matchLabels: {app: web}}"), "shop", edge));
}

#[test]
fn a_workload_cannot_have_two_providers() {
    let custom = |name: &str, provider: &str, more: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop{more}}}\n\
             spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}\n---\n"
        )
    };
    let problems = |policies: &str| {
        let rules = AccessRules::new(&Cluster::read(policies).0, &MeshSettings::default(), &Keys::default());
        rules.find(&Registry::default(), "shop", &Labels::new()).problems()
    };
    let tried = custom("c", "other", ", annotations: {istio.io/dry-run: \"true\"}");
    assert_eq!(problems(&tried), Vec::<String>::new(), "what is only tried denies nothing");
    let of = |name: &str, provider: &str| {
        format!(
            "AuthorizationPolicy shop/{name} denies what it matches: of provider {provider:?}, \
             others for this workload name another, and it can have one"
        )
    };
    assert_eq!(problems(&(custom("a", "one", "") + &custom("b", "two", ""))), [of("a", "one"), of("b", "two")]);
}
