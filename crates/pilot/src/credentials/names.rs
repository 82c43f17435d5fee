//! Names of credentials, as TLS contexts have them.

use std::fmt;

/// What the name of a Secret's authorities ends in.
pub(super) const AUTHORITIES: &str = "-cacert";

const SECRET: &str = "kubernetes://";
const CONFIG_MAP: &str = "configmap://";

/// Where a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Secret,
    /// Authorities only.
    ConfigMap,
}

/// A name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub source: Source,
    pub namespace: String,
    /// The object's name. With [`Name::authorities`] it may be without their suffix.
    pub object: String,
    /// Authorities are meant, not a certificate.
    pub authorities: bool,
}

/// The name under which proxies ask for what a Gateway or DestinationRule calls `name`.
pub fn resource_name(name: &str) -> String {
    match name.starts_with(SECRET) || name.starts_with(CONFIG_MAP) {
        true => name.to_owned(),
        false => format!("{SECRET}{name}"),
    }
}

/// The same for the authorities of that name: a Secret is known by the suffix to be asked for those, and no key.
pub fn authorities_name(name: &str) -> String {
    let name = resource_name(name);
    match name.starts_with(CONFIG_MAP) || name.ends_with(AUTHORITIES) {
        true => name,
        false => name + AUTHORITIES,
    }
}

impl Name {
    /// Takes a name apart; `own` is the namespace of the proxy that asks.
    pub fn parse(name: &str, own: &str) -> Option<Name> {
        let (source, path) = match (name.strip_prefix(SECRET), name.strip_prefix(CONFIG_MAP)) {
            (Some(path), _) => (Source::Secret, path),
            (None, Some(path)) => (Source::ConfigMap, path),
            (None, None) => return None,
        };
        let (namespace, object) = match (path.split_once('/'), source) {
            (Some(parts), _) => parts,
            (None, Source::Secret) => (own, path),
            (None, Source::ConfigMap) => return None,
        };
        if namespace.is_empty() || object.is_empty() || object.contains('/') {
            return None;
        }
        let authorities = source == Source::ConfigMap || object.ends_with(AUTHORITIES);
        Some(Name { source, namespace: namespace.to_owned(), object: object.to_owned(), authorities })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Secret => "Secret",
            Source::ConfigMap => "ConfigMap",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.object)
    }
}
