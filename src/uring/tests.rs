//! The room as its users see it: every test on both drivers.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

use super::bell;
use super::buffer::{Buffer, Pool};
use super::ring::{Choice, Driver, sleep, spawn};
use super::socket::{Listener, Options, Peek, Socket};
use super::wait::{Timers, clock};
use crate::base::limits::TICK_MS;
use crate::base::time::Moment;

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// Runs `test` on each driver, on a thread of its own; one that hangs fails.
fn on_both(test: Test) {
    let mut drivers = vec![Driver::probe(Choice::Epoll).unwrap()];
    match Driver::probe(Choice::IoUring) {
        Ok(driver) => drivers.push(driver),
        Err(fault) => eprintln!("only half tested: {fault}"),
    }
    for driver in drivers {
        on(driver, test);
    }
}

fn on(driver: Driver, test: Test) {
    let (done, wait) = mpsc::channel();
    let name = driver.describe();
    let thread = std::thread::spawn(move || {
        driver.run(test()).unwrap();
        let _ = done.send(());
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs on {name}"),
        _ => assert!(thread.join().is_ok(), "fails on {name}"),
    }
}

fn ms(duration: u64) -> Duration {
    Duration::from_millis(duration)
}

fn here() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn after(more_ms: u64) -> Moment {
    clock().mono.plus_ms(more_ms)
}

fn timers() -> Timers {
    let timers = Timers::new();
    spawn(timers.clone().run());
    timers
}

fn pool() -> Pool {
    Pool::new(64 * 1024 * 1024)
}

fn buffer(pool: &Pool, bytes: &[u8]) -> Buffer {
    let mut buffer = pool.get(bytes.len()).unwrap();
    assert!(buffer.extend_from_slice(bytes));
    buffer
}

/// Two ends of a connection: who connected, who accepted.
async fn pair(listener: &Listener, timers: &Timers) -> (Socket, Socket) {
    let connect = Socket::connect(listener.local_addr(), timers, after(5_000));
    let client = connect.await.unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, server.peer_addr());
    (client, server)
}

async fn one_pair(timers: &Timers) -> (Socket, Socket) {
    pair(&Listener::bind(here(), Options::default()).unwrap(), timers).await
}

/// Receives exactly `len` bytes, or fewer when the stream ends.
async fn receive(socket: &Socket, pool: &Pool, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = pool.get(16 * 1024).unwrap();
    while all.len() < len {
        let (got, back) = socket.recv(buffer).await;
        buffer = back;
        if got.unwrap() == 0 {
            break;
        }
        all.extend_from_slice(&buffer);
        buffer.clear();
    }
    all
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

/// It took at least `wait_ms`, and not so much longer that a busy machine would not explain it.
fn took(start: Instant, wait_ms: u64) {
    let elapsed = start.elapsed();
    assert!((ms(wait_ms)..ms(wait_ms + 300)).contains(&elapsed), "{wait_ms} ms took {elapsed:?}");
}

/// Waits of 20 ms on a thread that is busy meanwhile: by the wall clock none is short; by the time that the thread
/// ran, half of them (in truth nearly all) end by `most_ms`, however many others want its core.
async fn punctual<F: Future<Output = ()>>(wait: impl Fn() -> F, most_ms: u64) {
    let mut ran = Vec::new();
    for _ in 0..11 {
        let (start, before) = (Instant::now(), time_on_core());
        wait().await;
        ran.push(time_on_core() - before);
        assert!(start.elapsed() >= ms(20), "{:?}", start.elapsed());
    }
    ran.sort_unstable();
    assert!(ran[ran.len() / 2] <= ms(most_ms), "{ran:?}");
}

/// How long this thread has been running (proc_pid_schedstat: the first number).
fn time_on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[test]
fn echo() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let echo_pool = pool.clone();
            spawn(async move {
                loop {
                    let (got, buffer) = server.recv(echo_pool.get(16 * 1024).unwrap()).await;
                    if got.unwrap() == 0 {
                        break;
                    }
                    server.send(buffer).await.0.unwrap();
                }
            });
            for len in [1, 100, 4_095, 4_096, 16_384, 70_000] {
                let sent = pattern(len);
                let (result, back) = client.send(buffer(&pool, &sent)).await;
                result.unwrap();
                assert_eq!(back[..], sent, "a buffer comes back as it was");
                assert_eq!(receive(&client, &pool, len).await, sent);
            }
            let (result, _) = client.send_slice(buffer(&pool, b"0123456789"), 3, 7).await;
            result.unwrap();
            assert_eq!(receive(&client, &pool, 4).await, b"3456");
            for (from, to) in [(4, 3), (0, 11)] {
                let (result, _) = client.send_slice(buffer(&pool, b"0123456789"), from, to).await;
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            }
            client.shutdown();
            sleep(ms(20)).await;
            assert_eq!(pool.lent(), 0, "every buffer went back");
        })
    });
}

