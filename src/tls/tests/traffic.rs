//! Bytes both ways, and the ways a connection ends.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::*;
use crate::uring::socket::Peek;

#[test]
fn both_versions_as_server_and_as_client() {
    on_both(|| {
        Box::pin(async {
            for versions in [TLS12, TLS13] {
                as_server(versions).await;
                as_client(versions).await;
            }
        })
    });
}

async fn as_server(versions: &'static [&'static SupportedProtocolVersion]) {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    let (listener, pool) = (listener(), pool());
    let addr = listener.local_addr();
    let mut peer = peer_client(&authority, versions, None);
    peer.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = thread::spawn(move || {
        let mut client = dial(addr, peer, "one.example.com");
        for len in LENGTHS {
            client.write_all(&pattern(*len)).unwrap();
            let mut back = vec![0; *len];
            client.read_exact(&mut back).unwrap();
            assert!(back == pattern(*len));
        }
        assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).unwrap(), 0, "a clean end");
    });
    let (socket, _) = listener.accept().await.unwrap();
    let stream = Stream::accept(socket, &config, &pool).await.unwrap();
    assert!(stream.is_tls() && !stream.client_verified());
    assert_eq!(stream.server_name().as_deref(), Some("one.example.com"));
    for len in LENGTHS {
        let got = receive(&stream, &pool, *len, 16 * 1024).await;
        assert!(got == pattern(*len));
        send(&stream, &pool, &got).await;
    }
    assert_eq!(receive_once(&stream, &pool).await.unwrap(), b"", "a clean end");
    assert_eq!(receive_once(&stream, &pool).await.unwrap(), b"", "and again");
    stream.shutdown();
    join(client).await;
    assert_eq!(pool.lent(), 0, "every buffer went back");
}

async fn as_client(versions: &'static [&'static SupportedProtocolVersion]) {
    let authority = Authority::new("root");
    let issued = authority.issue(&["server.example.com", "127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut peer = peer_server(&issued, versions);
    peer.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let peer = Arc::new(peer);
    let server = thread::spawn(move || {
        for name in [Some("server.example.com"), None] {
            let (socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut server = StreamOwned::new(ServerConnection::new(peer.clone()).unwrap(), socket);
            for len in LENGTHS {
                let mut got = vec![0; *len];
                server.read_exact(&mut got).unwrap();
                server.write_all(&got).unwrap();
            }
            assert_eq!(server.conn.server_name(), name);
            assert_eq!(server.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            let mut rest = Vec::new();
            assert_eq!(server.read_to_end(&mut rest).unwrap(), 0, "a clean end");
        }
    });
    let (timers, pool) = (timers(), pool());
    let config = client_config(Roots::Given(authority.pem().as_bytes()), None).unwrap();
    for name in ["server.example.com", "127.0.0.1"] {
        let side = ClientSide { config: config.clone(), name: server_name(name).unwrap() };
        let socket = Socket::connect(addr, &timers, clock().mono.plus_ms(10_000)).await.unwrap();
        let stream = Stream::connect(socket, &side, &pool).await.unwrap();
        for len in LENGTHS {
            send(&stream, &pool, &pattern(*len)).await;
            assert!(receive(&stream, &pool, *len, 100_000).await == pattern(*len));
        }
        stream.shutdown();
    }
    join(server).await;
    assert_eq!(pool.lent(), 0, "every buffer went back");
}

/// Around the sizes of records and buffers.
const LENGTHS: &[usize] = &[1, 100, 4_000, 4_096, 16_384, 16_385, 70_000, 300_000];

/// A receive and a send at once, in both directions at once, each far more than the kernel holds.
#[test]
fn both_directions_at_once() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, authority) = (timers(), pool(), Authority::new("root"));
            let (client, server) = pair(&authority, &pool, &timers).await;
            let done = Rc::new(());
            for stream in [client.clone(), server.clone()] {
                let (pool, done) = (pool.clone(), done.clone());
                spawn(async move {
                    // In pieces that fit no record.
                    for piece in pattern(MEBIBYTES).chunks(150_001) {
                        send(&stream, &pool, piece).await;
                    }
                    drop(done);
                });
                let _ = &timers;
            }
            let received = Rc::new(());
            for (stream, room) in [(client.clone(), 4_096), (server.clone(), 100_000)] {
                let (pool, received) = (pool.clone(), received.clone());
                spawn(async move {
                    assert!(receive(&stream, &pool, MEBIBYTES, room).await == pattern(MEBIBYTES));
                    drop(received);
                });
            }
            until(|| Rc::strong_count(&done) == 1 && Rc::strong_count(&received) == 1).await;
            assert_eq!(client.peek_state(), Peek::Quiet);
            client.shutdown();
            until(|| server.peek_state() == Peek::Closed).await;
            server.shutdown();
            assert_eq!(pool.lent(), 0, "every buffer went back");
        })
    });
}

