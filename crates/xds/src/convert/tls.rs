//! TLS contexts of filter chains and clusters, and where their secrets come from.
//!
//! - reject: what would weaken or change who is trusted and is not carried out: other providers of certificates, of
//!   private keys and of validation, renegotiation, ticket keys from outside, older versions, unknown ciphers and curves;
//!   a filter chain without a certificate
//! - note: ways to look for certificates, order of ciphers, checks of key usage (both always as the library does them)

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{self as core, config_source::ConfigSourceSpecifier, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    self as pb, common_tls_context, downstream_tls_context::SessionTicketKeysType, tls_parameters::TlsProtocol,
};
use lateen_traffic::tls::{
    CertificateSource, CipherSuite, DownstreamTls, Group, NamedSecret, SecretName, SecretOrigin, SecretServer,
    TlsSettings, TlsVersion, TransportSocket, UpstreamTls, ValidationSource,
};

use super::address::{duration, text, timeout, type_name, unpack};
use super::alpn;
use super::reject::{At as _, Notes, Reject, each, note_if_set, reject_if_set};
use super::secret::{key_pair, validation, whole};
use crate::ads::Protocol;
use crate::bootstrap::ads_server;

/// Envoy's default for secrets, as for everything that is fetched.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(15);
/// Istio's and BoringSSL's default: two hours.
const DEFAULT_SESSION: Duration = Duration::from_secs(7200);

/// A chain's transport socket; `None` for plain bytes.
pub(super) fn downstream(
    socket: core::TransportSocket,
    notes: &mut Notes,
) -> Result<Option<Arc<DownstreamTls>>, Reject> {
    let core::TransportSocket { name, config_type } = socket;
    let Some(transport_socket::ConfigType::TypedConfig(any)) = config_type else {
        return Err(Reject::field("typed_config", format_args!("missing for {name:?}")));
    };
    match unpack::<pb::DownstreamTlsContext>(&any).at("typed_config")? {
        Some(context) => downstream_context(context, notes).at("typed_config").map(|tls| Some(Arc::new(tls))),
        None => raw_buffer(&any.type_url).map(|()| None),
    }
}

/// A cluster's transport socket, or one of several.
pub(super) fn upstream(socket: core::TransportSocket, notes: &mut Notes) -> Result<TransportSocket, Reject> {
    let core::TransportSocket { name, config_type } = socket;
    let Some(transport_socket::ConfigType::TypedConfig(any)) = config_type else {
        return Err(Reject::field("typed_config", format_args!("missing for {name:?}")));
    };
    match unpack::<pb::UpstreamTlsContext>(&any).at("typed_config")? {
        Some(context) => {
            upstream_context(context, notes).at("typed_config").map(|tls| TransportSocket::Tls(Arc::new(tls)))
        }
        None => raw_buffer(&any.type_url).map(|()| TransportSocket::Plain),
    }
}

fn raw_buffer(type_url: &str) -> Result<(), Reject> {
    match type_name(type_url) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(()),
        other => Err(Reject::field("typed_config", format_args!("{other} is not supported yet"))),
    }
}

fn downstream_context(context: pb::DownstreamTlsContext, notes: &mut Notes) -> Result<DownstreamTls, Reject> {
    let pb::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers,
        session_ticket_keys_type,
    } = context;
    reject_if_set!(ocsp_staple_policy);
    // No session is kept here: clients keep them, as tickets.
    note_if_set!(notes, "DownstreamTlsContext":
        disable_stateful_session_resumption, full_scan_certs_on_sni_mismatch, prefer_client_ciphers);
    let tickets = match session_ticket_keys_type {
        None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => true,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => false,
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
            return Err(Reject::field("session_ticket_keys", "not supported yet: keys are made and changed here"));
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            return Err(Reject::field("session_ticket_keys_sds_secret_config", "not supported yet"));
        }
    };
    let session = session_timeout.map(|value| duration("session_timeout", value)).transpose()?;
    let settings = common(common_tls_context.unwrap_or_default(), TlsVersion::Tls13, notes).at("common_tls_context")?;
    if settings.certificates.is_empty() {
        return Err(Reject::field("common_tls_context", "no TLS certificates found for a server context"));
    }
    Ok(DownstreamTls {
        settings,
        require_client_certificate: require_client_certificate.is_some_and(|on| on.value),
        require_sni: require_sni.is_some_and(|on| on.value),
        session_timeout: if tickets { session.unwrap_or(DEFAULT_SESSION) } else { Duration::ZERO },
    })
}

