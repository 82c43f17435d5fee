//! What pods see and can do.

use crate::world::*;
use crate::{Case, app};
use lateen_local::node::*;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use tokio::io::AsyncReadExt;

pub const CASES: &[Case] = &[
    ("pods_reach_each_other", pods_reach_each_other),
    ("outgoing_connections_land_at_the_sidecar", outgoing_connections_land_at_the_sidecar),
    ("incoming_connections_land_at_the_sidecar", incoming_connections_land_at_the_sidecar),
    ("the_sidecar_passes_its_own_rules", the_sidecar_passes_its_own_rules),
    ("an_app_cannot_pass_the_rules", an_app_cannot_pass_the_rules),
    ("dns_reaches_the_node", dns_reaches_the_node),
    ("the_rest_of_the_world_is_the_relay", the_rest_of_the_world_is_the_relay),
    ("probes_reach_the_app", probes_reach_the_app),
    ("a_container_sees_its_own_world", a_container_sees_its_own_world),
    ("a_pod_has_its_own_files", a_pod_has_its_own_files),
    ("what_is_hidden_cannot_be_found", what_is_hidden_cannot_be_found),
    ("volumes_that_cannot_be_are_errors", volumes_that_cannot_be_are_errors),
    ("users_are_those_asked_for", users_are_those_asked_for),
    ("exec_has_pipes_and_a_terminal", exec_has_pipes_and_a_terminal),
    ("ends_are_reported", ends_are_reported),
    ("programs_that_cannot_run_are_errors", programs_that_cannot_run_are_errors),
    ("a_listener_of_the_host_is_accepted_in_the_pod", a_listener_of_the_host_is_accepted_in_the_pod),
    ("a_pod_in_the_nodes_network", a_pod_in_the_nodes_network),
    ("a_deleted_pod_is_gone_and_its_address_free", a_deleted_pod_is_gone_and_its_address_free),
    ("requests_nobody_waits_for_are_undone", requests_nobody_waits_for_are_undone),
    ("many_requests_at_once", many_requests_at_once),
    ("how_long_it_takes", how_long_it_takes),
];

const PROXY: Role = Role::Proxy;

fn get(place: PodId, to: SocketAddr) -> Spawn {
    crate::world::app(Place::Pod(place), APP, &["get", &to.to_string()])
}

