//! The state of a fleet on disk: what it was made of, and where everything of it is.

use super::{Error, StoreChoice, VmmChoice};
use basalt_api::Memory;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A /24 that gateway, hosts and guests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet([u8; 3]);

impl Subnet {
    /// The nth of the subnets that fleets choose from by themselves: 198.18.0.0/15 is set aside for benchmarks of networks
    /// (RFC 2544), so that it is no real network's.
    pub fn nth(n: u8) -> Self {
        Self([198, 18, n])
    }

    /// An address in it.
    pub fn address(self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, last)
    }

    /// Where the gateway is.
    pub fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.0
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/24", self.address(0))
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Subnet { subnet: text.to_owned(), reason: "expected a /24 such as 198.18.77.0/24".into() };
        let address: Ipv4Addr = text.strip_suffix("/24").ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
        let [a, b, c, d] = address.octets();
        if d == 0 { Ok(Self([a, b, c])) } else { Err(wrong()) }
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a fleet is made of: `fleet.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fleet {
    /// Tells the fleets of one machine apart in the names of bridges and namespaces.
    pub id: String,
    /// How many hosts.
    pub hosts: u8,
    /// What runs the guests.
    pub vmm: VmmChoice,
    /// Where the state is.
    pub store: StoreChoice,
    /// The shared network; absent with the simulated VMM, where all is on the loopback interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,
    /// Port of the API on 127.0.0.1.
    pub api_port: u16,
    /// Port of the hub on the shared network.
    pub hub_port: u16,
    /// Client and peer port of etcd on 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_ports: Option<(u16, u16)>,
    /// CPUs that each host offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cpus: Option<u32>,
    /// Memory that each host offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory: Option<Memory>,
    /// When a silent host is NotReady.
    pub host_grace_seconds: u64,
    /// Where the programs are.
    pub bin_dir: PathBuf,
}

impl Fleet {
    /// Names of the hosts.
    pub fn host_names(&self) -> Vec<String> {
        (1..=self.hosts).map(|n| format!("host-{n}")).collect()
    }

    /// The bridge that joins the hosts.
    pub fn bridge(&self) -> String {
        format!("bslt{}", self.id)
    }

    /// The network namespace of a host.
    pub fn namespace(&self, host: &str) -> String {
        format!("basalt-{}-{host}", self.id)
    }

    /// The end of a host's cable on the bridge; at most 15 characters.
    pub fn cable(&self, number: u8) -> String {
        format!("bslt{}h{number}", self.id)
    }

    /// Address of a host: hosts are at .50 and up, .2 to .49 are left for guests.
    pub fn host_address(&self, number: u8) -> Option<Ipv4Addr> {
        self.subnet.map(|subnet| subnet.address(49 + number))
    }

    /// Where the hosts reach the gateway.
    pub fn hub_address(&self) -> Ipv4Addr {
        self.subnet.map_or(Ipv4Addr::LOCALHOST, Subnet::gateway)
    }
}

/// The directory of a fleet.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// The directory at a path, as an absolute path; it need not exist.
    pub fn new(path: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(path).map_err(|source| Error::File { action: "resolve", path: path.into(), source })?;
        Ok(Self(path.canonicalize().unwrap_or(path)))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("fleet.json")
    }

    pub fn gateway(&self) -> PathBuf {
        self.0.join("gateway")
    }

    pub fn host(&self, name: &str) -> PathBuf {
        self.0.join("hosts").join(name)
    }

    pub fn etcd(&self) -> PathBuf {
        self.0.join("etcd")
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub fn log(&self, program: &str) -> PathBuf {
        self.logs().join(format!("{program}.log"))
    }

    pub fn pid_file(&self, program: &str) -> PathBuf {
        self.0.join("run").join(format!("{program}.pid"))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("admin.kubeconfig")
    }

    /// A name for the fleet that follows from where it is.
    pub fn id(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("{:06x}", hasher.finish() & 0x00ff_ffff)
    }

    /// Makes the directory and those in it, readable by their owner only.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        for path in [self.0.clone(), self.logs(), self.0.join("run"), self.0.join("hosts")] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| Error::File { action: "make the directory", path, source })?;
        }
        Ok(())
    }

    /// Keeps other `basaltctl dev` runs away from the fleet while the lock lives.
    pub fn lock(&self) -> Result<Flock<fs::File>, Error> {
        let path = self.0.join("lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|source| Error::File { action: "open", path, source })?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Busy(self.0.clone()))
    }

    /// The fleet that is here, if there is one.
    pub fn read(&self) -> Result<Option<Fleet>, Error> {
        let path = self.state();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::State { path, reason: e.to_string() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { action: "read", path, source }),
        }
    }

    /// Notes what the fleet is made of.
    pub fn write(&self, fleet: &Fleet) -> Result<(), Error> {
        let path = self.state();
        let text = serde_json::to_vec_pretty(fleet).map_err(|e| Error::State { path: path.clone(), reason: e.to_string() })?;
        let new = path.with_extension("json.new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &path));
        written.map_err(|source| Error::File { action: "write", path, source })
    }

    /// Removes what a fleet has here, and the directory if nothing else is in it.
    pub fn remove(&self) -> Result<(), Error> {
        let file = |path: PathBuf, result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::File { action: "remove", path, source: e }),
            _ => Ok(()),
        };
        for name in ["gateway", "hosts", "etcd", "logs", "run"] {
            let path = self.0.join(name);
            file(path.clone(), fs::remove_dir_all(&path))?;
        }
        for name in ["admin.kubeconfig", "fleet.json", "fleet.json.new", "lock"] {
            let path = self.0.join(name);
            file(path.clone(), fs::remove_file(&path))?;
        }
        match fs::remove_dir(&self.0) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {
                eprintln!("{} is kept: there are files in it that are not the fleet's", self.0.display());
                Ok(())
            }
            result => file(self.0.clone(), result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_a_24_and_nothing_else() {
        for wrong in ["198.18.1.0", "198.18.1.0/16", "198.18.1.7/24", "198.18.300.0/24", "::/24", ""] {
            assert!(wrong.parse::<Subnet>().unwrap_err().to_string().contains("198.18.77.0/24"), "{wrong}");
        }
        assert_eq!("198.18.77.0/24".parse::<Subnet>().unwrap().gateway(), Ipv4Addr::new(198, 18, 77, 1));
    }

    #[test]
    fn removing_a_fleet_leaves_the_files_of_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Dir::new(&dir.path().join("fleet")).unwrap();
        fleet.create().unwrap();
        fs::write(fleet.path().join("notes.txt"), "mine").unwrap();
        fleet.remove().unwrap();
        assert_eq!(fs::read_dir(fleet.path()).unwrap().count(), 1);
        fs::remove_file(fleet.path().join("notes.txt")).unwrap();
        fleet.remove().unwrap();
        assert!(!fleet.path().exists());
    }
}
