//! Good calls beside tokens that name keys which their issuer does not have: how often its keys are asked for, and what the
//! tokens cost.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::measure::{Cpu, Schedule};
use crate::rig::gateway::{self, Gateway, ISSUER};
use crate::rig::sink::Sink;
use crate::traffic::{Calls, Era};
use crate::{exchange, net};

use super::calls::{TRIED, VERIFY_PERCENT_MAX, beside};
use super::report::Report;
use super::storm::Storm;
use super::{Bench, PATIENCE, Part};

/// Tokens a second.
const RATE: u32 = 10_000;
/// Between two looks at an issuer's keys that unknown ones lead to.
const LOOK: Duration = Duration::from_secs(30);

/// Beside tokens whose key ids nobody knows.
pub(super) fn beside_key_ids(bench: &Bench<'_>, part: Part, report: &mut Report) -> anyhow::Result<()> {
    let sink = Sink::start()?;
    let gateway = bench.answering(start(bench, &sink)?)?;
    let (began, before) = (Instant::now(), sink.keys());
    let cost = one(bench, &gateway)?;
    report.add(part, "one such token", cost / 1e3, "µs of CPU", None);
    let (address, connections) = (bench.shape(&gateway, 1, Era::Modern).target.address, bench.options.connections);
    let mut strange = Some(Strange::new(bench, &gateway)?);
    let mut pace = Pace::new(RATE);
    let mut start = || {
        let mut strange = strange.take().context("it starts once")?;
        let mut pace = std::mem::replace(&mut pace, Pace::new(RATE));
        Storm::requests(address, connections, move |out| {
            pace.wait();
            strange.write(out);
        })
    };
    let (tally, _, time) = beside(bench, part, &gateway, &mut start, report)?;
    let fetches = sink.keys() - before;
    anyhow::ensure!(sink.odd() == 0, "{} requests that nobody expected", sink.odd());
    let most = 1 + began.elapsed().as_secs() / LOOK.as_secs();
    let rate = tally.all() as f64 / time.as_secs_f64();
    report.add(part, "tokens answered beside good calls", rate, "/s", None);
    report.add(part, "looks at the keys since the first of them", fetches as f64, "", Some(most as f64));
    report.add(part, "what they cost, of the shard's time", rate * cost / 1e7, "%", Some(VERIFY_PERCENT_MAX));
    Ok(())
}

/// A gateway that has its issuer's keys from a URL.
fn start(bench: &Bench<'_>, sink: &Sink) -> anyhow::Result<Gateway> {
    let setup = bench.setup(&[], None);
    let file = "jwks: { file: ./issuer.jwks.json }\n";
    let url = format!("jwks: {{ url: \"http://127.0.0.1:{}/keys\" }}\n      private: [127.0.0.0/8]\n", sink.port);
    gateway::start_as(&setup, bench.folder, &[gateway::PATH], &|base, port| {
        let keys = bench.folder.path().join(format!("portcullis-{port}")).join("issuer.jwks.json");
        // Without it no call is answered, and the gateway says why.
        sink.give(std::fs::read(keys).unwrap_or_default());
        gateway::config(&setup, base, port, bench.server_port).replacen(file, &url, 1)
    })
}

/// CPU time of one such token, nanoseconds: less that of something that is no token at all.
fn one(bench: &Bench<'_>, gateway: &Gateway) -> anyhow::Result<f64> {
    let pids = gateway.process.family();
    let mut strange = Strange::new(bench, gateway)?;
    let mut socket = net::connect(bench.shape(gateway, 0, Era::Modern).target.address, PATIENCE)?;
    let mut request = Vec::new();
    // The first one has the keys looked at.
    strange.write(&mut request);
    exchange::exchange(&mut socket, &request)?;
    let mut cost = |no_token: bool| {
        strange.no_token = no_token;
        let before = Cpu::read(&pids, "shard-")?;
        for _ in 0..TRIED {
            request.clear();
            strange.write(&mut request);
            let status = exchange::exchange(&mut socket, &request)?.status();
            anyhow::ensure!(matches!(status, 401 | 503), "an unknown key was answered {status}");
        }
        anyhow::Ok(Cpu::read(&pids, "shard-")?.since(&before).serving as f64 / f64::from(TRIED))
    };
    let (none, whole) = (cost(true)?, cost(false)?);
    Ok((whole - none).max(0.0))
}

