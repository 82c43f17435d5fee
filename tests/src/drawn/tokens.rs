//! Tokens of drawn issuers, signed by keys that are the same in every run.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::dice::Dice;

/// Those who issue tokens. The last one's are understood nowhere.
pub const ISSUERS: [&str; 4] = ["a", "b", "https://issuer.test/x", "nobody"];
pub const SUBJECTS: [&str; 4] = ["me", "you", "bot-1", "a/b"];
pub const AUDIENCES: [&str; 4] = ["web", "other", "https://web.test/", "x"];
pub const ROLES: [&str; 4] = ["dev", "ops", "admin", "read"];
/// The end of the century, nearly.
const END: u64 = 4_102_444_800;

fn key(issuer: &str) -> Ed25519KeyPair {
    let seed = [issuer.len() as u8; 32];
    Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key")
}

/// An issuer's keys.
pub fn keys(issuer: &str) -> String {
    let public = URL_SAFE_NO_PAD.encode(key(issuer).public_key().as_ref());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": issuer, "x": public}]}).to_string()
}

/// A token, and whose it is; at times one that is no good.
pub fn token(dice: &mut Dice) -> String {
    let known = if dice.chance(95) { 3 } else { ISSUERS.len() };
    let issuer = dice.word(&ISSUERS[..known]);
    let mut payload = json!({"iss": issuer, "sub": dice.word(&SUBJECTS), "exp": END});
    let member = |dice: &mut Dice, from: &[&str]| match dice.chance(60) {
        true => json!([dice.word(from), dice.word(from)]),
        false => json!(dice.word(from)),
    };
    for (name, from, percent) in
        [("aud", &AUDIENCES, 80), ("roles", &ROLES, 60), ("scope", &ROLES, 30), ("group.s", &ROLES, 15)]
    {
        if dice.chance(percent) {
            payload[name] = member(dice, from);
        }
    }
    if dice.chance(30) {
        payload["scope"] = json!(format!("{} {}", dice.word(&ROLES), dice.word(&ROLES)));
    }
    if dice.chance(30) {
        payload["azp"] = json!(dice.word(&SUBJECTS));
    }
    if dice.chance(30) {
        payload["deep"] = json!({"er": member(dice, &ROLES), "level": 7, "true": true});
    }
    let mut header = json!({"alg": "EdDSA", "kid": issuer});
    let mut signer = issuer;
    match dice.below(40) {
        0 => payload["exp"] = json!(1_000_000_000),
        1 => payload["nbf"] = json!(END),
        2 => header["alg"] = json!("none"),
        // Signed rightly, Envoy takes it: which algorithm the key is for decides there, not what the token says.
        3 => {
            header["alg"] = json!("RS256");
            signer = "someone else's key";
        }
        4 => header["kid"] = json!("unknown"),
        5 => header = json!({"alg": "EdDSA"}),
        6 => signer = "someone else's key",
        7 => payload["sub"] = json!(5),
        8 => payload["iss"] = Value::Null,
        9 => {
            payload.as_object_mut().map(|members| members.remove("sub"));
        }
        _ => {}
    }
    let signed = format!("{}.{}", part(&header), part(&payload));
    let signature = URL_SAFE_NO_PAD.encode(key(signer).sign(signed.as_bytes()).as_ref());
    match dice.below(60) {
        0 => format!("{signed}."),
        1 => "nonsense".to_owned(),
        _ => format!("{signed}.{signature}"),
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
