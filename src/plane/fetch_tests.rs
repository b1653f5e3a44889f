//! What the plane fetches, from servers on loopback that do as each test says.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use super::*;

/// Answers one connection, whose request it is given.
type Script = dyn Fn(&str, &mut std::net::TcpStream) + Send + Sync;

/// A server that answers each connection by itself; its URL.
fn server(script: impl Fn(&str, &mut std::net::TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let script: Arc<Script> = Arc::new(script);
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let script = script.clone();
            thread::spawn(move || {
                let request = request(&mut socket);
                script(&request, &mut socket);
            });
        }
    });
    url
}

/// A request with its body.
fn request(socket: &mut std::net::TcpStream) -> String {
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    loop {
        let n = socket.read(&mut piece).unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&piece[..n]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            assert!(n > 0, "no whole head: {text}");
            continue;
        };
        let length =
            head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if n == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

/// A server that says this whatever it hears.
fn says(bytes: impl Into<Vec<u8>>) -> String {
    let bytes = bytes.into();
    server(move |_, socket| _ = socket.write_all(&bytes))
}

fn local() -> GuardSettings {
    GuardSettings { private: vec![Network::parse("127.0.0.0/8").unwrap()], ca: None }
}

fn check(bytes: impl Into<Vec<u8>>, want: Result<(u16, &str), FetchFault>) {
    let got = Fetcher::new().get(&says(bytes), &local(), "application/json");
    let got = got.map(|it| (it.status, String::from_utf8_lossy(it.body.reveal()).into_owned()));
    assert_eq!(got, want.map(|(status, body)| (status, body.to_owned())));
}

#[test]
fn answers_are_read_whole_or_not_at_all() {
    let body = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let most = "x".repeat(FETCH_BYTES_MAX);
    check(body("{}"), Ok((200, "{}")));
    check(body(&most), Ok((200, &most)));
    check(body(&format!("{most}x")), Err(FetchFault::TooLarge));
    check("HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno", Ok((404, "no")));
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", Ok((200, "{}")));
    check("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", Err(FetchFault::BadAnswer));
    check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}", Err(FetchFault::BadAnswer));
    check("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", Err(FetchFault::BadAnswer));
    for status in [301, 302, 303, 304, 307, 308] {
        let to = format!("HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n");
        check(to, Err(FetchFault::Redirect));
    }
    let fields = "a: b\r\n".repeat(FETCH_HEAD_BYTES_MAX / 6 + 1);
    let large = Fetcher::new().get(&says(format!("HTTP/1.1 200 OK\r\n{fields}\r\n")), &local(), "*/*").unwrap_err();
    assert!(matches!(large, FetchFault::TooLarge | FetchFault::BadAnswer), "{large:?}");
    for junk in ["", "x", "HTTP/1.1 \r\n\r\n", "SSH-2.0-x\r\n"] {
        check(junk, Err(FetchFault::BadAnswer));
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreached = Fetcher::new().get(&format!("http://{nobody}/"), &local(), "*/*");
    assert_eq!(unreached.unwrap_err(), FetchFault::Unreachable);
    let refused = Fetcher::new().get("http://127.0.0.1:1/", &GuardSettings::default(), "*/*");
    assert_eq!(refused.unwrap_err(), FetchFault::Url(UrlFault::Address));
}

#[test]
fn what_is_said_beside_the_body() {
    let of = |fields: &str| {
        let url = says(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"));
        let got = Fetcher::new().get(&url, &local(), "*/*").unwrap();
        (got.content_type, got.max_age_s)
    };
    assert_eq!(of(""), (String::new(), None));
    let fields = "content-type: Application/JWK-Set+JSON; charset=utf-8\r\ncache-control: public, MAX-AGE=\"600\"\r\n";
    assert_eq!(of(fields), ("application/jwk-set+json".to_owned(), Some(600)));
    assert_eq!(of("cache-control: max-age=60, no-store\r\n").1, Some(0));
    assert_eq!(of("cache-control: s-maxage=60, max-age=-1\r\n").1, None);
}

#[test]
fn a_form_is_posted_as_it_is() {
    let url = server(|request, socket| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let said = format!("{}|{body}", head.to_ascii_lowercase().replace("\r\n", "|"));
        let _ = write!(socket, "HTTP/1.1 400 Bad\r\ncontent-length: {}\r\n\r\n{said}", said.len());
    });
    let (key, form) = (Secret::from("Basic dTpw"), Secret::from("grant_type=x&y=%20"));
    let got = Fetcher::new().post_form(&url, &local(), &[("authorization", &key)], &form).unwrap();
    let said = String::from_utf8_lossy(got.body.reveal()).into_owned();
    assert_eq!(got.status, 400);
    for words in [
        "post /x http/1.1|",
        "|authorization: basic dtpw|",
        "|content-type: application/x-www-form-urlencoded|",
        "|accept: application/json|",
        "|content-length: 18|",
        "|grant_type=x&y=%20",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said.matches("|content-type:").count(), 1, "{said}");
    let odd = Secret::from("a\r\nb: c");
    let fault = Fetcher::new().post_form(&url, &local(), &[("authorization", &odd)], &form).unwrap_err();
    assert_eq!(fault, FetchFault::BadRequest);
}

/// One that says nothing, one that never ends, and one that says a letter now and then: five seconds each, in all.
#[test]
fn nobody_is_waited_for_longer() {
    let silent = server(|_, _| thread::sleep(Duration::from_secs(20)));
    let drip = |ahead: &'static str| {
        server(move |_, socket| {
            let mut going = socket.write_all(ahead.as_bytes()).is_ok();
            while going {
                thread::sleep(Duration::from_millis(100));
                going = socket.write_all(b"x").is_ok();
            }
        })
    };
    let urls = [silent, drip("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"), drip("HTTP/1.1 200 OK\r\na: ")];
    let fetcher = Fetcher::new();
    thread::scope(|scope| {
        for url in &urls {
            let fetcher = &fetcher;
            scope.spawn(move || {
                let since = Instant::now();
                assert_eq!(fetcher.get(url, &local(), "*/*").unwrap_err(), FetchFault::Timeout);
                let took = since.elapsed();
                assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(15), "{took:?}");
            });
        }
    });
}

