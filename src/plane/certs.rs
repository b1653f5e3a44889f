//! Certificates and keys: read at start, where a fault ends the start, and read again when their files change, where a
//! fault leaves what was there. Files come in pairs and are often written one after the other, so a pair that does not
//! fit is looked at again, and said once.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use crate::base::limits::{CERT_WARN_DAYS, CERTS_SETTLED_MS, PEM_BYTES_MAX};
use crate::config::{CertPaths, ListenTls, ServerSettings, ServerTls, Settings};
use crate::tls::config::{self, ClientSide, Materials, Pem, Roots};
use crate::tls::fault::TlsFault;
use crate::uring::wait::clock;

use super::PlaneFault;

/// The files that the settings name, and what was made of them.
pub(super) struct Certs {
    settings: Arc<Settings>,
    units: Vec<Unit>,
    system: Arc<[CertificateDer<'static>]>,
}

/// Files that one configuration is made from.
struct Unit {
    wanted: Wanted,
    made: Made,
    /// What the files were when they were last read.
    stamps: Vec<Option<Stamp>>,
    digest: [u8; 32],
    /// The files are at fault since they were read last, and that was said.
    faulty: bool,
}

/// What is to be made.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Wanted {
    /// Of the listener with this index.
    Listener(usize),
    /// Of all servers with these authorities, and this certificate of ours.
    Servers { ca: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)> },
}

#[derive(Clone)]
enum Made {
    Listener(Arc<ServerConfig>),
    Servers(Arc<ClientConfig>),
}

/// What reading a unit's files came to.
struct Reading {
    made: Made,
    /// Tells whether the files hold anything new.
    digest: [u8; 32],
    /// What an operator should know about them.
    remarks: Vec<String>,
}

/// What tells one state of a file from another, behind all symbolic links.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Certs {
    /// Reads everything.
    ///
    /// # Errors
    /// A file that is not there, or not what it should be.
    pub(super) fn load(settings: &Arc<Settings>) -> Result<(Self, Arc<Materials>), PlaneFault> {
        Self { settings: settings.clone(), units: Vec::new(), system: Arc::default() }.next(settings)
    }

    /// The same for other settings. What is made of the same files in the same way is the same value, so that its
    /// connections go on.
    ///
    /// # Errors
    /// As for [`Certs::load`].
    pub(super) fn next(&self, settings: &Arc<Settings>) -> Result<(Self, Arc<Materials>), PlaneFault> {
        let mut next = Self { settings: settings.clone(), units: Vec::new(), system: self.system.clone() };
        let servers = settings.servers.iter().flat_map(ServerSettings::instances).filter_map(|it| it.tls.as_ref());
        if next.system.is_empty() && servers.clone().any(|tls| tls.ca.is_none()) {
            next.system = rustls_native_certs::load_native_certs().certs.into();
        }
        let listeners = settings.listen.iter().enumerate().filter(|(_, listener)| listener.tls.is_some());
        let mut wanted: Vec<Wanted> = listeners.map(|(index, _)| Wanted::Listener(index)).collect();
        for server in servers {
            let group = Wanted::of(server);
            // Servers that differ in nothing share their authorities, of which a system has hundreds.
            if !wanted.contains(&group) {
                wanted.push(group);
            }
        }
        for wanted in wanted {
            let stamps = next.stamps(&wanted);
            let Reading { made, digest, remarks } = next.make(&wanted)?;
            let known = self.units.iter().find(|unit| unit.wanted == wanted && unit.digest == digest);
            let made = match known.filter(|_| self.is_same(settings, &wanted)) {
                Some(known) => known.made.clone(),
                None => {
                    remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
                    made
                }
            };
            next.units.push(Unit { wanted, made, stamps, digest, faulty: false });
        }
        let materials = next.materials()?;
        Ok((next, materials))
    }

    /// Whether what is wanted is made in the same way under other settings: of a server it says all there is to say.
    fn is_same(&self, settings: &Settings, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Listener(index) => {
                self.settings.listen.get(*index).map(|it| &it.tls) == settings.listen.get(*index).map(|it| &it.tls)
            }
            Wanted::Servers { .. } => true,
        }
    }

    /// Looks at the files once; what is made of them now, if that is anything new.
    pub(super) fn look(&mut self) -> Option<Arc<Materials>> {
        let mut news = false;
        for index in 0..self.units.len() {
            let unit = &self.units[index];
            let stamps = self.stamps(&unit.wanted);
            // A file may change twice within one step of its clock: one that is fresh is read each time.
            if stamps == unit.stamps && !unit.faulty && !stamps.iter().flatten().any(Stamp::is_fresh) {
                continue;
            }
            let reading = self.make(&unit.wanted);
            let unit = &mut self.units[index];
            unit.stamps = stamps;
            news |= unit.take(reading, &self.settings);
        }
        // Only a name can fail here, and names do not change.
        news.then(|| self.materials().ok()).flatten()
    }

    fn stamps(&self, wanted: &Wanted) -> Vec<Option<Stamp>> {
        wanted.files(&self.settings).iter().map(|path| Stamp::of(path)).collect()
    }

    /// Reads a unit's files, and makes what they are for.
    fn make(&self, wanted: &Wanted) -> Result<Reading, PlaneFault> {
        let files = Files::read(&wanted.files(&self.settings))?;
        let made = match wanted {
            Wanted::Listener(index) => {
                // `wanted` was made of listeners with TLS only.
                let tls = self.settings.listen[*index].tls.as_ref().ok_or_else(|| named("", TlsFault::NoPair))?;
                files.listener(tls).map(Made::Listener)?
            }
            Wanted::Servers { ca, identity } => {
                files.servers(ca.as_deref(), identity.as_ref(), &self.system).map(Made::Servers)?
            }
        };
        Ok(Reading { made, digest: files.digest(), remarks: files.remarks() })
    }

    fn materials(&self) -> Result<Arc<Materials>, PlaneFault> {
        let mut materials = Materials {
            listeners: vec![None; self.settings.listen.len()],
            servers: Vec::with_capacity(self.settings.servers.len()),
        };
        let mut clients = HashMap::new();
        for unit in &self.units {
            match (&unit.wanted, &unit.made) {
                (Wanted::Listener(index), Made::Listener(config)) => {
                    materials.listeners[*index] = Some(config.clone());
                }
                (_, Made::Servers(config)) => _ = clients.insert(&unit.wanted, config),
                _ => {}
            }
        }
        for server in &self.settings.servers {
            let mut sides = Vec::with_capacity(server.instances().len());
            for instance in server.instances() {
                let Some(tls) = &instance.tls else {
                    sides.push(None);
                    continue;
                };
                let name = config::server_name(&tls.name).map_err(|fault| named(&tls.name, fault))?;
                sides.push(clients.get(&Wanted::of(tls)).map(|config| ClientSide { config: (*config).clone(), name }));
            }
            materials.servers.push(sides);
        }
        Ok(Arc::new(materials))
    }
}

