//! The pages of a control plane: pilot's own, and how far its proxies are.

use std::sync::Arc;

use hyper::StatusCode;
use lateen_pilot::Pilot;
use lateen_pilot::push::{Proxy, State};

use super::pages::{Page, Pages};
use crate::waiting::{ProxySync, Sync};

/// All pages of a pilot.
pub fn pages(pilot: Pilot) -> Pages {
    Arc::new(move |path| {
        if path == Sync::PATH {
            return in_force(&pilot);
        }
        let answer = pilot.answer(path);
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Page { status, content_type: answer.content_type, text: answer.body }
    })
}

fn in_force(pilot: &Pilot) -> Page {
    match serde_json::to_string_pretty(&pilot.look(sync)) {
        Ok(text) => Page { status: StatusCode::OK, content_type: "application/json", text: text + "\n" },
        Err(error) => {
            let text = format!("{error}\n");
            Page { status: StatusCode::INTERNAL_SERVER_ERROR, content_type: "text/plain; charset=utf-8", text }
        }
    }
}

fn sync(state: &State) -> Sync {
    Sync { revision: state.revision(), proxies: state.proxies().map(proxy).collect() }
}

fn proxy(proxy: &Proxy) -> ProxySync {
    let status = proxy.status.borrow();
    let refused = status.types.values().flat_map(|of_type| &of_type.refused);
    ProxySync {
        proxy: proxy.node.id.to_string(),
        synced: proxy.is_in_step(),
        refused: refused.map(|(name, refusal)| (name.to_string(), refusal.message.clone())).collect(),
    }
}
