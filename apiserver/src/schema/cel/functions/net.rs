//! Addresses and networks.

use super::{Function, global, member};
use crate::schema::cel::{Failure, Val};
use std::{fmt, net::IpAddr};

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Cidr {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address = parse_ip(address)?;
        let digits = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length: u8 = length.parse().ok()?;
        (digits && length <= bits(address)).then_some(Self { address, length })
    }

    fn masked(self) -> Self {
        Self { address: mask(self.address, self.length), ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && mask(address, self.length) == mask(self.address, self.length)
    }
}

/// An address without a zone; one of version 4 in the form of version 6 is refused, as in Kubernetes.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        address => Some(address),
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & keep).into())
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128u32.saturating_sub(length.into())).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & keep).into())
        }
    }
}

type Made<'a> = Result<Option<Val<'a>>, Failure>;

pub const FUNCTIONS: &[Function] = &[
    global("ip", 1..=1, |_, args| match args {
        [Val::Text(text)] => parse_ip(text).map(|ip| Some(Val::Ip(ip))).ok_or_else(|| Failure::wrong("it is no IP address")),
        _ => Ok(None),
    }),
    global("isIP", 1..=1, |_, args| test(args, |text| parse_ip(text).is_some())),
    global("ip.isCanonical", 1..=1, |_, args| match args {
        [Val::Text(text)] => match parse_ip(text) {
            Some(ip) => Ok(Some(Val::Bool(ip.to_string() == **text))),
            None => Err(Failure::wrong("it is no IP address")),
        },
        _ => Ok(None),
    }),
    member("family", 1..=1, |_, args| ask(args, |ip| Val::Int(if ip.is_ipv4() { 4 } else { 6 }))),
    member("isUnspecified", 1..=1, |_, args| ask(args, |ip| Val::Bool(ip.is_unspecified()))),
    member("isLoopback", 1..=1, |_, args| ask(args, |ip| Val::Bool(ip.is_loopback()))),
    member("isLinkLocalUnicast", 1..=1, |_, args| ask(args, |ip| Val::Bool(is_link_local(ip)))),
    member("isLinkLocalMulticast", 1..=1, |_, args| ask(args, |ip| Val::Bool(is_link_local_multicast(ip)))),
    member("isGlobalUnicast", 1..=1, |_, args| {
        ask(args, |ip| {
            let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            Val::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip) || broadcast))
        })
    }),
    global("cidr", 1..=1, |_, args| match args {
        [Val::Text(text)] => Cidr::parse(text).map(|cidr| Some(Val::Cidr(cidr))).ok_or_else(|| Failure::wrong("it is no CIDR")),
        _ => Ok(None),
    }),
    global("isCIDR", 1..=1, |_, args| test(args, |text| Cidr::parse(text).is_some())),
    member("ip", 1..=1, |_, args| of_cidr(args, |cidr| Val::Ip(cidr.address))),
    member("masked", 1..=1, |_, args| of_cidr(args, |cidr| Val::Cidr(cidr.masked()))),
    member("prefixLength", 1..=1, |_, args| of_cidr(args, |cidr| Val::Int(cidr.length.into()))),
    member("containsIP", 2..=2, |_, args| {
        let (Val::Cidr(cidr), ip) = (&args[0], &args[1]) else { return Ok(None) };
        let ip = match ip {
            Val::Ip(ip) => Some(*ip),
            Val::Text(text) => parse_ip(text),
            _ => return Ok(None),
        };
        ip.map(|ip| Some(Val::Bool(cidr.contains(ip)))).ok_or_else(|| Failure::wrong("it is no IP address"))
    }),
    member("containsCIDR", 2..=2, |_, args| {
        let (Val::Cidr(cidr), other) = (&args[0], &args[1]) else { return Ok(None) };
        let other = match other {
            Val::Cidr(other) => Some(*other),
            Val::Text(text) => Cidr::parse(text),
            _ => return Ok(None),
        };
        let other = other.ok_or_else(|| Failure::wrong("it is no CIDR"))?;
        Ok(Some(Val::Bool(cidr.length <= other.length && cidr.contains(other.address))))
    }),
];

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn test<'a>(args: &[Val<'a>], holds: fn(&str) -> bool) -> Made<'a> {
    match args {
        [Val::Text(text)] => Ok(Some(Val::Bool(holds(text)))),
        _ => Ok(None),
    }
}

fn ask<'a>(args: &[Val<'a>], answer: fn(IpAddr) -> Val<'a>) -> Made<'a> {
    match args {
        [Val::Ip(ip)] => Ok(Some(answer(*ip))),
        _ => Ok(None),
    }
}

fn of_cidr<'a>(args: &[Val<'a>], answer: fn(Cidr) -> Val<'a>) -> Made<'a> {
    match args {
        [Val::Cidr(cidr)] => Ok(Some(answer(*cidr))),
        _ => Ok(None),
    }
}