const MEBIBYTES: usize = 3 * 1024 * 1024 + 17;

/// A message that was cut must not look complete (RFC 8446, 6.1): neither to us nor to the peer.
#[test]
fn a_cut_is_no_end() {
    on_both(|| {
        Box::pin(async {
            for versions in [TLS12, TLS13] {
                let authority = Authority::new("root");
                let issued = authority.issue(&["one.example.com"]);
                let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
                let (listener, pool) = (listener(), pool());
                let addr = listener.local_addr();
                let peer = peer_client(&authority, versions, None);
                let client = thread::spawn(move || {
                    for _ in 0..2 {
                        let mut client = dial(addr, peer.clone(), "one.example.com");
                        client.write_all(b"half a mess").unwrap();
                        let mut all = Vec::new();
                        client.sock.shutdown(std::net::Shutdown::Write).unwrap();
                        let end = client.read_to_end(&mut all);
                        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "dropped, not shut down");
                        assert_eq!(all, b"answ");
                    }
                });
                for _ in 0..2 {
                    let (socket, _) = listener.accept().await.unwrap();
                    let stream = Stream::accept(socket, &config, &pool).await.unwrap();
                    assert_eq!(receive_once(&stream, &pool).await.unwrap(), b"half a mess");
                    for _ in 0..2 {
                        let cut = receive_once(&stream, &pool).await.unwrap_err();
                        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
                    }
                    assert_eq!(stream.peek_state(), Peek::Closed);
                    send(&stream, &pool, b"answ").await;
                }
                join(client).await;
            }
        })
    });
}

/// Our own shutdown ends a receive, and not with the end of the message.
#[test]
fn a_shutdown_ends_what_is_in_flight() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, authority) = (timers(), pool(), Authority::new("root"));
            let (client, server) = pair(&authority, &pool, &timers).await;
            let guard = timers.deadline(server.socket(), clock().mono.plus_ms(30));
            assert_eq!(receive_once(&server, &pool).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert!(guard.disarm());
            let (sent, _) = server.send(buffer(&pool, b"more")).await;
            assert!(sent.is_err());
            assert_eq!(receive_once(&client, &pool).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(pool.lent(), 0);
        })
    });
}

/// The write side ends with a farewell, and the other goes on.
#[test]
fn half_a_connection_goes_on() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, authority) = (timers(), pool(), Authority::new("root"));
            let (client, server) = pair(&authority, &pool, &timers).await;
            client.shutdown_write();
            assert_eq!(receive_once(&server, &pool).await.unwrap(), b"");
            send(&server, &pool, b"still here").await;
            assert_eq!(receive_once(&client, &pool).await.unwrap(), b"still here");
            assert!(client.send(buffer(&pool, b"no")).await.0.is_err());
            server.shutdown();
            assert_eq!(receive_once(&client, &pool).await.unwrap(), b"");
        })
    });
}