#[test]
fn a_receive_appends_and_a_full_buffer_says_so() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            client.send(buffer(&pool, &pattern(5_000))).await.0.unwrap();
            let mut held = buffer(&pool, b"before");
            while held.spare() > 0 {
                let (got, back) = server.recv(held).await;
                held = back;
                assert!(got.unwrap() > 0);
            }
            assert_eq!(held.capacity(), 4_096);
            assert_eq!((&held[..6], &held[6..]), (&b"before"[..], &pattern(4_090)[..]));
            let (got, mut held) = server.recv(held).await;
            assert_eq!(got.unwrap_err().kind(), io::ErrorKind::StorageFull);
            held.consume(4_000);
            let (got, held) = server.recv(held).await;
            assert_eq!(got.unwrap(), 910);
            assert_eq!(held[96..], pattern(5_000)[4_090..]);
        })
    });
}

#[test]
fn a_receive_that_gives_up_ends_nothing() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            for round in 0..20_u8 {
                let (got, room) = server.recv_until(pool.get(16).unwrap(), &timers, after(20)).await;
                assert_eq!(got.unwrap_err().kind(), io::ErrorKind::TimedOut);
                assert!(room.is_empty() && !server.is_shutdown());
                // Bytes that come about the moment of giving up are in one of the two receives, never in none.
                let sender = client.clone();
                let bytes = buffer(&pool, &[round]);
                let wait = Duration::from_micros(19_500 + 50 * u64::from(round));
                spawn(async move {
                    sleep(wait).await;
                    sender.send(bytes).await.0.unwrap();
                });
                let (got, mut room) = server.recv_until(room, &timers, after(10)).await;
                if got.is_err() {
                    let (got, back) = server.recv(room).await;
                    assert_eq!(got.unwrap(), 1);
                    room = back;
                }
                assert_eq!(room[..], [round]);
            }
            client.shutdown();
            let (got, _) = server.recv_until(pool.get(16).unwrap(), &timers, after(5_000)).await;
            assert_eq!(got.unwrap(), 0);
            drop(server);
            timers.stop();
            settle().await;
            assert_eq!(pool.lent(), 0);
        })
    });
}

#[test]
fn four_megabytes_to_a_slow_reader() {
    on_both(|| {
        Box::pin(async {
            const LEN: usize = 4 * 1024 * 1024;
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let held = buffer(&pool, &pattern(LEN));
            let sending = monoio::spawn(async move { server.send(held).await.0 });
            sleep(ms(50)).await;
            assert!(!sending.is_finished(), "so much does not fit the kernel's buffers");
            let mut all = Vec::new();
            while all.len() < LEN {
                let piece = receive(&client, &pool, 200_000.min(LEN - all.len())).await;
                all.extend_from_slice(&piece);
                sleep(ms(2)).await;
            }
            sending.await.unwrap();
            assert!(all == pattern(LEN));
        })
    });
}

#[test]
fn both_directions_at_once() {
    on_both(|| {
        Box::pin(async {
            const LEN: usize = 3 * 1024 * 1024;
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let mut tasks = Vec::new();
            for socket in [client, server] {
                let (sender, held) = (socket.clone(), buffer(&pool, &pattern(LEN)));
                let pool = pool.clone();
                tasks.push(monoio::spawn(async move {
                    let sending = monoio::spawn(async move { sender.send(held).await.0 });
                    assert!(receive(&socket, &pool, LEN).await == pattern(LEN));
                    sending.await.unwrap();
                }));
            }
            for task in tasks {
                task.await;
            }
        })
    });
}

