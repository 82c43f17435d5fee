//! The pages: one table of paths, and what each answers.

use std::fmt::Write as _;
use std::time::SystemTime;

use futures::stream;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use regex::{Regex, RegexBuilder};
use serde::Serialize as _;
use serde_json::{Value as Json, json};

use super::query::Query;
use super::{Action, AdminState, Body, ServerState, certs, config_dump, memory};
use crate::logging::Level;
use crate::stats::{Buckets, Filter, Snapshot, Types};

type Answer = Response<Body>;

/// An answer that is given instead of the one asked for.
type Refusal = Box<Answer>;

/// A page, or something that can be asked for.
struct Page {
    path: &'static str,
    /// Changes something, and is refused unless the method is POST.
    mutates: bool,
    about: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    answer: fn(&AdminState, &Query, &Parts) -> Answer,
}

const FILTER: (&str, &str) = ("filter", "Regular expression that names must contain");
const INVERT: (&str, &str) = ("invert_filter", "Show the names that do not contain it instead");
const USED: (&str, &str) = ("usedonly", "Only what was ever written");
const FORMAT: (&str, &str) = ("format", "One of (text, json)");

const PAGES: &[Page] = &[
    Page { path: "/", mutates: false, about: "Admin home page", parameters: &[], answer: home },
    Page { path: "/certs", mutates: false, about: "print certs on machine", parameters: &[], answer: certs },
    Page {
        path: "/clusters",
        mutates: false,
        about: "upstream cluster status",
        parameters: &[FILTER, FORMAT],
        answer: clusters,
    },
    Page {
        path: "/config_dump",
        mutates: false,
        about: "dump current configuration",
        parameters: &[
            ("resource", "The repeated field to dump, for example dynamic_listeners"),
            ("name_regex", "Only resources whose names contain this regular expression"),
            ("include_eds", "Endpoints too"),
        ],
        answer: dump,
    },
    Page {
        path: "/drain_listeners",
        mutates: true,
        about: "drain listeners",
        parameters: &[
            ("graceful", "Let connections end before listeners are closed"),
            ("skip_exit", "Drain connections, but do not close listeners"),
            ("inboundonly", "Inbound listeners only"),
        ],
        answer: drain_listeners,
    },
    Page {
        path: "/healthcheck/fail",
        mutates: true,
        about: "cause the server to fail health checks",
        parameters: &[],
        answer: |state, _, _| set_health(state, true),
    },
    Page {
        path: "/healthcheck/ok",
        mutates: true,
        about: "cause the server to pass health checks",
        parameters: &[],
        answer: |state, _, _| set_health(state, false),
    },
    Page { path: "/help", mutates: false, about: "print out list of admin commands", parameters: &[], answer: help },
    Page { path: "/listeners", mutates: false, about: "print listener info", parameters: &[FORMAT], answer: listeners },
    Page {
        path: "/logging",
        mutates: false,
        about: "show logging levels; with POST, change them",
        parameters: &[
            ("level", "Level of everything; one of (trace, debug, info, warning, error, critical, off)"),
            ("paths", "Levels of some components: name1:level1,name2:level2"),
        ],
        answer: logging,
    },
    Page { path: "/memory", mutates: false, about: "print current memory usage", parameters: &[], answer: show_memory },
    Page { path: "/quitquitquit", mutates: true, about: "exit the server", parameters: &[], answer: quit },
    Page {
        path: "/ready",
        mutates: false,
        about: "print server state, return 200 if LIVE, otherwise return 503",
        parameters: &[],
        answer: ready,
    },
    Page {
        path: "/refusals",
        mutates: false,
        about: "print who was refused lately, and by which policy",
        parameters: &[FORMAT],
        answer: refusals,
    },
    Page { path: "/reopen_logs", mutates: true, about: "reopen access logs", parameters: &[], answer: reopen_logs },
    Page {
        path: "/reset_counters",
        mutates: true,
        about: "reset all counters to zero",
        parameters: &[],
        answer: reset_counters,
    },
    Page {
        path: "/server_info",
        mutates: false,
        about: "print server version/status information",
        parameters: &[],
        answer: server_info,
    },
    Page {
        path: "/stats",
        mutates: false,
        about: "print server stats",
        parameters: &[
            USED,
            FILTER,
            INVERT,
            ("format", "One of (text, json, prometheus)"),
            ("type", "One of (All, Counters, Gauges, Histograms, TextReadouts)"),
            ("histogram_buckets", "One of (cumulative, disjoint, summary)"),
        ],
        answer: stats,
    },
    Page {
        path: "/stats/prometheus",
        mutates: false,
        about: "print server stats in prometheus format",
        parameters: &[USED, FILTER, INVERT],
        answer: prometheus,
    },
];

