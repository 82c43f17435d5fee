//! A token taken apart (RFC 7515 section 3.1, RFC 7519 section 4.1). Nothing is believed yet.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Refusal;
use super::keys::Algorithm;
use crate::metadata::Value;

/// Base64url, with or without `=` at its end.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true),
);

/// Decodes base64url. As in Envoy, blanks in it are passed over; what is signed has them all the same.
pub(super) fn base64url(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_whitespace()) {
        return BASE64URL.decode(text.split_ascii_whitespace().collect::<String>()).ok();
    }
    BASE64URL.decode(text).ok()
}

/// A token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The `alg` of its header.
    pub(super) algorithm: Algorithm,
    /// The `kid` of its header, if it has one.
    pub(super) key_id: Option<String>,
    /// Header and payload as they are signed.
    pub(super) signed: String,
    /// The payload as it came.
    pub(super) payload_text: String,
    pub(super) signature: Vec<u8>,
    pub(super) header: Value,
    pub(super) payload: Value,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) issued: Option<u64>,
    pub(super) begins: u64,
    pub(super) ends: u64,
}

impl Token {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        // As in Envoy, empty parts are none.
        let mut parts = text.split('.').filter(|part| !part.is_empty());
        let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::BadFormat);
        };
        let header = base64url(head).ok_or(Refusal::HeaderBase64)?;
        let header = json(&header).ok_or(Refusal::HeaderJson)?;
        let algorithm = header.member("alg").and_then(Value::as_text).ok_or(Refusal::HeaderAlg)?;
        let algorithm = Algorithm::from_name(algorithm).ok_or(Refusal::UnknownAlg)?;
        let key_id = text_member(&header, "kid", Refusal::HeaderKid)?.filter(|id| !id.is_empty());
        let payload = base64url(body).ok_or(Refusal::PayloadBase64)?;
        let payload = json(&payload).ok_or(Refusal::PayloadJson)?;
        let issuer = text_member(&payload, "iss", Refusal::Iss)?.unwrap_or_default();
        let subject = text_member(&payload, "sub", Refusal::Sub)?.unwrap_or_default();
        let issued = time(&payload, "iat", Refusal::Iat, Refusal::IatRange)?;
        let begins = time(&payload, "nbf", Refusal::Nbf, Refusal::NbfRange)?.unwrap_or(0);
        let ends = time(&payload, "exp", Refusal::Exp, Refusal::ExpRange)?.unwrap_or(0);
        let audiences = match payload.member("aud") {
            None => Vec::new(),
            Some(Value::Text(one)) => vec![one.to_string()],
            Some(Value::List(all)) => {
                let texts: Option<Vec<String>> = all.iter().map(|one| Some(one.as_text()?.to_owned())).collect();
                texts.ok_or(Refusal::Aud)?
            }
            Some(_) => return Err(Refusal::Aud),
        };
        text_member(&payload, "jti", Refusal::Jti)?;
        let signature = base64url(signature).ok_or(Refusal::SignatureBase64)?;
        Ok(Self {
            algorithm,
            key_id,
            signed: format!("{head}.{body}"),
            payload_text: body.to_owned(),
            signature,
            header,
            payload,
            issuer,
            subject,
            audiences,
            issued,
            begins,
            ends,
        })
    }

    /// Whether it is valid at a time, clocks differing by up to `leeway` seconds.
    pub(super) fn in_time(&self, now: u64, leeway: u64) -> Result<(), Refusal> {
        if now.saturating_add(leeway) < self.begins {
            return Err(Refusal::NotYetValid);
        }
        if self.ends > 0 && now > self.ends.saturating_add(leeway) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }
}

fn text_member(of: &Value, name: &str, wrong: Refusal) -> Result<Option<String>, Refusal> {
    match of.member(name) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.to_string())),
        Some(_) => Err(wrong),
    }
}

fn time(of: &Value, name: &str, wrong: Refusal, beyond: Refusal) -> Result<Option<u64>, Refusal> {
    match of.member(name) {
        None => Ok(None),
        // u64::MAX is rounded up by the conversion, and so too large.
        Some(Value::Number(number)) if *number >= 0.0 && *number < u64::MAX as f64 => Ok(Some(*number as u64)),
        Some(Value::Number(_)) => Err(beyond),
        Some(_) => Err(wrong),
    }
}

/// An object; `None` for anything else.
pub(super) fn json(bytes: &[u8]) -> Option<Value> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    value.is_object().then(|| from_json(value))
}

fn from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Value::Text(text.into()),
        serde_json::Value::Array(values) => Value::List(values.into_iter().map(from_json).collect()),
        serde_json::Value::Object(members) => {
            Value::Struct(members.into_iter().map(|(name, value)| (Arc::from(name), from_json(value))).collect())
        }
    }
}
