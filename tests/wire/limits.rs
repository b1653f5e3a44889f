//! Conditions, limits, rates and scopes on the wire: what goes, what is refused and in which words, what is counted,
//! and what the record says of it.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, Setup, Who, eventually};
use crate::support::http::{Response, Wire};
use crate::support::mcp::{Post, fresh, open_session, text_of, tools};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Reserved, Upstream, result, said};

/// A server with these tools behind a gateway with these rules, which everybody may use.
fn pair(names: &[&str], rules: &[Value]) -> (Gateway, Upstream) {
    house(names, rules, |setup| setup)
}

fn house(names: &[&str], rules: &[Value], change: impl Fn(Setup) -> Setup) -> (Gateway, Upstream) {
    let upstream = Plan::tools(names).start();
    let setup = Setup::new().server("up", &upstream.url());
    let setup = rules.iter().fold(setup, |setup, rule| setup.rule(rule.clone()));
    (change(setup).start(), upstream)
}

/// A call with these arguments, and a fresh one beside them.
fn call(tool: &str, arguments: &Value) -> Post {
    with(Post::call(tool), arguments)
}

fn with(post: Post, arguments: &Value) -> Post {
    let members = arguments.as_object().expect("arguments are an object");
    members.iter().fold(post, |post, (name, value)| post.param(&format!("/arguments/{name}"), value.clone()))
}

/// What a refused tool call says: its kind, its sentence, and the detail for programs.
#[track_caller]
fn refused(response: &Response) -> (String, String, Value) {
    assert_eq!(response.status(), 200, "{}", response.text());
    let answer = response.json();
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let detail = answer["result"]["_meta"]["portcullis/refusal"].clone();
    (detail["kind"].as_str().unwrap_or_default().to_owned(), text_of(&answer).to_owned(), detail)
}

#[track_caller]
fn is_refused(response: &Response, kind: &str) -> String {
    let (got, sentence, _) = refused(response);
    assert_eq!(got, kind, "{sentence}");
    assert!(sentence.starts_with("Refused by policy: "), "{sentence}");
    sentence
}

/// How many of the tool's calls the server has seen.
fn reached(upstream: &Upstream, tool: &str) -> usize {
    upstream.calls().iter().filter(|call| call.name() == tool).count()
}

/// A token with these claims beside the usual ones.
fn token_of(gateway: &Gateway, more: &Value) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
    let mut claims = json!({
        "iss": ISSUER, "aud": gateway.url("/mcp"), "sub": "ada", "client_id": "agent-1", "iat": now - 60, "exp": now + 600,
    });
    let members = more.as_object().expect("claims are an object").clone();
    claims.as_object_mut().expect("an object").extend(members);
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": gateway.key_id() });
    gateway.sign(&header.to_string(), &claims.to_string())
}

#[test]
fn a_condition_looks_at_the_arguments_and_says_nothing_of_itself() {
    let (gateway, upstream) = pair(
        &["refund"],
        &[
            json!({ "id": "small", "permit": ["up/refund"], "when": "args.amount > 0 && args.amount <= 500" , "reason": "Ask Kim." }),
        ],
    );
    let session = open_session(&gateway, |post| post);
    assert_eq!(tools(&gateway, |post| post), ["refund"], "some arguments could be allowed");
    for legacy in [false, true] {
        let post = |amount: &Value| {
            let post = if legacy { Post::legacy_call(&session, "refund") } else { Post::call("refund") };
            with(post, &json!({ "amount": amount }))
        };
        post(&json!(499.99)).echoed(&gateway);
        let sentence = is_refused(&post(&json!(500.01)).to(&gateway), "condition");
        assert!(sentence.contains("'refund'") && sentence.ends_with(" Ask Kim."), "{sentence}");
        assert!(!sentence.contains("500") && !sentence.contains("amount"), "{sentence}");
        let sentence = is_refused(&post(&json!("499")).to(&gateway), "unknown");
        assert!(!sentence.contains("amount"), "{sentence}");
        let (_, _, detail) = refused(&post(&Value::Null).to(&gateway));
        assert_eq!(detail["reason"], "Ask Kim.");
    }
    assert_eq!(reached(&upstream, "refund"), 2);
}

#[test]
fn the_record_names_what_was_unknown() {
    let (gateway, _upstream) = pair(
        &["refund"],
        &[
            json!({ "id": "small", "permit": ["up/refund"], "when": "args.amount <= 500 && args.currency == \"EUR\"" }),
            json!({ "id": "tenant", "forbid": ["up/refund"], "when": "args.tenant == \"x\"" }),
        ],
    );
    let post = call("refund", &json!({ "amount": 1, "currency": "EUR", "tenant": 5 }));
    assert!(!is_refused(&post.to(&gateway), "unknown").contains("tenant"));
    let fine = call("refund", &json!({ "amount": 1, "currency": "EUR", "tenant": "y" }));
    fine.echoed(&gateway);
    let records = gateway.records_until("both decisions", |all| oracle::of_kind(all, "decision").count() == 2);
    let decision = oracle::decision(&records, &post.value);
    assert_eq!((&decision["verdict"], &decision["reason"]), (&json!("refuse"), &json!("unknown")), "{decision}");
    assert_eq!(decision["unknown"][0]["rule"], "tenant", "{decision}");
    assert!(decision["unknown"][0]["operand"].as_str().is_some_and(|it| it.contains("args.tenant")), "{decision}");
    assert!(metric(&gateway, "portcullis_policy_unknown_total{rule=\"tenant\"}") >= 1.0);
    let decision = oracle::decision(&records, &fine.value);
    assert_eq!((&decision["unknown"], &decision["rules"]), (&Value::Null, &json!(["small"])), "{decision}");
    assert!(decision["arguments_digest"].as_str().is_some_and(|it| it.len() == 32), "{decision}");
}