/// Answers a request.
pub(super) fn respond(state: &AdminState, head: &Parts) -> Answer {
    let Some(page) = PAGES.iter().find(|page| page.path == head.uri.path()) else {
        return text(StatusCode::NOT_FOUND, format!("invalid path. {}", commands()));
    };
    let refused = |needs: &str| {
        let message = format!("Method {} not allowed, {needs} required.", head.method);
        text(StatusCode::METHOD_NOT_ALLOWED, message)
    };
    if page.mutates && head.method != Method::POST {
        return refused("POST");
    }
    if ![Method::GET, Method::HEAD, Method::POST].contains(&head.method) {
        return refused("GET");
    }
    (page.answer)(state, &Query::parse(head.uri.query()), head)
}

/// A plain answer.
pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    answer(status, "text/plain; charset=UTF-8", whole(body.into()))
}

fn json_answer(value: &Json) -> Answer {
    // Envoy indents by one.
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    // Writing JSON to memory cannot fail.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    out.push(b'\n');
    answer(StatusCode::OK, "application/json", whole(out))
}

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// Pieces are made as the client takes them, so a slow client does not have it all kept in memory.
fn pieces(pieces: impl Iterator<Item = String> + Send + 'static) -> Body {
    StreamBody::new(stream::iter(pieces.map(|piece| Ok(Frame::data(piece.into()))))).boxed_unsync()
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS};
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache, max-age=0"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (SERVER, "lateen"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn ok() -> Answer {
    text(StatusCode::OK, "OK\n")
}

fn bad_request(message: impl Into<String>) -> Answer {
    text(StatusCode::BAD_REQUEST, message)
}

/// A parameter that is a pattern. Matching takes linear time; compiling is bounded.
fn pattern(query: &Query, name: &str) -> Result<Option<Regex>, Refusal> {
    let Some(pattern) = query.get(name).filter(|p| !p.is_empty()) else { return Ok(None) };
    let built = RegexBuilder::new(pattern).size_limit(1 << 20).build();
    built.map(Some).map_err(|error| Box::new(bad_request(format!("Invalid regex: {error}\n"))))
}

/// The answer, or what is given instead.
fn either(result: Result<Answer, Refusal>) -> Answer {
    result.unwrap_or_else(|refusal| *refusal)
}

fn commands() -> String {
    let mut out = String::from("admin commands are:\n");
    for page in PAGES {
        let post = if page.mutates { " (POST)" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {}{post}: {}", page.path, page.about);
        for (name, about) in page.parameters {
            let _ = writeln!(out, "      {name}: {about}");
        }
    }
    out
}

fn help(_: &AdminState, _: &Query, _: &Parts) -> Answer {
    text(StatusCode::OK, commands())
}

fn home(_: &AdminState, _: &Query, _: &Parts) -> Answer {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang='en'>\n<head><title>Lateen Admin</title></head>\n<body>\n<table>\n\
         <tr><th>Command</th><th>Description</th></tr>\n",
    );
    // Nothing here comes from outside: no character needs escaping.
    for page in PAGES {
        let path = page.path.trim_start_matches('/');
        let command = if page.mutates {
            format!("<form action='{path}' method='post'><button>{path}</button></form>")
        } else {
            format!("<a href='{path}'>{}</a>", if path.is_empty() { "/" } else { path })
        };
        let _ = writeln!(out, "<tr><td>{command}</td><td>{}</td></tr>", page.about);
    }
    out.push_str("</table>\n</body>\n</html>\n");
    answer(StatusCode::OK, "text/html; charset=UTF-8", whole(out))
}