/// A look takes what is there and keeps it; what is the protocol's own is nothing.
#[test]
fn a_look_tells_bytes_from_talk() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, authority) = (timers(), pool(), Authority::new("root"));
            let (client, server) = pair(&authority, &pool, &timers).await;
            // The server's ticket is on its way, or here.
            for _ in 0..20 {
                assert_eq!(client.peek_state(), Peek::Quiet);
                sleep(Duration::from_millis(1)).await;
            }
            send(&server, &pool, b"one").await;
            until(|| client.peek_state() == Peek::Bytes).await;
            assert_eq!(client.peek_state(), Peek::Bytes);
            client.readable().await.unwrap();
            send(&server, &pool, &pattern(50_000)).await;
            assert_eq!(client.peek_state(), Peek::Bytes);
            let all = receive(&client, &pool, 50_003, 30).await;
            assert!(all[..3] == *b"one" && all[3..] == pattern(50_000));
            assert_eq!(client.peek_state(), Peek::Quiet);
            assert_eq!(pool.lent(), 0, "nothing is held by who waits");
            server.shutdown();
            client.readable().await.unwrap();
            assert_eq!(client.peek_state(), Peek::Closed);
            assert_eq!(receive_once(&client, &pool).await.unwrap(), b"");
        })
    });
}

/// The wait for bytes is over with bytes, and not with the peer's key update or ticket.
#[test]
fn a_wait_is_for_bytes() {
    on_both(|| {
        Box::pin(async {
            let authority = Authority::new("root");
            let issued = authority.issue(&["one.example.com"]);
            let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
            let (listener, pool) = (listener(), pool());
            let addr = listener.local_addr();
            let peer = peer_client(&authority, TLS13, None);
            let (go, wait) = mpsc::channel();
            let client = thread::spawn(move || {
                let mut client = dial(addr, peer, "one.example.com");
                client.flush().unwrap();
                client.conn.refresh_traffic_keys().unwrap();
                client.flush().unwrap();
                wait.recv().unwrap();
                client.write_all(b"now").unwrap();
                let mut answer = [0; 3];
                client.read_exact(&mut answer).unwrap();
                answer
            });
            let (socket, _) = listener.accept().await.unwrap();
            let stream = Stream::accept(socket, &config, &pool).await.unwrap();
            let over = Rc::new(());
            spawn({
                let (stream, over) = (stream.clone(), over.clone());
                async move {
                    stream.readable().await.unwrap();
                    drop(over);
                }
            });
            for _ in 0..50 {
                assert_eq!(Rc::strong_count(&over), 2, "a key update is no bytes");
                sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(pool.lent(), 0, "who waits holds nothing");
            go.send(()).unwrap();
            until(|| Rc::strong_count(&over) == 1).await;
            assert_eq!(stream.peek_state(), Peek::Bytes);
            send(&stream, &pool, &receive_once(&stream, &pool).await.unwrap()).await;
            assert_eq!(&join(client).await, b"now");
        })
    });
}

/// Keys change while both sides talk (RFC 8446, 4.6.3): every byte arrives, in order.
#[test]
fn keys_change_on_the_way() {
    on_both(|| {
        Box::pin(async {
            let authority = Authority::new("root");
            let issued = authority.issue(&["one.example.com"]);
            let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
            let (listener, pool) = (listener(), pool());
            let addr = listener.local_addr();
            let peer = peer_client(&authority, TLS13, None);
            let client = thread::spawn(move || {
                let mut client = dial(addr, peer, "one.example.com");
                for round in 0..40 {
                    client.write_all(&pattern(20_000)).unwrap();
                    if round % 3 != 2 {
                        client.conn.refresh_traffic_keys().unwrap();
                    }
                    let mut back = vec![0; 20_000];
                    client.read_exact(&mut back).unwrap();
                    assert!(back == pattern(20_000));
                }
            });
            let (socket, _) = listener.accept().await.unwrap();
            let stream = Stream::accept(socket, &config, &pool).await.unwrap();
            for _ in 0..40 {
                // Answers begin before all of the question is here, so that updates meet a send.
                let mut left = 20_000;
                while left > 0 {
                    let piece = receive(&stream, &pool, 1, 4_000).await;
                    send(&stream, &pool, &piece).await;
                    left -= piece.len();
                }
            }
            join(client).await;
        })
    });
}

/// A receive that gives up loses nothing, be it in the middle of a record.
#[test]
fn a_receive_gives_up_and_loses_nothing() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, authority) = (timers(), pool(), Authority::new("root"));
            let issued = authority.issue(&["one.example.com"]);
            let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
            let listener = listener();
            let addr = listener.local_addr();
            let peer = peer_client(&authority, TLS13, None);
            let (go, wait) = mpsc::channel();
            let client = thread::spawn(move || {
                let mut client = dial(addr, peer, "one.example.com");
                client.flush().unwrap();
                client.conn.writer().write_all(&pattern(1_000)).unwrap();
                let mut records = Vec::new();
                client.conn.write_tls(&mut records).unwrap();
                // All but the last byte, then that.
                let (first, last) = records.split_at(records.len() - 1);
                client.sock.write_all(first).unwrap();
                wait.recv().unwrap();
                client.sock.write_all(last).unwrap();
                wait.recv().unwrap();
            });
            let (socket, _) = listener.accept().await.unwrap();
            let stream = Stream::accept(socket, &config, &pool).await.unwrap();
            let mut held = pool.get(4_096).unwrap();
            for _ in 0..3 {
                let (got, back) = stream.recv_until(held, &timers, clock().mono.plus_ms(30)).await;
                assert_eq!(got.unwrap_err().kind(), io::ErrorKind::TimedOut);
                held = back;
                assert!(held.is_empty());
                assert_eq!(stream.peek_state(), Peek::Quiet, "a part of a record is nothing");
            }
            go.send(()).unwrap();
            let (got, held) = stream.recv_until(held, &timers, clock().mono.plus_ms(20_000)).await;
            assert_eq!(got.unwrap(), 1_000);
            assert!(held[..] == pattern(1_000));
            go.send(()).unwrap();
            join(client).await;
        })
    });
}

