//! Making a pod: namespaces, cable to the bridge, redirect rules, files.

use super::container::Namespaces;
use super::failure::{Failure, failed};
use super::kernel;
use super::link::{self, LOOPBACK};
use super::netlink::Netlink;
use super::redirect;
use super::request::CreatePod;
use super::{Mode, NodeConfig, view};
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Namespaces of a pod, or of the node itself, kept by descriptors alone: no name anywhere.
#[derive(Debug)]
pub(super) struct PodNamespaces {
    pub(super) network: OwnedFd,
    names: OwnedFd,
    ipc: OwnedFd,
    files: OwnedFd,
}

impl PodNamespaces {
    /// Those this process is in.
    pub(super) fn current() -> Result<Self, Failure> {
        let open = |name: &str| {
            File::open(format!("/proc/self/ns/{name}"))
                .map(OwnedFd::from)
                .map_err(failed(format!("keep the {name} namespace")))
        };
        Ok(Self { network: open("net")?, names: open("uts")?, ipc: open("ipc")?, files: open("mnt")? })
    }

    pub(super) fn borrow(&self) -> Namespaces<'_> {
        Namespaces {
            network: self.network.as_fd(),
            names: self.names.as_fd(),
            ipc: self.ipc.as_fd(),
            files: self.files.as_fd(),
        }
    }

    /// Enters all of them.
    fn enter(&self) -> Result<(), Failure> {
        let enter = |namespace: BorrowedFd<'_>, kind| kernel::setns(namespace, kind);
        enter(self.network.as_fd(), libc::CLONE_NEWNET)
            .and_then(|()| enter(self.names.as_fd(), libc::CLONE_NEWUTS))
            .and_then(|()| enter(self.ipc.as_fd(), libc::CLONE_NEWIPC))
            .and_then(|()| enter(self.files.as_fd(), libc::CLONE_NEWNS))
            .map_err(failed("return to the node's namespaces"))
    }

    /// Enters the network alone, does something there, and returns here: `self` is the node's.
    pub(super) fn visit_network<T>(
        &self,
        network: BorrowedFd<'_>,
        visit: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        kernel::setns(network, libc::CLONE_NEWNET).map_err(failed("enter the pod's network"))?;
        let result = visit();
        self.come_home(kernel::setns(self.network.as_fd(), libc::CLONE_NEWNET).map_err(failed("return")));
        result
    }

    /// A node that cannot return to its own namespaces would do the next thing in the wrong place. It ends, and with
    /// it all pods: the supervisor sees that.
    fn come_home(&self, returned: Result<(), Failure>) {
        if let Err(failure) = returned {
            eprintln!("lateen node: {failure}");
            // SAFETY: ends the process.
            unsafe { libc::_exit(1) };
        }
    }
}

/// The node's side of the network.
#[derive(Debug)]
pub(super) struct Bridge {
    pub(super) netlink: Netlink,
    pub(super) index: u32,
    pub(super) ipv6: bool,
}

/// Makes a pod from the node's namespaces `home`, and returns there. `number` names its cable.
pub(super) fn create(
    config: &NodeConfig,
    mode: Mode,
    home: &PodNamespaces,
    bridge: &mut Bridge,
    number: u32,
    pod: &CreatePod,
) -> Result<PodNamespaces, Failure> {
    check(pod, bridge)?;
    let network = if pod.host_network { 0 } else { libc::CLONE_NEWNET };
    let namespaces = network | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNS;
    kernel::patiently(|| kernel::unshare(namespaces)).map_err(|error| {
        let full = error.raw_os_error() == Some(libc::ENOSPC);
        let why = if full { "user.max_net_namespaces or another limit of /proc/sys/user is used up" } else { "" };
        Failure::kernel("make the namespaces", &error).because(why)
    })?;
    let inside = inhabit(mode, pod);
    home.come_home(home.enter());
    let (namespaces, sockets) = inside?;
    if let Some((mut routes, mut rules)) = sockets {
        connect(config, bridge, number, pod, &namespaces, &mut routes)?;
        if pod.redirect {
            let installed = redirect::install(&mut rules, &redirect::pod_rules(config));
            installed.inspect_err(|_| disconnect(bridge, number))?;
        }
    }
    Ok(namespaces)
}