fn ready(state: &AdminState, _: &Query, _: &Parts) -> Answer {
    let state = state.state();
    let status = if state == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, format!("{}\n", state.as_str()))
}

fn server_info(state: &AdminState, _: &Query, _: &Parts) -> Answer {
    let uptime = format!("{}s", state.stats.started().elapsed().as_secs());
    json_answer(&json!({
        "version": state.server.version,
        "state": state.state().as_str(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": state.server.command_line_options,
        "node": state.server.node,
    }))
}

fn certs(state: &AdminState, _: &Query, _: &Parts) -> Answer {
    json_answer(&certs::json(&(state.config)(), SystemTime::now()))
}

fn show_memory(_: &AdminState, _: &Query, _: &Parts) -> Answer {
    let memory = memory::read();
    json_answer(&json!({
        "allocated": memory.allocated.to_string(),
        "heap_size": memory.heap.to_string(),
        "total_physical_bytes": memory.resident.to_string(),
    }))
}

fn clusters(state: &AdminState, query: &Query, _: &Parts) -> Answer {
    either(pattern(query, "filter").map(|filter| {
        let clusters = (state.clusters)().into_iter();
        let clusters = clusters.filter(move |c| filter.as_ref().is_none_or(|pattern| pattern.is_match(&c.name)));
        if query.get("format") == Some("json") {
            let list: Vec<Json> = clusters.map(|c| c.json()).collect();
            return json_answer(&json!({"cluster_statuses": list}));
        }
        let texts = clusters.map(|cluster| {
            let mut out = String::new();
            cluster.text(&mut out);
            out
        });
        answer(StatusCode::OK, "text/plain; charset=UTF-8", pieces(texts))
    }))
}

fn listeners(state: &AdminState, query: &Query, _: &Parts) -> Answer {
    let listeners = (state.listeners)();
    if query.get("format") == Some("json") {
        let list: Vec<Json> = listeners.iter().map(|l| l.json()).collect();
        return json_answer(&json!({"listener_statuses": list}));
    }
    let mut out = String::new();
    listeners.iter().for_each(|listener| listener.text(&mut out));
    text(StatusCode::OK, out)
}

fn refusals(state: &AdminState, query: &Query, _: &Parts) -> Answer {
    if query.get("format") == Some("json") {
        return json_answer(&state.stats.refusals.json());
    }
    text(StatusCode::OK, state.stats.refusals.text())
}

fn dump(state: &AdminState, query: &Query, _: &Parts) -> Answer {
    if query.get("mask").is_some() {
        return bad_request("mask is not supported: use resource and name_regex\n");
    }
    either(pattern(query, "name_regex").map(|name| {
        let resource = query.get("resource").filter(|r| !r.is_empty());
        // Endpoints asked for by name are asked for.
        let endpoints = query.has("include_eds") || resource.is_some_and(|r| r.contains("endpoint"));
        match (state.config_dump)(endpoints) {
            Ok(dump) => match config_dump::select(dump, resource, name.as_ref()) {
                Some(dump) => json_answer(&dump),
                None => {
                    let resource = resource.unwrap_or_default();
                    text(StatusCode::NOT_FOUND, format!("{resource} not found in config dump\n"))
                }
            },
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("config dump failed: {error}\n")),
        }
    }))
}

/// Statistics of this moment, as filtered by the query.
fn snapshot(state: &AdminState, query: &Query) -> Result<Snapshot, Refusal> {
    let types = match query.get("type") {
        None | Some("All") => Types::All,
        Some("Counters") => Types::Counters,
        Some("Gauges") => Types::Gauges,
        Some("Histograms") => Types::Histograms,
        Some("TextReadouts") => Types::TextReadouts,
        Some(_) => return Err(Box::new(bad_request("invalid &type= param\n"))),
    };
    let name = pattern(query, "filter")?;
    let now = state.state();
    state.stats.server.state.set(now.number());
    state.stats.server.live.set(i64::from(now == ServerState::Live));
    let snapshot = state.stats.snapshot(&(state.config)(), &*state.cluster_facts);
    let snapshot = snapshot.filtered(Filter { used_only: query.has("usedonly"), types });
    Ok(match name {
        Some(name) => {
            let invert = query.has("invert_filter");
            snapshot.named(|text| name.is_match(text) != invert)
        }
        None => snapshot,
    })
}