/// A figure of the metrics page; 0 where it is not there.
fn metric(gateway: &Gateway, series: &str) -> f64 {
    let ask = format!("GET /metrics HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.admin);
    let text = Wire::to(gateway.admin).ask(ask.as_bytes()).text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    line.unwrap_or_default()
}

#[test]
fn calls_are_counted_over_all_shards_and_the_refusal_says_when_to_come_back() {
    let limit = json!({ "calls": 20, "per": "1h", "by": "all" });
    let rule = json!({ "id": "few", "permit": ["up/echo"], "limits": [limit], "reason": "The budget is small." });
    let (gateway, upstream) = house(&["echo"], &[rule], |setup| setup.shards(2));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let address = gateway.address;
            let posts: Vec<Vec<u8>> = (0..5).map(|_| Post::call("echo").bytes(&gateway)).collect();
            thread::spawn(move || posts.iter().map(|post| Wire::to(address).ask(post).json()).collect::<Vec<_>>())
        })
        .collect();
    let answers: Vec<Value> = workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect();
    let refused = answers.iter().filter(|answer| answer["result"]["isError"] == true).count();
    assert_eq!((answers.len() - refused, reached(&upstream, "echo")), (20, 20));
    let last = call("echo", &json!({}));
    let (kind, sentence, detail) = self::refused(&last.to(&gateway));
    assert_eq!(kind, "limit");
    assert!(sentence.contains("at most 20 calls in 1 hour; the next is possible in "), "{sentence}");
    assert!(sentence.ends_with("The budget is small."), "{sentence}");
    assert!(detail["retry_after"].as_u64().is_some_and(|seconds| (3000..=3600).contains(&seconds)), "{detail}");
    let records = gateway.records_until("all decisions", |all| oracle::of_kind(all, "decision").count() == 41);
    let levels: HashSet<u64> =
        oracle::of_kind(&records, "decision").filter_map(|decision| decision["limits"][0]["after"].as_u64()).collect();
    assert_eq!(levels, (1..=20).collect(), "each call has a number of its own");
    let decision = oracle::decision(&records, &last.value);
    assert_eq!((&decision["reason"], &decision["rules"]), (&json!("limit"), &json!(["few"])), "{decision}");
    let exhausted = &decision["exhausted"];
    assert_eq!((&exhausted["rule"], &exhausted["limit"]), (&json!("few"), &json!(0)), "{decision}");
    assert_eq!((&exhausted["used"], &exhausted["max"]), (&json!(20), &json!(20)), "{decision}");
}

#[test]
fn counts_outlive_a_reload_and_a_kill() {
    let rule = json!({ "id": "few", "permit": ["up/echo"], "limits": [{ "calls": 3, "per": "1h" }] });
    let (gateway, upstream) = pair(&["echo"], &[rule]);
    Post::call("echo").echoed(&gateway);
    gateway.configure(|config| config["policy"]["rules"][0]["reason"] = json!("Few."));
    assert_eq!(gateway.reload()["failed"], 0);
    Post::call("echo").echoed(&gateway);
    let gateway = gateway.restart(|_| {});
    Post::call("echo").echoed(&gateway);
    assert!(is_refused(&Post::call("echo").to(&gateway), "limit").ends_with("Few."));
    // Another number is another bound of the same count.
    gateway.configure(|config| config["policy"]["rules"][0]["limits"][0]["calls"] = json!(4));
    assert_eq!(gateway.reload()["failed"], 0);
    Post::call("echo").echoed(&gateway);
    is_refused(&Post::call("echo").to(&gateway), "limit");
    let gateway = gateway.restart(|_| {});
    is_refused(&Post::call("echo").to(&gateway), "limit");
    assert_eq!(reached(&upstream, "echo"), 4);
}

#[test]
fn sums_hold_to_the_cent() {
    let limit = json!({ "sum": "args.amount", "max": 1, "per": "24h" });
    let rule = json!({ "id": "sum", "permit": ["up/pay"], "limits": [limit] });
    let (gateway, upstream) = pair(&["pay"], &[rule]);
    for _ in 0..9 {
        call("pay", &json!({ "amount": 0.1 })).echoed(&gateway);
    }
    let sentence = is_refused(&call("pay", &json!({ "amount": 0.11 })).to(&gateway), "limit");
    assert!(sentence.contains("at most 1 in 1 day, and this call adds 0.11"), "{sentence}");
    call("pay", &json!({ "amount": 0.1 })).echoed(&gateway);
    is_refused(&call("pay", &json!({ "amount": 0.01 })).to(&gateway), "limit");
    call("pay", &json!({ "amount": 0 })).echoed(&gateway);
    // Below nothing, of another type, missing: not to be evaluated.
    for arguments in [json!({ "amount": -1 }), json!({ "amount": "0" }), json!({})] {
        is_refused(&call("pay", &arguments).to(&gateway), "unknown");
    }
    assert_eq!(reached(&upstream, "pay"), 11);
}

