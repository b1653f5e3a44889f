use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;
use crate::base::ids::ShardId;
use crate::base::net::Network;
use crate::config::snapshot::Prepared;
use crate::config::{Grant, GuardSettings, Source, load};
use crate::gateway::credential;
use crate::identity::caller::{Caller, Owner};
use crate::identity::provider;
use crate::identity::revoked::{Revocation, Revocations, Target};
use crate::oauth::client::{ClientAuth, Proof};
use crate::plane::publish::Press;
use crate::plane::start::first_snapshot;
use crate::policy::needs::CountSecret;

struct Nothing;

impl Source for Nothing {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> std::io::Result<String> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// A token endpoint. What it answers to a form: status, body, and after how long.
struct Endpoint {
    url: String,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    fn new(answer: impl Fn(&str) -> (u16, String, Duration) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let (counted, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (counted, answer) = (counted.clone(), answer.clone());
                std::thread::spawn(move || serve(socket, &counted, &*answer));
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn grant(&self) -> Arc<Grant> {
        let private = vec![Network::parse("127.0.0.0/8").unwrap()];
        Arc::new(Grant {
            token_url: self.url.as_str().into(),
            client: ClientAuth { id: "gateway".into(), proof: Proof::Basic(Arc::new("hunter2".into())) },
            scope: None,
            audience: Vec::new(),
            resource: Vec::new(),
            guard: GuardSettings { private, ca: None },
        })
    }
}

fn serve(mut socket: TcpStream, asked: &AtomicUsize, answer: &dyn Fn(&str) -> (u16, String, Duration)) {
    let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                asked.fetch_add(1, Ordering::SeqCst);
                let (status, body, delay) = answer(body);
                std::thread::sleep(delay);
                let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n");
                let _ = write!(socket, "{head}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                return;
            }
        }
        match socket.read(&mut chunk) {
            Ok(count @ 1..) => got.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    }
}

fn good(token: &str, expires: u64) -> (u16, String, Duration) {
    let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{expires}}}"#);
    (200, body, Duration::ZERO)
}

/// A gateway's plane as far as tokens go: servers `s0`, `s1`… with these credentials.
struct World {
    control: Arc<Control>,
    press: Press,
    health: Arc<Health>,
    digests: Vec<u64>,
}

impl World {
    fn new(credentials: &[Credentials]) -> Self {
        provider::install();
        let servers: Vec<String> =
            (0..credentials.len()).map(|server| format!("s{server}: {{ url: 'http://127.0.0.1:1/' }}")).collect();
        let text = format!("auth: {{ anonymous: allow }}\nservers: {{ {} }}\n", servers.join(", "));
        let mut settings = load(&text, Path::new("."), &Nothing).unwrap().settings;
        for (server, credentials) in settings.servers.iter_mut().zip(credentials) {
            server.credentials = credentials.clone();
        }
        let (prepared, settings) = (Arc::new(Prepared::new(&settings)), Arc::new(settings));
        let snapshot = first_snapshot(&settings, &prepared, Arc::default(), CountSecret::fixed()).unwrap();
        let control = Arc::new(Control::new(snapshot, 2).unwrap());
        let health = Arc::new(Health::new(settings.servers.iter().map(|server| &*server.name)));
        start(&control, &health, &Arc::new(Fetcher::new())).unwrap();
        let digests = prepared.servers.iter().map(|server| server.digest).collect();
        Self { press: Press::new(control.clone()), control, health, digests }
    }

    fn shared(&self, server: usize, grant: &Arc<Grant>) -> Result<Arc<Issued>, &'static str> {
        let digest = self.digests[server];
        let key = credential::shared_key(digest, grant);
        obtain(&self.control, &key, PATIENCE, || credential::shared_errand(digest, grant))
    }

    fn personal(&self, server: usize, grant: &Arc<Grant>, caller: &Caller) -> Result<Arc<Issued>, &'static str> {
        let (digest, token) = (self.digests[server], format!("token-of-{}", caller.subject));
        let key = credential::personal_key(digest, grant, caller);
        obtain(&self.control, &key, PATIENCE, || credential::personal_errand(digest, grant, caller, token.as_bytes()))
    }

    fn fetches(&self, server: usize) -> BTreeMap<&'static str, u64> {
        self.health.servers()[server].credential.clone().unwrap_or_default().fetches
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.control.set_life(Life::Stop);
    }
}