/// A listener for both IP versions.
async fn listener(node: &NodeHandle, place: Place, port: u16) -> tokio::net::TcpListener {
    node.tcp_listener(place, at(Ipv6Addr::UNSPECIFIED, port)).await.unwrap()
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn pods_reach_each_other() {
    with_node(|node| async move {
        let a = node.create_pod(pod("a", 2)).await.unwrap();
        let b = node.create_pod(pod("b", 3)).await.unwrap();
        let server = listener(&node, Place::Pod(b), 8080).await;
        let (peer, _) = ask(&node, get(a, at(v4(3), 8080)), &server).await;
        assert_eq!(peer.ip().to_canonical(), v4(2));
        let (peer, _) = ask(&node, get(a, at(v6(3), 8080)), &server).await;
        assert_eq!(peer.ip().to_canonical(), v6(2));
    });
}

fn outgoing_connections_land_at_the_sidecar() {
    with_node(|node| async move {
        let pod = node.create_pod(redirected("a", 2)).await.unwrap();
        let sidecar = listener(&node, Place::Pod(pod), OUTBOUND_PORT).await;
        let service6: Ipv6Addr = "fd00:96::7".parse().unwrap();
        let destinations = [
            at(Ipv4Addr::new(10, 96, 3, 4), 80),
            at(Ipv4Addr::new(240, 240, 0, 9), 443),
            at(v4(77), 9000),
            at(service6, 80),
            at(v6(77), 9000),
        ];
        for to in destinations {
            let (_, meant) = ask(&node, get(pod, to), &sidecar).await;
            assert_eq!(unmapped(meant), to);
        }
    });
}

fn incoming_connections_land_at_the_sidecar() {
    with_node(|node| async move {
        let peer = node.create_pod(pod("peer", 2)).await.unwrap();
        let pod = node.create_pod(redirected("a", 3)).await.unwrap();
        let sidecar = listener(&node, Place::Pod(pod), INBOUND_PORT).await;
        for to in [at(v4(3), 8080), at(v6(3), 8080)] {
            let (who, meant) = ask(&node, get(peer, to), &sidecar).await;
            assert_eq!(unmapped(meant), to);
            let own = if to.is_ipv4() { v4(2).into() } else { std::net::IpAddr::from(v6(2)) };
            assert_eq!(who.ip().to_canonical(), own, "the sidecar sees the caller's address");
        }
        // Its own ports are reached directly.
        let health = listener(&node, Place::Pod(pod), 15021).await;
        ask(&node, get(peer, at(v4(3), 15021)), &health).await;
    });
}

fn the_sidecar_passes_its_own_rules() {
    with_node(|node| async move {
        let pod_a = node.create_pod(redirected("a", 2)).await.unwrap();
        let pod_b = node.create_pod(pod("b", 3)).await.unwrap();
        let proxy = |words: &[&str]| crate::world::app(Place::Pod(pod_a), PROXY, words);
        let far = listener(&node, Place::Pod(pod_b), 8080).await;
        for (to, own) in [(at(v4(3), 8080), at(v4(2), 0)), (at(v6(3), 8080), at(v6(2), 0))] {
            let (peer, _) = ask(&node, proxy(&["get-marked", &to.to_string()]), &far).await;
            assert_eq!(peer.ip().to_canonical(), own.ip());
        }
        // To its own app: from 127.0.0.6, with the pod's own address as destination.
        let app = listener(&node, Place::Pod(pod_a), 8080).await;
        for (from, to) in [("127.0.0.6", at(v4(2), 8080)), ("::6", at(v6(2), 8080))] {
            let (peer, _) = ask(&node, proxy(&["get-marked-from", from, &to.to_string()]), &app).await;
            assert_eq!(peer.ip().to_canonical().to_string(), from);
        }
        // To its own pod as a service: like any caller, by its inbound side.
        let inbound = listener(&node, Place::Pod(pod_a), INBOUND_PORT).await;
        for to in [at(v4(2), 8080), at(v6(2), 8080)] {
            let (_, meant) = ask(&node, proxy(&["get-marked", &to.to_string()]), &inbound).await;
            assert_eq!(unmapped(meant), to);
        }
        // The app to its own pod, and on loopback: directly.
        for to in [at(v4(2), 8080), at(Ipv4Addr::LOCALHOST, 8080), at(Ipv6Addr::LOCALHOST, 8080)] {
            ask(&node, get(pod_a, to), &app).await;
        }
    });
}

fn an_app_cannot_pass_the_rules() {
    with_node(|node| async move {
        let pod = node.create_pod(redirected("a", 2)).await.unwrap();
        for user in [None, Some(0), Some(1000), Some(1337)] {
            let role = Role::App { user, group: user };
            let found = output(&node, Place::Pod(pod), role, &["break-out"]).await;
            for attempt in ["mark", "raw", "down", "mount", "mark-there", "down-there"] {
                assert!(
                    found.lines().any(|line| line == format!("{attempt} errno {}", libc::EPERM)),
                    "{user:?} {attempt}: {found}"
                );
            }
            assert!(!found.contains("sysctl possible"), "{user:?}: {found}");
            // So that the last two mean something.
            assert!(found.contains("own-namespace true"), "{user:?}: {found}");
        }
    });
}

fn dns_reaches_the_node() {
    with_node(|node| async move {
        let plain = node.create_pod(pod("plain", 2)).await.unwrap();
        let meshed = node.create_pod(redirected("meshed", 3)).await.unwrap();
        let udp = node.udp_socket(Place::Node, at(v4(1), 53)).await.unwrap();
        let tcp = node.tcp_listener(Place::Node, at(v4(1), 53)).await.unwrap();
        let udp6 = node.udp_socket(Place::Node, at(v6(1), 53)).await.unwrap();
        let vip = at(Ipv4Addr::new(10, 96, 0, 10), 53);
        for (pod, address) in [(plain, v4(2)), (meshed, v4(3))] {
            for (server, to) in [(&udp, at(v4(1), 53)), (&udp, vip), (&udp6, at(v6(1), 53))] {
                let question = crate::world::app(Place::Pod(pod), APP, &["ask-udp", &to.to_string()]);
                let serve = async {
                    let mut buffer = [0; 100];
                    let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
                    assert_eq!(&buffer[..length], b"question");
                    server.send_to(b"answer", peer).await.unwrap();
                };
                let (answer, ()) = tokio::join!(output_of(&node, question), serve);
                assert_eq!(answer, "answer");
            }
            let (peer, _) = ask(&node, get(pod, at(v4(1), 53)), &tcp).await;
            assert_eq!(peer.ip(), address);
        }
    });
}

fn the_rest_of_the_world_is_the_relay() {
    with_node(|node| async move {
        let plain = node.create_pod(pod("plain", 2)).await.unwrap();
        let meshed = node.create_pod(redirected("meshed", 3)).await.unwrap();
        let relay = listener(&node, Place::Node, 16001).await;
        let destinations = [
            at(Ipv4Addr::new(10, 96, 3, 4), 80),
            at(Ipv4Addr::new(240, 240, 0, 9), 443),
            at(Ipv4Addr::new(192, 0, 2, 1), 80),
            at("2001:db8::1".parse::<Ipv6Addr>().unwrap(), 80),
        ];
        for to in destinations {
            let (peer, meant) = ask(&node, get(plain, to), &relay).await;
            assert_eq!(unmapped(meant), to);
            assert_eq!(
                peer.ip().to_canonical().to_string(),
                if to.is_ipv4() { v4(2).to_string() } else { v6(2).to_string() }
            );
            let sidecar = crate::world::app(Place::Pod(meshed), PROXY, &["get-marked", &to.to_string()]);
            let (_, meant) = ask(&node, sidecar, &relay).await;
            assert_eq!(unmapped(meant), to);
        }
        // What listens at the node itself is reached as it is.
        let control_plane = node.tcp_listener(Place::Node, at(v4(1), 15010)).await.unwrap();
        ask(&node, get(plain, at(v4(1), 15010)), &control_plane).await;
    });
}

fn probes_reach_the_app() {
    with_node(|node| async move {
        let pod = node.create_pod(redirected("a", 2)).await.unwrap();
        let app = listener(&node, Place::Pod(pod), 8080).await;
        let probe = |place, to, mark| {
            let node = node.clone();
            async move { node.connect(place, to, mark).await }
        };
        let from_inside = probe(Place::Pod(pod), at(Ipv4Addr::LOCALHOST, 8080), None);
        let (stream, accepted) = tokio::join!(from_inside, app.accept());
        drop((stream.unwrap(), accepted.unwrap()));
        // From the node it is a caller like any other.
        let inbound = listener(&node, Place::Pod(pod), INBOUND_PORT).await;
        let (stream, accepted) = tokio::join!(probe(Place::Node, at(v4(2), 8080), None), inbound.accept());
        assert_eq!(accepted.unwrap().1.ip().to_canonical(), v4(1));
        drop(stream.unwrap());
        // With the mark, out of the pod and past its rules.
        let far = listener(&node, Place::Node, 9000).await;
        let (stream, accepted) =
            tokio::join!(probe(Place::Pod(pod), at(v4(1), 9000), Some(SIDECAR_MARK)), far.accept());
        assert_eq!(accepted.unwrap().1.ip().to_canonical(), v4(2));
        drop(stream.unwrap());
        let refused = probe(Place::Pod(pod), at(Ipv4Addr::LOCALHOST, 1), None).await.unwrap_err();
        assert!(refused.to_string().contains("refused"), "{refused}");
    });
}

fn a_container_sees_its_own_world() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("web-0", 2)).await.unwrap();
        let spawn = Spawn {
            env: vec![("A".to_owned(), "1".to_owned()), ("LISTEN_FDS".to_owned(), "9".to_owned())],
            cwd: Some("/usr".to_owned()),
            ..crate::world::app(Place::Pod(pod), APP, &["describe"])
        };
        let found = output_of(&node, spawn).await;
        for line in [
            "hostname web-0",
            "links eth0,lo",
            "processes 1",
            "pid 1",
            "user 0 0",
            "cwd /usr",
            "env A=1",
            // 3 is the listing itself.
            "open 0,1,2,3",
            "ipv6-port-80 possible",
        ] {
            assert!(found.lines().any(|found| found == line), "{line}: {found}");
        }
    });
}