#[test]
fn once_is_once_on_all_shards_at_once() {
    let rule = json!({ "id": "once", "permit": ["up/pay"], "limits": [{ "once": "args.invoice" }] });
    let (gateway, upstream) = house(&["pay"], &[rule], |setup| setup.shards(2));
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let (address, post) = (gateway.address, call("pay", &json!({ "invoice": "i-1" })).bytes(&gateway));
            thread::spawn(move || Wire::to(address).ask(&post).json())
        })
        .collect();
    let answers: Vec<Value> = workers.into_iter().map(|worker| worker.join().expect("no panic")).collect();
    assert_eq!(answers.iter().filter(|answer| answer["result"]["isError"] == true).count(), 15);
    assert_eq!(reached(&upstream, "pay"), 1);
    call("pay", &json!({ "invoice": "i-2" })).echoed(&gateway);
    let gateway = gateway.restart(|_| {});
    for invoice in ["i-1", "i-2"] {
        is_refused(&call("pay", &json!({ "invoice": invoice })).to(&gateway), "limit");
    }
}

#[test]
fn only_a_success_opens_what_comes_after_it() {
    let upstream = Plan::tools(&["look", "pay"])
        .script(|seen, out| {
            if !seen.calls("look") {
                return Acted::Default;
            }
            let body = match seen.message["params"]["arguments"]["how"].as_str() {
                Some("fails") => result(seen, json!({ "content": [], "isError": true })),
                Some("errs") => {
                    json!({ "jsonrpc": "2.0", "id": seen.id(), "error": { "code": -32_050, "message": "no" } })
                }
                Some("events") => {
                    out.stream();
                    out.event(&said(seen, seen.value()));
                    out.stream_end();
                    return Acted::Done;
                }
                _ => said(seen, seen.value()),
            };
            out.json(200, "", &body);
            Acted::Done
        })
        .start();
    let after = json!({ "after": "up/look", "within": "10m", "same": "args.invoice" });
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "looks", "permit": ["up/look"] }))
        .rule(json!({ "id": "pays", "permit": ["up/pay"], "limits": [after], "reason": "Look first." }))
        .start();
    let look = |how: &str, invoice: &str| call("look", &json!({ "how": how, "invoice": invoice })).to(&gateway);
    let pay = |invoice: &str| call("pay", &json!({ "invoice": invoice }));
    let sentence = is_refused(&pay("a").to(&gateway), "limit");
    assert!(sentence.contains("another call has to have succeeded within the last 10 minutes"), "{sentence}");
    assert!(sentence.ends_with("Look first."), "{sentence}");
    for how in ["fails", "errs"] {
        look(how, "a");
        is_refused(&pay("a").to(&gateway), "limit");
    }
    look("well", "a");
    pay("a").echoed(&gateway);
    is_refused(&pay("b").to(&gateway), "limit");
    look("events", "b");
    pay("b").echoed(&gateway);
    // What has no such argument, or one of another type, is never the same.
    is_refused(&call("pay", &json!({})).to(&gateway), "unknown");
    is_refused(&call("pay", &json!({ "invoice": 1 })).to(&gateway), "limit");
    assert_eq!(reached(&upstream, "pay"), 2);
}

#[test]
fn after_an_internal_document_nothing_leaves() {
    let rules = [
        json!({ "id": "all", "permit": ["up/*"] }),
        json!({
            "id": "no-leaks", "forbid": ["up/mail"], "limits": [{ "after": "up/read", "within": "1h", "by": "subject" }],
            "reason": "You have read an internal document.",
        }),
    ];
    let (gateway, upstream) = house(&["read", "mail", "other"], &rules, |setup| setup.tokens("deny"));
    let token = |subject| gateway.token(&Who { subject, ..Who::default() });
    let (ada, bob) = (token("ada"), token("bob"));
    Post::call("mail").token(&ada).echoed(&gateway);
    Post::call("other").token(&ada).echoed(&gateway);
    Post::call("mail").token(&ada).echoed(&gateway);
    Post::call("read").token(&ada).echoed(&gateway);
    let sentence = is_refused(&Post::call("mail").token(&ada).to(&gateway), "forbid");
    assert_eq!(sentence, "Refused by policy: You have read an internal document.");
    Post::call("mail").token(&bob).echoed(&gateway);
    assert_eq!(tools(&gateway, |post| post.token(&ada)), ["read", "mail", "other"]);
    assert_eq!(reached(&upstream, "mail"), 3);
}

