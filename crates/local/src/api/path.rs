//! The Kubernetes API's paths, taken apart. Knows the shape of paths, not which kinds exist.

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/api`: the versions of the core group.
    CoreVersions,
    /// `/apis`: the groups.
    Groups,
    /// `/apis/GROUP`.
    Group(String),
    /// `/api/v1` and `/apis/GROUP/VERSION`: the resources of one version.
    Resources {
        /// Empty for the core group.
        group: String,
        /// The version.
        version: String,
    },
    /// `/openapi/v3`: of which versions of which groups there is a description.
    OpenApi,
    /// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`.
    OpenApiOf {
        /// Empty for the core group.
        group: String,
        /// The version.
        version: String,
    },
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`.
    Health,
    /// `/.well-known/openid-configuration`: who issues service-account tokens.
    OpenId,
    /// `/openid/v1/jwks`: the keys they are verified by.
    Keys,
    /// Objects.
    Objects(ObjectPath),
}

/// A path to a collection, an object or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPath {
    /// Empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace, if the path names one.
    pub namespace: Option<String>,
    /// The resource's plural name as paths write it, such as `pods`.
    pub resource: String,
    /// The object's name; without it the path means the collection.
    pub name: Option<String>,
    /// `status`, `log`, `exec` and the like.
    pub subresource: Option<String>,
}

/// Parts a path can have at most (`apis/G/V/namespaces/NS/R/NAME/SUB`).
const PART_LIMIT: usize = 8;

/// Takes a request's path apart; `None` if nothing can be there.
pub fn parse(path: &str) -> Option<Route> {
    let mut parts = Vec::with_capacity(PART_LIMIT);
    for part in path.strip_prefix('/')?.trim_end_matches('/').split('/') {
        if parts.len() == PART_LIMIT {
            return None;
        }
        parts.push(percent_decode(part)?);
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["version"] => Some(Route::Version),
        ["healthz" | "livez" | "readyz"] => Some(Route::Health),
        [".well-known", "openid-configuration"] => Some(Route::OpenId),
        ["openid", "v1", "jwks"] => Some(Route::Keys),
        ["api"] => Some(Route::CoreVersions),
        ["apis"] => Some(Route::Groups),
        ["apis", group] => Some(Route::Group((*group).to_owned())),
        ["api", version] => Some(Route::Resources { group: String::new(), version: (*version).to_owned() }),
        ["apis", group, version] => {
            Some(Route::Resources { group: (*group).to_owned(), version: (*version).to_owned() })
        }
        ["openapi", "v3"] => Some(Route::OpenApi),
        ["openapi", "v3", "api", version] => {
            Some(Route::OpenApiOf { group: String::new(), version: (*version).to_owned() })
        }
        ["openapi", "v3", "apis", group, version] => {
            Some(Route::OpenApiOf { group: (*group).to_owned(), version: (*version).to_owned() })
        }
        ["api", version, rest @ ..] => objects("", version, rest),
        ["apis", group, version, rest @ ..] => objects(group, version, rest),
        _ => None,
    }
}

fn objects(group: &str, version: &str, rest: &[&str]) -> Option<Route> {
    // A namespace is itself an object: its own subresources are told from resources inside it by name.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (Some((*namespace).to_owned()), inner),
        _ => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (resource, None, None),
        [resource, name] => (resource, Some(name), None),
        [resource, name, subresource] => (resource, Some(name), Some(subresource)),
        _ => return None,
    };
    let owned = |part: &&str| (*part).to_owned();
    Some(Route::Objects(ObjectPath {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace,
        resource: owned(resource),
        name: name.map(owned),
        subresource: subresource.map(owned),
    }))
}

/// The values of a query string's keys, in order.
pub fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plus = |part: &str| percent_decode(&part.replace('+', " "));
            Some((plus(key)?, plus(value)?))
        })
        .collect()
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Writes a part of a path or query so that it survives [`parse`] and [`query`].
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> ObjectPath {
        match parse(text) {
            Some(Route::Objects(path)) => path,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn objects_are_found_where_kubernetes_puts_them() {
        let pods = path("/api/v1/namespaces/shop/pods");
        assert_eq!(
            (pods.namespace.as_deref(), pods.resource.as_str(), pods.name.as_deref()),
            (Some("shop"), "pods", None)
        );
        let log = path("/api/v1/namespaces/shop/pods/a-1/log");
        assert_eq!((log.name.as_deref(), log.subresource.as_deref()), (Some("a-1"), Some("log")));
        let all = path("/apis/networking.istio.io/v1/virtualservices");
        assert_eq!(
            (all.group.as_str(), all.namespace, all.resource.as_str()),
            ("networking.istio.io", None, "virtualservices")
        );
        let namespace = path("/api/v1/namespaces/shop");
        assert_eq!(
            (namespace.namespace, namespace.resource.as_str(), namespace.name.as_deref()),
            (None, "namespaces", Some("shop"))
        );
        let status = path("/api/v1/namespaces/shop/status");
        assert_eq!(
            (status.namespace, status.name.as_deref(), status.subresource.as_deref()),
            (None, Some("shop"), Some("status"))
        );
    }

    #[test]
    fn the_rest_is_discovery_or_nothing() {
        assert_eq!(parse("/api/v1/"), Some(Route::Resources { group: String::new(), version: "v1".to_owned() }));
        assert_eq!(parse("/apis/apps"), Some(Route::Group("apps".to_owned())));
        assert_eq!(parse("/"), None);
        assert_eq!(parse("/apis/a/b/namespaces/c/d/e/f/g"), None);
        assert_eq!(parse("/api/v1/%zz"), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(text in ".*") {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), Some(text.clone()));
            prop_assert_eq!(query(&format!("a={}", percent_encode(&text))), vec![("a".to_owned(), text)]);
        }

        #[test]
        fn no_path_panics(text in ".{0,200}") {
            let _ = parse(&text);
            let _ = query(&text);
        }
    }
}