#[test]
fn a_deadline_ends_a_receive() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let start = Instant::now();
            let deadline = timers.deadline(&client, after(40));
            assert!(!deadline.fired());
            let (got, held) = client.recv(pool.get(1).unwrap()).await;
            assert_eq!((got.unwrap(), deadline.fired(), client.is_shutdown()), (0, true, true));
            took(start, 40);
            assert!(!deadline.reset(after(1_000)) && deadline.disarm());
            let (sent, _) = client.send(buffer(&pool, b"late")).await;
            assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            let (got, _) = server.recv(held).await;
            assert_eq!(got.unwrap(), 0, "the peer learns of it");
        })
    });
}

#[test]
fn a_deadline_ends_a_stalled_send() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, _server) = one_pair(&timers).await;
            let deadline = timers.deadline(&client, after(30));
            let (sent, _) = client.send(buffer(&pool, &pattern(16 * 1024 * 1024))).await;
            assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            assert!(deadline.fired());
        })
    });
}

#[test]
fn a_deadline_taken_back_or_moved_does_not_fire() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            drop(timers.deadline(&client, after(20)));
            assert!(!timers.deadline(&client, after(20)).disarm());
            let moved = timers.deadline(&client, after(20));
            assert!(moved.reset(Moment(u64::MAX)));
            sleep(ms(50)).await;
            assert!(!moved.fired() && !client.is_shutdown());
            server.send(buffer(&pool, b"still here")).await.0.unwrap();
            assert_eq!(receive(&client, &pool, 10).await, b"still here");
            let start = Instant::now();
            assert!(moved.reset(after(20)));
            assert_eq!(receive(&client, &pool, 1).await, b"");
            assert!(moved.fired());
            took(start, 20);
        })
    });
}

/// One after the other, earlier or later than the one before; and several at once.
#[test]
fn deadlines_of_one_socket_do_not_mix() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            for wait in [500, 20, 300, 60] {
                let (client, _server) = one_pair(&timers).await;
                // Where the wheel looks first, then, is not where the next one is due.
                drop(timers.deadline(&client, after(40)));
                let start = Instant::now();
                let deadline = timers.deadline(&client, after(wait));
                assert_eq!(client.recv(pool.get(1).unwrap()).await.0.unwrap(), 0);
                assert!(deadline.fired());
                took(start, wait);
            }
            let (client, _server) = one_pair(&timers).await;
            let start = Instant::now();
            let (far, near) = (timers.deadline(&client, after(5_000)), timers.deadline(&client, after(30)));
            let (got, _) = client.recv_until(pool.get(1).unwrap(), &timers, after(10)).await;
            assert_eq!(got.unwrap_err().kind(), io::ErrorKind::TimedOut);
            took(start, 10);
            assert!(!near.fired() && !client.is_shutdown());
            assert_eq!(client.recv(pool.get(1).unwrap()).await.0.unwrap(), 0);
            took(start, 30);
            assert!(near.fired() && !far.fired());
            assert!(near.disarm() && !far.disarm());
            timers.stop();
        })
    });
}

#[test]
fn stopping_a_listener_ends_its_accept() {
    on_both(|| {
        Box::pin(async {
            let timers = timers();
            let listener = Rc::new(Listener::bind(here(), Options::default()).unwrap());
            let waiting = listener.clone();
            let accept = monoio::spawn(async move { waiting.accept().await.map(|_| ()) });
            sleep(ms(20)).await;
            assert!(!accept.is_finished() && !listener.is_stopped());
            listener.stop();
            listener.stop();
            assert!(accept.await.is_err() && listener.is_stopped());
            assert!(listener.accept().await.is_err());
            let refused = Socket::connect(listener.local_addr(), &timers, after(1_000)).await;
            assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
        })
    });
}

/// [R2] What waits is accepted and closed, and the listener goes on.
#[test]
fn those_who_wait_can_be_turned_away() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let listener = Listener::bind(here(), Options::default()).unwrap();
            assert_eq!(listener.turn_away(8), 0);
            let mut waiting = Vec::new();
            for _ in 0..3 {
                waiting.push(Socket::connect(listener.local_addr(), &timers, after(2_000)).await.unwrap());
            }
            assert_eq!(listener.turn_away(2), 2);
            let (left, right) = (waiting.pop().unwrap(), listener.accept().await.unwrap().0);
            assert_eq!(left.peek_state(), Peek::Quiet);
            for gone in waiting {
                let (got, _) = gone.recv(pool.get(1).unwrap()).await;
                assert!(matches!(got, Ok(0) | Err(_)));
            }
            right.send(buffer(&pool, b"x")).await.0.unwrap();
            assert_eq!(receive(&left, &pool, 1).await, b"x");
            timers.stop();
        })
    });
}

