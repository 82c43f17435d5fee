//! Authorities and certificates of tests, and TLS contexts in Envoy's JSON.

use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use serde_json::{Value, json};

use crate::peers;

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
        let params = Authority::params(name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { pem, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params
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

    /// An authority that this one vouches for.
    pub fn intermediate(&self, name: &str) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let params = Authority::params(name);
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Authority { pem, key: key.serialize_pem(), issuer: Issuer::new(params, key) }
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
        params.distinguished_name.push(DnType::OrganizationName, "Lateen, tésts");
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

/// A certificate of version 1 with this number, good for so many days, as `openssl x509 -req` makes it when it is not told of
/// extensions; signed with the key (and certificate, in PEM) of `by`, or with its own.
pub fn version1(by: Option<(&str, &str)>, common_name: &str, serial: u32, days: i32) -> Certified {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let openssl = |line: &str| {
        let mut command = Command::new(peers::program("openssl"));
        let run = command.args(line.split(' ')).current_dir(dir.path()).output().expect("openssl");
        assert!(run.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&run.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout own.key";
    openssl(&format!("req {key} -out own.csr -subj /CN={common_name}"));
    let with = match by {
        Some((certificate, key)) => {
            std::fs::write(path("ca.pem"), certificate).expect("a file");
            std::fs::write(path("ca.key"), key).expect("a file");
            "-CA ca.pem -CAkey ca.key"
        }
        None => "-signkey own.key",
    };
    openssl(&format!("x509 -req {with} -set_serial {serial} -days {days} -in own.csr -out own.pem"));
    openssl("x509 -in own.pem -outform DER -out own.der");
    openssl("pkey -in own.key -pubout -outform DER -out own.pub");
    let read = |name: &str| std::fs::read(path(name)).expect("a file");
    let text = |name: &str| String::from_utf8(read(name)).expect("PEM");
    Certified { certificate: text("own.pem"), key: text("own.key"), der: read("own.der"), public_key: read("own.pub") }
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
