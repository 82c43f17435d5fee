//! Authorities and certificates of tests, and TLS contexts in Envoy's JSON.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use serde_json::{Value, json};

/// An authority.
pub struct Authority {
    /// Its certificate in PEM.
    pub pem: String,
    /// Its key in PEM.
    pub key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
pub struct Certified {
    pub certificate: String,
    pub key: String,
    /// The certificate in DER.
    pub der: Vec<u8>,
    /// The public key in DER, as pins hash it.
    pub public_key: Vec<u8>,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { pem, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate of a host's name and a workload's.
    pub fn sign(&self, host: &str, workload: &str) -> Certified {
        self.sign_with(host, workload, |_| ())
    }

    /// The same, with changes.
    pub fn sign_with(&self, host: &str, workload: &str, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        self.sign_key(KeyPair::generate().expect("a key"), host, workload, change)
    }

    /// A certificate of a host's name whose key is of RSA.
    pub fn sign_rsa(&self, host: &str) -> Certified {
        self.sign_key(KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key"), host, "", |_| ())
    }

    fn sign_key(
        &self,
        key: KeyPair,
        host: &str,
        workload: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certified {
        use rcgen::PublicKeyData as _;
        let names = if host.is_empty() { vec![] } else { vec![host.to_owned()] };
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Lateen, tests");
        if !workload.is_empty() {
            params.subject_alt_names.push(SanType::URI(workload.try_into().expect("a URI")));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Certified {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            public_key: key.subject_public_key_info(),
        }
    }

    /// A list that revokes the certificate of this number.
    pub fn revoke(&self, serial: impl Into<SerialNumber>) -> String {
        let date = rcgen::date_time_ymd;
        let params = CertificateRevocationListParams {
            this_update: date(2024, 1, 1),
            next_update: date(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: date(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

impl Certified {
    /// Envoy's `TlsCertificate`.
    pub fn json(&self) -> Value {
        json!({"certificate_chain": {"inline_string": self.certificate}, "private_key": {"inline_string": self.key}})
    }
}

/// A filter chain's transport socket; `more` is part of the context.
pub fn downstream(more: Value) -> Value {
    socket("Downstream", more)
}

/// A cluster's transport socket; `more` is part of the context.
pub fn upstream(more: Value) -> Value {
    socket("Upstream", more)
}

fn socket(side: &str, more: Value) -> Value {
    let mut context = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext"),
    });
    crate::bootstrap::merge(&mut context, more);
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}
