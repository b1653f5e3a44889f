//! What a peer can make us hold, and what we do when there is nothing left to hold it in.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::thread;

use super::*;
use crate::base::limits::TLS_HANDSHAKE_BYTES_MAX;
use crate::tls::fault::TlsFault;

/// A client's connection to us on which it sends these bytes, and what comes of the handshake.
async fn accept_raw(bytes: Vec<u8>, pool: &Pool) -> TlsFault {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    let listener = listener();
    let addr = listener.local_addr();
    let client = thread::spawn(move || {
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // We may have gone before it has sent everything.
        let _ = client.write_all(&bytes);
        let _ = io::copy(&mut client, &mut io::sink());
    });
    let (socket, _) = listener.accept().await.unwrap();
    let guard = timers().deadline(&socket, clock().mono.plus_ms(20_000));
    let fault = Stream::accept(socket, &config, pool).await.err().unwrap();
    assert!(!guard.disarm(), "only the deadline ended it: {fault}");
    join(client).await;
    fault
}

/// Endless empty records, and hellos larger than any: rustls' limits and our own.
#[test]
fn floods_during_the_handshake() {
    on_both(|| {
        Box::pin(async {
            let pool = pool();
            let empty = [22, 3, 1, 0, 0].repeat(10_000);
            assert!(matches!(accept_raw(empty, &pool).await, TlsFault::Protocol(_)));
            // Nothing but the beginnings of alerts that mean nothing.
            let warnings = [21, 3, 1, 0, 2, 1, 90].repeat(10_000);
            assert!(matches!(accept_raw(warnings, &pool).await, TlsFault::Protocol(_)));
            // A hello that says it has 16 MiB.
            let mut huge = vec![22, 3, 1, 0, 100, 1, 0xff, 0xff, 0xff];
            huge.resize(105, 0);
            assert!(matches!(accept_raw(huge, &pool).await, TlsFault::Protocol(_)));
            // One that rustls would take, and that is larger than we hold for a stranger.
            let mut large = Vec::new();
            let mut message = vec![1, 0, 0xf0, 0];
            message.resize(0xf000 + 4, 7);
            for piece in message.chunks(1_000) {
                large.extend_from_slice(&[22, 3, 1]);
                large.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
                large.extend_from_slice(piece);
            }
            assert!(large.len() > 2 * TLS_HANDSHAKE_BYTES_MAX);
            assert!(matches!(accept_raw(large, &pool).await, TlsFault::TooLarge));
            assert_eq!(pool.lent(), 0);
            assert!(pool.bytes() < 128 * 1024, "{}", pool.bytes());
        })
    });
}

/// [T3] A handshake that does not go on ends with its deadline, wherever it stands.
#[test]
fn a_handshake_has_a_deadline() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, listener) = (timers(), pool(), listener());
            let authority = Authority::new("root");
            let issued = authority.issue(&["one.example.com"]);
            let config = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
            for sent in [0, 1, 100, usize::MAX] {
                let mut socket = TcpStream::connect(listener.local_addr()).unwrap();
                let name = ServerName::try_from("one.example.com").unwrap();
                let peer = Arc::new(peer_client(&authority, TLS13, None));
                let mut hello = Vec::new();
                ClientConnection::new(peer, name).unwrap().write_tls(&mut hello).unwrap();
                socket.write_all(&hello[..sent.min(hello.len())]).unwrap();
                let (accepted, _) = listener.accept().await.unwrap();
                let guard = timers.deadline(&accepted, clock().mono.plus_ms(40));
                let fault = Stream::accept(accepted, &config, &pool).await.err().unwrap();
                assert!(matches!(fault, TlsFault::Cut), "{fault}");
                assert!(guard.disarm());
                assert_eq!(pool.lent(), 0);
            }
        })
    });
}

/// Key updates without end are not for us to answer (RFC 8446, 4.6.3): rustls stops at 32 in a row.
#[test]
fn a_flood_of_key_updates_ends() {
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
                client.read_exact(&mut [0]).unwrap();
                for _ in 0..1_000 {
                    client.conn.refresh_traffic_keys().unwrap();
                    if client.flush().is_err() {
                        break;
                    }
                }
                let _ = io::copy(&mut client.sock, &mut io::sink());
            });
            let (socket, _) = listener.accept().await.unwrap();
            let stream = Stream::accept(socket, &config, &pool).await.unwrap();
            send(&stream, &pool, b"!").await;
            let fault = receive_once(&stream, &pool).await.unwrap_err();
            assert_eq!(fault.kind(), io::ErrorKind::InvalidData, "{fault}");
            assert!(fault.to_string().contains("KeyUpdate"), "{fault}");
            assert_eq!(pool.lent(), 0);
            stream.shutdown();
            join(client).await;
        })
    });
}