fn upstream_context(context: pb::UpstreamTlsContext, notes: &mut Notes) -> Result<UpstreamTls, Reject> {
    let pb::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys,
        enforce_rsa_key_usage,
    } = context;
    reject_if_set!(allow_renegotiation);
    note_if_set!(notes, "UpstreamTlsContext": enforce_rsa_key_usage);
    if sni.len() > 255 {
        return Err(Reject::field("sni", "longer than 255 bytes"));
    }
    // Newer than Envoy's own default for clients, which is TLS 1.2 for historical reasons.
    let settings = common(common_tls_context.unwrap_or_default(), TlsVersion::Tls13, notes).at("common_tls_context")?;
    if settings.certificates.len() > 1 {
        return Err(Reject::field("common_tls_context", "multiple TLS certificates are not supported for clients"));
    }
    Ok(UpstreamTls {
        settings,
        server_name: text(sni),
        host_name_as_server_name: auto_host_sni,
        match_server_name: auto_sni_san_validation,
        max_sessions: max_session_keys.map_or(1, |most| most.value),
    })
}

fn common(context: pb::CommonTlsContext, default_max: TlsVersion, notes: &mut Notes) -> Result<TlsSettings, Reject> {
    let pb::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = context;
    reject_if_set!(
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        custom_handshaker,
        key_log,
    );
    let Parameters { min_version, max_version, cipher_suites, groups } =
        parameters(tls_params.unwrap_or_default(), default_max).at("tls_params")?;
    let mut certificates = each("tls_certificates", tls_certificates, |pair| {
        key_pair(pair).map(|pair| CertificateSource::Inline(Arc::new(pair)))
    })?;
    certificates.extend(each("tls_certificate_sds_secret_configs", tls_certificate_sds_secret_configs, |config| {
        named(config, notes).map(CertificateSource::Named)
    })?);
    let application_protocols = each("alpn_protocols", alpn_protocols, alpn::name)?;
    use common_tls_context::ValidationContextType as Type;
    let validation = match validation_context_type {
        None => ValidationSource::default(),
        Some(Type::ValidationContext(context)) => {
            let inline = validation(context, notes).and_then(whole).at("validation_context")?;
            ValidationSource { inline: Some(Arc::new(inline)), named: None }
        }
        Some(Type::ValidationContextSdsSecretConfig(config)) => {
            let named = named(config, notes).at("validation_context_sds_secret_config")?;
            ValidationSource { inline: None, named: Some(named) }
        }
        Some(Type::CombinedValidationContext(combined)) => {
            self::combined(combined, notes).at("combined_validation_context")?
        }
        Some(Type::ValidationContextCertificateProvider(_)) => {
            return Err(Reject::field("validation_context_certificate_provider", "not supported yet"));
        }
        Some(Type::ValidationContextCertificateProviderInstance(_)) => {
            return Err(Reject::field("validation_context_certificate_provider_instance", "not supported yet"));
        }
    };
    Ok(TlsSettings { min_version, max_version, cipher_suites, groups, application_protocols, certificates, validation })
}

fn combined(
    combined: common_tls_context::CombinedCertificateValidationContext,
    notes: &mut Notes,
) -> Result<ValidationSource, Reject> {
    let common_tls_context::CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = combined;
    reject_if_set!(validation_context_certificate_provider, validation_context_certificate_provider_instance);
    let inline = default_validation_context
        .map(|context| validation(context, notes).map(Arc::new))
        .transpose()
        .at("default_validation_context")?;
    let config = validation_context_sds_secret_config
        .ok_or_else(|| Reject::field("validation_context_sds_secret_config", "missing"))?;
    let named = named(config, notes).at("validation_context_sds_secret_config")?;
    Ok(ValidationSource { inline, named: Some(named) })
}

struct Parameters {
    min_version: TlsVersion,
    max_version: TlsVersion,
    cipher_suites: Vec<CipherSuite>,
    groups: Vec<Group>,
}

