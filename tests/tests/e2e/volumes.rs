//! What a pod mounts follows the objects it is made of.

use lateen_tests::mesh::{Mesh, User};
use lateen_tests::wait;

const MANIFEST: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: disabled}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data: {one: first, two: first, gone: first}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden, namespace: shop}
stringData: {password: first}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: shop}
spec:
  containers:
  - name: reader
    image: lateen:latest
    command: [sleep, infinity]
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: hidden, mountPath: /hidden}
    - {name: settings, mountPath: /one, subPath: one}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: hidden, secret: {secretName: hidden, defaultMode: 0400}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_follow_their_objects() {
    let _alone = crate::one_mesh_at_a_time().await;
    let dir = Mesh::place(User::Invoker);
    let manifests = dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let file = manifests.join("shop.yaml");
    std::fs::write(&file, MANIFEST).unwrap();
    let mut mesh = Mesh::up(dir, User::Invoker, &[]);
    mesh.ready("shop", 1).await;
    let read = |script: &'static str| {
        let mesh = &mesh;
        async move { mesh.prints(&["exec", "-n", "shop", "reader", "--", "sh", "-c", script]).await }
    };
    assert_eq!(read("cat /settings/one /settings/two /settings/gone /hidden/password /one").await, "first".repeat(5));
    assert_eq!(read("stat -Lc %a /hidden/password").await, "400\n");

    let changed = MANIFEST.replace("gone: first", "new: second").replace(": first", ": second");
    std::fs::write(&file, changed).unwrap();
    wait::until("the volumes follow", || async {
        let seen = read("cat /settings/one /settings/two").await;
        // Files of one volume change at once: both are of the same time.
        assert!(["firstfirst", "firstsecond", "secondsecond"].contains(&seen.as_str()), "{seen}");
        let password = read("cat /hidden/password").await;
        (seen == "secondsecond" && password == "second").then_some(())
    })
    .await;
    assert_eq!(read("ls /settings").await, "new\none\ntwo\n");
    // As with Kubernetes, what was mounted alone stays.
    assert_eq!(read("cat /one").await, "first");
    mesh.down().await;
}