/// A pool without room is an error, never growth; what was received stays, and is received when there is room.
#[test]
fn a_pool_without_room() {
    on_both(|| {
        Box::pin(async {
            let (timers, authority) = (timers(), Authority::new("root"));
            let tight = Pool::new(40 * 1024);
            let (client, server) = pair(&authority, &tight, &timers).await;
            let ample = pool();
            let (sent, _) = client.send(buffer(&ample, &pattern(60_000))).await;
            assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
            send(&client, &ample, b"short").await;
            let held: Vec<Buffer> = std::iter::from_fn(|| tight.get(1)).collect();
            let (got, empty) = server.recv(ample.get(4_096).unwrap()).await;
            assert_eq!(got.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
            assert_eq!(server.send(buffer(&ample, b"x")).await.0.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
            assert_ne!(server.peek_state(), crate::uring::socket::Peek::Quiet, "what is not known is not quiet");
            server.readable().await.unwrap();
            assert!(tight.bytes() <= 40 * 1024);
            drop(held);
            let (got, all) = server.recv(empty).await;
            assert_eq!((got.unwrap(), &all[..]), (5, &b"short"[..]));
            send(&server, &ample, b"back").await;
            assert_eq!(receive_once(&client, &ample).await.unwrap(), b"back");
        })
    });
}

/// A record that finds no room for its bytes waits for it, and the send beside it is not confused.
#[test]
fn a_record_waits_for_room() {
    on_both(|| {
        Box::pin(async {
            let (timers, authority) = (timers(), Authority::new("root"));
            let tight = Pool::new(200 * 1024);
            let (client, server) = pair(&authority, &tight, &timers).await;
            let ample = pool();
            // More than the receiver asks for, so that the rest must be kept.
            send(&client, &ample, &pattern(16_000)).await;
            let mut all = receive(&server, &ample, 4_096, 4_096).await;
            let held: Vec<Buffer> = std::iter::from_fn(|| tight.get(1)).collect();
            all.extend(receive(&server, &ample, 11_904, 4_096).await);
            assert!(all == pattern(16_000), "what is kept needs no more room");
            drop(held);
            send(&server, &ample, b"ok").await;
            assert_eq!(receive_once(&client, &ample).await.unwrap(), b"ok");
            assert_eq!(tight.lent(), 0);
        })
    });
}

/// A peer that does not read holds up its own answers, and a receive goes on beside that.
#[test]
fn a_peer_that_does_not_read() {
    on_both(|| {
        Box::pin(async {
            let (timers, pool, authority) = (timers(), pool(), Authority::new("root"));
            let (client, server) = pair(&authority, &pool, &timers).await;
            let stuck = Rc::new(());
            spawn({
                let (server, pool, stuck) = (server.clone(), pool.clone(), stuck.clone());
                async move {
                    let (sent, _) = server.send(buffer(&pool, &pattern(16 * 1024 * 1024))).await;
                    assert!(sent.is_err());
                    drop(stuck);
                }
            });
            for round in 0..20 {
                send(&client, &pool, &pattern(10_000 + round)).await;
                assert!(receive(&server, &pool, 10_000 + round, 4_096).await == pattern(10_000 + round));
            }
            assert_eq!(Rc::strong_count(&stuck), 2, "it is still sending");
            let held = pool.bytes();
            assert!(held < 24 * 1024 * 1024, "what is encrypted ahead is one piece: {held}");
            server.shutdown();
            until(|| Rc::strong_count(&stuck) == 1).await;
        })
    });
}

/// [R6] [T3] The length in a record's header is only announced: it takes no more room than as much again as has come.
#[test]
fn what_is_only_announced_takes_no_room() {
    on_both(|| {
        Box::pin(async {
            let (timers, authority, pool) = (timers(), Authority::new("root"), pool());
            let (client, server) = pair(&authority, &pool, &timers).await;
            let level = pool.lent_bytes();
            assert_eq!(client.socket().try_send(b"\x17\x03\x03\x40\x00").unwrap(), 5);
            let (waiting, held) = (server.clone(), pool.get(4_096).unwrap());
            spawn(async move {
                let _ = waiting.recv(held).await;
            });
            sleep(Duration::from_millis(100)).await;
            let taken = pool.lent_bytes() - level;
            assert!((4_096..4 * 4_096).contains(&taken), "{taken} bytes for five");
            server.shutdown();
            client.shutdown();
        })
    });
}

/// A session that waits holds what rustls needs to know, and no buffer. Measured in a process of its own: memory is
/// the process's.
#[test]
fn an_idle_session_is_small() {
    const CHILD: &str = "PORTCULLIS_TEST_IDLE_SESSIONS";
    if std::env::var_os(CHILD).is_some() {
        return measure_idle_sessions();
    }
    let name = "tls::tests::bounds::an_idle_session_is_small";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    let each: Vec<&str> = said.lines().filter(|line| line.contains("bytes each")).collect();
    println!("{}", each.join("\n"));
    assert_eq!(each.len(), 3, "{said}");
}

fn measure_idle_sessions() {
    let authority = Authority::new("root");
    let issued = authority.issue(&["one.example.com"]);
    let ca = authority.pem();
    let asking = server_config(&[issued.pem()], Some(ca.as_bytes()), ClientCert::Require).unwrap();
    let plain = server_config(&[issued.pem()], None, ClientCert::None).unwrap();
    // Nothing is let go of in between: the next case would use its memory.
    let mut kept = Vec::new();
    for (what, versions, config) in
        [("TLS 1.2", TLS12, &plain), ("TLS 1.3", TLS13, &plain), ("TLS 1.3, client certificate", TLS13, &asking)]
    {
        let pool = pool();
        let one = || {
            let client = peer_client(&authority, versions, Some(&issued));
            let mut table = super::handshake::Table::new(client, "one.example.com", config, &pool);
            table.finish().unwrap();
            assert!(table.server.take_outgoing().is_none());
            table.server
        };
        let warm: Vec<_> = (0..50).map(|_| one()).collect();
        let before = resident_bytes();
        let sessions: Vec<_> = (0..1_000).map(|_| one()).collect();
        let each = resident_bytes().saturating_sub(before) / sessions.len();
        println!("{what}: {each} bytes each");
        assert_eq!(pool.lent(), 0, "an idle session holds no buffer");
        assert!(each > 0 && each <= 12 * 1024, "{what}: {each} bytes");
        kept.push((warm, sessions));
    }
}

/// Of this process (proc_pid_status), in steps of a KiB.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}