impl Unit {
    /// Says once what is wrong, and once that it is no longer; whether there is anything new to hand out.
    fn take(&mut self, reading: Result<Reading, PlaneFault>, settings: &Settings) -> bool {
        let was_faulty = self.faulty;
        self.faulty = reading.is_err();
        match reading {
            Err(fault) if !was_faulty => {
                tracing::warn!("certificates of {} stay as they were: {fault}", self.wanted.name(settings));
                false
            }
            Err(_) => false,
            Ok(reading) => {
                let new = reading.digest != self.digest;
                if new || was_faulty {
                    tracing::info!("certificates of {} are read again", self.wanted.name(settings));
                }
                if new {
                    reading.remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
                    (self.made, self.digest) = (reading.made, reading.digest);
                }
                new
            }
        }
    }
}

impl Wanted {
    fn of(server: &ServerTls) -> Self {
        let identity = server.identity.as_ref().map(|CertPaths { cert, key }| (cert.clone(), key.clone()));
        Self::Servers { ca: server.ca.clone(), identity }
    }

    fn files(&self, settings: &Settings) -> Vec<PathBuf> {
        match self {
            Self::Listener(index) => settings.listen[*index].tls.iter().flat_map(listener_files).collect(),
            Self::Servers { ca, identity } => {
                let pair = identity.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]);
                ca.iter().cloned().chain(pair).collect()
            }
        }
    }

    /// For the log.
    fn name(&self, settings: &Settings) -> String {
        match self {
            Self::Listener(index) => format!("listener {}", settings.listen[*index].address),
            Self::Servers { .. } => {
                let servers = settings.servers.iter();
                let is_of = |tls: &ServerTls| Self::of(tls) == *self;
                let ours =
                    servers.filter(|server| server.instances().iter().filter_map(|it| it.tls.as_ref()).any(is_of));
                let names: Vec<&str> = ours.map(|server| &*server.name).collect();
                format!("server {}", names.join(", "))
            }
        }
    }
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            bytes: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    /// Whether it changed so lately that another change might not show; or in the future, by its clock.
    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or(0));
        now.saturating_sub(changed) < Duration::from_millis(CERTS_SETTLED_MS)
    }
}

/// What is in some files. Keys are wiped when they have been used.
struct Files {
    texts: HashMap<PathBuf, Vec<u8>>,
}

