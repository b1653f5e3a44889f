//! Opaque tokens: only their issuer can say whether they are good, and the gateway asks it: once for all shards, for a
//! while, and again for as long as anybody is let in by them.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, fresh, open_session, session_request};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, progress, said};

/// An introspection endpoint, told by the test what to say of which token.
struct Desk {
    address: SocketAddr,
    told: Arc<Mutex<Told>>,
    stops: Arc<AtomicBool>,
}

#[derive(Default)]
struct Told {
    /// By token: the whole body, as JSON. Of others: not active.
    answers: HashMap<String, String>,
    status: u16,
    media: &'static str,
    /// Before an answer.
    pause: Duration,
    /// The questions: token, and the value of `authorization`.
    asked: Vec<(String, String)>,
}

impl Desk {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let told = Told { status: 200, media: "application/json", ..Told::default() };
        let (told, stops) = (Arc::new(Mutex::new(told)), Arc::new(AtomicBool::new(false)));
        let (heard, ends) = (told.clone(), stops.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let told = heard.clone();
                thread::spawn(move || serve(stream, &told));
            }
        });
        Self { address, told, stops }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this is said of a token.
    fn says(&self, token: &str, answer: &Value) {
        self.told().answers.insert(token.to_owned(), answer.to_string());
    }

    fn asked(&self) -> usize {
        self.told().asked.len()
    }

    fn asked_about(&self, token: &str) -> usize {
        self.told().asked.iter().filter(|(asked, _)| asked == token).count()
    }

    /// One issuer, whose keys are in `keys`, and which is asked here about everything else.
    fn issuer(&self, keys: &Path, cache: &str) -> Value {
        json!({
            "issuer": ISSUER,
            "jwks": { "file": keys },
            "algorithms": ["ES256"],
            "private": ["127.0.0.0/8"],
            "introspection": self.introspection(cache),
        })
    }

    fn introspection(&self, cache: &str) -> Value {
        json!({
            "url": format!("http://{}/introspect", self.address),
            "client_id": "the-gateway:1",
            "client_secret": "secret: of it",
            "cache": cache,
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        // The accept that it waits in.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, told: &Mutex<Told>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut length, mut proof) = (0, String::new());
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok()?,
                "authorization" => proof = value.trim().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
        assert_eq!(form["token_type_hint"], "access_token");
        let token = form["token"].clone();
        let (answer, status, media, pause) = {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.asked.push((token.clone(), proof));
            let answer = told.answers.get(&token).cloned().unwrap_or_else(|| r#"{"active":false}"#.to_owned());
            (answer, told.status, told.media, told.pause)
        };
        thread::sleep(pause);
        let head = format!(
            "HTTP/1.1 {status} Said\r\ncontent-type: {media}\r\nlocation: /elsewhere\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        (&stream).write_all(format!("{head}{answer}").as_bytes()).ok()?;
    }
}

/// A gateway whose one issuer is asked.
struct Door {
    gateway: Gateway,
    upstream: Upstream,
    desk: Desk,
    _folder: tempfile::TempDir,
}

impl Door {
    fn new(cache: &str) -> Self {
        Self::with(cache, |setup| setup)
    }

    fn with(cache: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let desk = Desk::new();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = folder.path().join("keys.json");
        let upstream = Plan::tools(&["echo", "hold"]).script(act).start();
        let setup = change(Setup::new().server("up", &upstream.url()).open());
        setup.key_set_to(&keys);
        let auth = json!({ "anonymous": "deny", "issuers": [desk.issuer(&keys, cache)] });
        let gateway = setup.set("/auth", auth).start();
        Self { gateway, upstream, desk, _folder: folder }
    }

    /// What an issuer says of a good token.
    fn good(&self, subject: &str) -> Value {
        json!({
            "active": true, "iss": ISSUER, "sub": subject, "client_id": "agent-1", "token_type": "Bearer",
            "aud": self.gateway.url("/mcp"), "exp": unix_s() + 600, "scope": "mcp:tools",
        })
    }

    /// A token that is good.
    fn token(&self, subject: &str) -> String {
        let token = format!("opaque.{}~+/=", fresh());
        self.desk.says(&token, &self.good(subject));
        token
    }

    fn call(&self, token: &str) -> Response {
        Post::call("echo").token(token).to(&self.gateway)
    }

    fn passes(&self, token: &str) {
        Post::call("echo").token(token).echoed(&self.gateway);
    }

    /// Not a good token: 401, and a challenge.
    #[track_caller]
    fn refused(&self, token: &str, what: &str) {
        let answer = self.call(token);
        assert_eq!(answer.status(), 401, "{what}: {}", answer.text());
        assert!(answer.field("www-authenticate").contains("error=\"invalid_token\""), "{what}: {:?}", answer.head);
        assert!(!answer.text().contains(token), "{what}: {}", answer.text());
    }

    /// Nobody can tell: 503, no challenge.
    #[track_caller]
    fn unsaid(&self, token: &str, what: &str) {
        let answer = self.call(token);
        assert_eq!(answer.status(), 503, "{what}: {}", answer.text());
        assert!(answer.field("retry-after").parse::<u32>().is_ok_and(|it| it > 0), "{what}: {:?}", answer.head);
        assert!(answer.field("www-authenticate").is_empty(), "{what}: {:?}", answer.head);
    }

    fn checked(&self) -> Vec<Value> {
        oracle::check(&self.gateway, &[("up", &self.upstream)])
    }
}

/// `hold` tells of its progress and waits; subscriptions of clients last.
fn act(seen: &crate::support::upstream::Seen, out: &mut crate::support::upstream::Out<'_>) -> Acted {
    if seen.method() == "subscriptions/listen" && seen.field("tracestate") == "ours=1" {
        let meta = json!({ "io.modelcontextprotocol/subscriptionId": seen.id() });
        let params = json!({ "notifications": { "toolsListChanged": true }, "_meta": meta });
        out.stream();
        out.event(&json!({
            "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params,
        }));
        out.gone(Duration::from_secs(20));
        return Acted::Done;
    }
    if !seen.calls("hold") {
        return Acted::Default;
    }
    out.stream();
    out.event(&progress(seen, 1));
    out.pass("held");
    out.event(&said(seen, seen.value()));
    out.stream_end();
    Acted::Done
}

fn unix_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("the clock is set").as_secs()
}

#[test]
fn an_active_token_is_its_subjects_and_asked_about_once() {
    let door = Door::with("60s", |setup| setup.shards(2));
    let token = door.token("ada");
    for _ in 0..12 {
        door.passes(&token);
    }
    assert_eq!(door.desk.asked_about(&token), 1, "once for all shards");
    let proof = door.desk.told().asked[0].1.clone();
    // "the-gateway:1" and "secret: of it", each encoded as in a form, with a colon between (RFC 6749, 2.3.1).
    assert_eq!(proof, "Basic dGhlLWdhdGV3YXklM0ExOnNlY3JldCUzQStvZitpdA==");
    // Signed ones are verified, and nobody is asked.
    door.passes(&door.gateway.token(&Who::default()));
    let signed_badly = format!("{}x", door.gateway.token(&Who::default()));
    door.refused(&signed_badly, "a signed token is not asked about");
    assert_eq!(door.desk.asked(), 1);
    // Too short to be anything.
    door.refused("short", "short");
    assert_eq!(door.desk.asked(), 1);
    let records = door.checked();
    let subjects = records.iter().filter(|it| it["verdict"] == "permit").map(|it| &it["subject"]);
    assert!(subjects.clone().count() >= 13 && subjects.clone().all(|subject| subject == "ada"), "{records:#?}");
}

/// [K15] What an issuer says, and what it comes to.
#[test]
fn answers_are_read_strictly() {
    let door = Door::new("60s");
    let before = door.upstream.calls().len();
    let other = |name: &str, value: Value| {
        let mut answer = door.good("ada");
        answer[name] = value;
        answer.to_string()
    };
    let without = |name: &str| {
        let mut answer = door.good("ada");
        answer.as_object_mut().expect("an object").remove(name);
        answer.to_string()
    };
    let good = door.good("ada").to_string();
    let refused = [
        r#"{"active":false}"#.to_owned(),
        other("aud", json!("https://else.where/mcp")),
        other("aud", json!([])),
        without("aud"),
        other("iss", json!("https://other.test")),
        other("cnf", json!({ "jkt": "AAAA" })),
        other("token_type", json!("DPoP")),
        other("token_type", json!("N_A")),
        other("token_type", json!("refresh_token")),
        other("token_use", json!("refresh_token")),
        other("token_use", json!("id")),
        other("typ", json!("Refresh")),
        other("typ", json!("Offline")),
        other("typ", json!("ID")),
        other("exp", json!(unix_s() - 60)),
        other("nbf", json!(unix_s() + 300)),
        other("nonce", json!("n")),
        other("sub", json!("")),
        without("sub"),
    ];
    for (number, answer) in refused.iter().enumerate() {
        let token = format!("refused-{number}");
        door.desk.told().answers.insert(token.clone(), answer.clone());
        door.refused(&token, answer);
        let asked = door.desk.asked_about(&token);
        door.refused(&token, answer);
        assert_eq!(door.desk.asked_about(&token), asked, "known for a while: {answer}");
    }
    let unsaid = [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "<html>".to_owned(),
        other("active", json!("true")),
        other("active", json!(1)),
        other("active", Value::Null),
        good.replacen('{', r#"{"active":false,"#, 1),
        good.replacen('{', r#"{"sub":"root","#, 1),
        other("exp", json!("tomorrow")),
        other("scope", json!(["a"])),
        other("sub", json!(7)),
        other("pad", json!("x".repeat(20_000))),
        format!("{good}{good}"),
    ];
    for (number, answer) in unsaid.iter().enumerate() {
        let token = format!("unsaid-{number}");
        door.desk.told().answers.insert(token.clone(), answer.clone());
        door.unsaid(&token, answer);
    }
    assert_eq!(door.upstream.calls().len(), before, "somebody got through");
    door.passes(&door.token("ada"));
    let records = door.checked();
    let reasons = |word: &str| records.iter().filter(|it| it["reason"] == word).count();
    assert_eq!((reasons("auth"), reasons("introspection")), (2 * refused.len(), unsaid.len()), "{records:#?}");
}

/// Issuers have several words for an access token.
#[test]
fn an_access_token_by_any_name() {
    let door = Door::new("60s");
    for (name, value) in [("typ", "Bearer"), ("typ", "at+jwt"), ("token_use", "access_token"), ("token_type", "bearer")]
    {
        let token = door.token("ada");
        let mut answer = door.good("ada");
        answer[name] = json!(value);
        door.desk.told().answers.insert(token.clone(), answer.to_string());
        door.passes(&token);
    }
    door.checked();
}

#[test]
fn an_issuer_that_cannot_be_asked_costs_newcomers_a_moment_and_others_nothing() {
    let door = Door::new("60s");
    let known = door.token("ada");
    door.passes(&known);
    // Slow: whoever is not known waits, and nobody else does.
    door.desk.told().pause = Duration::from_secs(1);
    let slow = door.token("bob");
    let waiting = Post::call("echo").token(&slow);
    let mut wire = waiting.begin(&door.gateway);
    let gone = Post::call("echo").token(&door.token("eve"));
    drop(gone.begin(&door.gateway));
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(600) {
        door.passes(&known);
    }
    waiting.is_echoed(&wire.response());
    door.desk.told().pause = Duration::ZERO;
    for (status, media) in
        [(500, "application/json"), (301, "application/json"), (404, "text/html"), (200, "text/html")]
    {
        (door.desk.told().status, door.desk.told().media) = (status, media);
        door.unsaid(&format!("unsaid-{status}-{media}"), &format!("{status}, {media}"));
        door.passes(&known);
    }
    (door.desk.told().status, door.desk.told().media) = (401, "application/json");
    let token = door.token("carl");
    door.unsaid(&token, "the gateway's own credentials are wrong");
    let asked = door.desk.asked();
    door.unsaid(&token, "and it is left alone for a while");
    assert_eq!(door.desk.asked(), asked);
    door.passes(&known);
    door.desk.told().status = 200;
    eventually("it is asked again", || door.call(&token).status() == 200);
    assert!(door.gateway.said("does not say whether an opaque token is good") > 0);
    assert!(door.upstream.calls().iter().all(|seen| seen.value() != gone.value), "its client had left");
}

/// As long as it is in use an issuer is asked again; when it says no, everything ends.
#[test]
fn streams_end_when_the_issuer_says_so() {
    let door = Door::with("2s", |setup| setup.shards(2));
    let (his, hers) = (door.token("ada"), door.token("bob"));
    let stream = |session: &str, token: &str| {
        let mut wire = Wire::to(door.gateway.address);
        let field = format!("authorization: Bearer {token}\r\n");
        wire.send(&session_request(&door.gateway, "GET", "/mcp", session, &field));
        wire.events()
    };
    let session = open_session(&door.gateway, |post| post.token(&his));
    let other = open_session(&door.gateway, |post| post.token(&hers));
    let (own, mut others) = (stream(&session, &his), stream(&other, &hers));
    let listen = Post::modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let mut listens = listen.token(&his).field("tracestate", "ours=1").stream(&door.gateway);
    assert_eq!(listens.message()["method"], "notifications/subscriptions/acknowledged");
    let call = Post::call("hold").param("/_meta/progressToken", json!("p")).token(&his);
    let mut answer = call.stream(&door.gateway);
    assert_eq!(answer.message()["params"]["progress"], 1);
    eventually("the sessions' streams are open", || door.upstream.open_streams() >= 2);
    // It is kept alive well beyond the time that one answer is believed for.
    eventually("it is asked again while it is in use", || door.desk.asked_about(&his) >= 4);
    assert!(!listens.comes(Duration::from_millis(10)), "it goes on");
    door.desk.says(&his, &json!({ "active": false }));
    let since = Instant::now();
    let ended = |what: &str, ended: bool| {
        println!("{what}: after {:?}", since.elapsed());
        // Two seconds for an answer that is believed, one for what follows from it; a busy machine gets a few.
        assert!(ended && since.elapsed() < Duration::from_secs(9), "{what}: {:?}", since.elapsed());
    };
    ended("the session's own", own.rest().1.is_ok());
    ended("the subscription", listens.rest().1.is_ok());
    ended("an answer", answer.rest().0.last().is_some_and(|it| it["error"]["code"].is_i64()));
    door.refused(&his, "and it is not let in any more");
    door.upstream.open("held");
    // Whoever is not meant hears on.
    door.upstream
        .say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } }));
    assert_eq!(others.message()["params"]["data"], 1);
    drop(others);
    door.checked();
}

