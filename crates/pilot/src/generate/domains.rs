//! The names clients may call a host by.
//!
//! Knows nothing of routes. Source: Istio `core/httproute.go` (generateVirtualHostDomains, GenerateAltVirtualHosts).

/// Other names of `host` for a client that searches `client_domain`, most of the time `NAMESPACE.svc.cluster.local`:
/// the name with a final dot, then the forms DNS search completes to it.
pub fn alternatives(host: &str, client_domain: &str) -> Vec<String> {
    let mut names = Vec::new();
    if host.parse::<std::net::IpAddr>().is_err() {
        names.push(format!("{host}."));
    }
    if let Some((client_namespace, _)) = client_domain.split_once(".svc.") {
        let shared = &client_domain[client_namespace.len()..];
        // Names outside the cluster's domain could collide with what services' names complete to.
        if host.ends_with(shared) {
            names.extend(of_kubernetes_service(host, client_namespace));
        }
        return names;
    }
    names.extend(of_shared_domain(host, client_domain));
    names
}

fn of_kubernetes_service(host: &str, client_namespace: &str) -> Vec<String> {
    let Some((short, _)) = host.split_once(".svc.") else { return Vec::new() };
    let Some((name, namespace)) = short.split_once('.') else { return Vec::new() };
    if namespace == client_namespace {
        vec![name.to_owned(), format!("{short}.svc"), short.to_owned()]
    } else {
        vec![short.to_owned(), format!("{short}.svc")]
    }
}

fn of_shared_domain(host: &str, client_domain: &str) -> Vec<String> {
    let host_parts: Vec<&str> = host.split('.').collect();
    let client_parts: Vec<&str> = client_domain.split('.').collect();
    let shared = host_parts.iter().rev().zip(client_parts.iter().rev()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return Vec::new();
    }
    let (unique, common) = host_parts.split_at(host_parts.len() - shared);
    let unique_name = unique.join(".");
    let mut names = vec![unique_name.clone()];
    if let ([_, _], Some(first)) = (unique, common.first()) {
        names.push(format!("{unique_name}.{first}"));
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_services() {
        let of = |host, domain| alternatives(host, domain).join(" ");
        assert_eq!(
            of("foo.ns.svc.cluster.local", "ns.svc.cluster.local"),
            "foo.ns.svc.cluster.local. foo foo.ns.svc foo.ns"
        );
        assert_eq!(
            of("foo.ns.svc.cluster.local", "other.svc.cluster.local"),
            "foo.ns.svc.cluster.local. foo.ns foo.ns.svc"
        );
        assert_eq!(of("foo.com", "ns.svc.cluster.local"), "foo.com.");
        assert_eq!(of("1.2.3.4", "ns.svc.cluster.local"), "");
    }

    #[test]
    fn of_other_domains() {
        let of = |host, domain| alternatives(host, domain).join(" ");
        assert_eq!(of("foo.local.campus.net", "local.campus.net"), "foo.local.campus.net. foo");
        assert_eq!(of("foo.local.campus.net", "remote.campus.net"), "foo.local.campus.net. foo.local foo.local.campus");
        assert_eq!(of("foo.local.campus.net", "example.com"), "foo.local.campus.net.");
        assert_eq!(of("foo.com", ""), "foo.com.");
        assert_eq!(of("campus.net", "campus.net"), "campus.net.");
    }
}
