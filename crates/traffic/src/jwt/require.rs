//! What is required of a request's tokens.
//!
//! As in Envoy, requirements are tried in their order, and a token that was found good is gone (unless it is forwarded) for
//! those that follow.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::extract::Place;
use super::token::Token;
use super::{Provider, Refusal, payload_for_filters};
use crate::message::RequestHead;
use crate::metadata::Value;

/// A requirement.
#[derive(Debug, Clone)]
pub enum Requirement {
    /// Good tokens of a provider, by its place in the list of providers; for these audiences in place of its own, if any.
    Provider(usize, Option<Vec<String>>),
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
    /// None, or good tokens of one of these providers.
    AllowMissing(Vec<usize>),
    /// Whatever there is.
    AllowFailed(Vec<usize>),
}

type Providers = [(Arc<str>, Provider)];

/// What good tokens said.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub told: Vec<(Arc<str>, Value)>,
    pub reroute: bool,
}

impl Requirement {
    pub(super) fn check(
        &self,
        providers: &Providers,
        request: &mut RequestHead,
        now: u64,
        found: &mut Found,
    ) -> Result<(), Refusal> {
        match self {
            Self::Provider(index, audiences) => {
                let Some((_, provider)) = providers.get(*index) else { return Err(Refusal::UnknownIssuer) };
                let tokens = tokens(std::iter::once(provider), request);
                if tokens.is_empty() {
                    return Err(Refusal::Missing);
                }
                for Given { place, text, issuers } in tokens {
                    let token = Token::parse(&text)?;
                    verify(&token, &issuers, Some(provider), audiences.as_deref(), now)?;
                    accept(&token, place, provider, request, found);
                }
                Ok(())
            }
            Self::Any(all) => {
                let mut why = Refusal::Missing;
                for one in all {
                    match one.check(providers, request, now, found) {
                        Ok(()) => return Ok(()),
                        // A token of another issuer is less to the point than a bad one of this.
                        Err(refusal) if weight(refusal) >= weight(why) => why = refusal,
                        Err(_) => {}
                    }
                }
                Err(why)
            }
            Self::All(all) => all.iter().try_for_each(|one| one.check(providers, request, now, found)),
            Self::AllowMissing(of) | Self::AllowFailed(of) => {
                let forgiving = matches!(self, Self::AllowFailed(_));
                let among = || of.iter().filter_map(|index| providers.get(*index)).map(|(_, provider)| provider);
                let mut last = Ok(());
                for Given { place, text, issuers } in tokens(among(), request) {
                    last = Token::parse(&text).and_then(|token| {
                        let all = among().chain(providers.iter().map(|(_, provider)| provider));
                        let by_issuer = all.into_iter().find(|p| p.issuer == token.issuer);
                        let for_any = || providers.iter().map(|(_, p)| p).find(|p| p.issuer.is_empty());
                        let provider = by_issuer.filter(|p| !p.issuer.is_empty()).or_else(for_any);
                        verify(&token, &issuers, provider, None, now)?;
                        if let Some(provider) = provider {
                            accept(&token, place, provider, request, found);
                        }
                        Ok(())
                    });
                    // One bad token beside a good one could be taken for it further on.
                    if last.is_err() && !forgiving {
                        return last;
                    }
                }
                if forgiving { Ok(()) } else { last }
            }
        }
    }
}

fn weight(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Missing => 0,
        Refusal::UnknownIssuer => 1,
        _ => 2,
    }
}

/// A token of a request.
struct Given<'p> {
    place: &'p Place,
    text: String,
    /// Whose tokens may be there; an empty one is anybody.
    issuers: Vec<&'p str>,
}

/// The tokens of a request, the last found first.
fn tokens<'p>(providers: impl Iterator<Item = &'p Provider>, request: &RequestHead) -> Vec<Given<'p>> {
    let mut places: Vec<(&'p Place, Vec<&'p str>)> = Vec::new();
    for provider in providers {
        for place in &provider.places {
            match places.iter_mut().find(|(known, _)| *known == place) {
                Some((_, issuers)) => issuers.push(&provider.issuer),
                None => places.push((place, vec![&provider.issuer])),
            }
        }
    }
    places.sort_by_cached_key(|(place, _)| place.order());
    let of_place = |(place, issuers): (&'p Place, Vec<&'p str>)| {
        let given = move |text| Given { place, text, issuers: issuers.clone() };
        place.tokens(request).into_iter().map(given).collect::<Vec<_>>()
    };
    let mut all: Vec<Given<'p>> = places.into_iter().flat_map(of_place).collect();
    all.reverse();
    all
}

fn verify(
    token: &Token,
    issuers: &[&str],
    provider: Option<&Provider>,
    audiences: Option<&[String]>,
    now: u64,
) -> Result<(), Refusal> {
    if !issuers.iter().any(|issuer| issuer.is_empty() || *issuer == token.issuer) {
        return Err(Refusal::UnknownIssuer);
    }
    let provider = provider.ok_or(Refusal::UnknownIssuer)?;
    token.in_time(now, provider.leeway)?;
    if provider.require_expiration && token.ends == 0 {
        return Err(Refusal::VerificationFails);
    }
    if let Some(longest) = provider.max_lifetime
        && (token.ends == 0 || token.ends.saturating_sub(token.issued.unwrap_or(now)) > longest)
    {
        return Err(Refusal::VerificationFails);
    }
    let wanted = audiences.unwrap_or(&provider.audiences);
    let same = |a: &str, b: &str| bare_audience(a) == bare_audience(b);
    if !wanted.is_empty() && !token.audiences.iter().any(|own| wanted.iter().any(|one| same(own, one))) {
        return Err(Refusal::Audience);
    }
    if provider.subjects.as_ref().is_some_and(|subjects| !subjects.matches(&token.subject)) {
        return Err(Refusal::VerificationFails);
    }
    provider.keys.verify(token)
}

/// As in Envoy, neither the scheme nor a slash at the end tells audiences apart.
fn bare_audience(audience: &str) -> &str {
    let bare = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// What becomes of a good token.
fn accept(token: &Token, place: &Place, provider: &Provider, request: &mut RequestHead, found: &mut Found) {
    if let Some(name) = &provider.payload_header {
        let mut payload = token.payload_text.clone();
        while provider.pad_payload && !payload.len().is_multiple_of(4) {
            payload.push('=');
        }
        request.headers.append(&**name, payload);
    }
    for (name, path) in &provider.claim_headers {
        let claim = path.iter().try_fold(&token.payload, |value, member| value.member(member));
        if let Some(text) = claim.and_then(header_value).filter(|text| !text.is_empty()) {
            request.headers.append(&**name, text);
        }
    }
    if !provider.forward {
        place.remove(request);
    }
    if let Some(key) = &provider.header_key {
        found.told.push((key.clone(), token.header.clone()));
    }
    if let Some(key) = &provider.payload_key {
        found.told.push((key.clone(), payload_for_filters(&token.payload, &provider.split_claims)));
    }
    found.reroute |= provider.reroutes;
}

/// A claim as a header has it; `None` if a header cannot.
fn header_value(claim: &Value) -> Option<String> {
    Some(match claim {
        Value::Text(text) => text.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if number.fract() == 0.0 && (0.0..u64::MAX as f64).contains(number) => {
            (*number as u64).to_string()
        }
        Value::Number(number) => format!("{number:.6}"),
        Value::List(_) | Value::Struct(_) => {
            let mut json = String::new();
            claim.write_json(&mut json);
            STANDARD.encode(json)
        }
        Value::Null => return None,
    })
    // What would end the field does not begin another one.
    .filter(|text| !text.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f))
}