#[test]
fn one_document_of_a_host_at_a_time_and_some_tokens() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let url = server(move |_, socket| {
        highest.fetch_max(counted.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
        thread::sleep(Duration::from_millis(50));
        counted.fetch_sub(1, Ordering::AcqRel);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let fetcher = Fetcher::new();
    let all = |one: &(dyn Fn() -> Result<Fetched, FetchFault> + Sync)| {
        thread::scope(|scope| (0..16).for_each(|_| _ = scope.spawn(|| one().map(|_| ()).unwrap())));
        most.swap(0, Ordering::AcqRel)
    };
    assert_eq!(all(&|| fetcher.get(&url, &local(), "*/*")), 1);
    let tokens = all(&|| fetcher.post_form(&url, &local(), &[], &Secret::from("a=b")));
    assert!((2..=FETCH_TOKENS_PER_HOST).contains(&tokens), "{tokens}");
    assert!(locked(&fetcher.turns.under_way).is_empty(), "nothing is left of them");
}

/// Says of any name what is next in the list.
#[derive(Debug)]
struct Told(Mutex<Vec<Vec<&'static str>>>);

impl Names for Told {
    fn look_up(&self, _: &str, port: u16, _: Duration) -> Result<Vec<SocketAddr>, FetchFault> {
        let addresses = locked(&self.0).remove(0);
        Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
    }
}

#[test]
fn every_address_of_a_name_is_judged_each_time() {
    let check = |addresses: &[&'static str], private: &[&str], want: Option<&str>| {
        let names: Arc<Told> = Arc::new(Told(Mutex::new(vec![addresses.to_vec()])));
        let private = private.iter().map(|text| Network::parse(text).unwrap()).collect();
        let guarded = Guarded { private, names: names.clone() };
        let got = guarded.addresses("https://idp.example.com:8443/keys", Duration::ZERO);
        let bad = want.map(|bad| FetchFault::Address(bad.parse().unwrap()));
        let wanted: Vec<SocketAddr> = addresses.iter().map(|it| SocketAddr::new(it.parse().unwrap(), 8443)).collect();
        assert_eq!(got, bad.map_or(Ok(wanted), Err), "{addresses:?}");
        assert!(locked(&names.0).is_empty(), "it is looked up once");
    };
    check(&["8.8.8.8", "2606:4700::1"], &[], None);
    for bad in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "100.64.0.1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ] {
        check(&[bad], &[], Some(bad));
        check(&["8.8.8.8", bad], &[], Some(bad));
    }
    check(&["10.0.0.1", "8.8.8.8"], &["10.0.0.0/8"], None);
    check(&["10.0.0.1", "127.0.0.1"], &["10.0.0.0/8"], Some("127.0.0.1"));

    // A name that changes its answer is judged by the one that is connected to.
    let names = Arc::new(Told(Mutex::new(vec![vec!["8.8.8.8"], vec!["127.0.0.1"]])));
    let guarded = Guarded { private: Arc::default(), names };
    let ask = || guarded.addresses("https://idp.example.com/", Duration::ZERO);
    assert_eq!(ask().map(|found| found.len()), Ok(1));
    assert_eq!(ask(), Err(FetchFault::Address("127.0.0.1".parse().unwrap())));
}

#[test]
fn what_is_no_name_is_not_looked_up() {
    let names = Arc::new(Told(Mutex::default()));
    let guarded = Guarded { private: local().private.into(), names };
    let ask = |url: &str| guarded.addresses(url, Duration::ZERO).map(|found| format!("{found:?}"));
    assert_eq!(ask("https://localhost:1/"), Ok("[127.0.0.1:1]".to_owned()));
    assert_eq!(ask("https://a.localhost/"), Ok("[127.0.0.1:443]".to_owned()));
    assert_eq!(ask("https://0x7f.1/"), Ok("[127.0.0.1:443]".to_owned()));
    assert_eq!(ask("https://[::1]/"), Err(FetchFault::Url(UrlFault::Address)));
}

#[test]
fn a_file_of_authorities_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let guard = GuardSettings { ca: Some(path.clone()), ..local() };
    let fetcher = Fetcher::new();
    let url = says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let fault = fetcher.get(&url, &guard, "*/*").unwrap_err();
    assert!(matches!(&fault, FetchFault::Authorities { path, .. } if path.ends_with("ca.pem")), "{fault:?}");
    fs::write(&path, "no PEM").unwrap();
    assert!(matches!(fetcher.get(&url, &guard, "*/*").unwrap_err(), FetchFault::Authorities { .. }));
    let certified = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
    fs::write(&path, certified.cert.pem()).unwrap();
    assert_eq!(fetcher.get(&url, &guard, "*/*").unwrap().status, 200);
    fs::remove_file(&path).unwrap();
    assert!(matches!(fetcher.get(&url, &guard, "*/*").unwrap_err(), FetchFault::Authorities { .. }));
}