fn a_pod_has_its_own_files() {
    let before = std::fs::read_to_string("/etc/hosts").unwrap();
    with_node(|node| async move {
        let file = |path: &str, text: &str| MountedFile { path: path.to_owned(), bytes: text.into(), mode: 0o644 };
        let account = "/var/run/secrets/kubernetes.io/serviceaccount";
        let directory = |path: &str, files| Mount { path: path.to_owned(), content: MountContent::Directory(files) };
        let large = "x".repeat(1024 * 1024);
        let pod = CreatePod {
            resolv_conf: Some("nameserver 10.244.0.1\nsearch test.svc.cluster.local\n".to_owned()),
            hosts: Some("127.0.0.1 localhost\n10.244.0.2 web-0\n".to_owned()),
            mounts: vec![
                directory(account, vec![file("token", "secret"), file("namespace", "test"), file("a/b", "deep")]),
                directory("/etc/lateen-test/conf.d", vec![file("app.yaml", &large)]),
                Mount { path: "/etc/lateen-one".to_owned(), content: MountContent::File(file("", "single")) },
                // Over what the host has.
                directory("/etc/ssl", vec![file("mine", "own")]),
                Mount { path: "/lateen-cache".to_owned(), content: MountContent::Empty },
                Mount {
                    path: "/lateen-host".to_owned(),
                    content: MountContent::Host { path: "/usr/bin".to_owned(), read_only: true },
                },
            ],
            ..pod("web-0", 2)
        };
        let pod = node.create_pod(pod).await.unwrap();
        let words = [
            "read",
            "/etc/resolv.conf",
            "/etc/hosts",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
            "/run/secrets/kubernetes.io/serviceaccount/a/b",
            "/etc/lateen-one",
            "/etc/ssl/mine",
            "/etc/passwd",
        ];
        let role = Role::App { user: Some(1000), group: Some(1000) };
        let found = output(&node, Place::Pod(pod), role, &words).await;
        for part in [
            "/etc/resolv.conf: nameserver 10.244.0.1\nsearch test.svc.cluster.local\n",
            "/etc/hosts: 127.0.0.1 localhost\n10.244.0.2 web-0\n",
            "serviceaccount/token: secret\n",
            "serviceaccount/a/b: deep\n",
            "/etc/lateen-one: single\n",
            "/etc/ssl/mine: own\n",
            "/etc/passwd: root:",
        ] {
            assert!(found.contains(part), "{part}: {found}");
        }
        let yaml = output(&node, Place::Pod(pod), role, &["read", "/etc/lateen-test/conf.d/app.yaml"]).await;
        assert!(yaml.contains(&large));
        let hidden = output(&node, Place::Pod(pod), role, &["read", "/etc/ssl/openssl.cnf", "/.host", "/.files"]).await;
        assert_eq!(hidden.matches("error No such file").count(), 3, "{hidden}");
        assert!(output(&node, Place::Pod(pod), role, &["read", "/lateen-host/env"]).await.contains("/lateen-host/env"));

        let token = format!("{account}/token");
        let words =
            ["write", &token, "/etc/lateen-one", "/etc/ssl/other", "/lateen-host/lateen-test", "/lateen-cache/x"];
        for role in [role, APP] {
            let written = output(&node, Place::Pod(pod), role, &words).await;
            assert_eq!(written.matches(": possible").count(), 1, "{written}");
            assert!(written.contains("/lateen-cache/x: possible"), "{written}");
        }
        // The cache is shared by the containers of the pod.
        let role = Role::App { user: Some(7), group: None };
        assert!(
            output(&node, Place::Pod(pod), role, &["read", "/lateen-cache/x"]).await.contains("written by the app")
        );
    });
    assert_eq!(std::fs::read_to_string("/etc/hosts").unwrap(), before);
    for path in ["/lateen-cache", "/lateen-host", "/etc/lateen-test", "/etc/lateen-one", "/.host", "/tmp/.host"] {
        assert!(!std::path::Path::new(path).exists(), "{path} is on the host");
    }
}