/// Whatever became of the call: it was let through, so what came back may be known.
#[test]
fn a_forbid_that_follows_a_call_does_not_ask_how_it_ended() {
    let docs = Plan::tools(&["read"]).script(|seen, out| {
        if !seen.calls("read") {
            return Acted::Default;
        }
        out.close();
        Acted::Done
    });
    let (docs, upstream) = (docs.start(), Plan::tools(&["mail"]).start());
    let gateway = Setup::new()
        .server("docs", &docs.url())
        .server("up", &upstream.url())
        .rule(json!({ "id": "all", "permit": ["*/*"] }))
        .rule(json!({ "id": "no-leaks", "forbid": ["up/mail"], "limits": [{ "after": "docs/read" }] }))
        .start();
    Post::call("mail").at("/s/up/mcp").echoed(&gateway);
    Post::call("read").at("/s/docs/mcp").to(&gateway);
    is_refused(&Post::call("mail").at("/s/up/mcp").to(&gateway), "forbid");
    assert_eq!(reached(&upstream, "mail"), 1);
}

#[test]
fn what_was_not_written_is_given_back() {
    let reserved = Reserved::new();
    let url = reserved.url();
    let upstream = reserved.start(Plan::tools(&["echo", "cut", "look"]).script(|seen, out| {
        if seen.calls("cut") {
            out.close();
            return Acted::Done;
        }
        Acted::Default
    }));
    let limits = json!([{ "calls": 2, "per": "1h" }, { "once": "args.invoice" }]);
    let gateway = Setup::new()
        .server("up", &url)
        .rule(json!({ "id": "few", "permit": ["up/echo", "up/cut"], "limits": limits }))
        .rule(json!({ "id": "look", "permit": ["up/look"] }))
        .start();
    let pay = |tool: &str, invoice: &str| call(tool, &json!({ "invoice": invoice }));
    pay("echo", "a").echoed(&gateway);
    let address = upstream.address();
    drop(upstream);
    let unsent = |answer: &Value| {
        let reason = &answer["error"]["data"]["reason"];
        reason == "unreachable" || reason == "unhealthy"
    };
    // The last kept connection may be found out by a call, whose outcome nobody knows then: one that no limit counts.
    eventually("nothing reaches the server", || unsent(&Post::call("look").to(&gateway).json()));
    let answer = pay("echo", "b").to(&gateway).json();
    assert!(unsent(&answer), "{answer}");
    let upstream = Reserved::at(address).start(Plan::tools(&["echo", "cut", "look"]).script(|seen, out| {
        if seen.calls("cut") {
            out.close();
            return Acted::Done;
        }
        Acted::Default
    }));
    // It may be left alone for a while, which costs nothing either.
    eventually("it is reached again", || {
        pay("cut", "b").to(&gateway).json()["error"]["data"]["reason"] == "server_cut"
    });
    // An outcome that nobody knows counts.
    is_refused(&pay("echo", "c").to(&gateway), "limit");
    assert_eq!(upstream.calls().len(), 1);
}

/// A client that leaves while the gateway still connects has had nothing written.
#[test]
fn what_is_left_behind_while_connecting_is_given_back() {
    let upstream = Plan::tools(&["echo"]).start();
    let rule = json!({ "id": "few", "permit": ["up/*"], "limits": [{ "once": "args.invoice" }] });
    let gateway = Setup::new().server("up", &upstream.url()).rule(rule).start();
    let pay = || call("echo", &json!({ "invoice": "a" }));
    let address = upstream.address();
    drop(upstream);
    let clogged = Reserved::at(address).clogged();
    let wire = pay().begin(&gateway);
    eventually("it is under way", || gateway.calls_under_way() == 1);
    drop(wire);
    eventually("it is given up", || gateway.calls_under_way() == 0);
    let upstream = clogged.start(Plan::tools(&["echo"]));
    // It may be left alone for a while.
    eventually("it is reached again", || {
        let post = pay();
        let response = post.to(&gateway);
        let failed = response.json()["error"].is_object();
        if !failed {
            post.is_echoed(&response);
        }
        !failed
    });
    is_refused(&pay().to(&gateway), "limit");
    assert_eq!(upstream.calls().len(), 1);
}

#[test]
fn calls_at_once_are_counted_until_they_end() {
    let upstream = Plan::tools(&["slow", "echo"])
        .script(|seen, out| {
            if seen.calls("slow") {
                out.note("in");
                out.pass("on");
            }
            Acted::Default
        })
        .start();
    let rule = json!({ "id": "one", "permit": ["up/*"], "limits": [{ "concurrent": 1 }] });
    let gateway = Setup::new().server("up", &upstream.url()).rule(rule).start();
    let slow = Post::call("slow");
    let wire = slow.begin(&gateway);
    upstream.noted("in");
    let sentence = is_refused(&Post::call("echo").to(&gateway), "limit");
    assert!(sentence.contains("at most 1 call at once; try again when one of them has ended."), "{sentence}");
    upstream.open("on");
    let mut wire = wire;
    slow.is_echoed(&wire.response());
    // Who has the answer may go on at once.
    for _ in 0..20 {
        Post::call("echo").echoed(&gateway);
    }
}