#[test]
fn shards_share_an_address() {
    on_both(|| {
        Box::pin(async {
            let first = Listener::bind(here(), Options::default()).unwrap();
            assert!(Listener::bind(first.local_addr(), Options::default()).is_ok());
            let alone = Options { reuse_port: false, backlog: 16 };
            let fault = Listener::bind(first.local_addr(), alone).err().unwrap();
            assert_eq!(fault.kind(), io::ErrorKind::AddrInUse);
        })
    });
}

#[test]
fn a_connect_gives_up_at_its_deadline() {
    on_both(|| {
        Box::pin(async {
            let timers = timers();
            let (_full, addr) = full_listener();
            let start = Instant::now();
            let fault = Socket::connect(addr, &timers, after(50)).await.err().unwrap();
            assert_eq!(fault.kind(), io::ErrorKind::TimedOut);
            took(start, 50);
        })
    });
}

/// A listener that lets no further connection in: what is kept beside it fills its backlog.
fn full_listener() -> (Vec<socket2::Socket>, SocketAddr) {
    let kind = socket2::Type::STREAM;
    let listener = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
    listener.bind(&here().into()).unwrap();
    listener.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut kept = vec![listener];
    for _ in 0..8 {
        let filler = socket2::Socket::new(socket2::Domain::IPV4, kind.nonblocking(), None).unwrap();
        let _ = filler.connect(&addr);
        kept.push(filler);
    }
    (kept, addr.as_socket().unwrap())
}

#[test]
fn sockets_are_set_as_promised() {
    on_both(|| {
        Box::pin(async {
            let (client, server) = one_pair(&timers()).await;
            for socket in [client, server] {
                assert!(rustix::net::sockopt::tcp_nodelay(socket.fd()).unwrap());
                let kept = rustix::io::fcntl_getfd(socket.fd()).unwrap();
                assert_eq!(kept, FdFlags::CLOEXEC);
                let flags = rustix::fs::fcntl_getfl(socket.fd()).unwrap();
                let waits = !flags.contains(OFlags::NONBLOCK);
                assert_eq!(waits, !monoio::utils::is_legacy(), "only io_uring waits");
            }
        })
    });
}

#[test]
fn peeking_tells_quiet_bytes_and_closed() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            assert_eq!(client.peek_state(), Peek::Quiet);
            server.send(buffer(&pool, b"x")).await.0.unwrap();
            sleep(ms(5)).await;
            assert_eq!((client.peek_state(), client.peek_state()), (Peek::Bytes, Peek::Bytes));
            assert_eq!(receive(&client, &pool, 1).await, b"x");
            drop(server);
            sleep(ms(5)).await;
            assert_eq!(client.peek_state(), Peek::Closed);
            let (client, _server) = one_pair(&timers).await;
            client.shutdown();
            assert_eq!(client.peek_state(), Peek::Closed);
        })
    });
}

/// What had come before a receive was begun ahead is seen at once, though the kernel was not asked for it yet; and once it
/// was, by what ended after it, nobody asks any more.
#[test]
fn a_receive_that_is_not_out_yet_hides_nothing() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            assert_eq!(server.try_send(b"x").unwrap(), 1);
            client.recv_ahead(pool.get(16).unwrap());
            assert!(!client.is_watched());
            assert_eq!(client.peek_state(), Peek::Bytes);

            let (client, server) = one_pair(&timers).await;
            client.recv_ahead(pool.get(16).unwrap());
            assert_eq!((client.is_watched(), client.peek_state()), (false, Peek::Quiet));
            let (one, other) = one_pair(&timers).await;
            one.send(buffer(&pool, b"x")).await.0.unwrap();
            assert_eq!(client.is_watched(), !monoio::utils::is_legacy());
            assert_eq!(client.peek_state(), Peek::Quiet);
            drop((server, other));
            sleep(ms(5)).await;
            assert_eq!(client.peek_state(), Peek::Closed);
        })
    });
}