fn what_is_hidden_cannot_be_found() {
    with_node(|node| async move {
        let secret = MountedFile { path: "token".to_owned(), bytes: "secret".into(), mode: 0o600 };
        let mount =
            |path: &str| Mount { path: path.to_owned(), content: MountContent::Directory(vec![secret.clone()]) };
        let mounts = vec![mount("/run/lateen-proxy"), mount("/run/lateen-app")];
        let pod = node.create_pod(CreatePod { mounts, ..pod("web-0", 2) }).await.unwrap();
        let words =
            ["read", "/run/lateen-proxy/token", "/run/lateen-app/token", "/run/lateen-proxy/../lateen-proxy/token"];
        for role in [APP, Role::Proxy] {
            let hidden = vec!["/run/lateen-proxy".to_owned()];
            let found = output_of(&node, Spawn { hidden, ..crate::world::app(Place::Pod(pod), role, &words) }).await;
            assert_eq!(found.matches(": secret").count(), 1, "{found}");
            assert!(found.contains("/run/lateen-app/token: secret"), "{found}");
        }
        // And nothing was taken from the others.
        let found = output(&node, Place::Pod(pod), Role::Proxy, &words).await;
        assert_eq!(found.matches(": secret").count(), 3, "{found}");
        // Whoever is in the container has no right to uncover it.
        let hidden = vec!["/run/lateen-proxy".to_owned()];
        let uncover = ["umount", "/run/lateen-proxy"];
        let found = output_of(&node, Spawn { hidden, ..crate::world::app(Place::Pod(pod), APP, &uncover) }).await;
        assert_eq!(found, "/run/lateen-proxy: error EPERM\n");
    });
}