/// A stream that begins when its token was out of use for a while lasts as any other.
#[test]
fn a_stream_that_begins_late_lasts() {
    let door = Door::new("3s");
    let token = door.token("ada");
    let session = open_session(&door.gateway, |post| post.token(&token));
    eventually("it is asked about again", || door.desk.asked_about(&token) == 2);
    // Nobody looks when that would be done the next time, and what was said last is not over yet.
    thread::sleep(Duration::from_millis(2_300));
    let mut wire = Wire::to(door.gateway.address);
    let field = format!("authorization: Bearer {token}\r\n");
    wire.send(&session_request(&door.gateway, "GET", "/mcp", &session, &field));
    let mut events = wire.events();
    eventually("its stream is open", || door.upstream.open_streams() >= 1);
    thread::sleep(Duration::from_secs(4));
    door.upstream
        .say(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": 1 } }));
    assert_eq!(events.message()["params"]["data"], 1);
    drop(events);
    door.checked();
}

/// What else an operator changes makes nobody's token an unknown one.
#[test]
fn a_reload_asks_nobody_again() {
    let door = Door::new("5m");
    let token = door.token("ada");
    door.passes(&token);
    for task in ["one", "two", "three"] {
        door.gateway.configure(|config| config["auth"]["issuers"][0]["agent"] = json!(format!("claims.{task}")));
        assert_eq!(door.gateway.reload()["ok"], true);
        door.passes(&token);
    }
    assert_eq!(door.desk.asked_about(&token), 1);
    door.gateway.configure(|config| config["auth"]["issuers"][0]["introspection"]["client_id"] = json!("another"));
    assert_eq!(door.gateway.reload()["ok"], true);
    door.passes(&token);
    assert_eq!(door.desk.asked_about(&token), 2, "asked by somebody else, it may say something else");
    door.checked();
}

/// What may be another issuer's is told to none.
#[test]
fn what_is_another_issuers_is_not_asked_about() {
    let door = Door::new("60s");
    let signed = door.gateway.token(&Who::default());
    let mangled = [format!("{signed}."), format!("{signed}.x.y"), format!("{signed}.{signed}")];
    door.gateway.configure(|config| {
        let mut other = config["auth"]["issuers"][0].clone();
        other["issuer"] = json!("https://other.test");
        other.as_object_mut().expect("an object").remove("introspection");
        config["auth"]["issuers"].as_array_mut().expect("a list").push(other);
    });
    assert_eq!(door.gateway.reload()["ok"], true);
    for token in &mangled {
        door.refused(token, "mangled");
        assert_eq!(door.desk.asked_about(token), 0);
    }
    door.passes(&door.token("ada"));
    door.checked();
}

/// One that nobody uses is not asked about, and one whose issuer says something else of it is another caller.
#[test]
fn only_what_is_in_use_is_asked_about_again() {
    let door = Door::new("1s");
    let (idle, used) = (door.token("ada"), door.token("bob"));
    door.passes(&idle);
    door.passes(&used);
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        door.passes(&used);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(door.desk.asked_about(&used) >= 3, "{}", door.desk.asked_about(&used));
    assert!(door.desk.asked_about(&idle) <= 2, "{}", door.desk.asked_about(&idle));
    door.passes(&idle);
    door.desk.says(&used, &door.good("carl"));
    eventually("it is somebody else's", || {
        door.passes(&used);
        door.gateway.records().iter().any(|it| it["subject"] == "carl")
    });
    door.checked();
}

/// [K15] Random tokens by the thousand: those who are known notice nothing, the issuer gets so many questions a second and no
/// more, and what is kept is bounded.
#[test]
fn a_flood_of_tokens_that_nobody_knows() {
    let door = Door::with("2s", |setup| setup.shards(2));
    let known: Vec<String> = ["ada", "bob"].map(|subject| door.token(subject)).to_vec();
    known.iter().for_each(|token| door.passes(token));
    let (stops, since, before) = (AtomicBool::new(false), Instant::now(), door.desk.asked());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut wire = Wire::to(door.gateway.address);
                while !stops.load(Ordering::Acquire) {
                    let post = Post::call("echo").token(&format!("nobody-{}", fresh()));
                    let answer = wire.ask(&post.bytes(&door.gateway));
                    assert!([401, 503].contains(&answer.status()), "{}", answer.text());
                }
            });
        }
        // Long enough for what is known to be asked about again, several times.
        while since.elapsed() < Duration::from_secs(5) {
            known.iter().for_each(|token| door.passes(token));
        }
        stops.store(true, Ordering::Release);
    });
    let (asked, took) = (door.desk.asked() - before, since.elapsed());
    println!("{asked} questions in {took:?}");
    assert!(asked as f64 <= 200.0 * (took.as_secs_f64() + 1.0) + 50.0, "{asked} questions in {took:?}");
    assert!(known.iter().all(|token| door.desk.asked_about(token) >= 2), "those in use go first");
    assert!(door.upstream.calls().iter().all(|seen| !seen.value().is_empty()));
    door.passes(&door.token("carl"));
    door.checked();
}