/// What was begun before anybody waited is the next receive, whatever room that brings; and nobody has to ask the kernel
/// whether something came.
#[test]
fn a_receive_begun_ahead_is_the_next_one() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            assert!(client.spare_buffer().is_none());
            client.recv_ahead(pool.get(16).unwrap());
            assert_eq!(client.peek_state(), Peek::Quiet);
            server.send(buffer(&pool, b"before")).await.0.unwrap();
            sleep(ms(5)).await;
            assert_eq!((client.peek_state(), client.peek_state()), (Peek::Bytes, Peek::Bytes));
            let (got, held) = client.recv(pool.get(16).unwrap()).await;
            assert_eq!((got.unwrap(), &held[..]), (6, &b"before"[..]));

            // Waited for before it comes, and into less room than there is of it.
            client.recv_ahead(client.spare_buffer().unwrap());
            let (sender, bytes) = (server.clone(), buffer(&pool, b"0123456789"));
            spawn(async move {
                sleep(ms(5)).await;
                sender.send(bytes).await.0.unwrap();
            });
            let (got, mut held) = client.recv(buffer(&pool, &[b'x'; 4_092])).await;
            assert_eq!((got.unwrap(), &held[4_092..]), (4, &b"0123"[..]));
            assert_eq!(client.recv(held).await.0.unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(client.peek_state(), Peek::Bytes);
            held = client.recv(pool.get(16).unwrap()).await.1;
            assert_eq!(held[..], *b"456789");
            held.clear();

            client.recv_ahead(held);
            drop(server);
            sleep(ms(5)).await;
            assert_eq!(client.peek_state(), Peek::Closed);
            assert_eq!(client.recv(pool.get(16).unwrap()).await.0.unwrap(), 0);

            // One that nobody waits for ends with its connection: shut down, or let go of.
            for shut in [true, false] {
                let (client, server) = one_pair(&timers).await;
                client.recv_ahead(pool.get(16).unwrap());
                if shut {
                    client.shutdown();
                    assert_eq!(client.peek_state(), Peek::Closed);
                }
                drop(client);
                assert_eq!(receive(&server, &pool, 1).await, b"");
            }
            timers.stop();
        })
    });
}

#[test]
fn a_kept_wait_sees_bytes_the_end_and_a_shutdown() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let mut wait = Box::pin(client.readable());
            assert!(poll_once(wait.as_mut()).await.is_pending());
            sleep(ms(5)).await;
            assert!(poll_once(wait.as_mut()).await.is_pending());
            server.send(buffer(&pool, b"x")).await.0.unwrap();
            wait.await.unwrap();
            client.readable().await.unwrap();
            assert_eq!(receive(&client, &pool, 1).await, b"x", "waiting takes nothing");

            let mut wait = Box::pin(client.readable());
            assert!(poll_once(wait.as_mut()).await.is_pending());
            drop(server);
            wait.await.unwrap();
            assert_eq!(client.peek_state(), Peek::Closed);

            let (client, _server) = one_pair(&timers).await;
            let mut wait = Box::pin(client.readable());
            assert!(poll_once(wait.as_mut()).await.is_pending());
            client.shutdown();
            wait.await.unwrap();
        })
    });
}

#[test]
fn dropping_what_is_in_flight_shuts_the_socket_down() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let mut wait = Box::pin(client.readable());
            assert!(poll_once(wait.as_mut()).await.is_pending());
            drop(wait);
            assert!(client.is_shutdown());
            assert_eq!(receive(&server, &pool, 1).await, b"");

            let (client, server) = one_pair(&timers).await;
            let mut receiving = Box::pin(client.recv(pool.get(1).unwrap()));
            assert!(poll_once(receiving.as_mut()).await.is_pending());
            drop(receiving);
            assert_eq!((pool.lent(), client.is_shutdown()), (0, true));
            assert_eq!(receive(&server, &pool, 1).await, b"");
        })
    });
}

#[test]
fn sleeps_keep_their_order_and_may_be_dropped() {
    on_both(|| {
        Box::pin(async {
            let timers = timers();
            let (start, order) = (Instant::now(), Rc::new(Cell::new(0)));
            let mut tasks = Vec::new();
            for (turn, wait) in [(2, 90), (0, 30), (1, 60)] {
                let (timers, order) = (timers.clone(), order.clone());
                tasks.push(monoio::spawn(async move {
                    timers.sleep_until(after(wait)).await;
                    assert_eq!(order.replace(turn + 1), turn);
                    took(start, wait);
                }));
            }
            let mut dropped = Box::pin(timers.sleep_until(after(10)));
            assert!(poll_once(dropped.as_mut()).await.is_pending());
            drop(dropped);
            timers.sleep_until(Moment(0)).await;
            for task in tasks {
                task.await;
            }
            timers.stop();
        })
    });
}

