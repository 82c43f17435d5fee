//! A policy's rule as permissions and principals.
//!
//! Source: Istio `pilot/pkg/security/authz/model`, `pilot/pkg/security/authz/matcher`, `pilot/pkg/security/trustdomain`.

use crate::generate::wire;
use crate::registry::Cidr;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, permission::Rule as Rule_, permission::Set as Permissions, principal::Authenticated,
    principal::Identifier, principal::Set as Principals,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, RegexMatcher, StringMatcher, ValueMatcher,
    list_matcher::MatchPattern as ListPattern, metadata_matcher::PathSegment, metadata_matcher::path_segment::Segment,
    path_matcher, string_matcher::MatchPattern, value_matcher::MatchPattern as ValuePattern,
};
use lateen_galley::istio::authorization_policy::{Operation, Rule, Source};

const SPIFFE: &str = "spiffe://";
const JWT: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";

/// What a rule is translated for.
pub struct Context<'a> {
    /// The policy's namespace.
    pub namespace: &'a str,
    /// The mesh's own, then its aliases.
    pub trust_domains: &'a [String],
    /// For connections of bytes.
    pub tcp: bool,
    /// What matches may pass. A part that cannot be told then takes the whole rule away; else only itself.
    pub allows: bool,
}

/// What cannot be asked of a connection, or makes no sense.
struct Untold;

type Told<T> = Result<T, Untold>;

/// A list of conditions that all have to hold.
struct All<'a, T> {
    context: &'a Context<'a>,
    conditions: Vec<T>,
    one_of: fn(Vec<T>) -> T,
    not: fn(T) -> T,
}

impl<T> All<'_, T> {
    /// A list of values, one of which has to match, and one of which none may: each on its own.
    fn each(&mut self, values: &[String], not_values: &[String], one: impl Fn(&str) -> Told<T>) -> Told<()> {
        for (list, negated) in [(values, false), (not_values, true)] {
            let mut told = Vec::with_capacity(list.len());
            for value in list {
                match one(value) {
                    Ok(condition) => told.push(condition),
                    Err(Untold) if self.context.allows => return Err(Untold),
                    Err(Untold) => {}
                }
            }
            if !told.is_empty() {
                let any = (self.one_of)(told);
                self.conditions.push(if negated { (self.not)(any) } else { any });
            }
        }
        Ok(())
    }

    /// The same where one condition tells the whole list.
    fn whole(&mut self, values: &[String], not_values: &[String], one: impl Fn(&[String]) -> Told<T>) -> Told<()> {
        for (list, negated) in [(values, false), (not_values, true)] {
            if list.is_empty() {
                continue;
            }
            match one(list) {
                Ok(condition) => self.conditions.push(if negated { (self.not)(condition) } else { condition }),
                Err(Untold) if self.context.allows => return Err(Untold),
                Err(Untold) => {}
            }
        }
        Ok(())
    }
}

/// The rule; `None` if it is for HTTP and cannot be told of connections.
pub fn policy(rule: &Rule, context: &Context<'_>) -> Option<Policy> {
    translate(rule, context).ok()
}

fn translate(rule: &Rule, context: &Context<'_>) -> Told<Policy> {
    let nothing = [&Operation::default()];
    let operations: Vec<&Operation> = rule.to.iter().filter_map(|to| to.operation.as_ref()).collect();
    let operations = if operations.is_empty() { &nothing[..] } else { &operations };
    let anybody = [&Source::default()];
    let sources: Vec<&Source> = rule.from.iter().filter_map(|from| from.source.as_ref()).collect();
    let sources = if sources.is_empty() { &anybody[..] } else { &sources };
    Ok(Policy {
        permissions: operations.iter().map(|to| permission(to, rule, context)).collect::<Told<_>>()?,
        principals: sources.iter().map(|from| principal(from, rule, context)).collect::<Told<_>>()?,
        ..Default::default()
    })
}