fn caller(name: &str) -> Caller {
    Caller {
        subject: name.into(),
        owner: Owner::of("i", name, None),
        claims: format!(r#"{{"sub":"{name}"}}"#).into_bytes().into(),
        anonymous: false,
        ..Caller::anonymous()
    }
}

fn value(issued: &Issued) -> String {
    String::from_utf8(issued.value.reveal().to_vec()).unwrap()
}

fn until(mut is_so: impl FnMut() -> bool, what: &str) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_request_however_many_wait() {
    let endpoint = Endpoint::new(|_| (200, good("t", 3600).1, Duration::from_millis(200)));
    let grant = endpoint.grant();
    let world = World::new(&[Credentials::ClientCredentials(grant.clone())]);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert_eq!(value(&world.shared(0, &grant).unwrap()), "Bearer t"));
        }
    });
    assert_eq!(endpoint.asked(), 1);
    assert_eq!(world.fetches(0), BTreeMap::from([("brought", 1)]));
    let mut letters = 0;
    world.control.mail.take(ShardId(1), |letter| letters += usize::from(matches!(letter, Letter::Brought)));
    assert_eq!(letters, 1);
}

#[test]
fn each_caller_has_its_own() {
    let endpoint = Endpoint::new(|form| {
        let token = form.split("subject_token=token-of-").nth(1).and_then(|rest| rest.split('&').next()).unwrap();
        good(&format!("for-{token}"), 3600)
    });
    let grant = endpoint.grant();
    let world = World::new(&[Credentials::Exchange(grant.clone())]);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (world, grant) = (&world, &grant);
            scope.spawn(move || {
                for call in 0..250 {
                    let name = format!("u{}", (call * 7 + thread * 3) % 50);
                    let issued = world.personal(0, grant, &caller(&name)).unwrap();
                    assert_eq!(value(&issued), format!("Bearer for-{name}"));
                }
            });
        }
    });
    assert_eq!(endpoint.asked(), 50, "one for each of 50 owners, and no other for 2,000 calls");
}

#[test]
fn renewed_ahead_while_it_is_in_use() {
    let count = Arc::new(AtomicUsize::new(0));
    let numbered = count.clone();
    // Used for 2 s, fresh for 1.5 s at least.
    let endpoint = Endpoint::new(move |_| good(&format!("t{}", numbered.fetch_add(1, Ordering::SeqCst)), 4));
    let grant = endpoint.grant();
    let world = World::new(&[Credentials::ClientCredentials(grant.clone())]);
    let key = credential::shared_key(world.digests[0], &grant);
    world.shared(0, &grant).unwrap();
    let begun = Instant::now();
    let mut seen = HashSet::new();
    while seen.len() < 3 {
        assert!(begun.elapsed() < PATIENCE, "renewed: {seen:?}");
        let now = clock().mono;
        let look = world.control.credentials.look(&key, now, || credential::shared_errand(world.digests[0], &grant));
        let Look::Have(issued) = look else { panic!("somebody had to wait: {look:?} after {:?}", begun.elapsed()) };
        assert!(now < issued.until, "none beyond its end");
        seen.insert(value(&issued));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "and not before it is due");
}

#[test]
fn an_exchanged_one_ends_with_its_callers() {
    let endpoint = Endpoint::new(|_| good("t", 3600));
    let grant = endpoint.grant();
    let world = World::new(&[Credentials::Exchange(grant.clone())]);
    let now = clock();
    let short = Caller { expires: now.unix_s() + 30, ..caller("short") };
    let issued = world.personal(0, &grant, &short).unwrap();
    assert!(issued.until <= now.mono.plus_ms(30_000) && issued.until > now.mono.plus_ms(20_000));
    assert_eq!(issued.fresh, issued.until, "another would end with it: nobody asks for one before");
    let ended = Caller { expires: now.unix_s(), ..caller("ended") };
    assert_eq!(world.personal(0, &grant, &ended).err(), Some("ended"));
    assert_eq!(endpoint.asked(), 1, "nobody is asked for one that has ended");
}