fn volumes_that_cannot_be_are_errors() {
    with_node(|node| async move {
        let file = |path: &str| MountedFile { path: path.to_owned(), bytes: vec![], mode: 0o644 };
        let directory = |path: &str, file| (path.to_owned(), MountContent::Directory(vec![file]));
        let host = |path: &str| MountContent::Host { path: path.to_owned(), read_only: false };
        let wrong = [
            (directory("relative", file("a")), "absolute"),
            (directory("/etc/../x", file("a")), "'..'"),
            (directory("/", file("a")), "root itself"),
            (directory("/etc/passwd", file("a")), "has a file there"),
            (directory("/etc/passwd/x", file("a")), "a part of the path is a file"),
            (directory("/x", file("../a")), "relative"),
            (directory("/x", file("/a")), "relative"),
            (("/usr".to_owned(), MountContent::File(file(""))), "has a directory there"),
            (("/x".to_owned(), MountContent::File(file("a"))), "must be empty"),
            (("/x".to_owned(), host("/no/such/directory")), "No such file"),
            (("/x\0y".to_owned(), MountContent::Empty), "create pod test/a"),
        ];
        for ((path, content), why) in wrong {
            let pod = CreatePod { mounts: vec![Mount { path, content }], ..pod("a", 2) };
            let refused = node.create_pod(pod).await.unwrap_err().to_string();
            assert!(refused.contains(why) && refused.contains("pod test/a"), "{why}: {refused}");
        }
        let refused = node.create_pod(CreatePod { hostname: "x".repeat(65), ..pod("a", 2) }).await.unwrap_err();
        assert!(refused.to_string().contains("64 bytes"), "{refused}");
        // The node is where it was: the next pod is fine, at the same address.
        let a = node.create_pod(pod("a", 2)).await.unwrap();
        assert!(output(&node, Place::Pod(a), APP, &["describe"]).await.contains("links eth0,lo"));
    });
}