fn permission(operation: &Operation, rule: &Rule, context: &Context<'_>) -> Told<Permission> {
    let http = |rule| if context.tcp { Err(Untold) } else { Ok(may(rule)) };
    let mut all = All {
        context,
        conditions: Vec::new(),
        one_of: |rules| may(Rule_::OrRules(Permissions { rules })),
        not: |rule| may(Rule_::NotRule(Box::new(rule))),
    };
    let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } = operation;
    all.each(hosts, not_hosts, |host| http(Rule_::Header(header(":authority", host, true))))?;
    all.each(methods, not_methods, |method| http(Rule_::Header(header(":method", method, false))))?;
    all.each(paths, not_paths, |path| http(self::path(path)))?;
    all.each(ports, not_ports, port)?;
    for when in &rule.when {
        let (values, not_values) = (&when.values, &when.not_values);
        match when.key.as_str() {
            "destination.ip" => all.each(values, not_values, |ip| Ok(may(Rule_::DestinationIp(range(ip)?))))?,
            "destination.port" => all.each(values, not_values, port)?,
            "connection.sni" => {
                all.each(values, not_values, |name| Ok(may(Rule_::RequestedServerName(text(name, "")))))?;
            }
            key => {
                let Some(name) = key.strip_prefix("experimental.") else { continue };
                let (filter, member) = name.strip_suffix(']').and_then(|n| n.split_once('[')).ok_or(Untold)?;
                all.whole(values, not_values, |list| {
                    let value = one_of_values(list.iter().map(|value| listed(value)).collect());
                    #[allow(deprecated)] // As Istio writes it.
                    let rule = Rule_::Metadata(metadata(filter, &[member], value));
                    Ok(may(rule))
                })?;
            }
        }
    }
    if all.conditions.is_empty() {
        all.conditions.push(may(Rule_::Any(true)));
    }
    Ok(may(Rule_::AndRules(Permissions { rules: all.conditions })))
}

fn principal(source: &Source, rule: &Rule, context: &Context<'_>) -> Told<Principal> {
    let http = |id| if context.tcp { Err(Untold) } else { Ok(who(id)) };
    let mut all = All {
        context,
        conditions: Vec::new(),
        one_of: |ids| who(Identifier::OrIds(Principals { ids })),
        not: |id| who(Identifier::NotId(Box::new(id))),
    };
    let peer = |name: &str| Ok(who(authenticated(text(name, SPIFFE))));
    let account = |name: &str| Ok(who(authenticated(regex(&account_pattern(context.namespace, name)))));
    let domain = |name: &str| Ok(who(authenticated(trust_domain(name))));
    let namespace = |name: &str| {
        let parts: Vec<String> = name.split('*').map(quoted).collect();
        Ok(who(authenticated(regex(&format!(".*/ns/{}/.*", parts.join(".*"))))))
    };
    let direct = |ip: &str| Ok(who(Identifier::DirectRemoteIp(range(ip)?)));
    let remote = |ip: &str| Ok(who(Identifier::RemoteIp(range(ip)?)));
    let subject = |list: &[String]| {
        let mut ids: Vec<Principal> = list.iter().map(|value| request_principal(value)).collect();
        let only = if ids.len() == 1 { ids.pop() } else { None };
        http(Identifier::OrIds(Principals { ids })).map(|all| only.unwrap_or(all))
    };
    let migrated = |list: &[String]| with_aliases(list, context.trust_domains);
    let expanded = |list: &[String]| expanded(list, context.trust_domains);

    let Source {
        principals,
        not_principals,
        request_principals,
        not_request_principals,
        namespaces,
        not_namespaces,
        service_accounts,
        not_service_accounts,
        trust_domains,
        not_trust_domains,
        ip_blocks,
        not_ip_blocks,
        remote_ip_blocks,
        not_remote_ip_blocks,
    } = source;
    all.each(&migrated(principals), &migrated(not_principals), peer)?;
    all.whole(request_principals, not_request_principals, subject)?;
    all.each(service_accounts, not_service_accounts, account)?;
    all.each(&expanded(trust_domains), &expanded(not_trust_domains), domain)?;
    all.each(namespaces, not_namespaces, namespace)?;
    all.each(remote_ip_blocks, not_remote_ip_blocks, remote)?;
    all.each(ip_blocks, not_ip_blocks, direct)?;
    for when in &rule.when {
        let (values, not_values) = (&when.values, &when.not_values);
        let claim = |path: &[&str], list: &[String]| {
            let value = one_of_values(list.iter().map(|value| string_value(text(value, ""))).collect());
            let path: Vec<&str> = [PAYLOAD].into_iter().chain(path.iter().copied()).collect();
            #[allow(deprecated)] // As Istio writes it.
            http(Identifier::Metadata(metadata(JWT, &path, in_list_or(value))))
        };
        match when.key.as_str() {
            "source.ip" => all.each(values, not_values, direct)?,
            "remote.ip" => all.each(values, not_values, remote)?,
            "source.namespace" => all.each(values, not_values, namespace)?,
            "source.trustDomain" => all.each(&expanded(values), &expanded(not_values), domain)?,
            "source.serviceAccount" => all.each(values, not_values, account)?,
            "source.principal" => all.each(&migrated(values), &migrated(not_values), peer)?,
            "request.auth.principal" => all.whole(values, not_values, subject)?,
            "request.auth.audiences" => all.whole(values, not_values, |list| claim(&["aud"], list))?,
            "request.auth.presenter" => all.whole(values, not_values, |list| claim(&["azp"], list))?,
            key => {
                if let Some(name) = key.strip_prefix("request.headers") {
                    let name = bracketed(name);
                    let told = |value: &str| http(Identifier::Header(header(name.ok_or(Untold)?, value, false)));
                    all.each(values, not_values, told)?;
                } else if let Some(path) = key.strip_prefix("request.auth.claims") {
                    let path = nested(path);
                    all.whole(values, not_values, |list| claim(path.as_deref().ok_or(Untold)?, list))?;
                }
            }
        }
    }
    if all.conditions.is_empty() {
        all.conditions.push(who(Identifier::Any(true)));
    }
    Ok(who(Identifier::AndIds(Principals { ids: all.conditions })))
}