impl Files {
    fn read(paths: &[PathBuf]) -> Result<Self, PlaneFault> {
        let mut texts = HashMap::new();
        for path in paths {
            let fault = |error| PlaneFault::File { what: "the file", path: path.display().to_string(), error };
            if fs::metadata(path).map_err(fault)?.len() > PEM_BYTES_MAX as u64 {
                return Err(fault(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large")));
            }
            texts.insert(path.clone(), fs::read(path).map_err(fault)?);
        }
        Ok(Self { texts })
    }

    fn text(&self, path: &Path) -> &[u8] {
        self.texts.get(path).map_or(&[], Vec::as_slice)
    }

    fn pem(&self, cert: &Path, key: &Path) -> Pem<'_> {
        Pem { cert: self.text(cert), key: self.text(key) }
    }

    fn listener(&self, tls: &ListenTls) -> Result<Arc<ServerConfig>, PlaneFault> {
        for pair in &tls.certificates {
            self.check_pair(&pair.cert, &pair.key)?;
        }
        if let Some(ca) = &tls.client_ca {
            self.check_certificates(ca)?;
        }
        let pairs: Vec<Pem<'_>> = tls.certificates.iter().map(|pair| self.pem(&pair.cert, &pair.key)).collect();
        let client_ca = tls.client_ca.as_deref().map(|ca| self.text(ca));
        // What is still wrong is the authorities', or two certificates together.
        let path = tls.client_ca.as_ref().or(tls.certificates.first().map(|pair| &pair.cert));
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        config::server_config(&pairs, client_ca, tls.client).map_err(|fault| named(&path, fault))
    }

    fn servers(
        &self,
        ca: Option<&Path>,
        identity: Option<&(PathBuf, PathBuf)>,
        system: &[CertificateDer<'static>],
    ) -> Result<Arc<ClientConfig>, PlaneFault> {
        let (roots, path) = match ca {
            Some(ca) => {
                self.check_certificates(ca)?;
                (Roots::Given(self.text(ca)), ca.display().to_string())
            }
            None => (Roots::System(system), "the system's certificates".to_owned()),
        };
        if let Some((cert, key)) = identity {
            self.check_pair(cert, key)?;
        }
        let identity = identity.map(|(cert, key)| self.pem(cert, key));
        config::client_config(roots, identity).map_err(|fault| named(&path, fault))
    }

    /// Says which of the two files it is.
    fn check_pair(&self, cert: &Path, key: &Path) -> Result<(), PlaneFault> {
        self.check_certificates(cert)?;
        config::check_key(self.text(key)).map_err(|fault| named(&key.display().to_string(), fault))?;
        let both = format!("{} and {}", cert.display(), key.display());
        config::check_pair(self.pem(cert, key)).map_err(|fault| named(&both, fault))
    }

    fn check_certificates(&self, path: &Path) -> Result<(), PlaneFault> {
        config::check_certificates(self.text(path)).map_err(|fault| named(&path.display().to_string(), fault))
    }

    /// What has expired is used all the same: to refuse it is for the peer, and to stop would help nobody.
    fn remarks(&self) -> Vec<String> {
        let now = i64::try_from(clock().unix_s()).unwrap_or(i64::MAX);
        let mut remarks = Vec::new();
        for (path, text) in &self.texts {
            let Some(end) = config::expires(text) else { continue };
            let date = jiff::Timestamp::from_second(end).map(|end| end.to_string()).unwrap_or_default();
            if end < now {
                remarks.push(format!("the certificate in {} has expired: {date}", path.display()));
            } else if end < now + CERT_WARN_DAYS * 24 * 60 * 60 {
                remarks.push(format!("the certificate in {} expires soon: {date}", path.display()));
            }
        }
        remarks.sort();
        remarks
    }

    fn digest(&self) -> [u8; 32] {
        let mut paths: Vec<&PathBuf> = self.texts.keys().collect();
        paths.sort();
        let mut context = Context::new(&SHA256);
        for path in paths {
            let text = self.text(path);
            context.update(&text.len().to_le_bytes());
            context.update(text);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for text in self.texts.values_mut() {
            text.fill(0);
            // Or the compiler would see that nobody reads the zeros.
            std::hint::black_box(text);
        }
    }
}

fn listener_files(tls: &ListenTls) -> Vec<PathBuf> {
    let pairs = tls.certificates.iter().flat_map(|pair| [pair.cert.clone(), pair.key.clone()]);
    pairs.chain(tls.client_ca.clone()).collect()
}

fn named(path: &str, fault: TlsFault) -> PlaneFault {
    PlaneFault::Certificate { path: path.to_owned(), fault }
}

#[cfg(test)]
#[path = "certs_tests.rs"]
mod tests;