fn parameters(value: pb::TlsParameters, default_max: TlsVersion) -> Result<Parameters, Reject> {
    let pb::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = value;
    reject_if_set!(signature_algorithms, compliance_policies);
    let version = |field, value, auto| match TlsProtocol::try_from(value) {
        Ok(TlsProtocol::TlsAuto) => Ok(auto),
        Ok(TlsProtocol::TlSv12) => Ok(TlsVersion::Tls12),
        Ok(TlsProtocol::TlSv13) => Ok(TlsVersion::Tls13),
        Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            Err(Reject::field(field, "TLS before 1.2 is not spoken (RFC 8996)"))
        }
        Err(_) => Err(Reject::field(field, format_args!("{value} is not known"))),
    };
    let min_version = version("tls_minimum_protocol_version", tls_minimum_protocol_version, TlsVersion::Tls12)?;
    let max_version = version("tls_maximum_protocol_version", tls_maximum_protocol_version, default_max)?;
    if min_version > max_version {
        return Err(Reject::field("tls_minimum_protocol_version", "above the maximum"));
    }
    let mut suites = Vec::new();
    each("cipher_suites", cipher_suites, |list| {
        // `[A|B]` is a group of equal preference; here the first is preferred.
        for name in list.trim_start_matches('[').trim_end_matches(']').split('|') {
            match CipherSuite::from_name(name) {
                Some(suite) => suites.push(suite),
                None if WITHOUT_FORWARD_SECRECY.contains(&name) => {}
                None => return Err(Reject::new(format_args!("{name:?} is not spoken"))),
            }
        }
        Ok(())
    })?;
    let groups = each("ecdh_curves", ecdh_curves, |name| {
        Group::from_name(&name).ok_or_else(|| Reject::new(format_args!("{name:?} is not spoken")))
    })?;
    Ok(Parameters { min_version, max_version, cipher_suites: suites, groups })
}

/// Suites that Istio lists beside better ones and that are not spoken here: who records a connection can read it once the
/// server's key is known. A peer that speaks TLS 1.2 at all speaks one of the others.
const WITHOUT_FORWARD_SECRECY: [&str; 4] = ["AES256-GCM-SHA384", "AES128-GCM-SHA256", "AES256-SHA", "AES128-SHA"];

/// A secret that is referred to.
fn named(config: pb::SdsSecretConfig, notes: &mut Notes) -> Result<NamedSecret, Reject> {
    let pb::SdsSecretConfig { name, sds_config } = config;
    let name = text(name).ok_or_else(|| Reject::field("name", "empty"))?;
    let Some(source) = sds_config else {
        return Ok(NamedSecret { name: SecretName { origin: SecretOrigin::Bootstrap, name }, patience: None });
    };
    let (origin, patience) = origin(source, notes).at("sds_config")?;
    Ok(NamedSecret { name: SecretName { origin, name }, patience })
}

fn origin(source: core::ConfigSource, notes: &mut Notes) -> Result<(SecretOrigin, Option<Duration>), Reject> {
    let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version, config_source_specifier } =
        source;
    reject_if_set!(authorities);
    if resource_api_version == core::ApiVersion::V2 as i32 {
        return Err(Reject::field("resource_api_version", "V2 is not supported"));
    }
    let patience = timeout("initial_fetch_timeout", initial_fetch_timeout)?.unwrap_or(Some(DEFAULT_PATIENCE));
    let origin = match config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {}) | ConfigSourceSpecifier::Self_(_)) => {
            SecretOrigin::ControlPlane
        }
        Some(ConfigSourceSpecifier::ApiConfigSource(config)) => {
            let server = ads_server(config, notes).at("api_config_source")?;
            SecretOrigin::Server(Arc::new(SecretServer {
                cluster: server.cluster,
                delta: server.protocol == Protocol::Delta,
                authority: server.authority.map(Arc::from),
            }))
        }
        Some(ConfigSourceSpecifier::Path(_) | ConfigSourceSpecifier::PathConfigSource(_)) => {
            return Err(Reject::field("path_config_source", "not supported here"));
        }
        None => return Err(Reject::new("no config source")),
    };
    Ok((origin, patience))
}
