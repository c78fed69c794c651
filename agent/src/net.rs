//! Taps and bridges of the network namespace that the agent runs in, over netlink.

use nix::libc;
use rtnetlink::{
    Handle, LinkUnspec, new_connection,
    packet_route::{
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use sha2::{Digest, Sha256};
use std::{fs::OpenOptions, io, os::fd::AsRawFd, os::unix::fs::OpenOptionsExt, time::Duration};
use tokio_stream::StreamExt;

/// What the names of our taps start with.
const PREFIX: &str = "bt";
/// How long the kernel may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// A tap or bridge cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// There is no such bridge.
    #[error("bridge {bridge} does not exist on this host. Make it, or name another in spec.networks")]
    BridgeNotFound {
        /// Its name.
        bridge: String,
    },
    /// There is something of that name, but it is no bridge.
    #[error("{bridge} on this host is not a bridge")]
    NotABridge {
        /// Its name.
        bridge: String,
    },
    /// The kernel refused to make or change a tap.
    #[error("cannot {action} tap {tap}: {source}")]
    Tap {
        /// What was tried.
        action: &'static str,
        /// The tap.
        tap: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Netlink failed.
    #[error("cannot {action} {link}: {reason}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// On which link.
        link: String,
        /// What the kernel said.
        reason: String,
    },
}

/// The name of a VM's nth tap: the same on every host and in every run, at most 15 characters.
pub fn tap_name(uid: &str, index: usize) -> String {
    let digest = Sha256::digest(uid.as_bytes());
    let hash: String = digest.iter().take(5).map(|b| format!("{b:02x}")).collect();
    format!("{PREFIX}{hash}{index}")
}

/// The MAC address of a VM's interface: locally administered, and the same for the VM's life.
pub fn derive_mac(uid: &str, nic: &str) -> String {
    let digest = Sha256::digest(format!("{uid}/{nic}").as_bytes());
    let tail: Vec<String> = digest.iter().take(5).map(|b| format!("{b:02x}")).collect();
    format!("52:{}", tail.join(":"))
}

/// Makes a VM's nth tap a port of a bridge; fine if it is one already.
pub async fn ensure_tap(uid: &str, index: usize, bridge: &str) -> Result<String, NetError> {
    let tap = tap_name(uid, index);
    let handle = handle()?;
    let master = find(&handle, bridge).await?.ok_or_else(|| NetError::BridgeNotFound { bridge: bridge.to_owned() })?;
    if !is_kind(&master, &InfoKind::Bridge) {
        return Err(NetError::NotABridge { bridge: bridge.to_owned() });
    }
    if find(&handle, &tap).await?.is_none() {
        make(&tap).map_err(|source| NetError::Tap { action: "make", tap: tap.clone(), source })?;
    }
    let link = find(&handle, &tap).await?.ok_or_else(|| NetError::Tap {
        action: "find",
        tap: tap.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    let change = LinkUnspec::new_with_index(link.header.index).controller(master.header.index).up().build();
    within("attach to the bridge", &tap, handle.link().set(change).execute()).await?;
    Ok(tap)
}

/// Removes a tap; fine if there is none.
pub async fn remove_tap(tap: &str) -> Result<(), NetError> {
    let handle = handle()?;
    match find(&handle, tap).await? {
        Some(link) => within("remove", tap, handle.link().del(link.header.index).execute()).await,
        None => Ok(()),
    }
}

/// All taps that are ours by their name.
pub async fn list_taps() -> Result<Vec<String>, NetError> {
    let links = links(&handle()?, None).await?;
    let ours = |name: &String| {
        name.len() == PREFIX.len() + 11 && name.starts_with(PREFIX) && name[PREFIX.len()..].bytes().all(|b| b.is_ascii_hexdigit())
    };
    Ok(links.iter().filter(|link| is_kind(link, &InfoKind::Tun)).filter_map(name).filter(ours).collect())
}

/// Addresses of the host that others can reach it by.
pub async fn addresses() -> Result<Vec<String>, NetError> {
    let handle = handle()?;
    let mut found = Vec::new();
    let mut addresses = std::pin::pin!(handle.address().get().execute());
    while let Some(address) = tokio::time::timeout(DEADLINE, addresses.next()).await.ok().flatten() {
        let address = address.map_err(|e| netlink("read", "addresses", &e))?;
        found.extend(address.attributes.into_iter().filter_map(|attribute| match attribute {
            AddressAttribute::Address(ip) if !ip.is_loopback() && !is_link_local(&ip) => Some(ip.to_string()),
            _ => None,
        }));
    }
    Ok(found)
}

fn is_link_local(ip: &std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn handle() -> Result<Handle, NetError> {
    let (connection, handle, _) =
        new_connection().map_err(|e| NetError::Netlink { action: "open", link: "netlink".into(), reason: e.to_string() })?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn find(handle: &Handle, wanted: &str) -> Result<Option<LinkMessage>, NetError> {
    match links(handle, Some(wanted)).await {
        Ok(links) => Ok(links.into_iter().next()),
        Err(NetError::Netlink { reason, .. }) if reason.contains("No such device") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn links(handle: &Handle, wanted: Option<&str>) -> Result<Vec<LinkMessage>, NetError> {
    let request = handle.link().get();
    let request = match wanted {
        Some(wanted) => request.match_name(wanted),
        None => request,
    };
    let mut answers = std::pin::pin!(request.execute());
    let mut found = Vec::new();
    let look = async {
        while let Some(link) = answers.next().await {
            found.push(link.map_err(|e| netlink("look at", wanted.unwrap_or("links"), &e))?);
        }
        Ok(())
    };
    let late = |_| NetError::Netlink {
        action: "look at",
        link: wanted.unwrap_or("links").to_owned(),
        reason: "the kernel does not answer".into(),
    };
    tokio::time::timeout(DEADLINE, look).await.map_err(late)??;
    Ok(found)
}

async fn within(action: &'static str, link: &str, request: impl Future<Output = Result<(), rtnetlink::Error>>) -> Result<(), NetError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(done) => done.map_err(|e| netlink(action, link, &e)),
        Err(_) => Err(NetError::Netlink { action, link: link.to_owned(), reason: "the kernel does not answer".into() }),
    }
}

fn netlink(action: &'static str, link: &str, error: &rtnetlink::Error) -> NetError {
    NetError::Netlink { action, link: link.to_owned(), reason: error.to_string() }
}

fn name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn is_kind(link: &LinkMessage, kind: &InfoKind) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| matches!(info, LinkInfo::Kind(has) if has == kind)),
        _ => false,
    })
}

mod ioctl {
    #![allow(missing_docs, reason = "the macros write functions without docs; linux/if_tun.h has them")]
    use super::{libc, tunsetiff_request};
    nix::ioctl_write_int!(tun_set_persist, b'T', 203);
    nix::ioctl_write_ptr_bad!(tun_set_iff, tunsetiff_request(), libc::ifreq);
}

/// `TUNSETIFF` of linux/if_tun.h: the one ioctl of its family that is numbered for an int and takes a struct.
const fn tunsetiff_request() -> libc::c_ulong {
    0x4004_54ca
}

/// Makes a tap that stays when its maker ends: netlink can do all with a tap but this.
fn make(tap: &str) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain bytes, and all zeroes are one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(tap.bytes()) {
        *to = libc::c_char::try_from(from).unwrap_or(0);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
    // SAFETY: the descriptor is open, and the kernel reads one ifreq from where the pointer leads.
    unsafe { ioctl::tun_set_iff(device.as_raw_fd(), &raw const request) }?;
    // SAFETY: the descriptor is open; the argument is a number.
    unsafe { ioctl::tun_set_persist(device.as_raw_fd(), 1) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_macs_are_local_and_both_stay_the_same() {
        let uid = "0b8a6c1e-1111-2222-3333-444455556666";
        assert_eq!(tap_name(uid, 7), tap_name(uid, 7));
        assert!(tap_name(uid, 7).len() <= 15 && tap_name(uid, 0) != tap_name(uid, 1));
        let mac = derive_mac(uid, "lan");
        assert_eq!(mac.len(), 17);
        assert_eq!(u8::from_str_radix(&mac[..2], 16).unwrap() & 3, 2, "locally administered, unicast");
    }
}
