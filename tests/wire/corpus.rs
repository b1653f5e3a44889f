//! JSON that others collected (JSONTestSuite), when it is at hand, as arguments of calls: what is JSON reaches the server
//! to the byte, what is not reaches nobody.

use std::fs;
use std::path::Path;

use crate::support::gateway::Setup;
use crate::support::http::Wire;
use crate::support::mcp::Post;
use crate::support::oracle;
use crate::support::upstream::Plan;

const SUITE: &str = "../shared/corpora/json/JSONTestSuite";

/// [E1] [E2] [E7] Accepted and forwarded to the byte, or refused and sent nowhere; and the gateway lives on.
#[test]
fn the_json_test_suite_as_arguments() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join(SUITE);
    let files = |folder: &str| {
        let listed = fs::read_dir(suite.join(folder)).into_iter().flatten().filter_map(Result::ok);
        listed.map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).unwrap_or_default()))
    };
    let cases: Vec<(String, Vec<u8>)> = files("test_parsing").chain(files("test_transform")).collect();
    if cases.is_empty() {
        eprintln!("SKIPPED: no JSONTestSuite at {SUITE}");
        return;
    }
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let mut counts = [0; 3];
    let mut wire = Wire::to(gateway.address);
    for (name, text) in &cases {
        let post = Post::call("echo").param("/arguments/case", "HERE".into());
        let frame = String::from_utf8(post.body_bytes()).expect("JSON is text");
        let (before, after) = frame.split_once("\"HERE\"").expect("it was just put there");
        let post = post.body([before.as_bytes(), text, after.as_bytes()].concat());
        wire.send(&post.bytes(&gateway));
        let response = wire.response();
        let sent = upstream.seen().iter().any(|seen| seen.body == post.body_bytes());
        assert_eq!(response.status() == 200, sent, "{name}: {}", response.text());
        match (name.split_at(2).0, sent) {
            ("y_", true) => counts[0] += 1,
            ("y_", false) => counts[1] += 1,
            ("n_", false) => counts[2] += 1,
            ("n_", true) => panic!("{name} was taken for JSON"),
            // Either is right, and so is everything about the files that are for transforming.
            _ => {}
        }
        if !sent {
            assert_eq!(response.status(), 400, "{name}: {}", response.text());
        }
    }
    assert_eq!(counts, [93, 2, 188], "accepted, refused for a name twice, refused");
    Post::call("echo").echoed(&gateway);
    oracle::check(&gateway, &[("up", &upstream)]);
}
