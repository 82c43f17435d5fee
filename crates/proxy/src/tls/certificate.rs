//! What a certificate says, read from its DER.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lateen_traffic::tls::Certificate;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Name};

/// Reads the first certificate of a chain; `None` if it is malformed.
pub fn certificate<'a>(chain: impl IntoIterator<Item = &'a [u8]>) -> Option<Certificate> {
    let chain: Vec<Box<[u8]>> = chain.into_iter().map(Box::from).collect();
    let (_, parsed) = X509Certificate::from_der(chain.first()?).ok()?;
    let (mut uri_names, mut dns_names, mut ip_names, mut email_names) = (vec![], vec![], vec![], vec![]);
    if let Ok(Some(names)) = parsed.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => uri_names.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => dns_names.push((*dns).to_owned()),
                GeneralName::RFC822Name(email) => email_names.push((*email).to_owned()),
                GeneralName::IPAddress(bytes) => ip_names.extend(address(bytes)),
                _ => {}
            }
        }
    }
    let fingerprint = hexadecimal(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, chain.first()?).as_ref());
    Some(Certificate {
        uri_names,
        dns_names,
        ip_names,
        email_names,
        subject: name(parsed.subject()),
        issuer: name(parsed.issuer()),
        serial: serial(parsed.raw_serial()),
        fingerprint,
        not_before: time(parsed.validity().not_before.timestamp()),
        not_after: time(parsed.validity().not_after.timestamp()),
        chain,
    })
}

/// SHA-256 of a certificate's public key (`SubjectPublicKeyInfo`).
pub fn key_pin(der: &[u8]) -> Option<[u8; 32]> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    pin(parsed.public_key().raw)
}

/// SHA-256.
pub fn pin(bytes: &[u8]) -> Option<[u8; 32]> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().ok()
}

fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    moment.unwrap_or(UNIX_EPOCH)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

/// A serial number as Envoy writes it: whole bytes, without those that only say that it is positive.
fn serial(bytes: &[u8]) -> String {
    let leading = bytes.iter().take_while(|byte| **byte == 0).count();
    match hexadecimal(&bytes[leading..]) {
        none if none.is_empty() => "0".to_owned(),
        number => number,
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A distinguished name in the form of RFC 2253: the most specific part first.
fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for set in name.iter() {
        let values: Vec<String> = set
            .iter()
            .map(|attribute| {
                let oid = attribute.attr_type();
                let key = short_name(&oid.to_id_string()).map_or_else(|| oid.to_id_string(), str::to_owned);
                let value = match attribute.as_str() {
                    Ok(text) => escaped(text),
                    Err(_) => format!("#{}", hexadecimal(attribute.as_slice())),
                };
                format!("{key}={value}")
            })
            .collect();
        parts.push(values.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

/// RFC 2253 section 2.3, and the names that are usual beyond it.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// RFC 2253 section 2.4. As with OpenSSL's flags of that name, what is not printed is told by its bytes.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        if c.is_control() || !c.is_ascii() {
            let bytes = c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\{byte:02X}")).collect::<String>();
            out.push_str(&bytes);
            continue;
        }
        let edge = (c == ' ' && (at == 0 || at == last)) || (c == '#' && at == 0);
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printed_of_a_name_is_told_by_its_bytes() {
        assert_eq!(escaped(" a,b\r\nx-role: é "), r"\ a\,b\0D\0Ax-role: \C3\A9\ ");
    }

    #[test]
    fn a_serial_number_is_written_in_whole_bytes() {
        assert_eq!(serial(&[0, 0x81, 0x0f]), "810f");
        assert_eq!(serial(&[0x01, 0x3d]), "013d");
        assert_eq!(serial(&[0]), "0");
    }
}