fn may(rule: Rule_) -> Permission {
    Permission { rule: Some(rule) }
}

fn who(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn authenticated(name: StringMatcher) -> Identifier {
    Identifier::Authenticated(Authenticated { principal_name: Some(name) })
}

fn port(text: &str) -> Told<Permission> {
    let number: u16 = text.parse().map_err(|_| Untold)?;
    Ok(may(Rule_::DestinationPort(u32::from(number))))
}

fn range(text: &str) -> Told<envoy_types::pb::envoy::config::core::v3::CidrRange> {
    Cidr::parse(text).map(wire::cidr).ok_or(Untold)
}

fn path(path: &str) -> Rule_ {
    if path.contains("{*}") || path.contains("{**}") {
        let template = UriTemplateMatchConfig { path_template: path.replace("{*}", "*").replace("{**}", "**") };
        return Rule_::UriTemplate(TypedExtensionConfig {
            name: "uri-template".to_owned(),
            typed_config: Some(wire::any(&template)),
        });
    }
    Rule_::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text(path, ""))) })
}

fn exact(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Exact(text.to_owned())), ..Default::default() }
}

fn prefix(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Prefix(text.to_owned())), ..Default::default() }
}

fn suffix(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Suffix(text.to_owned())), ..Default::default() }
}

fn regex(pattern: &str) -> StringMatcher {
    let pattern = RegexMatcher { regex: pattern.to_owned(), ..Default::default() };
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(pattern)), ..Default::default() }
}

/// As Go quotes what stands for itself in an expression.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

/// `*`, `*suffix`, `prefix*` or a text, after what always comes before it.
fn text(value: &str, before: &str) -> StringMatcher {
    // Envoy refuses empty prefixes and suffixes.
    if value == "*" {
        return regex(".+");
    }
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(end), _) if before.is_empty() => suffix(end),
        (Some(end), _) => regex(&format!("{before}.*{}", quoted(end))),
        (None, Some(start)) => prefix(&format!("{before}{start}")),
        (None, None) => exact(&format!("{before}{value}")),
    }
}

fn header(name: &str, value: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = match (value, value.strip_prefix('*'), value.strip_suffix('*')) {
        ("*", ..) => HeaderMatchSpecifier::PresentMatch(true),
        (_, Some(end), _) => HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, ..suffix(end) }),
        (_, None, Some(start)) => HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, ..prefix(start) }),
        (_, None, None) => HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, ..exact(value) }),
    };
    HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn account_pattern(policys: &str, value: &str) -> String {
    let (namespace, account) = value.split_once('/').unwrap_or((policys, value));
    // Further pairs of names and values may stand between and after.
    format!("spiffe://.+/ns/{}/(.+/|)sa/{}(/.+)?", quoted(namespace), quoted(account))
}

fn trust_domain(value: &str) -> StringMatcher {
    match value.split_once('*') {
        _ if value == "*" => prefix(SPIFFE),
        None => prefix(&format!("{SPIFFE}{value}/")),
        Some((start, end)) => regex(&format!("{SPIFFE}{}[^/]*{}/.*", quoted(start), quoted(end))),
    }
}

