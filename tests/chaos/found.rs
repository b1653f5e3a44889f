//! What chaos runs have found in the gateway, each as small as it could be made.

use crate::support::gateway::Setup;
use crate::support::mcp::{Post, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, said};

/// [P3] A second answer that arrives when the first has been passed on already: it was there before the next request was
/// written, so it is no answer to it, and that request must not get it.
#[test]
#[ignore = "bug: a kept connection is not looked at within 50 ms of its last answer"]
fn an_answer_that_was_there_before_its_request() {
    let upstream = Plan::tools(&["echo", "talkative"])
        .script(|seen, out| {
            if !seen.calls("talkative") {
                return Acted::Default;
            }
            out.json(200, "", &said(seen, seen.value()));
            out.pass(seen.value());
            out.json(200, "", &said(seen, "stolen"));
            out.note(seen.value());
            Acted::Done
        })
        .start();
    let gateway = Setup::new().server("up", &upstream.url()).open().start();
    let mut wrong = Vec::new();
    for _ in 0..20 {
        let (first, next) = (Post::call("talkative"), Post::call("echo"));
        for post in [&first, &next] {
            let answer = post.to(&gateway).json();
            if text_of(&answer) != post.value {
                wrong.push(answer);
            }
            if post.value == first.value {
                // The answer has been passed on, and its connection is kept, when the second one comes.
                upstream.open(&first.value);
                upstream.noted(&first.value);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of 40 calls got somebody else's answer: {}", wrong.len(), wrong[0]);
    oracle::check(&gateway, &[("up", &upstream)]);
}
