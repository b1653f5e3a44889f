//! The plane's client against https servers.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::config::Scheme;
use crate::http::head::Method;
use crate::plane::client::{ClientFault, Heard, Target, ask, listen};
use crate::tls::config::{Roots, client_config, server_name};
use crate::uring::wait::clock;

/// A server's side, and what its clients need to trust it.
fn sides(name: &str) -> (Arc<ServerConfig>, ClientSide) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(cert.pem().as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let roots = cert.pem();
    let config = client_config(Roots::Given(roots.as_bytes()), None).unwrap();
    (Arc::new(builder.with_single_cert(chain, key).unwrap()), ClientSide { config, name: server_name(name).unwrap() })
}

fn target(address: SocketAddr, side: &ClientSide) -> Target {
    let (host, path) = ("x".to_owned(), "/mcp".to_owned());
    let (scheme, tls) = (Scheme::Https, Some(side.clone()));
    Target { addresses: vec![address], host, path, scheme, tls, shown: None, way: None }
}

/// Takes one connection, and reads a request's head on it.
fn serve(listener: &TcpListener, config: &Arc<ServerConfig>) -> io::Result<StreamOwned<ServerConnection, TcpStream>> {
    let (socket, _) = listener.accept()?;
    let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"POST /mcp HTTP/1.1\r\nhost: x\r\n"));
    Ok(stream)
}

fn put(target: &Target) -> Result<Vec<u8>, ClientFault> {
    ask(target, Method::Post, &[], Some(b""), |_| true).map(|response| response.messages.concat())
}

#[test]
fn answers_come_encrypted() {
    let (server, side) = sides("server.example.com");
    let (_, stranger) = sides("server.example.com");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = vec![b'7'; 100_000];
    let thread = thread::spawn({
        let body = body.clone();
        move || {
            let mut stream = serve(&listener, &server).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
            stream.write_all(&body).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the plane says farewell");
            // An answer that ends with the connection, which was cut.
            let mut stream = serve(&listener, &server).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").unwrap();
            stream.sock.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0]);
            // One that did not.
            let mut stream = serve(&listener, &server).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nwhole").unwrap();
            stream.conn.send_close_notify();
            stream.flush().unwrap();
            let _ = stream.read(&mut [0]);
            serve(&listener, &server).map(drop).unwrap_err().to_string()
        }
    });
    assert!(put(&target(address, &side)).unwrap() == body);
    assert!(matches!(put(&target(address, &side)), Err(ClientFault::Cut)));
    assert_eq!(put(&target(address, &side)).unwrap(), b"whole");
    let fault = put(&target(address, &stranger)).unwrap_err().to_string();
    assert!(fault.contains("certificate"), "{fault}");
    let heard = thread.join().unwrap();
    assert!(heard.contains("alert"), "the server is told: {heard}");
}

/// A stream in pieces of records: what is decrypted already is not waited for, and what is no event is no end.
#[test]
fn streams_come_encrypted() {
    let (server, side) = sides("server.example.com");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, wait) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let mut stream = serve(&listener, &server).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\ndata: 2\n\n").unwrap();
        wait.recv().unwrap();
        stream.conn.refresh_traffic_keys().unwrap();
        stream.flush().unwrap();
        wait.recv().unwrap();
        stream.write_all(b"data: 3\n\n").unwrap();
        let _ = stream.read(&mut [0]);
    });
    let (bell, _ring) = io::pipe().unwrap();
    let bell = bell.into();
    let mut stream = listen(&target(address, &side), Method::Post, &[], Some(b"")).unwrap().unwrap();
    let mut next = |patience_ms| stream.next(&bell, Duration::from_millis(patience_ms));
    assert!(matches!(next(20_000), Heard::Message(data) if data == b"1"));
    assert!(matches!(next(20_000), Heard::Message(data) if data == b"2"));
    assert!(matches!(next(20), Heard::Silence));
    go.send(()).unwrap();
    assert!(matches!(next(100), Heard::Silence), "new keys are no news");
    go.send(()).unwrap();
    assert!(matches!(next(20_000), Heard::Message(data) if data == b"3"));
    drop(stream);
    thread.join().unwrap();
}

/// No bytes go to an https server without what it takes to speak TLS: there is not even a connection.
#[test]
fn https_is_never_spoken_in_clear_text() {
    let (_, side) = sides("server.example.com");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let bare = Target { tls: None, ..target(listener.local_addr().unwrap(), &side) };
    assert!(matches!(put(&bare), Err(ClientFault::NoTls)));
    assert!(matches!(listen(&bare, Method::Get, &[], None), Err(ClientFault::NoTls)));
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

/// A server that never says hello costs no more than the time it has.
#[test]
fn a_handshake_has_an_end() {
    let (_, side) = sides("server.example.com");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let began = clock().mono;
    let fault = Wire::new(socket, Some(&side), Instant::now() + Duration::from_millis(50)).unwrap_err();
    assert!(matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{fault}");
    assert!(clock().mono.since(began) >= Duration::from_millis(49));
}