/// Holds a thread to a rate.
struct Pace {
    schedule: Schedule,
    start: Option<Instant>,
    sent: u64,
}

impl Pace {
    fn new(rate: u32) -> Self {
        Self { schedule: Schedule::new(rate), start: None, sent: 0 }
    }

    fn wait(&mut self) {
        let start = *self.start.get_or_insert_with(|| {
            net::sharpen_timers();
            Instant::now()
        });
        let due = start + self.schedule.due(self.sent);
        self.sent += 1;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Calls with tokens that say all that a good one says, each signed with another key that nobody knows. Every other one
/// says that it was issued just now: its key may be newer than the issuer's that were read.
struct Strange {
    before: Vec<u8>,
    after: Vec<u8>,
    audience: String,
    calls: Calls,
    no_token: bool,
}

impl Strange {
    fn new(bench: &Bench<'_>, gateway: &Gateway) -> anyhow::Result<Self> {
        let shape = bench.shape(gateway, 0, Era::Modern);
        let bytes = shape.call(None)?.bytes;
        let token = shape.token.context("a call carries no token")?;
        let at = memchr::memmem::find(&bytes, token.as_bytes()).context("a call carries no token")?;
        let audience = format!("http://{}{}", shape.target.host, shape.target.path);
        let (before, after) = (bytes[..at].to_vec(), bytes[at + token.len()..].to_vec());
        Ok(Self { before, after, audience, calls: Calls::new(), no_token: false })
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before);
        if self.no_token {
            out.push(b'x');
        } else if let Some(call) = self.calls.next() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let issued = if call.id % 2 == 0 { now } else { now.saturating_sub(3_600) };
            let header = format!(r#"{{"typ":"at+jwt","alg":"ES256","kid":"{:016x}"}}"#, call.value);
            let claims = format!(
                r#"{{"iss":"{ISSUER}","aud":"{}","sub":"good","client_id":"loadtest","iat":{issued},"exp":{},"jti":"{:016x}"}}"#,
                self.audience,
                now + 3_600,
                call.value
            );
            base64url(header.as_bytes(), out);
            out.push(b'.');
            base64url(claims.as_bytes(), out);
            out.push(b'.');
            // 64 bytes, as an ES256 signature has (RFC 7518, 3.4).
            base64url(&call.value.to_be_bytes().repeat(8), out);
        }
        out.extend_from_slice(&self.after);
    }
}

/// RFC 4648, 5, without padding.
fn base64url(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..=three.len() {
            out.push(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_without_padding() {
        for (plain, coded) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy"), ("~~~?", "fn5-Pw")]
        {
            let mut out = Vec::new();
            base64url(plain.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).expect("ASCII"), coded);
        }
    }

    #[test]
    fn no_two_tokens_have_a_key_in_common() {
        let (before, after) = (b"<".to_vec(), b">".to_vec());
        let calls = Calls::new();
        let mut strange = Strange { before, after, audience: "http://x/".to_owned(), calls, no_token: false };
        let mut write = || {
            let mut out = Vec::new();
            strange.write(&mut out);
            String::from_utf8(out).expect("ASCII")
        };
        let (first, second) = (write(), write());
        assert_eq!(first.len(), second.len(), "the head's length of the body holds for all");
        let header = |token: &str| token.split('.').next().map(str::to_owned);
        assert_ne!(header(&first), header(&second));
        assert_eq!(first.matches('.').count(), 2);
        assert!(first.starts_with('<') && first.ends_with('>'));
    }
}