fn users_are_those_asked_for() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("a", 2)).await.unwrap();
        for (user, group, seen) in
            [(None, None, "user 0 0"), (Some(1000), None, "user 1000 0"), (Some(1337), Some(99), "user 1337 99")]
        {
            let role = Role::App { user, group };
            let found = output(&node, Place::Pod(pod), role, &["describe"]).await;
            assert!(found.lines().any(|line| line == seen), "{seen}: {found}");
        }
        assert!(output(&node, Place::Pod(pod), PROXY, &["describe"]).await.contains("user 0 0"));
    });
}

fn exec_has_pipes_and_a_terminal() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("a", 2)).await.unwrap();
        let (stdin, mut to_stdin) = std::io::pipe().unwrap();
        let (from_stdout, stdout) = std::io::pipe().unwrap();
        let (from_stderr, stderr) = std::io::pipe().unwrap();
        let mut container = node
            .spawn(Spawn {
                stdin: Some(stdin.into()),
                stdout: Some(stdout.into()),
                stderr: Some(stderr.into()),
                ..crate::world::app(Place::Pod(pod), APP, &["cat"])
            })
            .await
            .unwrap();
        std::io::Write::write_all(&mut to_stdin, b"through the pod").unwrap();
        drop(to_stdin);
        assert_eq!(read(from_stdout.into()).await, "through the pod");
        assert_eq!(read(from_stderr.into()).await, "done");
        assert_eq!(container.wait().await.unwrap(), ExitStatus::Code(0));

        let (_main, terminal) = pty();
        let (from_stdout, stdout) = std::io::pipe().unwrap();
        let spawn = Spawn {
            stdin: Some(terminal),
            stdout: Some(stdout.into()),
            tty: true,
            ..crate::world::app(Place::Pod(pod), APP, &["terminal"])
        };
        node.spawn(spawn).await.unwrap();
        assert_eq!(read(from_stdout.into()).await, "foreground true\n");
    });
}

fn pty() -> (OwnedFd, OwnedFd) {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: opens a new pseudo terminal; the descriptors are new and ours, the name buffer is large enough.
    unsafe {
        let main = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        assert!(main >= 0, "{}", std::io::Error::last_os_error());
        let main = OwnedFd::from_raw_fd(main);
        assert_eq!(libc::grantpt(main.as_raw_fd()), 0);
        assert_eq!(libc::unlockpt(main.as_raw_fd()), 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(main.as_raw_fd(), name.as_mut_ptr(), name.len()), 0);
        let terminal = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY);
        assert!(terminal >= 0, "{}", std::io::Error::last_os_error());
        (main, OwnedFd::from_raw_fd(terminal))
    }
}

fn ends_are_reported() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("a", 2)).await.unwrap();
        let place = Place::Pod(pod);
        let mut seven = node.spawn(crate::world::app(place, APP, &["exit", "7"])).await.unwrap();
        assert_eq!(seven.wait().await.unwrap(), ExitStatus::Code(7));
        assert_eq!(seven.status().map(ExitStatus::code), Some(7));
        assert!(node.kill(seven.id(), libc::SIGKILL).await.unwrap_err().to_string().contains("not running"));

        let (from, stdout) = std::io::pipe().unwrap();
        let spawn = Spawn { stdout: Some(stdout.into()), ..crate::world::app(place, APP, &["daemons"]) };
        let mut held = node.spawn(spawn).await.unwrap();
        assert_eq!(held.status(), None);
        let status = std::fs::read_to_string(format!("/proc/{}/status", held.host_pid().unwrap())).unwrap();
        assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
        // As pid 1 without a handler it does not hear SIGTERM.
        node.kill(held.id(), libc::SIGTERM).await.unwrap();
        node.kill(held.id(), libc::SIGKILL).await.unwrap();
        assert_eq!(held.wait().await.unwrap(), ExitStatus::Signal(libc::SIGKILL));
        assert_eq!(held.status().map(ExitStatus::code), Some(137));
        // Its detached grandchildren held the pipe too.
        read(from.into()).await;
        assert!(node.kill(held.id(), 999).await.is_err());
    });
}