/// An issuer without keys judges all of its tokens, signed ones too.
#[test]
fn an_issuer_without_keys_is_asked_about_everything() {
    let desk = Desk::new();
    let upstream = Plan::tools(&["echo"]).start();
    let issuer = json!({
        "issuer": ISSUER, "jwks": "off", "private": ["127.0.0.0/8"], "introspection": desk.introspection("60s"),
    });
    let setup = Setup::new().server("up", &upstream.url()).open();
    let gateway = setup.set("/auth", json!({ "anonymous": "deny", "issuers": [issuer] })).start();
    let signed = gateway.token(&Who::default());
    let refused = |token: &str| {
        let answer = Post::call("echo").token(token).to(&gateway);
        assert_eq!(answer.status(), 401, "{}", answer.text());
    };
    refused(&signed);
    assert_eq!(desk.asked_about(&signed), 1);
    let another = gateway.token(&Who { subject: "bob", ..Who::default() });
    let answer = json!({ "active": true, "sub": "bob", "aud": gateway.url("/mcp"), "jti": another });
    desk.says(&another, &answer);
    Post::call("echo").token(&another).echoed(&gateway);
    let stranger = gateway.sign(r#"{"alg":"ES256","typ":"at+jwt"}"#, r#"{"iss":"https://other.test","sub":"x"}"#);
    refused(&stranger);
    assert_eq!(desk.asked_about(&stranger), 0, "whose it is not is not asked");
    oracle::check(&gateway, &[("up", &upstream)]);
}

/// Whatever becomes of it, an opaque token is nowhere to be read, be it because its issuer repeats it.
#[test]
fn an_opaque_token_is_nowhere_to_be_read() {
    let door = Door::new("1s");
    let mark = "planted-opaque-token";
    let (good, bad, unsaid) = (format!("{mark}-good"), format!("{mark}-bad"), format!("{mark}-unsaid"));
    let mut answer = door.good("ada");
    (answer["jti"], answer["access_token"]) = (json!(good), json!([{ "token": good }]));
    door.desk.says(&good, &answer);
    door.desk.told().answers.insert(unsaid.clone(), format!("<{unsaid}>"));
    door.passes(&good);
    for token in [&bad, &unsaid] {
        let answer = door.call(token);
        assert!(!answer.text().contains(mark) && !format!("{:?}", answer.head).contains(mark), "{}", answer.text());
    }
    let metrics = Wire::to(door.gateway.admin)
        .ask(format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", door.gateway.admin).as_bytes());
    let records = door.checked();
    let said = [format!("{records:?}"), door.gateway.status().to_string(), metrics.text()];
    assert!(said.iter().all(|text| !text.contains(mark)), "it is told");
    assert_eq!(door.gateway.said(mark), 0, "it is logged");
    for file in walk(door.gateway.config().parent().expect("it is in a folder")) {
        let bytes = fs::read(&file).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, mark.as_bytes()).is_none(), "it is in {}", file.display());
    }
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