/// `ISSUER/SUBJECT`, the issuer maybe with slashes itself.
fn request_principal(value: &str) -> Principal {
    let any = || regex(".+");
    let parts = value.rsplit_once('/');
    let (issuer, subject) = match (value.strip_prefix('*'), value.strip_suffix('*'), parts) {
        _ if value == "*" => (any(), any()),
        (Some(_), _, Some(("*", subject))) => (any(), exact(subject)),
        (Some(_), _, Some((issuer, subject))) => (suffix(issuer.trim_start_matches('*')), exact(subject)),
        (Some(end), _, None) => (any(), suffix(end)),
        (None, Some(_), Some((issuer, "*"))) => (exact(issuer), any()),
        (None, Some(_), Some((issuer, subject))) => {
            (exact(issuer), prefix(subject.strip_suffix('*').unwrap_or(subject)))
        }
        (None, Some(start), None) => (prefix(start), any()),
        (None, None, parts) => {
            let (issuer, subject) = parts.unwrap_or((value, ""));
            (exact(issuer), exact(subject))
        }
    };
    #[allow(deprecated)] // As Istio writes it.
    let claim = |name, value| who(Identifier::Metadata(metadata(JWT, &[PAYLOAD, name], string_value(value))));
    who(Identifier::AndIds(Principals { ids: vec![claim("iss", issuer), claim("sub", subject)] }))
}

fn metadata(filter: &str, path: &[&str], value: ValueMatcher) -> MetadataMatcher {
    let segment = |key: &&str| PathSegment { segment: Some(Segment::Key((*key).to_owned())) };
    MetadataMatcher {
        filter: filter.to_owned(),
        path: path.iter().map(segment).collect(),
        value: Some(value),
        ..Default::default()
    }
}

fn value(pattern: ValuePattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

fn string_value(text: StringMatcher) -> ValueMatcher {
    value(ValuePattern::StringMatch(text))
}

fn in_list(one: ValueMatcher) -> ValueMatcher {
    value(ValuePattern::ListMatch(Box::new(ListMatcher { match_pattern: Some(ListPattern::OneOf(Box::new(one))) })))
}

/// A claim may be a list or a single text.
fn in_list_or(one: ValueMatcher) -> ValueMatcher {
    value(ValuePattern::OrMatch(OrMatcher { value_matchers: vec![in_list(one.clone()), one] }))
}

fn one_of_values(mut values: Vec<ValueMatcher>) -> ValueMatcher {
    match values.pop() {
        Some(only) if values.is_empty() => only,
        last => {
            values.extend(last);
            value(ValuePattern::OrMatch(OrMatcher { value_matchers: values }))
        }
    }
}

/// `[v]` is a member of a list.
fn listed(text_: &str) -> ValueMatcher {
    match text_.strip_prefix('[').filter(|rest| rest.ends_with(']')) {
        Some(_) => in_list(string_value(text(text_.trim_matches(['[', ']']), ""))),
        None => string_value(text(text_, "")),
    }
}

/// The name in `[name]`.
fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// The names in `[a][b]`; what is not of that form is one name.
fn nested(text: &str) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let inner =
            rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).filter(|(name, _)| !name.contains('['));
        let Some((name, after)) = inner else {
            return bracketed(text).map(|name| vec![name]);
        };
        names.push(name);
        rest = after;
    }
    Some(names)
}

/// Identities of the mesh's trust domain are those of its aliases too; `cluster.local` stands for the mesh's own.
fn with_aliases(principals: &[String], trust_domains: &[String]) -> Vec<String> {
    let mut all = Vec::with_capacity(principals.len());
    for principal in principals {
        let (domain, rest) = principal.split_once('/').unwrap_or((principal, ""));
        let whole = principal.split('/').count() == 5 && domain != "*";
        let ours = || trust_domains.iter().any(|own| domain_matches(own, domain)) || domain == "cluster.local";
        if !whole || !ours() {
            all.push(principal.clone());
            continue;
        }
        let mut of_this = Vec::new();
        for own in trust_domains {
            let same = domain.strip_prefix('*').is_some_and(|end| own.ends_with(end));
            let migrated = if same { principal.clone() } else { format!("{own}/{rest}") };
            if !of_this.contains(&migrated) {
                of_this.push(migrated);
            }
        }
        all.append(&mut of_this);
    }
    all
}

fn domain_matches(own: &str, pattern: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => own.ends_with(end),
        (None, Some(start)) => own.starts_with(start),
        (None, None) => own == pattern,
    }
}

fn expanded(domains: &[String], trust_domains: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(domains.len());
    for domain in domains {
        let ours = trust_domains.contains(domain);
        for one in if ours { trust_domains } else { std::slice::from_ref(domain) } {
            if !all.contains(one) {
                all.push(one.clone());
            }
        }
    }
    all
}