fn programs_that_cannot_run_are_errors() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("a", 2)).await.unwrap();
        let place = Place::Pod(pod);
        let wrong = [
            (Spawn::new(place, ["no-such-program"]), "run no-such-program: execute it: No such file"),
            (Spawn::new(place, ["/etc/passwd"]), "Permission denied"),
            (Spawn::new(place, [""; 0]), "the command is empty"),
            (Spawn::new(place, ["sh\0x"]), "nul byte"),
            (Spawn { cwd: Some("/no/such".to_owned()), ..Spawn::new(place, ["true"]) }, "enter the directory /no/such"),
            (Spawn { tty: true, ..Spawn::new(place, ["true"]) }, "controlling"),
            (Spawn::new(Place::Pod(PodId(99)), ["true"]), "there is no pod 99"),
        ];
        for (spawn, why) in wrong {
            let refused = node.spawn(spawn).await.unwrap_err().to_string();
            assert!(refused.contains(why), "{why}: {refused}");
        }
        let many = (0..100).map(|i| (format!("l{i}"), std::fs::File::open("/dev/null").unwrap().into())).collect();
        let refused = node.spawn(Spawn { listeners: many, ..Spawn::new(place, ["true"]) }).await.unwrap_err();
        assert!(matches!(refused, NodeError::TooLarge { .. }), "{refused}");
        // PATH is the environment's own.
        let path =
            |path: &str| Spawn { env: vec![("PATH".into(), path.into())], ..Spawn::new(place, ["sh", "-c", "exit 3"]) };
        assert!(node.spawn(path("/no/such")).await.is_err());
        let mut found = node.spawn(path("/no/such:/usr/bin:/bin")).await.unwrap();
        assert_eq!(found.wait().await.unwrap(), ExitStatus::Code(3));
        // As many listeners as a message holds, above and below the descriptors the start itself needs.
        let many = (0..60).map(|i| (format!("l{i}"), std::fs::File::open("/dev/null").unwrap().into())).collect();
        let spawn = Spawn { listeners: many, ..crate::world::app(place, APP, &["describe"]) };
        let found = output_of(&node, spawn).await;
        let open = found.lines().find_map(|line| line.strip_prefix("open ")).unwrap();
        assert_eq!(open.split(',').count(), 3 + 60 + 1, "{open}");
    });
}

fn a_listener_of_the_host_is_accepted_in_the_pod() {
    with_node(|node| async move {
        let pod = node.create_pod(redirected("gateway", 2)).await.unwrap();
        let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let https = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = https.local_addr().unwrap();
        let listeners = vec![("http".to_owned(), http.into()), ("https".to_owned(), https.into())];
        let spawn = Spawn { listeners, ..crate::world::app(Place::Pod(pod), APP, &["serve-passed"]) };
        let mut container = node.spawn(spawn).await.unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.trim(), format!("{} in gateway", client.local_addr().unwrap()));
        assert_eq!(container.wait().await.unwrap(), ExitStatus::Code(0));
        // The host's port is free again: nobody keeps a copy.
        std::net::TcpListener::bind(address).unwrap();
    });
}

fn a_pod_in_the_nodes_network() {
    with_node(|node| async move {
        let peer = node.create_pod(pod("peer", 2)).await.unwrap();
        let host = CreatePod {
            name: "host".into(),
            hostname: "host".into(),
            host_network: true,
            resolv_conf: Some("nameserver 10.244.0.1\n".into()),
            ..CreatePod::default()
        };
        let wrong = CreatePod { redirect: true, ..host.clone() };
        assert!(node.create_pod(wrong).await.is_err());
        let host = node.create_pod(host).await.unwrap();
        let server = listener(&node, Place::Pod(host), 8080).await;
        ask(&node, get(peer, at(v4(1), 8080)), &server).await;
        let found = output(&node, Place::Pod(host), APP, &["describe"]).await;
        assert!(found.contains("hostname host") && found.contains("br0"), "{found}");
        assert!(output(&node, Place::Pod(host), APP, &["read", "/etc/resolv.conf"]).await.contains("10.244.0.1"));
        let found = output(&node, Place::Node, APP, &["describe"]).await;
        assert!(found.contains("hostname lateen") && found.contains("links br0,lo,v1\n"), "{found}");
        node.delete_pod(host).await.unwrap();
        ask(&node, get(peer, at(v4(1), 8080)), &server).await;
    });
}