#[test]
fn what_is_counted_by_the_task_is_not_by_another() {
    let rules = [
        json!({ "id": "by-task", "permit": ["up/echo"], "limits": [{ "calls": 1, "by": "task" }] }),
        json!({ "id": "by-tenant", "permit": ["up/other"], "limits": [{ "calls": 1, "by": ["agent", "args.tenant"] }] }),
    ];
    let (gateway, _upstream) = house(&["echo", "other"], &rules, |setup| setup.tokens("deny").task("one").task("two"));
    let token = |tasks: &[&str]| gateway.token(&Who { tasks, ..Who::default() });
    let (one, two, none) = (token(&["one"]), token(&["two"]), token(&[]));
    Post::call("echo").token(&one).echoed(&gateway);
    is_refused(&Post::call("echo").token(&one).to(&gateway), "limit");
    Post::call("echo").token(&two).echoed(&gateway);
    // Nobody owns the count of a call without a task.
    is_refused(&Post::call("echo").token(&none).to(&gateway), "unknown");
    let other = |tenant: &Value| call("other", &json!({ "tenant": tenant })).token(&none);
    other(&json!("x")).echoed(&gateway);
    other(&json!("y")).echoed(&gateway);
    is_refused(&other(&json!("x")).to(&gateway), "limit");
    is_refused(&call("other", &json!({})).token(&none).to(&gateway), "unknown");
}

#[test]
fn a_missing_scope_is_challenged() {
    let rules = [
        json!({ "id": "scoped", "permit": ["up/echo"], "scopes": ["tools:call", "tools:echo"] }),
        json!({ "id": "shut", "forbid": ["up/hidden"] }),
    ];
    let (gateway, upstream) = house(&["echo", "hidden"], &rules, |setup| setup.tokens("deny"));
    let (bare, half, full) = (
        token_of(&gateway, &json!({})),
        token_of(&gateway, &json!({ "scope": "tools:echo other" })),
        token_of(&gateway, &json!({ "scp": ["tools:call", "tools:echo"] })),
    );
    for token in [&bare, &half] {
        let answer = Post::call("echo").token(token).to(&gateway);
        assert_eq!(answer.status(), 403, "{}", answer.text());
        let challenge = answer.field("www-authenticate");
        assert!(challenge.starts_with("Bearer "), "{challenge}");
        assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
        assert!(challenge.contains("scope=\"tools:call tools:echo\""), "{challenge}");
        assert!(challenge.contains("resource_metadata=\"http"), "{challenge}");
        assert!(answer.json()["error"]["code"].is_i64(), "{}", answer.text());
        assert_eq!(tools(&gateway, |post| post.token(token)), ["echo"], "scopes hide nothing");
    }
    Post::call("echo").token(&full).echoed(&gateway);
    // What is hidden says nothing of scopes.
    assert_eq!(Post::call("hidden").token(&bare).to(&gateway).json()["error"]["code"], -32_602);
    assert_eq!(upstream.calls().len(), 1);
}

#[test]
fn who_asks_is_a_condition_on_claims() {
    let rules = [
        json!({ "id": "support", "who": "\"support\" in claims.groups", "permit": ["up/echo"] }),
        json!({ "id": "tenant", "forbid": ["up/echo"], "when": "args.tenant != claims.tenant" }),
    ];
    let (gateway, upstream) = house(&["echo"], &rules, |setup| setup.tokens("deny"));
    let support = token_of(&gateway, &json!({ "groups": ["staff", "support"], "tenant": "acme" }));
    let other = token_of(&gateway, &json!({ "groups": ["staff"], "tenant": "acme" }));
    let untold = token_of(&gateway, &json!({ "tenant": "acme" }));
    let post = |token: &str, tenant: &Value| call("echo", &json!({ "tenant": tenant })).token(token);
    post(&support, &json!("acme")).echoed(&gateway);
    assert_eq!(
        is_refused(&post(&support, &json!("evil")).to(&gateway), "forbid"),
        "Refused by policy: a rule forbids it."
    );
    is_refused(&Post::call("echo").token(&support).to(&gateway), "unknown");
    for token in [&other, &untold] {
        assert!(tools(&gateway, |post| post.token(token)).is_empty());
        assert_eq!(post(token, &json!("acme")).to(&gateway).json()["error"]["code"], -32_602);
    }
    assert_eq!(upstream.calls().len(), 1);
}

/// Nothing about a hidden tool depends on its arguments, on scopes or on limits.
#[test]
fn a_hidden_tool_answers_with_the_same_bytes_whatever_is_asked() {
    let rules = [
        json!({ "id": "hidden", "who": "claims.level > 5", "permit": ["up/hidden"], "when": "args.amount < 5",
                "scopes": ["pay"], "limits": [{ "calls": 1 }], "reason": "A secret." }),
        json!({ "id": "asks", "who": "claims.level > 5", "approve": ["up/asked"], "reason": "A secret." }),
        json!({ "id": "denied", "permit": ["up/denied"], "limits": [{ "calls": 1 }] }),
        json!({ "id": "never", "forbid": ["up/denied"] }),
    ];
    let (gateway, upstream) = house(&["hidden", "asked", "denied"], &rules, |setup| setup.tokens("deny"));
    let token = token_of(&gateway, &json!({ "level": 1 }));
    let session = open_session(&gateway, |post| post.token(&token));
    assert!(tools(&gateway, |post| post.token(&token)).is_empty());
    for name in ["hidden", "asked", "denied"] {
        for arguments in [json!({}), json!({ "amount": 1 }), json!({ "amount": "x" }), json!({ "amount": null })] {
            for legacy in [false, true] {
                let post = |name: &str| {
                    let post = if legacy { Post::legacy_call(&session, name) } else { Post::call(name) };
                    with(post, &arguments).token(&token).to(&gateway)
                };
                let absent = "z".repeat(name.len());
                let (hidden, unknown) = (post(name), post(&absent));
                assert_eq!(hidden.text().replace(name, &absent), unknown.text());
                assert_eq!(hidden.json()["error"]["code"], -32_602);
                assert_eq!(hidden.head.bytes, unknown.head.bytes);
            }
        }
    }
    assert!(upstream.calls().is_empty());
}

