//! `/config_dump`: picks what was asked for out of the whole dump.

use regex::Regex;
use serde_json::{Map, Value as Json, json};

/// Repeated fields of the dumps that `resource` may name, with the message that each of their elements is.
const RESOURCES: [(&str, &str); 11] = [
    ("static_listeners", "ListenersConfigDump.StaticListener"),
    ("dynamic_listeners", "ListenersConfigDump.DynamicListener"),
    ("static_clusters", "ClustersConfigDump.StaticCluster"),
    ("dynamic_active_clusters", "ClustersConfigDump.DynamicCluster"),
    ("dynamic_warming_clusters", "ClustersConfigDump.DynamicCluster"),
    ("static_route_configs", "RoutesConfigDump.StaticRouteConfig"),
    ("dynamic_route_configs", "RoutesConfigDump.DynamicRouteConfig"),
    ("static_endpoint_configs", "EndpointsConfigDump.StaticEndpointConfig"),
    ("dynamic_endpoint_configs", "EndpointsConfigDump.DynamicEndpointConfig"),
    ("static_secrets", "SecretsConfigDump.StaticSecret"),
    ("dynamic_active_secrets", "SecretsConfigDump.DynamicSecret"),
];

/// Where an element has the resource it is about, from the outside in.
const INNER: [&str; 6] = ["active_state", "warming_state", "listener", "cluster", "route_config", "endpoint_config"];

/// Leaves what `resource` and `name` take; `None` when there is no such resource.
pub(super) fn select(mut dump: Json, resource: Option<&str>, name: Option<&Regex>) -> Option<Json> {
    let configs = match dump.get_mut("configs").map(Json::take) {
        Some(Json::Array(configs)) => configs,
        _ => Vec::new(),
    };
    let Some(resource) = resource else {
        let configs: Vec<Json> = configs.into_iter().map(|config| filter_config(config, name)).collect();
        return Some(json!({"configs": configs}));
    };
    let message = RESOURCES.iter().find(|(field, _)| *field == resource)?.1;
    let elements = configs.into_iter().find_map(|mut config| match config.get_mut(resource).map(Json::take) {
        Some(Json::Array(elements)) => Some(elements),
        _ => None,
    })?;
    let elements = elements.into_iter().filter(|element| takes(element, name)).map(|element| {
        let mut typed = Map::new();
        typed.insert("@type".into(), format!("type.googleapis.com/envoy.admin.v3.{message}").into());
        if let Json::Object(fields) = element {
            typed.extend(fields);
        }
        Json::Object(typed)
    });
    Some(json!({"configs": elements.collect::<Vec<_>>()}))
}

/// One dump with only the resources whose names fit.
fn filter_config(mut config: Json, name: Option<&Regex>) -> Json {
    if name.is_some()
        && let Json::Object(fields) = &mut config
    {
        for (field, _) in RESOURCES {
            if let Some(Json::Array(elements)) = fields.get_mut(field) {
                elements.retain(|element| takes(element, name));
            }
        }
    }
    config
}

fn takes(element: &Json, name: Option<&Regex>) -> bool {
    name.is_none_or(|pattern| name_of(element).is_some_and(|name| pattern.is_match(name)))
}

/// The name of an element, or of the resource inside it. Endpoints are named after their cluster.
fn name_of(element: &Json) -> Option<&str> {
    let own = element.get("name").or_else(|| element.get("cluster_name"));
    own.and_then(Json::as_str).or_else(|| INNER.iter().find_map(|field| name_of(element.get(field)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump() -> Json {
        json!({"configs": [
            {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {}},
            {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "version_info": "7",
             "static_clusters": [{"cluster": {"name": "xds"}}],
             "dynamic_active_clusters": [{"version_info": "1", "cluster": {"name": "a"}}, {"cluster": {"name": "b"}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
             "dynamic_listeners": [{"name": "l", "active_state": {"listener": {"name": "l"}}}]},
            {"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
             "dynamic_endpoint_configs": [{"endpoint_config": {"cluster_name": "a"}}]},
        ]})
    }

    #[test]
    fn a_resource_is_picked_and_typed() {
        let pattern = Regex::new("^a$").unwrap();
        assert_eq!(
            select(dump(), Some("dynamic_active_clusters"), Some(&pattern)),
            Some(json!({"configs": [{
                "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
                "version_info": "1",
                "cluster": {"name": "a"},
            }]}))
        );
        assert_eq!(select(dump(), Some("nope"), None), None);
        assert_eq!(select(dump(), Some("static_secrets"), None), None);
        assert_eq!(select(Json::Null, Some("static_clusters"), None), None);
    }

    #[test]
    fn names_filter_the_whole_dump() {
        assert_eq!(select(dump(), None, None), Some(dump()));
        let only = select(dump(), None, Some(&Regex::new("^a$").unwrap())).unwrap();
        let configs = only["configs"].as_array().unwrap();
        assert_eq!(configs.len(), 4);
        assert_eq!(configs[1]["static_clusters"], json!([]));
        assert_eq!(configs[1]["dynamic_active_clusters"].as_array().unwrap().len(), 1);
        assert_eq!(configs[1]["version_info"], "7");
        assert_eq!(configs[2]["dynamic_listeners"], json!([]));
        assert_eq!(configs[3]["dynamic_endpoint_configs"].as_array().unwrap().len(), 1);
    }
}