#[test]
fn the_sleep_loop_ends_when_told() {
    on_both(|| {
        Box::pin(async {
            let timers = Timers::new();
            let running = monoio::spawn(timers.clone().run());
            sleep(ms(5)).await;
            timers.stop();
            running.await;
        })
    });
}

#[test]
fn timers_are_on_time_beside_a_busy_connection() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let messages = Rc::new(Cell::new(0u32));
            for _ in 0..8 {
                ping_pong(one_pair(&timers).await, &pool, &messages);
            }
            punctual(|| sleep(ms(20)), 25).await;
            punctual(|| timers.sleep_until(after(20)), 20 + TICK_MS + 5).await;
            assert!(messages.get() > 1_000, "{}: it was meant to be busy", messages.get());
        })
    });
}

/// Two tasks that send one byte to and fro, for ever.
fn ping_pong((client, server): (Socket, Socket), pool: &Pool, messages: &Rc<Cell<u32>>) {
    for (socket, first) in [(client, true), (server, false)] {
        let (mut held, messages) = (buffer(pool, b"x"), messages.clone());
        spawn(async move {
            if first {
                held = socket.send(held).await.1;
            }
            loop {
                held.clear();
                let (got, back) = socket.recv(held).await;
                messages.set(messages.get() + u32::try_from(got.unwrap()).unwrap());
                held = socket.send(back).await.1;
            }
        });
    }
}

/// Tasks that keep each other awake without any I/O leave the runtime no time for its own timers; a look at the
/// clock per message keeps ours going.
#[test]
fn timers_fire_although_the_run_queue_never_empties() {
    on_both(|| {
        Box::pin(async {
            let timers = timers();
            let slots: [Rc<Cell<Option<Waker>>>; 2] = Default::default();
            let stop = Rc::new(Cell::new(false));
            for turn in 0..2 {
                let (mine, other) = (slots[turn].clone(), slots[1 - turn].clone());
                let (timers, stop) = (timers.clone(), stop.clone());
                spawn(poll_fn(move |cx| {
                    let _ = timers.now();
                    mine.set(Some(cx.waker().clone()));
                    other.take().into_iter().for_each(Waker::wake);
                    if stop.get() { Poll::Ready(()) } else { Poll::Pending }
                }));
            }
            punctual(|| timers.sleep_until(after(20)), 20 + TICK_MS + 5).await;
            stop.set(true);
            let waiting = slots.iter().filter_map(|slot| slot.take());
            waiting.for_each(Waker::wake);
        })
    });
}

#[test]
fn an_idle_shard_sleeps() {
    on_both(|| {
        Box::pin(async {
            let timers = timers();
            let (client, _server) = one_pair(&timers).await;
            let far = |_| timers.deadline(&client, after(60_000));
            let _idle: Vec<_> = (0..1_000).map(far).collect();
            sleep(ms(20)).await;
            let (before, ran) = (turns(), time_on_core());
            sleep(ms(500)).await;
            let (turns, ran) = (turns() - before, time_on_core() - ran);
            assert!(turns <= 10 && ran < ms(10), "{turns} turns, {ran:?}");
        })
    });
}

/// How often this thread was put on a core (the third number).
fn turns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.trim().split(' ').nth(2).unwrap().parse().unwrap()
}