fn check(pod: &CreatePod, bridge: &Bridge) -> Result<(), Failure> {
    let refused = |why| Err(Failure::refused("accept what was asked", why));
    if pod.hostname.len() > 64 {
        return refused("the host name is longer than 64 bytes");
    }
    if pod.host_network && (pod.ipv4.is_some() || pod.ipv6.is_some() || pod.redirect) {
        return refused("a pod in the node's network has no address and no redirect rules of its own");
    }
    if pod.ipv6.is_some() && !bridge.ipv6 {
        return refused("this machine has no IPv6");
    }
    Ok(())
}

/// In the new namespaces: name, settings, files. The two sockets go on talking to the pod's network from outside.
fn inhabit(mode: Mode, pod: &CreatePod) -> Result<(PodNamespaces, Option<(Netlink, Netlink)>), Failure> {
    if !pod.hostname.is_empty() {
        kernel::set_hostname(&pod.hostname).map_err(failed("set the host name"))?;
    }
    let mut sockets = None;
    if !pod.host_network {
        settings(mode);
        let open = |protocol| Netlink::open(protocol).map_err(failed("open a netlink socket"));
        sockets = Some((open(libc::NETLINK_ROUTE)?, open(libc::NETLINK_NETFILTER)?));
    }
    view::build(pod)?;
    Ok((PodNamespaces::current()?, sockets))
}

/// Settings of a network that apps expect; all optional, as /proc/sys may be read-only. Returns those refused.
pub(super) fn settings(mode: Mode) -> Vec<String> {
    // Which groups may ping without capability: only ids that exist in the owning user namespace can be named.
    let ping = if mode == Mode::Root { "0 2147483647" } else { "0 0" };
    let settings = [
        // Apps bind port 80 as any user.
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("net/ipv4/ping_group_range", ping),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/disable_ipv6", "0"),
    ];
    write_settings(&settings)
}

/// Writes under /proc/sys, and returns what could not be written.
pub(super) fn write_settings(settings: &[(&str, &str)]) -> Vec<String> {
    let write = |(name, value): &(&str, &str)| {
        let refused = fs::write(format!("/proc/sys/{name}"), value).err()?;
        Some(format!("sysctl {name}={value}: {refused}"))
    };
    settings.iter().filter_map(write).collect()
}

fn cable(number: u32) -> String {
    format!("v{number}")
}

fn connect(
    config: &NodeConfig,
    bridge: &mut Bridge,
    number: u32,
    pod: &CreatePod,
    namespaces: &PodNamespaces,
    routes: &mut Netlink,
) -> Result<(), Failure> {
    link::up(routes, LOOPBACK)?;
    if bridge.ipv6 {
        link::add_address(routes, LOOPBACK, redirect::PASS_THROUGH_V6.into(), 128)?;
    }
    let mac = pod.ipv4.map_or_else(|| link::mac_of_number(number), link::mac_of);
    let network = namespaces.network.as_fd();
    link::create_veth(&mut bridge.netlink, &cable(number), bridge.index, "eth0", mac, network)?;
    let mut rest = || {
        let eth0 = link::index_of(routes, "eth0")?;
        link::up(routes, eth0)?;
        if let Some(address) = pod.ipv4 {
            link::add_address(routes, eth0, address.into(), config.ipv4_prefix)?;
            link::add_default_route(routes, eth0, IpAddr::V4(config.ipv4))?;
        }
        if let Some(address) = pod.ipv6 {
            link::add_address(routes, eth0, address.into(), config.ipv6_prefix)?;
            link::add_default_route(routes, eth0, IpAddr::V6(config.ipv6))?;
        }
        Ok(())
    };
    rest().inspect_err(|_: &Failure| disconnect(bridge, number))
}

/// Unplugs a pod, so that its addresses are free at once, whoever still holds its network.
pub(super) fn disconnect(bridge: &mut Bridge, number: u32) {
    // It may be gone with the pod's network already.
    let _ = link::delete(&mut bridge.netlink, &cable(number));
}
