//! The pages of a control plane: pilot's own, how far its proxies are, and its certificate authority.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use lateen_citadel::agent::files::is_file;
use lateen_citadel::serve::{Ca, Status};
use lateen_pilot::push::{Proxy, State};
use lateen_pilot::{Answer, Pilot};
use lateen_xds::ads::Awaited;
use lateen_xds::ads::server::Refusal;
use serde::Serialize;
use serde_json::Value;

use super::authority::Authority;
use super::pages::{Page, Pages};
use crate::waiting::{self, ProxySync, Refused, Sync};

/// Where the authority shows itself.
pub const AUTHORITY: &str = "/ca";
/// Where everybody's problems are.
const PROBLEMS: &str = "/debug/problemz";
/// Where its root is followed by a new one, by POST.
pub const ROTATE: &str = "/ca/rotate";

/// All pages of a pilot, and those of an authority for whom it may obey.
pub fn pages(pilot: Pilot, authority: Option<Authority>) -> Pages {
    Arc::new(move |method, path| {
        let read = matches!(*method, Method::GET | Method::HEAD);
        match (path, &authority) {
            (Sync::PATH, _) if read => json(&pilot.look(sync)),
            (AUTHORITY, Some(authority)) if read => {
                of(authority, |ca| json(&Status { troubles: authority.troubles(), ..ca.status() }))
            }
            (PROBLEMS, Some(authority)) if read => problems(pilot.answer(path), authority),
            (ROTATE, Some(authority)) if *method == Method::POST => of(authority, |ca| match ca.rotate() {
                Ok(status) => json(&status),
                Err(error) => Page::plain(StatusCode::CONFLICT, error.to_string()),
            }),
            _ if read && path != ROTATE => pilots(pilot.answer(path)),
            _ => Page::plain(StatusCode::METHOD_NOT_ALLOWED, "not answered by this method\n"),
        }
    })
}

fn pilots(answer: Answer) -> Page {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Page { status, content_type: answer.content_type, text: answer.body }
}

/// The proxies' problems, and the authority's.
fn problems(answer: Answer, authority: &Authority) -> Page {
    let troubles = authority.troubles();
    match serde_json::from_str(&answer.body) {
        Ok(Value::Array(mut all)) if !troubles.is_empty() => {
            all.push(serde_json::json!({"component": "certificate authority", "problems": troubles}));
            json(&all)
        }
        _ => pilots(answer),
    }
}

fn of(authority: &Authority, page: impl FnOnce(&Ca) -> Page) -> Page {
    match authority.get() {
        Some(ca) => page(ca),
        None => match authority.troubles().as_slice() {
            [] => Page::plain(StatusCode::SERVICE_UNAVAILABLE, "the certificate authority has not begun yet"),
            troubles => {
                let text = format!("the certificate authority does not work: {}", troubles.join("; "));
                Page::plain(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        },
    }
}

fn json(value: &impl Serialize) -> Page {
    match serde_json::to_string_pretty(value) {
        Ok(text) => Page { status: StatusCode::OK, content_type: "application/json", text: text + "\n" },
        Err(error) => Page::plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn sync(state: &State) -> Sync {
    Sync { revision: state.revision(), proxies: state.proxies().map(proxy).collect() }
}

fn proxy(proxy: &Proxy) -> ProxySync {
    let refused = |(name, refusal): (Arc<str>, Refusal)| Refused {
        resource: name.to_string(),
        version: refusal.version.map(|version| version.to_string()),
        reason: refusal.message,
    };
    let awaited = |thing: &Awaited| waiting::Awaited {
        words: thing.to_string(),
        version: thing.version.clone(),
        client_files: thing.of_cluster && thing.secret.as_deref().is_some_and(is_file),
    };
    ProxySync {
        proxy: proxy.node.id.to_string(),
        answered: proxy.has_answered(),
        refused: proxy.refusals().into_iter().map(refused).collect(),
        awaited: proxy.status.borrow().awaited.iter().map(awaited).collect(),
    }
}