/// More completions at once than the ring has places for: none is lost.
/// [R3] The kernel keeps what does not fit the ring.
#[test]
fn completions_beyond_the_ring_are_not_lost() {
    if let Err(fault) = Driver::probe(Choice::IoUring) {
        return eprintln!("not tested: {fault}");
    }
    let mut small = io_uring::IoUring::builder();
    small.setup_single_issuer().setup_coop_taskrun().setup_cqsize(256);
    let runtime = RuntimeBuilder::<IoUringDriver>::new().uring_builder(small);
    let mut runtime = runtime.with_entries(256).enable_timer().build().unwrap();
    runtime.block_on(async {
        const COUNT: usize = 2_000;
        let (timers, pool) = (timers(), pool());
        let (client, server) = one_pair(&timers).await;
        let woken = Rc::new(Cell::new(0));
        for _ in 0..COUNT {
            let (wait, woken) = (client.readable(), woken.clone());
            spawn(async move {
                wait.await.unwrap();
                woken.set(woken.get() + 1);
            });
        }
        sleep(ms(20)).await;
        assert_eq!(woken.get(), 0);
        server.send(buffer(&pool, b"x")).await.0.unwrap();
        for _ in 0..100 {
            if woken.get() == COUNT {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("{} of {COUNT} were woken", woken.get());
    });
}

/// In a process of its own, where nobody else opens files.
#[test]
fn descriptors_return_to_their_level() {
    const MARK: &str = "PORTCULLIS_TEST_DESCRIPTORS";
    if std::env::var_os(MARK).is_some() {
        let _ = super::cpu::raise_file_limit();
        return on_both(|| Box::pin(descriptors()));
    }
    let path = module_path!();
    let name = format!("{}::descriptors_return_to_their_level", &path[path.find("::").unwrap() + 2..]);
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args([&name, "--exact", "--nocapture"]).env(MARK, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

async fn descriptors() {
    let (timers, pool) = (timers(), pool());
    let listener = Listener::bind(here(), Options::default()).unwrap();
    settle().await;
    let level = open_files().len();
    many_waits(&listener, &timers, &pool).await;
    settle().await;
    assert_eq!(open_files().len(), level, "1,000 connections with kept waits");

    let full = full_listener();
    let with_full = open_files().len();
    let connects: Vec<_> = (0..50)
        .map(|_| {
            let timers = timers.clone();
            monoio::spawn(async move { Socket::connect(full.1, &timers, after(60)).await.map(|_| ()) })
        })
        .collect();
    sleep(ms(20)).await;
    assert!(open_files().len() >= with_full + 50);
    for connect in connects {
        assert_eq!(connect.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    settle().await;
    assert_eq!(open_files().len(), with_full, "connects that time out");
    drop(full);
    assert_eq!(open_files().len(), level);

    let listeners: Vec<_> = (0..50).map(|_| Rc::new(Listener::bind(here(), Options::default()).unwrap())).collect();
    let accepts: Vec<_> = listeners
        .iter()
        .map(|listener| {
            let listener = listener.clone();
            monoio::spawn(async move { listener.accept().await.map(|_| ()) })
        })
        .collect();
    sleep(ms(5)).await;
    listeners.iter().for_each(|listener| listener.stop());
    for accept in accepts {
        accept.await.unwrap_err();
    }
    drop(listeners);
    settle().await;
    assert_eq!(open_files().len(), level, "accepts that were stopped");
    assert_eq!(pool.lent(), 0);
}

/// 1,000 connections whose both ends are waited on, and end in each of the ways there are.
async fn many_waits(listener: &Listener, timers: &Timers, pool: &Pool) {
    for _ in 0..5 {
        let mut kept = Vec::new();
        for way in 0..200 {
            let (client, server) = pair(listener, timers).await;
            let mut wait: Pin<Box<dyn Future<Output = io::Result<()>>>> = Box::pin(client.readable());
            assert!(poll_once(wait.as_mut()).await.is_pending());
            let mut receiving = Box::pin(async {
                let (socket, held) = (server.clone(), pool.get(1).unwrap());
                socket.recv(held).await.0
            });
            if way % 5 == 4 {
                assert!(poll_once(receiving.as_mut()).await.is_pending());
            }
            drop(receiving);
            kept.push((way % 5, wait, client, server));
        }
        assert!(open_files().len() > 400);
        for (way, wait, client, server) in kept {
            match way {
                // The peer goes; we shut down and wait; we shut down and drop; we only drop; and last, the peer had
                // dropped a receive in flight.
                0 => {
                    drop(server);
                    wait.await.unwrap();
                }
                1 => {
                    client.shutdown();
                    wait.await.unwrap();
                }
                2 => {
                    client.shutdown();
                    drop(wait);
                }
                3 => drop(wait),
                _ => wait.await.unwrap(),
            }
        }
    }
}

/// Until the closes that were handed to the kernel are done.
async fn settle() {
    sleep(ms(50)).await;
}

fn open_files() -> Vec<i32> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

#[test]
fn a_try_waits_for_nothing() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let mut held = buffer(&pool, b"before");
            assert_eq!(server.try_recv(&mut held).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!(held[..], *b"before");
            assert_eq!(client.try_send(b" and after").unwrap(), 10);
            server.readable().await.unwrap();
            assert_eq!(server.try_recv(&mut held).unwrap(), 10);
            assert_eq!(held[..], *b"before and after");
            // As much as the kernel takes, and then no more; the receiver gets what fits.
            let much = pattern(64 * 1024);
            while client.try_send(&much).is_ok() {}
            assert_eq!(client.try_send(&much).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            server.readable().await.unwrap();
            assert_eq!(server.try_recv(&mut held).unwrap(), 4_096 - 16);
            assert_eq!(server.try_recv(&mut held).unwrap_err().kind(), io::ErrorKind::StorageFull);
            server.shutdown();
            assert!(server.try_send(b"x").is_err());
        })
    });
}

/// Each ring is heard, however many come at once; and what was written before it is there.
#[test]
fn a_bell_wakes_a_shard_from_another_thread() {
    const RINGS: usize = 2_000;
    on_both(|| {
        Box::pin(async {
            let (bell, ear) = bell::pair().unwrap();
            let said = Arc::new(AtomicUsize::new(0));
            let listening = ear.listen().unwrap();
            let ringers: Vec<_> = {
                let bell = Arc::new(bell);
                let ringer = |_| {
                    let (bell, said) = (bell.clone(), said.clone());
                    std::thread::spawn(move || {
                        for turn in 0..RINGS {
                            said.fetch_add(1, Ordering::Relaxed);
                            bell.ring();
                            if turn % 64 == 0 {
                                std::thread::sleep(ms(1));
                            }
                        }
                        bell
                    })
                };
                (0..2).map(ringer).collect()
            };
            // Would hang where the last ring is lost.
            while said.load(Ordering::Relaxed) < 2 * RINGS {
                assert!(listening.rung().await);
            }
            let bells: Vec<_> = ringers.into_iter().map(|ringer| ringer.join().unwrap()).collect();
            bells[0].ring();
            assert!(listening.rung().await);
            // Stopped while it waits.
            let ended = Rc::new(Cell::new(false));
            let (waiting, mark) = (listening.clone(), ended.clone());
            spawn(async move { mark.set(!waiting.rung().await) });
            sleep(ms(10)).await;
            assert!(!ended.get());
            listening.stop();
            while !ended.get() {
                sleep(ms(1)).await;
            }
            assert!(!listening.rung().await);
        })
    });
}

/// A connection that was given away is another shard's, stored wait and all: what this one still does to its handle
/// does nothing to it.
#[test]
fn a_connection_moves_between_shards() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let (client, server) = one_pair(&timers).await;
            let mut wait = Box::pin(server.readable());
            let pending = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_pending())).await;
            assert!(pending);
            let guard = timers.deadline(&server, after(20));
            let given = server.give().unwrap();
            drop(wait);
            drop(guard);
            server.shutdown_read();
            server.shutdown_write();
            server.shutdown();
            assert!(server.is_shutdown());
            drop(server);
            let epoll = monoio::utils::is_legacy();
            let there = std::thread::spawn(move || {
                let driver = Driver::probe(if epoll { Choice::Epoll } else { Choice::IoUring }).unwrap();
                let moved = driver.run(async move {
                    let pool = self::pool();
                    let server = Socket::take(given).unwrap();
                    assert!(!server.is_deaf());
                    let got = receive(&server, &pool, 4).await;
                    server.send(buffer(&pool, &got)).await.0.unwrap();
                    server.shutdown_read();
                    let given = server.give().unwrap();
                    drop(server);
                    given
                });
                moved.unwrap()
            });
            client.send(buffer(&pool, b"ping")).await.0.unwrap();
            assert_eq!(receive(&client, &pool, 4).await, b"ping");
            // And back again, with what was done to it.
            let server = Socket::take(there.join().unwrap()).unwrap();
            assert!(server.is_deaf());
            server.send(buffer(&pool, b"pong")).await.0.unwrap();
            assert_eq!(receive(&client, &pool, 4).await, b"pong");
            drop(server);
            assert!(receive(&client, &pool, 1).await.is_empty());
        })
    });
}