#[test]
fn rates_are_taken_whatever_the_rules_say() {
    let rates = json!([
        { "id": "calls", "on": ["up/*"], "calls": 2, "per": "1h", "by": "subject" },
        { "id": "lists", "method": ["tools/list"], "calls": 3, "per": "1h", "by": "subject" },
        { "id": "prompts", "on": ["up!prompt:*"], "calls": 1, "per": "1h", "by": "subject" },
    ]);
    let upstream = Plan::tools(&["echo"]).start();
    let gateway = Setup::new().server("up", &upstream.url()).open().set("/policy/rates", rates).start();
    Post::call("echo").echoed(&gateway);
    // What policy refuses takes nothing.
    assert_eq!(Post::call("absent").to(&gateway).json()["error"]["code"], -32_602);
    Post::call("echo").echoed(&gateway);
    let last = Post::call("echo");
    let (kind, sentence, detail) = refused(&last.to(&gateway));
    assert_eq!(kind, "rate");
    assert!(sentence.contains("at most 2 calls in 1 hour; the next is possible in "), "{sentence}");
    assert!(detail["retry_after"].as_u64().is_some_and(|seconds| (1..=1800).contains(&seconds)), "{detail}");
    let get = || Post::modern("prompts/get", json!({ "name": "greet" })).to(&gateway);
    assert!(get().json()["result"].is_object());
    let answer = get();
    assert_eq!(answer.status(), 429, "{}", answer.text());
    let retry = answer.field("retry-after").parse::<u64>().expect("seconds");
    assert!((1..=3600).contains(&retry) && retry > 1800, "{retry}");
    assert_eq!(answer.json()["error"]["code"], -31_403);
    assert_eq!(answer.json()["error"]["data"]["portcullis/refusal"]["kind"], "rate");
    for _ in 0..3 {
        assert_eq!(tools(&gateway, |post| post), ["echo"]);
    }
    assert_eq!(Post::modern("tools/list", json!({})).to(&gateway).status(), 429);
    assert_eq!(Post::modern("prompts/list", json!({})).to(&gateway).status(), 200);
    let records = gateway.records_until("the refusal", |all| {
        oracle::of_kind(all, "decision").filter(|it| it["reason"] == "rate").count() == 3
    });
    let decision = oracle::decision(&records, &last.value);
    assert_eq!(
        (&decision["verdict"], &decision["exhausted"]["rule"]),
        (&json!("refuse"), &json!("calls")),
        "{decision}"
    );
    assert_eq!(reached(&upstream, "echo"), 2);
}

#[test]
fn rules_in_shadow_change_nothing_and_are_written_down() {
    let rules = [
        json!({ "id": "all", "permit": ["up/echo"], "limits": [{ "calls": 5, "per": "1h" }] }),
        json!({ "id": "stricter", "mode": "shadow", "forbid": ["up/echo"], "when": "args.path == \"/etc\"" }),
        json!({ "id": "wider", "mode": "shadow", "permit": ["up/other"], "limits": [{ "calls": 1, "per": "1h" }] }),
    ];
    let (gateway, upstream) = pair(&["echo", "other"], &rules);
    assert_eq!(tools(&gateway, |post| post), ["echo"]);
    let post = call("echo", &json!({ "path": "/etc" }));
    post.echoed(&gateway);
    let plain = call("echo", &json!({ "path": "/srv" }));
    plain.echoed(&gateway);
    let other = Post::call("other");
    let again = Post::call("other");
    for refused in [&other, &again] {
        assert_eq!(refused.to(&gateway).json()["error"]["code"], -32_602);
    }
    let records = gateway.records_until("the decisions", |all| oracle::of_kind(all, "decision").count() == 4);
    let decision = oracle::decision(&records, &post.value);
    assert_eq!((&decision["verdict"], &decision["reason"]), (&json!("permit"), &json!("permit")), "{decision}");
    assert_eq!(decision["shadow"]["verdict"], "refuse", "{decision}");
    assert_eq!(decision["shadow"]["rules"], json!(["stricter"]), "{decision}");
    assert_eq!(oracle::decision(&records, &plain.value)["shadow"], Value::Null);
    // What is refused is not counted in shadow either.
    for refused in [&other, &again] {
        let decision = oracle::decision(&records, &refused.value);
        assert_eq!(
            (&decision["verdict"], &decision["shadow"]["verdict"]),
            (&json!("refuse"), &json!("permit")),
            "{decision}"
        );
    }
    let shadowed = |rule: &str, verdict: &str| {
        metric(&gateway, &format!("portcullis_shadow_decisions_total{{rule=\"{rule}\",verdict=\"{verdict}\"}}"))
    };
    assert!((shadowed("stricter", "refuse") - 1.0).abs() < 0.1);
    assert!((shadowed("wider", "permit") - 2.0).abs() < 0.1);
    assert_eq!(reached(&upstream, "echo"), 2);
}