#[test]
fn a_dead_endpoint_is_asked_ever_more_rarely_and_harms_nobody_else() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = Endpoint { url: format!("http://{}/", closed.local_addr().unwrap()), asked: Arc::default() };
    drop(closed);
    let hangs = Endpoint::new(|_| (200, String::new(), Duration::from_secs(60)));
    let lives = Endpoint::new(|form| good(if form.contains("subject_token") { "x" } else { "t" }, 3600));
    let grants = [dead.grant(), hangs.grant(), lives.grant()];
    let world = World::new(&grants.clone().map(Credentials::Exchange));
    std::thread::scope(|scope| {
        // More of the one that hangs than there are threads for one server.
        for number in 0..ERRANDS_AT_ONCE_MAX * 2 {
            let (world, grants) = (&world, &grants);
            scope.spawn(move || {
                let outcome = world.personal(1, &grants[1], &caller(&format!("h{number}")));
                assert!(matches!(outcome, Err("timeout" | "busy")), "{outcome:?}");
            });
        }
        until(|| hangs.asked() > 0, "the one that hangs is asked");
        let begun = Instant::now();
        assert_eq!(world.personal(0, &grants[0], &caller("a")).err(), Some("unreachable"));
        for number in 0..20 {
            world.personal(2, &grants[2], &caller(&format!("l{number}"))).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "held up for {:?}", begun.elapsed());
        assert!(hangs.asked() <= ERRANDS_AT_ONCE_MAX);
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3_500) {
        // Any caller: the back-off is the server's.
        let name = format!("d{:?}", begun.elapsed());
        assert_eq!(world.personal(0, &grants[0], &caller(&name)).err(), Some("unreachable"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let tried = world.fetches(0)["unreachable"];
    // The first, and after 1 and 2 s.
    assert!((2..=5).contains(&tried), "{tried}");
    assert_eq!(world.health.servers()[0].credential.as_ref().unwrap().trouble, Some("unreachable"));
}

/// More servers have their tokens from one host that hangs than there are threads for all: another host's are fetched.
#[test]
fn a_host_that_hangs_holds_up_itself() {
    let hangs = Endpoint::new(|_| (200, String::new(), Duration::from_secs(60)));
    let lives = Endpoint::new(|_| good("t", 3600));
    let mut grants: Vec<Arc<Grant>> = Vec::new();
    for server in 0..ERRAND_THREADS / ERRANDS_AT_ONCE_MAX + 1 {
        let scope = Some(format!("s{server}"));
        grants.push(Arc::new(Grant { scope, ..Grant::clone(&hangs.grant()) }));
    }
    grants.push(lives.grant());
    let world = World::new(&grants.iter().cloned().map(Credentials::Exchange).collect::<Vec<_>>());
    let (last, begun) = (grants.len() - 1, Instant::now());
    std::thread::scope(|scope| {
        for (server, grant) in grants[..last].iter().enumerate() {
            for number in 0..ERRANDS_AT_ONCE_MAX {
                let (world, who) = (&world, caller(&format!("u{number}")));
                scope.spawn(move || assert!(world.personal(server, grant, &who).is_err()));
            }
        }
        until(|| hangs.asked() > 0, "the one that hangs is asked");
        let asked = Instant::now();
        for number in 0..20 {
            world.personal(last, &grants[last], &caller(&format!("u{number}"))).unwrap();
        }
        assert!(asked.elapsed() < Duration::from_secs(3), "held up for {:?}", asked.elapsed());
        assert!(hangs.asked() <= ERRANDS_AT_ONCE_MAX);
    });
    assert!(begun.elapsed() < Duration::from_secs(20), "and each is told in time: {:?}", begun.elapsed());
}

#[test]
fn one_caller_that_is_declined_is_alone() {
    let endpoint = Endpoint::new(|form| match form.contains("token-of-eve") {
        true => (400, r#"{"error":"invalid_grant","error_description":"hunter2 token-of-eve"}"#.into(), Duration::ZERO),
        false => good("t", 3600),
    });
    let grant = endpoint.grant();
    let world = World::new(&[Credentials::Exchange(grant.clone())]);
    for _ in 0..3 {
        assert_eq!(world.personal(0, &grant, &caller("eve")).err(), Some("invalid_grant"));
    }
    world.personal(0, &grant, &caller("bob")).unwrap();
    assert_eq!(world.fetches(0), BTreeMap::from([("brought", 1), ("invalid_grant", 1)]));
    assert_eq!(world.health.servers()[0].credential.as_ref().unwrap().trouble, None);
}

/// An endpoint that stumbles over one caller's token is there for the others.
#[test]
fn one_caller_that_it_stumbles_over_is_alone() {
    for status in [500, 503, 429, 200] {
        let endpoint =
            Endpoint::new(move |form| match form.contains("token-of-eve") || form.contains("token-of-mal") {
                true => (status, "oops".into(), Duration::ZERO),
                false => good("t", 3600),
            });
        let grant = endpoint.grant();
        let world = World::new(&[Credentials::Exchange(grant.clone())]);
        let trouble = || world.health.servers()[0].credential.as_ref().unwrap().trouble;
        for number in 0..3 {
            assert!(world.personal(0, &grant, &caller("eve")).is_err());
            world.personal(0, &grant, &caller(&format!("u{number}"))).unwrap();
            assert_eq!(trouble(), None);
        }
        assert!(world.personal(0, &grant, &caller("mal")).is_err());
        assert_eq!(trouble(), None);
        // Nobody has had one since: it is the endpoint.
        assert!(world.personal(0, &grant, &caller("mal2")).is_err());
        assert!(trouble().is_some());
        assert!(world.personal(0, &grant, &caller("late")).is_err());
    }
}

#[test]
fn what_is_no_token_is_not_taken() {
    let long = format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, "a".repeat(300_000));
    for (status, body, want) in [
        (200, "<html>".to_owned(), "bad_answer"),
        (200, r#"{"access_token":"a\r\nx: y","token_type":"Bearer"}"#.into(), "bad_answer"),
        (200, r#"{"access_token":"a","token_type":"DPoP"}"#.into(), "bad_answer"),
        (200, r#"{"access_token":"a","token_type":"Bearer","expires_in":0}"#.into(), "ended"),
        (200, long, "too_large"),
        (201, good("t", 1).1, "bad_status"),
        (302, String::new(), "redirect"),
        (500, r#"{"error":"invalid_grant"}"#.into(), "bad_status"),
        (503, String::new(), "bad_status"),
        (401, r#"{"error":"invalid_client"}"#.into(), "invalid_client"),
        (400, "hunter2".into(), "declined"),
    ] {
        let endpoint = Endpoint::new(move |_| (status, body.clone(), Duration::ZERO));
        let grant = endpoint.grant();
        let world = World::new(&[Credentials::ClientCredentials(grant.clone())]);
        assert_eq!(world.shared(0, &grant).err(), Some(want), "{status}");
    }
}

#[test]
fn who_is_revoked_loses_its_token() {
    let endpoint = Endpoint::new(|_| (200, good("t", 3600).1, Duration::from_millis(300)));
    let grant = endpoint.grant();
    let world = World::new(&[Credentials::Exchange(grant.clone())]);
    let (eve, bob) = (caller("eve"), caller("bob"));
    world.personal(0, &grant, &eve).unwrap();
    world.personal(0, &grant, &bob).unwrap();
    let forgotten = world.control.credentials.forgotten();
    let revoke = |name: &str| {
        let target = Target::Subject { issuer: None, subject: name.into() };
        let revocation = Revocation { target, reason: None, by: "anna".into(), at_unix_ms: 1 };
        let mut all = Revocations::clone(&world.control.snapshot.load().revocations);
        all.add(revocation).unwrap();
        world.press.revoke(Arc::new(all));
    };
    revoke("eve");
    until(|| world.control.credentials.standing().0 == 1, "only bob's is left");
    assert!(world.control.credentials.forgotten() > forgotten);
    // One that is revoked while its token is on its way.
    let mallory = caller("mallory");
    let key = credential::personal_key(world.digests[0], &grant, &mallory);
    let errand = || credential::personal_errand(world.digests[0], &grant, &mallory, b"m");
    assert!(matches!(world.control.credentials.look(&key, clock().mono, errand), Look::Wait));
    until(|| endpoint.asked() == 3, "it is asked for");
    revoke("mallory");
    until(|| world.fetches(0)["brought"] == 3, "it came");
    until(|| world.control.credentials.standing().0 == 1, "and is not kept");
    let key = credential::personal_key(world.digests[0], &grant, &bob);
    let kept = world.control.credentials.look(&key, clock().mono, || unreachable!("bob's is there"));
    assert!(matches!(kept, Look::Have(_)));
}

const PATIENCE: Duration = Duration::from_secs(60);
