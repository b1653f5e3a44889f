//! Files that change under a running gateway.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::base::limits::{CERTS_LOOK_MS, HOUSEKEEPING_MS, PUBLISH_GATHER_MS};
use crate::config::snapshot::Prepared;
use crate::config::{Source, load};
use crate::gateway::control::{Control, Life};
use crate::plane::start::first_snapshot;
use crate::policy::needs::CountSecret;

const PATIENCE: Duration = Duration::from_secs(20);
const _: () = assert!(CERTS_LOOK_MS + 10 * PUBLISH_GATHER_MS + HOUSEKEEPING_MS < 1_000, "a swap shows within 1 s");

struct Disk;

impl Source for Disk {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }
}

/// A certificate that is its own authority, and its key.
fn issue() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["one.example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    (cert.pem(), key.serialize_pem())
}

fn settings(folder: &Path) -> Arc<Settings> {
    let text = "listen:\n\
        - { address: \"127.0.0.1:1\", tls: { cert: cert.pem, key: key.pem } }\n\
        - 127.0.0.1:2\n\
        auth: { anonymous: allow }\n\
        servers:\n  \
          a: { url: \"https://one.example.com/mcp\", tls: { ca: ca.pem } }\n  \
          b: { url: \"http://127.0.0.1:3/mcp\" }\n  \
          c: { url: \"https://127.0.0.1:4/mcp\", tls: { ca: ca.pem } }\n";
    Arc::new(load(text, folder, &Disk).unwrap_or_else(|faults| panic!("{faults:?}")).settings)
}

fn write(folder: &Path, (cert, key): &(String, String)) {
    fs::write(folder.join("cert.pem"), cert).unwrap();
    fs::write(folder.join("key.pem"), key).unwrap();
}

/// Shakes hands with the first listener as the first server's client would; what certificate is shown.
fn shake(materials: &Materials) -> Result<Vec<u8>, rustls::Error> {
    let side = materials.servers[0][0].clone().unwrap();
    let mut client = ClientConnection::new(side.config, side.name).unwrap();
    let mut server = ServerConnection::new(materials.listeners[0].clone().unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(client.peer_certificates().unwrap()[0].to_vec())
}

fn der(pair: &(String, String)) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.0.as_bytes()).unwrap().to_vec()
}

/// A folder with a first pair, trusted, and what was made of it.
fn start(folder: &Path, first: &(String, String), trusted: &str) -> (Certs, Arc<Materials>) {
    write(folder, first);
    fs::write(folder.join("ca.pem"), trusted).unwrap();
    Certs::load(&settings(folder)).unwrap()
}

#[test]
fn each_listener_and_server_has_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let pair = issue();
    let (mut certs, materials) = start(folder.path(), &pair, &pair.0);
    assert_eq!(materials.listeners.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    let sides: Vec<Option<&ServerName<'_>>> =
        materials.servers.iter().flatten().map(|side| side.as_ref().map(|side| &side.name)).collect();
    let name = |name: &'static str| ServerName::try_from(name).unwrap();
    assert_eq!(sides, [Some(&name("one.example.com")), None, Some(&name("127.0.0.1"))]);
    let sides: Vec<_> = materials.servers.iter().flatten().collect();
    let [Some(a), _, Some(c)] = &sides[..] else { panic!() };
    assert!(Arc::ptr_eq(&a.config, &c.config), "the same authorities are there once");
    assert_eq!(shake(&materials).unwrap(), der(&pair));
    assert!(certs.look().is_none(), "nothing has changed");
}

/// Files are written one after the other, half, wrongly, or not at all: what was there stays until they fit.
#[test]
fn half_a_change_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second, third) = (issue(), issue(), issue());
    let trusted = [&first, &second, &third].map(|pair| pair.0.as_str()).concat();
    let (mut certs, _) = start(folder.path(), &first, &trusted);
    let at = |name: &str| folder.path().join(name);
    fs::write(at("cert.pem"), &second.0).unwrap();
    assert!(certs.look().is_none() && certs.units[0].faulty, "the key is still the old one");
    fs::write(at("key.pem"), &second.1[..second.1.len() / 2]).unwrap();
    assert!(certs.look().is_none());
    fs::remove_file(at("key.pem")).unwrap();
    assert!(certs.look().is_none());
    assert_eq!(shake(&certs.materials().unwrap()).unwrap(), der(&first), "the old pair goes on");
    fs::write(at("key.pem"), &second.1).unwrap();
    let materials = certs.look().unwrap();
    assert_eq!(shake(&materials).unwrap(), der(&second));
    assert!(certs.look().is_none() && !certs.units[0].faulty);
    // And back again, to what is in use: no news.
    fs::write(at("cert.pem"), &third.0).unwrap();
    assert!(certs.look().is_none() && certs.units[0].faulty);
    fs::write(at("cert.pem"), &second.0).unwrap();
    assert!(certs.look().is_none() && !certs.units[0].faulty);
    // Only what changed is made anew.
    fs::write(at("ca.pem"), &second.0).unwrap();
    let after = certs.look().unwrap();
    let listener = |materials: &Materials| materials.listeners[0].clone().unwrap();
    assert!(Arc::ptr_eq(&listener(&materials), &listener(&after)));
    let side = |materials: &Materials| materials.servers[0][0].clone().unwrap().config;
    assert!(!Arc::ptr_eq(&side(&materials), &side(&after)));
}