fn stats(state: &AdminState, query: &Query, head: &Parts) -> Answer {
    let buckets = match query.get("histogram_buckets") {
        None | Some("" | "summary") => Buckets::Summary,
        Some("cumulative") => Buckets::Cumulative,
        Some("disjoint") => Buckets::Disjoint,
        Some(_) => return bad_request("usage: /stats?histogram_buckets=(cumulative|disjoint|summary)\n"),
    };
    match query.get("format") {
        None | Some("text") => either(
            snapshot(state, query)
                .map(|snapshot| answer(StatusCode::OK, "text/plain; charset=UTF-8", pieces(snapshot.text(buckets)))),
        ),
        Some("json") => either(snapshot(state, query).map(|snapshot| {
            let json = snapshot.json(buckets).to_string();
            answer(StatusCode::OK, "application/json", whole(json))
        })),
        Some("prometheus") => prometheus(state, query, head),
        Some(_) => bad_request("usage: /stats?format=(json|prometheus|text)\n\n"),
    }
}

fn prometheus(state: &AdminState, query: &Query, _: &Parts) -> Answer {
    either(snapshot(state, query).map(|snapshot| {
        // The version is what Prometheus goes by to know the format.
        answer(StatusCode::OK, "text/plain; version=0.0.4; charset=UTF-8", pieces(snapshot.prometheus()))
    }))
}

fn logging(state: &AdminState, query: &Query, head: &Parts) -> Answer {
    let changed = if query.is_empty() {
        Ok(())
    } else if head.method != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, format!("Method {} not allowed, POST required.", head.method));
    } else {
        change_logging(state, query)
    };
    if let Err(error) = changed {
        let words: Vec<&str> = Level::ALL.into_iter().map(Level::as_str).collect();
        return bad_request(format!(
            "error: {error}\n\n\
             usage: /logging?<name>=<level> (change single level)\n\
             usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
             usage: /logging?level=<level> (change all levels)\n\
             levels: {}\n",
            words.join(" ")
        ));
    }
    let mut out = String::from("active loggers:\n");
    for (name, level) in state.logging.levels() {
        let _ = writeln!(out, "  {name}: {level}");
    }
    out.push('\n');
    text(StatusCode::OK, out)
}

fn change_logging(state: &AdminState, query: &Query) -> Result<(), String> {
    let parse = |word: &str| word.parse::<Level>().map_err(|error| error.to_string());
    match query.only() {
        Some(("level", level)) => state.logging.set_all(parse(level)?),
        Some(("paths", paths)) => {
            let mut wishes = Vec::new();
            for wish in paths.split(',') {
                let (name, level) = wish.split_once(':').ok_or("a path is written name:level")?;
                wishes.push((name, parse(level)?));
            }
            state.logging.set(&wishes).map_err(|error| error.to_string())?;
        }
        Some((name, level)) => {
            state.logging.set(&[(name, parse(level)?)]).map_err(|error| error.to_string())?;
        }
        None => return Err("invalid parameters".into()),
    }
    Ok(())
}

fn set_health(state: &AdminState, failed: bool) -> Answer {
    state.health_failed.send_replace(failed);
    ok()
}

fn reset_counters(state: &AdminState, _: &Query, _: &Parts) -> Answer {
    state.stats.reset_counters(&(state.config)(), &*state.cluster_facts);
    ok()
}

fn reopen_logs(state: &AdminState, _: &Query, _: &Parts) -> Answer {
    state.log_files.reopen();
    ok()
}

fn drain_listeners(state: &AdminState, query: &Query, _: &Parts) -> Answer {
    let action = Action::DrainListeners {
        graceful: query.has("graceful"),
        inbound_only: query.has("inboundonly"),
        skip_exit: query.has("skip_exit"),
    };
    act(state, action)
}

fn quit(state: &AdminState, _: &Query, _: &Parts) -> Answer {
    act(state, Action::Quit)
}

fn act(state: &AdminState, action: Action) -> Answer {
    match state.actions.try_send(action) {
        Ok(()) => ok(),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the server is busy or ending: try again\n"),
    }
}
