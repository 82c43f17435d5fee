use super::*;
use crate::{Kind, kind};

fn read(text: &str) -> Manifests {
    read_manifests("a.yaml", text.as_bytes(), ReadOptions::default())
}

fn keys(text: &str) -> Vec<String> {
    read(text).complete().unwrap().iter().map(|manifest| manifest.object.key().to_string()).collect()
}

#[test]
fn lists_are_taken_apart_and_namespaces_filled_in() {
    assert_eq!(
        keys(
            "apiVersion: v1\nkind: List\nitems:\n\
             - {apiVersion: v1, kind: Service, metadata: {name: a}}\n\
             - {apiVersion: v1, kind: Namespace, metadata: {name: n}}\n\
             ---\n\
             apiVersion: networking.istio.io/v1beta1\nkind: GatewayList\nitems:\n- metadata: {name: g, namespace: x}\n"
        ),
        ["Service default/a", "Namespace n", "Gateway x/g"]
    );
}

#[test]
fn each_problem_names_its_place() {
    let problems = read(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prts: []}\n\
         ---\nkind: Pod\n\
         ---\napiVersion: v1\nkind: Pot\nmetadata: {name: p}\n\
         ---\napiVersion: v1\nkind: Namespace\nmetadata: {name: n, namespace: x}\n\
         ---\n- 1\n",
    )
    .problems;
    assert_eq!(
        problems.to_string(),
        "a.yaml, document 1, Service default/a: spec.prts: unknown field, did you mean \"ports\"?\n\
         a.yaml, document 2, Pod: apiVersion: required\n\
         a.yaml, document 3, Pot p: no kind \"Pot\" in \"v1\", did you mean \"Pod\"?\n\
         a.yaml, document 4, Namespace x/n: metadata.namespace: a Namespace lives in no namespace\n\
         a.yaml, document 5, an object: expected a Kubernetes object"
    );
}

#[test]
fn a_namespace_can_be_insisted_on() {
    let options = ReadOptions { namespace: "a", only_that_namespace: true };
    let text = b"{apiVersion: v1, kind: Service, metadata: {name: s, namespace: b}}";
    let problems = read_manifests("-", text, options).problems;
    assert!(problems.to_string().contains("\"b\" is not the namespace asked for, \"a\""), "{problems}");
}

#[test]
fn an_object_is_served_in_every_version_of_its_group() {
    let read =
        read("apiVersion: networking.istio.io/v1alpha3\nkind: Gateway\nmetadata: {name: g}\nspec: {servers: []}");
    let object = &read.manifests[0].object;
    assert_eq!(object.raw()["apiVersion"], "networking.istio.io/v1alpha3");
    for version in Kind::Gateway.info().versions {
        let json = object.to_json(version);
        let api_version = json["apiVersion"].as_str().unwrap();
        assert_eq!(kind::by_api_version(api_version, "Gateway"), Ok(Kind::Gateway));
        assert_eq!(Object::decode(json.clone()).unwrap().key(), object.key());
    }
}

#[test]
fn kubernetes_quantities_and_octal_modes_are_read() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, creationTimestamp: null}\nspec:\n  containers:\n  \
                - name: c\n    image: i\n    resources: {limits: {cpu: 2, memory: 128Mi}}\n    \
                livenessProbe: {httpGet: {port: http, path: /}}\n    ports: [{containerPort: 80, name: http}]\n    \
                volumeMounts: [{name: t, mountPath: /tmp}]\n  volumes: [{name: t, emptyDir: {}}, \
                {name: s, secret: {secretName: s, defaultMode: 0400}}]\n";
    let read = read(text).complete().unwrap();
    assert_eq!(read[0].object.raw()["spec"]["volumes"][1]["secret"]["defaultMode"], 0o400);
}