/// As Kubernetes swaps the files of a volume: a folder behind a symbolic link, in one step. And as certbot does: each
/// file a link.
#[test]
fn links_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (issue(), issue());
    let trusted = [&first, &second].map(|pair| pair.0.as_str()).concat();
    fs::write(folder.path().join("ca.pem"), trusted).unwrap();
    for (name, pair) in [("..1", &first), ("..2", &second)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        write(&folder.path().join(name), pair);
    }
    symlink("..1", folder.path().join("..data")).unwrap();
    for name in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
    }
    let (mut certs, materials) = Certs::load(&settings(folder.path())).unwrap();
    assert_eq!(shake(&materials).unwrap(), der(&first));
    symlink("..2", folder.path().join("..data_tmp")).unwrap();
    fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    assert_eq!(shake(&certs.look().unwrap()).unwrap(), der(&second));
}

/// A start names the file that keeps it.
#[test]
fn a_start_says_which_file() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (issue(), issue());
    start(folder.path(), &first, &first.0);
    let settings = settings(folder.path());
    let check = |name: &str, text: &str, want: &str| {
        let path = folder.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let fault = Certs::load(&settings).err().unwrap().to_string();
        assert!(fault.contains(&path.display().to_string()) && fault.contains(want), "{fault}");
        fs::write(&path, before).unwrap();
    };
    check("cert.pem", "", "no certificate");
    check("key.pem", "", "no private key");
    check("key.pem", &second.1, "does not fit");
    check("ca.pem", &first.1, "no certificate");
    check("ca.pem", &first.0.replacen("MII", "AAA", 1), "cannot be read");
    fs::remove_file(folder.path().join("ca.pem")).unwrap();
    let fault = Certs::load(&settings).err().unwrap().to_string();
    assert!(fault.contains("ca.pem") && fault.contains("No such file"), "{fault}");
}

/// [T4] Certificates change while clients shake hands all the time: no handshake fails, and the new one is shown
/// soon; within a second where the machine is not busy with other things.
#[test]
fn a_swap_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: Vec<(String, String)> = (0..4).map(|_| issue()).collect();
    let trusted: String = pairs.iter().map(|pair| pair.0.as_str()).collect();
    let (certs, materials) = start(folder.path(), &pairs[0], &trusted);
    let settings = certs.settings.clone();
    let snapshot =
        first_snapshot(&settings, &Arc::new(Prepared::new(&settings)), materials.clone(), CountSecret::fixed())
            .unwrap();
    let control = Arc::new(Control::new(snapshot, 1).unwrap());
    let current = Mutex::new(materials);
    let (news, heard) = mpsc::channel();
    thread::scope(|scope| {
        let watched = control.clone();
        scope.spawn(move || {
            let mut certs = certs;
            while watched.life() == Life::Run {
                thread::sleep(Duration::from_millis(CERTS_LOOK_MS));
                certs.look().into_iter().for_each(|materials| news.send(materials).unwrap());
            }
        });
        scope.spawn(|| {
            for materials in heard {
                *current.lock().unwrap() = materials;
            }
        });
        let mut shaken = 0;
        for pair in &pairs[1..] {
            // The key first: for a moment nothing fits.
            fs::write(folder.path().join("key.pem"), &pair.1).unwrap();
            fs::write(folder.path().join("cert.pem"), &pair.0).unwrap();
            let swapped = Instant::now();
            loop {
                let materials = current.lock().unwrap().clone();
                let shown = shake(&materials).expect("a handshake under a swap");
                shaken += 1;
                if shown == der(pair) {
                    break;
                }
                assert!(swapped.elapsed() < PATIENCE, "the new certificate never came");
            }
            println!("shown after {:?}", swapped.elapsed());
        }
        assert!(shaken > pairs.len());
        control.set_life(Life::Stop);
    });
}
