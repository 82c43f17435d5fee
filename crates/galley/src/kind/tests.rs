use super::*;

#[test]
fn the_table_is_in_the_order_of_the_enum() {
    for (index, info) in Kind::table().iter().enumerate() {
        assert_eq!(info.kind as usize, index, "{}", info.name);
        assert_eq!(info.kind.info(), info);
    }
}

#[test]
fn what_people_type_is_understood() {
    for (typed, kind) in [
        ("svc", Kind::Service),
        ("services", Kind::Service),
        ("vs", Kind::VirtualService),
        ("virtualservice", Kind::VirtualService),
        ("VirtualServices", Kind::VirtualService),
        ("virtualservices.networking.istio.io", Kind::VirtualService),
        ("virtualservices.v1alpha3.networking.istio.io", Kind::VirtualService),
        ("deploy", Kind::Deployment),
        ("deployments.apps", Kind::Deployment),
        ("deployments.v1.apps", Kind::Deployment),
        ("ns", Kind::Namespace),
        ("sa", Kind::ServiceAccount),
        ("cm", Kind::ConfigMap),
        ("ep", Kind::Endpoints),
        ("endpointslices", Kind::EndpointSlice),
        ("po", Kind::Pod),
        ("pods.v1", Kind::Pod),
        ("dr", Kind::DestinationRule),
        ("gw", Kind::Gateway),
        ("se", Kind::ServiceEntry),
        ("serviceentries", Kind::ServiceEntry),
        ("we", Kind::WorkloadEntry),
        ("wg", Kind::WorkloadGroup),
        ("sidecars", Kind::Sidecar),
        ("ap", Kind::AuthorizationPolicy),
        ("requestauthentications.security.istio.io", Kind::RequestAuthentication),
        ("pa", Kind::PeerAuthentication),
        ("meshpolicies", Kind::MeshPolicy),
        ("policies.authentication.istio.io", Kind::Policy),
    ] {
        assert_eq!(by_typed_name(typed), Ok(vec![kind]), "{typed}");
    }
    assert_eq!(by_typed_name("all"), Ok(vec![Kind::Service, Kind::Pod, Kind::Deployment]));
    assert_eq!(by_typed_name("dr,vs,dr"), Ok(vec![Kind::DestinationRule, Kind::VirtualService]));
    assert_eq!(by_typed_name("istio-io").map(|kinds| kinds.len()), Ok(12));
}

#[test]
fn what_nobody_serves_is_said_so() {
    let said = |typed: &str| by_typed_name(typed).unwrap_err().to_string();
    assert_eq!(
        said("virtualservces"),
        "the server doesn't have a resource type \"virtualservces\", did you mean \"virtualservices\"?"
    );
    assert_eq!(said("zebras"), "the server doesn't have a resource type \"zebras\"");
    assert!(said("servicerole").starts_with("ServiceRole (rbac.istio.io) is carried out no more"));
    assert_eq!(said("wasmplugin"), "WasmPlugin (extensions.istio.io) is not supported yet");
    assert_eq!(said("pods.apps"), "the server doesn't have a resource type \"pods.apps\", did you mean \"pods\"?");

    let said = |version: &str, kind: &str| by_api_version(version, kind).unwrap_err().to_string();
    assert_eq!(
        said("networking.istio.io/v1", "VirtualServce"),
        "no kind \"VirtualServce\" in \"networking.istio.io/v1\", did you mean \"VirtualService\"?"
    );
    assert_eq!(
        said("networking.istio.io/v2", "Gateway"),
        "Gateway is not served in \"networking.istio.io/v2\"; use networking.istio.io/v1, \
         networking.istio.io/v1beta1, networking.istio.io/v1alpha3"
    );
    assert_eq!(
        said("extensions/v1beta1", "Deployment"),
        "Deployment is not served in \"extensions/v1beta1\"; use apps/v1"
    );
    // Passed over, they would seem to protect what they do not.
    for kind in ["ServiceRole", "ServiceRoleBinding", "RbacConfig", "ClusterRbacConfig", "AuthorizationPolicy"] {
        let said = said("rbac.istio.io/v1alpha1", kind);
        let begins =
            format!("{kind} (rbac.istio.io) is carried out no more, and protects nothing; write instead an Auth");
        assert!(said.starts_with(&begins), "{said}");
    }
    assert!(said("rbac.istio.io/v1alpha1", "ServiceRoll").starts_with("no kind"));
    assert_eq!(
        said("gateway.networking.k8s.io/v1", "Gateway"),
        "Gateway (gateway.networking.k8s.io) is no kind of the mesh: passed over"
    );
}

#[test]
fn rest_paths_name_kinds() {
    assert_eq!(by_path("", "v1", "services"), Some(Kind::Service));
    assert_eq!(by_path("networking.istio.io", "v1beta1", "gateways"), Some(Kind::Gateway));
    assert_eq!(by_path("networking.istio.io", "v2", "gateways"), None);
    assert_eq!(by_path("apps", "v1", "services"), None);
}