#[test]
fn arguments_are_written_down_as_the_operator_wants() {
    let upstream = Plan::tools(&["pay", "echo"]).start();
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .open()
        .set("/audit/arguments", json!({ "up/pay": ["amount", "lines[0].id"] }))
        .set("/audit/subject", json!("keyed"))
        .start();
    let token = gateway.token(&Who::default());
    let arguments = json!({ "amount": 12.50, "lines": [{ "id": "a" }], "secret": "s3cret" });
    let (pay, echo) = (call("pay", &arguments).token(&token), call("echo", &arguments).token(&token));
    pay.echoed(&gateway);
    echo.echoed(&gateway);
    let records = gateway.records_until("both", |all| oracle::of_kind(all, "decision").count() == 2);
    let decision = oracle::decision(&records, &pay.value);
    assert_eq!(decision["arguments"], json!({ "amount": 12.5, "lines[0].id": "a" }), "{decision}");
    assert_eq!(decision["arguments_digest"], Value::Null, "{decision}");
    let other = oracle::decision(&records, &echo.value);
    assert_eq!(other["arguments"], Value::Null, "{other}");
    assert!(other["arguments_digest"].as_str().is_some_and(|digits| digits.len() == 32), "{other}");
    for decision in [decision, other] {
        assert!(decision["subject"].as_str().is_some_and(|it| it.starts_with("keyed:")), "{decision}");
        assert!(!decision.to_string().contains("s3cret") && !decision.to_string().contains("ada"), "{decision}");
    }
    assert_eq!(decision["subject"], other["subject"]);
}

/// Each message of a batch is counted for itself.
#[test]
fn a_batch_is_counted_message_by_message() {
    let rule = json!({ "id": "few", "permit": ["up/echo"], "limits": [{ "calls": 2, "per": "1h" }] });
    let rates = json!([{ "id": "lists", "method": ["tools/list"], "calls": 1, "per": "1h" }]);
    let (gateway, upstream) = house(&["echo"], &[rule], |setup| setup.set("/policy/rates", rates.clone()));
    let answer = Post::initialize("2025-03-26").to(&gateway);
    let session = answer.field("mcp-session-id").to_owned();
    let one = |id: u64| {
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
                "params": { "name": "echo", "arguments": { "value": fresh() } } })
    };
    let list = |id: u64| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" });
    let batch = json!([list(1), one(2), list(3), one(4), one(5)]);
    let post = Post::tell(&session, Value::Null).without("mcp-protocol-version").body(batch.to_string());
    let answers = post.to(&gateway).json();
    assert!(answers[0]["result"]["tools"].is_array(), "{answers}");
    assert_eq!(answers[2]["error"]["data"]["portcullis/refusal"]["kind"], "rate", "{answers}");
    let limited: Vec<&Value> = [1, 3, 4].iter().map(|place| &answers[*place]["result"]["isError"]).collect();
    assert_eq!(limited, [&json!(false), &json!(false), &json!(true)], "{answers}");
    assert_eq!(reached(&upstream, "echo"), 2);
}

/// What a rule says is about the server's own names, and what is counted is counted by them, however an endpoint shows
/// them.
#[test]
fn merged_endpoints_count_by_the_servers_own_names() {
    let upstreams = [Plan::tools(&["echo"]).start(), Plan::tools(&["echo"]).start()];
    let rule = |server: &str, calls: u32| {
        json!({ "id": server, "permit": [format!("{server}/echo")], "when": "args.amount < 5",
                "limits": [{ "calls": calls, "per": "1h" }] })
    };
    let gateway = Setup::new()
        .server("one", &upstreams[0].url())
        .server("two", &upstreams[1].url())
        .rule(rule("one", 1))
        .rule(rule("two", 2))
        .start();
    let post = |tool: &str, amount: u32| call(tool, &json!({ "amount": amount }));
    post("one__echo", 1).echoed(&gateway);
    let sentence = is_refused(&post("one__echo", 1).to(&gateway), "limit");
    assert!(sentence.contains("'one__echo'"), "{sentence}");
    let direct = post("echo", 1).at("/s/one/mcp").to(&gateway);
    assert!(is_refused(&direct, "limit").contains("'echo'"));
    post("two__echo", 1).echoed(&gateway);
    assert!(is_refused(&post("two__echo", 9).to(&gateway), "condition").contains("'two__echo'"));
    post("two__echo", 1).echoed(&gateway);
    is_refused(&post("two__echo", 1).to(&gateway), "limit");
    assert_eq!((upstreams[0].calls().len(), upstreams[1].calls().len()), (1, 2));
}