fn a_deleted_pod_is_gone_and_its_address_free() {
    with_node(|node| async move {
        let peer = node.create_pod(pod("peer", 2)).await.unwrap();
        for round in 0..5 {
            let pod = node.create_pod(pod("a", 3)).await.unwrap();
            let server = listener(&node, Place::Pod(pod), 8080).await;
            let (peer, _) = ask(&node, get(peer, at(v4(3), 8080)), &server).await;
            assert_eq!(peer.ip().to_canonical(), v4(2), "round {round}");
            let mut held = node.spawn(crate::world::app(Place::Pod(pod), APP, &["daemons"])).await.unwrap();
            node.delete_pod(pod).await.unwrap();
            assert_eq!(held.status(), Some(ExitStatus::Signal(libc::SIGKILL)), "told before the deletion is");
            assert_eq!(held.wait().await.unwrap(), ExitStatus::Signal(libc::SIGKILL));
            for error in [
                node.delete_pod(pod).await.unwrap_err(),
                node.spawn(Spawn::new(Place::Pod(pod), ["true"])).await.unwrap_err(),
                node.listen(Listen::tcp(Place::Pod(pod), at(v4(3), 80))).await.unwrap_err(),
            ] {
                assert!(error.to_string().contains("there is no pod"), "{error}");
            }
        }
    });
}

fn requests_nobody_waits_for_are_undone() {
    with_node(|node| async move {
        let pod = node.create_pod(pod("a", 2)).await.unwrap();
        let (from, stdout) = std::io::pipe().unwrap();
        let spawn = Spawn { stdout: Some(stdout.into()), ..crate::world::app(Place::Pod(pod), APP, &["hold"]) };
        {
            let mut asked = std::pin::pin!(node.spawn(spawn));
            assert!(futures::poll!(asked.as_mut()).is_pending());
        }
        // Ends only when the container is killed.
        read(from.into()).await;
    });
}

fn many_requests_at_once() {
    with_node(|node| async move {
        let one = |last: u8| {
            let node = node.clone();
            async move {
                let pod = node.create_pod(redirected(&format!("p{last}"), last)).await.unwrap();
                let found = output(&node, Place::Pod(pod), APP, &["read", "/proc/sys/kernel/hostname"]).await;
                assert!(found.contains(&format!("p{last}\n")), "{found}");
                let server = listener(&node, Place::Pod(pod), INBOUND_PORT).await;
                let asked = node.connect(Place::Node, at(v4(last), 80), None);
                let (asked, accepted) = tokio::join!(asked, server.accept());
                drop((asked.unwrap(), accepted.unwrap()));
                node.delete_pod(pod).await.unwrap();
            }
        };
        futures::future::join_all((2..42).map(one)).await;
    });
}

fn how_long_it_takes() {
    let since = std::time::Instant::now();
    let node = start_or_explain();
    let up = since.elapsed();
    let mode = node.mode();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = node.into_handle().unwrap();
        let mut pods = Vec::new();
        let since = std::time::Instant::now();
        for i in 0..10 {
            let files = vec![MountedFile { path: "token".into(), bytes: b"secret".to_vec(), mode: 0o644 }];
            let mounts = vec![Mount {
                path: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
                content: MountContent::Directory(files),
            }];
            let resolv_conf = Some("nameserver 10.244.0.1\n".to_owned());
            let hosts = Some("127.0.0.1 localhost\n".to_owned());
            pods.push(
                node.create_pod(CreatePod { mounts, resolv_conf, hosts, ..redirected("a", 10 + i) }).await.unwrap(),
            );
        }
        let ten = since.elapsed();
        let since = std::time::Instant::now();
        for pod in &pods {
            for role in [PROXY, APP] {
                node.spawn(crate::world::app(Place::Pod(*pod), role, &["hold"])).await.unwrap();
            }
        }
        let containers = since.elapsed();
        let since = std::time::Instant::now();
        node.shutdown().await;
        app::print_now(&format!(
            "measured: {mode:?}: node {up:.1?}, 10 pods {ten:.1?}, 20 containers {containers:.1?}, end {:.1?}",
            since.elapsed()
        ));
    });
}