/// What plain connections pay for the choice.
#[test]
fn plain_connections_pay_little() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool) = (timers(), pool());
            let listener = listener();
            let connect = Socket::connect(listener.local_addr(), &timers, clock().mono.plus_ms(10_000));
            let client = Stream::plain(connect.await.unwrap());
            let (server, _) = listener.accept().await.unwrap();
            let server = Stream::plain(server);
            assert!(!client.is_tls() && server.server_name().is_none() && !server.client_verified());
            send(&client, &pool, b"hello").await;
            server.readable().await.unwrap();
            assert_eq!(server.peek_state(), Peek::Bytes);
            assert_eq!(receive_once(&server, &pool).await.unwrap(), b"hello");
            let sizes = |stream: &Stream| {
                let socket = stream.socket();
                let of = |a: usize, b: usize| (a, b);
                [
                    of(
                        size_of_val(&socket.recv(pool.get(1).unwrap())),
                        size_of_val(&stream.recv(pool.get(1).unwrap())),
                    ),
                    of(
                        size_of_val(&socket.send(pool.get(1).unwrap())),
                        size_of_val(&stream.send(pool.get(1).unwrap())),
                    ),
                    of(size_of_val(&socket.readable()), size_of_val(&stream.readable())),
                ]
            };
            for (socket, stream) in sizes(&client) {
                println!("a future of {socket} bytes has {stream} bytes");
                assert!(stream <= socket + 200, "{socket} -> {stream}");
            }
            assert_eq!(size_of::<Stream>(), 16);
            client.shutdown();
            assert_eq!(receive_once(&server, &pool).await.unwrap(), b"");
            assert!(Instant::now().elapsed() < PATIENCE);
        })
    });
}
