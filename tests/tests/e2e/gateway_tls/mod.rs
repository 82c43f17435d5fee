//! TLS at gateways, ours and Envoys: who gets in by which certificate, what a scanner finds, what stays hidden.

mod rotation;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lateen_tests::mesh::{Mesh, User};
use lateen_tests::tls::{Authority, Certified, version1};
use lateen_tests::{peers, wait};
use serde_json::{Map, Value, json};

use crate::real_envoy::envoy;

/// A mesh whose gateway ends TLS, and those who come to it.
struct Stand {
    mesh: Mesh,
    files: tempfile::TempDir,
    authority: Authority,
    gateway: SocketAddr,
}

/// A Secret of the gateway's namespace.
fn secret(name: &str, data: &[(&str, &str)]) -> Value {
    let data: Map<String, Value> =
        data.iter().map(|(key, text)| ((*key).to_owned(), json!(STANDARD.encode(text)))).collect();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "istio-system"}, "data": data})
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

impl Stand {
    /// `pins`: a certificate and a key that are accepted where pins are.
    async fn up(authority: Authority, pins: [&Certified; 2], options: &[&str]) -> Stand {
        let dir = Mesh::place(User::Invoker);
        let manifests = dir.path().join("manifests");
        std::fs::create_dir(&manifests).unwrap();
        let files = tempfile::tempdir().unwrap();
        let from_files = authority.sign("files.test", "");
        std::fs::write(files.path().join("files.crt"), &from_files.certificate).unwrap();
        std::fs::write(files.path().join("files.key"), &from_files.key).unwrap();
        let text = include_str!("mesh.yaml")
            .replace("FILES", files.path().to_str().unwrap())
            .replace("HASH", &hexadecimal(&sha256(&pins[0].der)))
            .replace("SPKI", &STANDARD.encode(sha256(&pins[1].public_key)));
        std::fs::write(manifests.join("mesh.yaml"), text).unwrap();
        std::fs::write(files.path().join("ca.crt"), &authority.pem).unwrap();
        let mesh = Mesh::up(dir, User::Invoker, options);
        mesh.ready("shop", 1).await;
        mesh.answers("any.test", "/").await;
        let text = mesh.prints(&["ingress", "--https"]).await;
        let gateway = text.trim().strip_prefix("https://").expect("an https address").parse().unwrap();
        Stand { mesh, files, authority, gateway }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    /// Puts Secrets into the mesh, and waits until the gateway has them.
    async fn put(&self, secrets: &[Value]) {
        let text: String = secrets.iter().map(|secret| format!("---\n{secret}\n")).collect();
        std::fs::write(self.file("secrets.yaml"), text).unwrap();
        self.mesh.prints(&["apply", "-f", &self.file("secrets.yaml"), "--wait"]).await;
    }

    /// Keeps a certificate in files, for programs to show it.
    fn keep(&self, name: &str, certified: &Certified) {
        std::fs::write(self.file(&format!("{name}.crt")), &certified.certificate).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), &certified.key).unwrap();
    }

    async fn run(&self, program: PathBuf, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Status and version of HTTP that curl got of a host, as `200 2`; why it did not, otherwise.
    async fn curl(&self, host: &str, client: Option<&str>, more: &[&str]) -> Result<String, String> {
        let (ca, to, url) = (self.file("ca.crt"), format!("::{}", self.gateway), format!("https://{host}/"));
        let mut arguments = vec!["-sS", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "--max-time", "20"];
        arguments.extend(["--cacert", &ca, "--connect-to", &to]);
        let shown = client.map(|name| (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key"))));
        if let Some((certificate, key)) = &shown {
            arguments.extend(["--cert", certificate.as_str(), "--key", key.as_str()]);
        }
        arguments.extend(more);
        arguments.push(&url);
        match self.run(peers::program("curl"), &arguments).await {
            (true, text) => Ok(text),
            (false, text) => Err(text),
        }
    }

    async fn lets_in(&self, host: &str, client: Option<&str>) {
        let seen = self.curl(host, client, &[]).await;
        assert_eq!(seen.as_deref(), Ok("200 2"), "{client:?} at {host}\n{}", self.mesh.output());
    }

    async fn turns_away(&self, host: &str, client: Option<&str>) {
        let seen = self.curl(host, client, &[]).await;
        assert!(seen.is_err(), "{client:?} at {host}: {seen:?}");
    }

    /// What `openssl s_client` says of its handshake; whether it made one.
    async fn handshake(&self, more: &[&str]) -> (bool, String) {
        let (ca, to) = (self.file("ca.crt"), self.gateway.to_string());
        let mut arguments = vec!["s_client", "-brief", "-verify_return_error", "-CAfile", &ca, "-connect", &to];
        arguments.extend(more);
        self.run(peers::program("openssl"), &arguments).await
    }

    async fn agrees(&self, more: &[&str], on: &[&str]) {
        let (made, text) = self.handshake(more).await;
        assert!(made, "{more:?}: {text}");
        for what in on {
            assert!(text.contains(what), "{more:?}: no {what} in {text}");
        }
    }

    async fn refuses(&self, more: &[&str]) {
        let (made, text) = self.handshake(more).await;
        assert!(!made && !text.contains("Verification: OK"), "{more:?}: {text}");
    }
}

/// Who gets in, and who does not.
async fn admits(options: &[&str]) -> Stand {
    let authority = Authority::new("authority");
    let stranger = Authority::new("stranger");
    let revoked_number = 77_u64;
    let [alice, bob, carol] = ["alice.test", "bob.test", "carol.test"].map(|host| authority.sign(host, ""));
    let late = authority.sign_with("late.test", "", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let fired = authority.sign_with("fired.test", "", |params| params.serial_number = Some(revoked_number.into()));
    let early = authority.sign_with("early.test", "", |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let foreign = stranger.sign("alice.test", "");
    let simple = authority.sign_with("simple.test", "", |params| {
        let more = ["optional.test", "old.test", "new.test", "bytes.test", "missing.test"];
        params.subject_alt_names.extend(more.map(|host| rcgen::SanType::DnsName(host.try_into().unwrap())));
    });
    let mutual = authority.sign_with("mutual.test", "", |params| {
        let more = ["named.test", "pinned.test"];
        params.subject_alt_names.extend(more.map(|host| rcgen::SanType::DnsName(host.try_into().unwrap())));
    });
    let (rsa, ecdsa) = (authority.sign_rsa("both.test"), authority.sign("both.test", ""));
    let (roots, list) = (authority.pem.clone(), authority.revoke(revoked_number));

    let stand = Stand::up(authority, [&alice, &bob], options).await;
    let people = [
        ("alice", &alice),
        ("bob", &bob),
        ("carol", &carol),
        ("late", &late),
        ("early", &early),
        ("fired", &fired),
        ("foreign", &foreign),
    ];
    people.iter().for_each(|(name, certified)| stand.keep(name, certified));
    // Nothing is there: nobody is served by TLS, and whoever comes without is.
    stand.turns_away("simple.test", None).await;
    stand
        .put(&[
            secret("simple", &[("tls.crt", &simple.certificate), ("tls.key", &simple.key)]),
            secret("roots", &[("ca.crt", &roots)]),
            secret(
                "mutual",
                &[("cert", &mutual.certificate), ("key", &mutual.key), ("cacert", &roots), ("crl", &list)],
            ),
            secret("both-rsa", &[("tls.crt", &rsa.certificate), ("tls.key", &rsa.key)]),
            secret("both-ecdsa", &[("tls.crt", &ecdsa.certificate), ("tls.key", &ecdsa.key)]),
        ])
        .await;

    // Every host with a certificate of its own, HTTP/2 where the client offers it.
    stand.lets_in("simple.test", None).await;
    stand.lets_in("both.test", None).await;
    let one = stand.curl("simple.test", None, &["--http1.1"]).await;
    assert_eq!(one.as_deref(), Ok("200 1.1"));

    stand.lets_in("mutual.test", Some("alice")).await;
    stand.lets_in("mutual.test", Some("carol")).await;
    stand.turns_away("mutual.test", None).await;
    for client in ["foreign", "late", "early", "fired"] {
        stand.turns_away("mutual.test", Some(client)).await;
    }
    stand.lets_in("named.test", Some("alice")).await;
    stand.turns_away("named.test", Some("bob")).await;
    // One by its certificate, one by its key.
    stand.lets_in("pinned.test", Some("alice")).await;
    stand.lets_in("pinned.test", Some("bob")).await;
    stand.turns_away("pinned.test", Some("carol")).await;
    stand.lets_in("optional.test", None).await;
    stand.lets_in("optional.test", Some("alice")).await;
    stand.turns_away("optional.test", Some("foreign")).await;

    stand.lets_in("files.test", None).await;
    // The gateway's own certificate, and only for those who have one of the mesh too.
    let (_, text) = stand.handshake(&["-servername", "mesh.test"]).await;
    assert!(text.contains("verify error") && !text.contains("no peer certificate"), "{text}");
    stand.turns_away("mesh.test", Some("alice")).await;

    // A host that nobody serves, none at all, and one whose Secret is missing.
    for names in [&["-servername", "other.test"][..], &["-noservername"], &["-servername", "missing.test"]] {
        stand.refuses(names).await;
    }
    // Of version 1, on both sides: it is known by its authority, and has no names.
    let sign = |name| version1(Some((&stand.authority.pem, &stand.authority.key)), name, 0, 30);
    let (server, dave) = (sign("missing.test"), sign("alice.test"));
    stand.keep("dave", &dave);
    stand.put(&[secret("missing", &[("tls.crt", &server.certificate), ("tls.key", &server.key)])]).await;
    stand.lets_in("missing.test", None).await;
    stand.lets_in("optional.test", Some("dave")).await;
    stand.turns_away("named.test", Some("dave")).await;
    let bytes = rotation::Client::new(&stand, "bytes.test");
    let echoed = bytes.exchange(b"bytes of no protocol").await;
    assert_eq!(echoed.unwrap(), b"bytes of no protocol");
    stand
}

/// Versions, ciphers, groups and signatures are those that are asked for, and none is weak.
async fn speaks(stand: &Stand) {
    let simple = ["-servername", "simple.test"];
    let with = |more: &[&'static str]| [&simple[..], more].concat();
    stand.agrees(&with(&["-tls1_3"]), &["TLSv1.3"]).await;
    stand.agrees(&with(&["-tls1_2"]), &["TLSv1.2"]).await;
    // This openssl would speak the old versions, were it let.
    for old in ["-tls1", "-tls1_1"] {
        stand.refuses(&with(&[old, "-cipher", "ALL:@SECLEVEL=0"])).await;
    }
    for weak in ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "AES256-GCM-SHA384"] {
        stand.refuses(&with(&["-tls1_2", "-cipher", weak])).await;
    }

    let old = ["-servername", "old.test"];
    stand.refuses(&[&old[..], &["-tls1_3"]].concat()).await;
    stand.agrees(&old, &["TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"]).await;
    stand.refuses(&[&old[..], &["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]].concat()).await;
    let new = ["-servername", "new.test"];
    stand.refuses(&[&new[..], &["-tls1_2"]].concat()).await;
    stand.agrees(&new, &["TLSv1.3", "secp384r1"]).await;
    stand.refuses(&[&new[..], &["-groups", "X25519:P-256"]].concat()).await;

    // Of two certificates each client gets the one it can check.
    let both = ["-servername", "both.test"];
    stand.agrees(&both, &["Signature type: ECDSA"]).await;
    let rsa = &["-sigalgs", "rsa_pss_rsae_sha256:RSA+SHA256"][..];
    stand.agrees(&[&both[..], rsa].concat(), &["Signature type: RSA-PSS"]).await;
    stand.agrees(&[&both[..], &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]].concat(), &["RSA"]).await;

    for host in ["simple.test", "both.test"] {
        let to = stand.gateway.to_string();
        // To a hello of an old version with a heartbeat after it there is no answer that this program waits for.
        let arguments = ["--no-colour", "--xml=-", "--no-heartbleed", &format!("--sni-name={host}"), &to];
        let (done, found) = stand.run(peers::program("sslscan"), &arguments).await;
        assert!(done, "{found}");
        scanned(&found);
    }
}

/// Holds what `sslscan` found to what is good today.
fn scanned(found: &str) {
    const GOOD: [&str; 9] = [
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ];
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let of = |tag: &str| found.lines().filter(|line| line.trim().starts_with(&format!("<{tag} "))).collect::<Vec<_>>();
    let enabled: Vec<String> = of("protocol")
        .into_iter()
        .filter(|line| value(line, "enabled").as_deref() == Some("1"))
        .map(|line| value(line, "version").unwrap())
        .collect();
    assert_eq!(enabled, ["1.2", "1.3"], "{found}");
    let ciphers: Vec<String> = of("cipher").into_iter().map(|line| value(line, "cipher").unwrap()).collect();
    assert!(ciphers.len() >= 6 && ciphers.iter().all(|cipher| GOOD.contains(&cipher.as_str())), "{ciphers:?}");
    for (tag, good) in [("self-signed", "false"), ("expired", "false")] {
        assert!(found.contains(&format!("<{tag}>{good}</{tag}>")), "{tag}: {found}");
    }
}

/// A key that is not the certificate's changes nothing, and is told.
async fn keeps_what_is_good(stand: &Stand) {
    let (one, other) = (stand.authority.sign("simple.test", ""), stand.authority.sign("simple.test", ""));
    stand.put(&[secret("simple", &[("tls.crt", &one.certificate), ("tls.key", &other.key)])]).await;
    let problems = stand.mesh.control_plane("/debug/problemz").await;
    assert!(problems.contains("Secret istio-system/simple cannot be used"), "{problems}");
    assert!(problems.contains("not the key of the certificate"), "{problems}");
    stand.lets_in("simple.test", None).await;
    stand.put(&[secret("simple", &[("tls.crt", &one.certificate), ("tls.key", &one.key)])]).await;
    let problems = stand.mesh.control_plane("/debug/problemz").await;
    assert!(!problems.contains("istio-system/simple "), "{problems}");
    hides(stand, &[&one.key, &other.key]).await;
}

/// A Secret that is deleted is told to be missing, and served on until there is another.
async fn outlives_its_secret(stand: &Stand) {
    stand.mesh.prints(&["delete", "secret", "missing", "-n", "istio-system"]).await;
    let told = || async {
        let problems = stand.mesh.control_plane("/debug/problemz").await;
        problems.contains("Secret istio-system/missing is not there").then_some(())
    };
    wait::until("it is told", told).await;
    stand.lets_in("missing.test", None).await;
    let next = stand.authority.sign("missing.test", "");
    stand.put(&[secret("missing", &[("tls.crt", &next.certificate), ("tls.key", &next.key)])]).await;
    // This one has a name that openssl sees.
    stand.agrees(&["-servername", "missing.test", "-verify_hostname", "missing.test"], &["Verification: OK"]).await;
}

/// A Gateway that names the files of Secrets that Istio's own gateways mount.
const MOUNTED: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: mounted, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: mounted, protocol: HTTPS}
    hosts: [mounted.test]
    tls:
      mode: MUTUAL
      serverCertificate: /etc/istio/ingressgateway-certs/tls.crt
      privateKey: /etc/istio/ingressgateway-certs/tls.key
      caCertificates: /etc/istio/ingressgateway-ca-certs/ca-chain.cert.pem
";

/// Such Secrets, which come when the pod is there.
async fn serves_what_it_mounts(stand: &Stand) {
    std::fs::write(stand.file("mounted.yaml"), MOUNTED).unwrap();
    stand.mesh.prints(&["apply", "-f", &stand.file("mounted.yaml")]).await;
    stand.turns_away("mounted.test", Some("alice")).await;
    let own = stand.authority.sign("mounted.test", "");
    let certificate = [("tls.crt", own.certificate.as_str()), ("tls.key", own.key.as_str())];
    let authorities = [("ca-chain.cert.pem", stand.authority.pem.as_str())];
    stand
        .put(&[
            secret("istio-ingressgateway-certs", &certificate),
            secret("istio-ingressgateway-ca-certs", &authorities),
        ])
        .await;
    wait::until("the files are served", || async { stand.curl("mounted.test", Some("alice"), &[]).await.ok() }).await;
    stand.turns_away("mounted.test", Some("foreign")).await;
    stand.turns_away("mounted.test", None).await;
}

/// Keys are where they are used, and nowhere else.
async fn hides(stand: &Stand, keys: &[&str]) {
    // The middle of a key, in PEM and as the API has it.
    let words: Vec<String> = keys.iter().map(|key| key.lines().nth(1).unwrap().to_owned()).collect();
    let gateway = stand.mesh.pod("istio-system", "istio-ingressgateway-").await;
    let node = format!("{gateway}.istio-system");
    let dump = ["exec", "-n", "istio-system", &gateway, "--", "curl", "-sS", "http://127.0.0.1:15000/config_dump"];
    let of_proxy = stand.mesh.prints(&dump).await;
    // Bytes are shown in base64, also those that stand for others.
    let redacted = ["[redacted]".to_owned(), STANDARD.encode("[redacted]")].iter().any(|text| of_proxy.contains(text));
    assert!(of_proxy.contains("kubernetes://simple") && redacted, "the gateway shows its secrets");
    let of_control_plane = stand.mesh.control_plane(&format!("/debug/config_dump?proxyID={node}")).await;
    assert!(of_control_plane.contains("kubernetes://simple"), "the gateway's listeners name their secrets");
    let mut texts = vec![of_proxy, of_control_plane, stand.mesh.output()];
    read_all(&stand.mesh.state(), &mut texts);
    for text in &texts {
        assert!(!text.contains("PRIVATE KEY") || text.contains("-----BEGIN CERTIFICATE"), "a key is told");
        for word in &words {
            assert!(!text.contains(word.as_str()), "a key is told");
        }
    }
    let yaml = stand.mesh.prints(&["get", "secret", "simple", "-n", "istio-system", "-o", "yaml"]).await;
    assert!(yaml.contains(&STANDARD.encode(keys[0])), "{yaml}");
    let table = stand.mesh.prints(&["get", "secret", "-n", "istio-system"]).await;
    assert!(table.contains("simple") && !table.contains(&STANDARD.encode(keys[0])[..40]), "{table}");
}

/// Every file below a directory.
fn read_all(directory: &Path, texts: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read_all(&entry.path(), texts);
        } else if kind.is_file()
            // The authority's own, which is kept here.
            && entry.file_name() != "ca-key.pem"
        {
            texts.push(String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()).into_owned());
        }
    }
}

async fn all(options: &[&str]) {
    let mut stand = admits(options).await;
    speaks(&stand).await;
    keeps_what_is_good(&stand).await;
    outlives_its_secret(&stand).await;
    serves_what_it_mounts(&stand).await;
    rotation::serves_what_changes(&stand).await;
    stand.mesh.down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_our_gateway() {
    let _alone = crate::one_mesh_at_a_time().await;
    all(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_an_envoy() {
    let _alone = crate::one_mesh_at_a_time().await;
    all(&["--image", &format!("auto={}", envoy())]).await;
}