#[test]
fn prompts_and_resources_have_limits_too() {
    let rules = [
        json!({ "id": "prompts", "permit": ["up!prompt:greet"], "when": "!has(args.name) || args.name != \"root\"",
                "limits": [{ "calls": 2, "per": "1h" }], "reason": "Few." }),
        json!({ "id": "notes", "permit": ["up!resource:note://*"], "limits": [{ "calls": 1, "per": "1h" }] }),
    ];
    let (gateway, upstream) = pair(&["echo"], &rules);
    let session = open_session(&gateway, |post| post);
    let get = |name: &str| Post::modern("prompts/get", json!({ "name": "greet", "arguments": { "name": name } }));
    assert!(get("x").to(&gateway).json()["result"].is_object());
    let bare = Post::modern("prompts/get", json!({ "name": "greet" }));
    let answer = get("root").to(&gateway).json();
    assert_eq!(answer["error"]["code"], -31_403, "{answer}");
    assert_eq!(answer["error"]["data"]["portcullis/refusal"]["kind"], "condition", "{answer}");
    assert!(bare.to(&gateway).json()["result"].is_object(), "no arguments are none that could be wrong");
    let answer = get("x").to(&gateway);
    assert_eq!(
        (answer.status(), &answer.json()["error"]["data"]["portcullis/refusal"]["kind"]),
        (200, &json!("limit"))
    );
    assert!(answer.json()["error"]["message"].as_str().is_some_and(|it| it.ends_with("Few.")), "{}", answer.text());
    let read = Post::legacy(&session, "resources/read", json!({ "uri": "note://open" }));
    assert!(read.to(&gateway).json()["result"].is_object());
    let subscribe = Post::legacy(&session, "resources/subscribe", json!({ "uri": "note://open" })).to(&gateway).json();
    assert_eq!(subscribe["error"]["data"]["portcullis/refusal"]["kind"], "limit", "{subscribe}");
    assert_eq!(upstream.seen().iter().filter(|seen| seen.method() == "prompts/get").count(), 2);
}

/// A client that leaves, a call that is taken back: each place at once comes back.
#[test]
fn a_place_comes_back_however_its_call_ends() {
    let upstream = Plan::tools(&["slow"])
        .script(|seen, out| {
            if seen.calls("slow") && !seen.value().is_empty() {
                out.note(seen.value());
                out.gone(Duration::from_secs(20));
                return Acted::Done;
            }
            Acted::Default
        })
        .start();
    let rule = json!({ "id": "one", "permit": ["up/slow"], "limits": [{ "concurrent": 1 }] });
    let gateway = Setup::new().server("up", &upstream.url()).rule(rule).start();
    for _ in 0..3 {
        let post = Post::call("slow");
        eventually("there is a place", || {
            let mut wire = post.begin(&gateway);
            let came = || upstream.notes().contains(&post.value);
            eventually("it came to the server, or was refused", || came() || wire.comes(Duration::from_millis(5)));
            came()
        });
    }
}

/// What a server asks of a client is decided at its time, and counted.
#[test]
fn what_servers_ask_is_limited_too() {
    let upstream = Plan::tools(&["asks"])
        .script(|seen, out| {
            if !seen.calls("asks") {
                return Acted::Default;
            }
            let ask = json!({ "method": "elicitation/create", "params": { "message": "?" } });
            let mut body = result(seen, json!({ "inputRequests": { "k": ask }, "requestState": "s" }));
            body["result"]["resultType"] = json!("input_required");
            out.json(200, "", &body);
            Acted::Done
        })
        .start();
    let asks = json!({ "id": "asks", "permit": ["up!elicitation"], "when": "now > 0", "limits": [{ "calls": 2 }] });
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .rule(json!({ "id": "calls", "permit": ["up/asks"] }))
        .rule(asks)
        .start();
    let declaring = || Post::call("asks").declaring(json!({ "elicitation": { "form": {} } }));
    for _ in 0..2 {
        let answer = declaring().to(&gateway).json();
        assert_eq!(answer["result"]["resultType"], "input_required", "{answer}");
    }
    let answer = declaring().to(&gateway).json();
    assert_eq!(answer["error"]["code"], -31_403, "{answer}");
    assert_eq!(answer["error"]["data"]["reason"], "ask", "{answer}");
}

/// Completion follows the list: what a call needs beside that is not asked for.
#[test]
fn completion_follows_the_list_and_not_the_call() {
    let rule =
        json!({ "id": "p", "permit": ["up!prompt:greet"], "when": "args.name == \"x\"", "limits": [{ "calls": 1 }] });
    let (gateway, _upstream) = pair(&["echo"], &[rule]);
    let complete = |name: &str| {
        let params =
            json!({ "ref": { "type": "ref/prompt", "name": name }, "argument": { "name": "name", "value": "" } });
        Post::modern("completion/complete", params).to(&gateway).json()
    };
    for _ in 0..3 {
        assert!(complete("greet")["result"].is_object(), "{}", complete("greet"));
    }
    assert_eq!(complete("void")["error"]["code"], -32_602);
}
