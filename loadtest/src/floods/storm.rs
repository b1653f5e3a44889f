//! Floods: each runs on a thread of its own until it is told to stop, and says what it was answered.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::net::{self, Interest, Poll};
use crate::reply::Reader;

use super::PATIENCE;

const TICK: Duration = Duration::from_millis(10);
/// Each slow connection sends one byte in so many ticks: one a second.
const TURN: usize = 100;
const READ_BYTES: usize = 16 << 10;

/// What came of a flood; of the time since it was last asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Answers by status.
    pub(super) answers: BTreeMap<u16, u64>,
    /// Connections that were made anew.
    pub(super) reopened: u64,
}

/// A flood under way.
pub(super) struct Storm {
    ended: Arc<AtomicBool>,
    tally: Arc<std::sync::Mutex<Tally>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What a thread of a flood works with.
struct Work {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    tally: Arc<std::sync::Mutex<Tally>>,
}

impl Storm {
    /// Requests as `write` makes them, as fast as they are answered, over `connections` connections.
    pub(super) fn requests(
        address: SocketAddr,
        connections: u32,
        write: impl FnMut(&mut Vec<u8>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        Self::start(address, move |work| requests(&work, connections, write))
    }

    /// `connections` connections that send `opening` and then a byte a second, and are made anew when they are ended.
    pub(super) fn slow(address: SocketAddr, connections: u32, opening: Vec<u8>, byte: u8) -> anyhow::Result<Self> {
        Self::start(address, move |work| slow(&work, connections, &opening, byte))
    }

    /// Connections of one address: `kept` of them stay, and more are opened one after the other.
    pub(super) fn connections(address: SocketAddr, kept: u32) -> anyhow::Result<Self> {
        Self::start(address, move |work| churn(&work, kept))
    }

    fn start(
        address: SocketAddr,
        run: impl FnOnce(Work) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let tally = Arc::default();
        let work = Work { address, ended: Arc::clone(&ended), tally: Arc::clone(&tally) };
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(move || {
            // It shares a core with the good calls and their server, and would else measure the scheduler.
            net::step_back();
            run(work)
        });
        Ok(Self { ended, tally, thread: Some(thread.context("a thread")?) })
    }

    /// What came of it since it was last asked.
    pub(super) fn tally(&self) -> Tally {
        self.tally.lock().map(|mut tally| std::mem::take(&mut *tally)).unwrap_or_default()
    }

    /// Ends it.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |ended| ended.unwrap_or_else(|_| Err(anyhow::anyhow!("a flood failed"))))
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Tally {
    pub(super) fn of(&self, status: u16) -> u64 {
        self.answers.get(&status).copied().unwrap_or(0)
    }

    pub(super) fn all(&self) -> u64 {
        self.answers.values().sum()
    }
}

impl Work {
    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    fn note(&self, note: impl FnOnce(&mut Tally)) {
        if let Ok(mut tally) = self.tally.lock() {
            note(&mut tally);
        }
    }

    fn answered(&self, status: u16) {
        self.note(|tally| *tally.answers.entry(status).or_default() += 1);
    }

    /// A connection that does not block. The gateway may refuse it, or be slower than we are.
    fn open(&self, number: usize) -> io::Result<TcpStream> {
        let source = u8::try_from(1 + number % 16).unwrap_or(1);
        let socket = net::connect_from(source, self.address, PATIENCE)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

struct Line {
    socket: TcpStream,
    reader: Reader,
}

fn requests(work: &Work, connections: u32, mut write: impl FnMut(&mut Vec<u8>)) -> anyhow::Result<()> {
    let mut poll = Poll::new()?;
    let mut request = Vec::new();
    let mut send = |socket: &mut TcpStream| {
        request.clear();
        write(&mut request);
        // Far below what the kernel takes at once.
        socket.write_all(&request).is_ok()
    };
    let mut lines = Vec::new();
    for key in 0..connections as usize {
        let mut socket = work.open(key).context("a flood's connection")?;
        send(&mut socket);
        poll.add(&socket, key, Interest::Read)?;
        lines.push(Line { socket, reader: Reader::default() });
    }
    let (mut keys, mut piece) = (Vec::new(), vec![0; READ_BYTES]);
    while work.goes_on() {
        poll.wait(TICK, &mut keys)?;
        for key in &keys {
            let line = &mut lines[*key];
            if line.read(&mut piece, work) && send(&mut line.socket) {
                continue;
            }
            let Ok(mut socket) = work.open(*key) else {
                // Refused by the kernel for the moment: the old one says so again the next time.
                continue;
            };
            work.note(|tally| tally.reopened += 1);
            send(&mut socket);
            poll.add(&socket, *key, Interest::Read)?;
            *line = Line { socket, reader: Reader::default() };
        }
    }
    Ok(())
}

impl Line {
    /// Takes what has come. `true` when the answer is whole and the connection goes on; while it is not whole, it waits
    /// for more here: answers of a gateway come at once.
    fn read(&mut self, piece: &mut [u8], work: &Work) -> bool {
        loop {
            match self.socket.read(piece) {
                Ok(read) if read > 0 => self.reader.input().extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && work.goes_on() => {
                    std::thread::yield_now();
                    continue;
                }
                _ => return false,
            }
            match self.reader.advance() {
                Ok(true) => {
                    work.answered(self.reader.status());
                    let closes = self.reader.closes();
                    self.reader.clear();
                    return !closes;
                }
                Ok(false) => {}
                Err(_) => return false,
            }
        }
    }
}

fn slow(work: &Work, connections: u32, opening: &[u8], byte: u8) -> anyhow::Result<()> {
    let open = |number: usize| {
        let mut socket = work.open(number)?;
        socket.write_all(opening)?;
        Ok::<_, io::Error>(socket)
    };
    let mut sockets = Vec::new();
    for number in 0..connections as usize {
        sockets.push(open(number).context("a flood's connection")?);
    }
    let mut piece = vec![0; READ_BYTES];
    let mut turn = 0;
    let mut due = Instant::now();
    while work.goes_on() {
        for number in (turn..sockets.len()).step_by(TURN) {
            let socket = &mut sockets[number];
            let over = match socket.read(&mut piece) {
                Ok(read) => {
                    if let Some(status) = status(&piece[..read]) {
                        work.answered(status);
                    }
                    true
                }
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if (over || socket.write_all(&[byte]).is_err())
                && let Ok(socket) = open(number)
            {
                work.note(|tally| tally.reopened += 1);
                sockets[number] = socket;
            }
        }
        turn = (turn + 1) % TURN;
        due += TICK;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn churn(work: &Work, kept: u32) -> anyhow::Result<()> {
    let kept: anyhow::Result<Vec<TcpStream>> =
        (0..kept).map(|_| Ok(net::connect_from(200, work.address, PATIENCE)?)).collect();
    let _kept = kept.context("a flood's connection")?;
    let mut piece = vec![0; READ_BYTES];
    while work.goes_on() {
        let Ok(mut socket) = net::connect_from(200, work.address, Duration::from_secs(2)) else { continue };
        match socket.read(&mut piece) {
            // Just closed counts too; a connection that is let in says nothing, and is given up after two seconds.
            Ok(read) => work.answered(status(&piece[..read]).unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => work.note(|tally| tally.reopened += 1),
            Err(_) => work.answered(0),
        }
    }
    Ok(())
}

/// The status of an answer whose beginning this is.
fn status(bytes: &[u8]) -> Option<u16> {
    std::str::from_utf8(bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers `answer` to whatever comes on each connection, and closes after `each` requests.
    fn server(answer: &'static [u8], each: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        // Ends with the test's process.
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut piece = [0; 1024];
                    for _ in 0..each {
                        if !matches!(socket.read(&mut piece), Ok(read) if read > 0) || socket.write_all(answer).is_err()
                        {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn until(storm: &Storm, enough: impl Fn(&Tally) -> bool) -> Tally {
        let over = Instant::now() + PATIENCE;
        let mut sum = Tally::default();
        while !enough(&sum) {
            assert!(Instant::now() < over, "{sum:?}");
            std::thread::sleep(TICK);
            let more = storm.tally();
            sum.reopened += more.reopened;
            for (status, count) in more.answers {
                *sum.answers.entry(status).or_default() += count;
            }
        }
        sum
    }

    #[test]
    fn statuses() {
        assert_eq!(status(b"HTTP/1.1 503 Service Unavailable\r\n"), Some(503));
        assert_eq!(status(b"HTTP/1.1 50"), None);
        assert_eq!(status(b"HTTP/1.0 200 OK"), None);
        assert_eq!(status(b""), None);
    }

    #[test]
    fn requests_are_counted_by_answer() {
        let address = server(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nno", 5);
        let storm = Storm::requests(address, 3, |out| out.extend_from_slice(b"x")).expect("a thread");
        let tally = until(&storm, |tally| tally.of(429) >= 50 && tally.reopened > 0);
        assert_eq!(tally.all(), tally.of(429), "{tally:?}");
        storm.end().expect("it ends");
    }

    #[test]
    fn slow_connections_are_made_anew() {
        let address = server(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", 1);
        let storm = Storm::slow(address, 4, b"GET /".to_vec(), b'x').expect("a thread");
        let tally = until(&storm, |tally| tally.reopened >= 4);
        assert!(tally.of(408) >= 4, "{tally:?}");
        storm.end().expect("it ends");
    }
}
