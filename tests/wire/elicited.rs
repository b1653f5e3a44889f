//! Calls that the agent's own user has to say yes to (`ask: elicit`): asked through the client with a result that asks
//! for input, answered by the same call again with what was sealed, and good for that one call; or, of a legacy session,
//! with a request in front of a refusal, answered in the session.

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Setup, Who, eventually};
use crate::support::http::Response;
use crate::support::mcp::{Post, open_session, text_of};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream};

const ENTRY: &str = "portcullis_approval";

fn house(plan: Plan, expires: &str) -> (Gateway, Upstream) {
    let upstream = plan.start();
    let on = ["up/pay", "up!prompt:greet", "up!resource:note://open"];
    let rule = json!({ "id": "asks", "approve": on, "ask": "elicit", "expires": expires, "reason": "Money leaves." });
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .tokens("deny")
        .shards(2)
        .rule(rule)
        .rule(json!({ "id": "questions", "permit": ["up!elicitation"] }))
        .start();
    (gateway, upstream)
}

fn token(gateway: &Gateway, subject: &str) -> String {
    gateway.token(&Who { subject, ..Who::default() })
}

fn pay(gateway: &Gateway, subject: &str, amount: Value) -> Post {
    Post::call("pay").param("/arguments/amount", amount).token(&token(gateway, subject))
}

/// The question that a call is answered with: the id of its approval, and its state.
#[track_caller]
fn question(response: &Response) -> (String, String) {
    assert_eq!(response.status(), 200, "{}", response.text());
    let answer = response.json();
    let result = &answer["result"];
    assert_eq!(result["resultType"], "input_required", "{answer}");
    let requests = result["inputRequests"].as_object().expect("there is one");
    assert_eq!(requests.keys().collect::<Vec<_>>(), [ENTRY], "{answer}");
    let request = &requests[ENTRY];
    assert_eq!((&request["method"], &request["params"]["mode"]), (&json!("elicitation/create"), &json!("form")));
    let schema = &request["params"]["requestedSchema"];
    assert_eq!(schema["properties"]["approve"]["type"], "boolean", "{answer}");
    assert_eq!(schema["required"], json!(["approve"]));
    let id = result["_meta"]["portcullis/refusal"]["approval"].as_str().unwrap_or_default().to_owned();
    assert!(id.starts_with("ap-"), "{answer}");
    (id, result["requestState"].as_str().expect("a state").to_owned())
}

fn message(response: &Response) -> String {
    let message = &response.json()["result"]["inputRequests"][ENTRY]["params"]["message"];
    message.as_str().unwrap_or_default().to_owned()
}

/// The same call again, with what was sealed and what the user says.
fn again(post: &Post, state: &str, answer: &Value) -> Post {
    post.clone().id(2).param("/requestState", json!(state)).param(&format!("/inputResponses/{ENTRY}"), answer.clone())
}

fn accept(approve: bool) -> Value {
    json!({ "action": "accept", "content": { "approve": approve } })
}

fn refusal(response: &Response) -> Value {
    response.json()["result"]["_meta"]["portcullis/refusal"].clone()
}

#[test]
fn a_users_yes_is_good_for_the_one_call_it_was_asked_about() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let post = pay(&gateway, "ada", json!(12.5));
    let asked = post.to(&gateway);
    let (id, state) = question(&asked);
    let said = message(&asked);
    assert!(said.starts_with("The agent wants to call the tool 'pay' of the server 'up'. Money leaves."), "{said}");
    assert!(said.contains("\"amount\": 12.5"), "{said}");
    assert_eq!(question(&post.to(&gateway)).0, id, "asked once for equal repetitions");
    assert!(upstream.calls().is_empty());
    let retry = again(&post, &state, &accept(true));
    retry.is_echoed(&retry.to(&gateway));
    let seen = upstream.calls();
    assert_eq!(seen.len(), 1);
    let sent: Value = serde_json::from_slice(&seen[0].body).expect("it is JSON");
    let params = sent["params"].as_object().expect("an object");
    assert!(!params.contains_key("requestState") && !params.contains_key("inputResponses"), "{sent}");
    assert_eq!(params["arguments"]["amount"], json!(12.5));
    // It is used up: the very same answer again is a new question.
    let (other, _) = question(&retry.to(&gateway));
    assert_ne!(other, id);
    assert_eq!(upstream.calls().len(), 1);
    let records = gateway.records_until("all three", |all| {
        oracle::of_kind(all, "decision").filter(|it| it["trace"] == post.value.as_str()).count() == 4
    });
    let all: Vec<_> = oracle::of_kind(&records, "decision").filter(|it| it["trace"] == post.value.as_str()).collect();
    let of = |verdict: &str| all.iter().filter(|it| it["verdict"] == verdict).collect::<Vec<_>>();
    let (pending, permits) = (of("pending"), of("permit"));
    assert_eq!((pending.len(), permits.len()), (3, 1), "{all:#?}");
    let permit = permits[0];
    assert_eq!((&permit["approval"]["id"], &permit["approval"]["by"]), (&json!(id), &json!("user")), "{permit}");
    assert_eq!((&permit["rules"], &permit["subject"]), (&json!(["asks"]), &json!("ada")), "{permit}");
    let first = pending.iter().find(|it| it["approval"]["id"] == id.as_str()).expect("it was asked");
    assert_eq!((&first["reason"], &first["rules"]), (&json!("approval"), &json!(["asks"])), "{first}");
}

#[test]
fn whatever_is_no_yes_is_a_no_until_it_expires() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    for (amount, no) in
        [json!({ "action": "decline" }), json!({ "action": "cancel" }), accept(false)].iter().enumerate()
    {
        let post = pay(&gateway, "ada", json!(amount));
        let (id, state) = question(&post.to(&gateway));
        for answer in [again(&post, &state, no), post.clone(), again(&post, &state, &accept(true))] {
            let answer = answer.to(&gateway);
            let (refusal, text) = (refusal(&answer), answer.json());
            assert_eq!((&refusal["kind"], &refusal["approval"]), (&json!("denied"), &json!(id)), "{text}");
            assert!(text_of(&text).contains("was denied") && text_of(&text).ends_with("Money leaves."), "{text}");
        }
    }
    // What says nothing is asked again.
    let post = pay(&gateway, "ada", json!(100));
    let (id, state) = question(&post.to(&gateway));
    for nothing in
        [json!({ "action": "accept" }), json!({ "action": "accept", "content": { "approve": "yes" } }), json!(1)]
    {
        assert_eq!(question(&again(&post, &state, &nothing).to(&gateway)).0, id, "{nothing}");
    }
    assert_eq!(question(&post.clone().param("/requestState", json!(state)).to(&gateway)).0, id, "no answer at all");
    assert!(upstream.calls().is_empty());
    let records = gateway.records_until("a denial", |all| {
        oracle::of_kind(all, "decision").any(|decision| decision["reason"] == "denied")
    });
    let denied = oracle::of_kind(&records, "decision").find(|decision| decision["reason"] == "denied");
    assert_eq!(denied.expect("it is there")["approval"]["by"], "user");
}

#[test]
fn a_state_is_its_callers_and_nobody_can_make_one() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let post = pay(&gateway, "ada", json!(5));
    let (id, state) = question(&post.to(&gateway));
    let invalid = |post: &Post, state: &str| {
        let answer = again(post, state, &accept(true)).to(&gateway);
        assert_eq!((answer.status(), &answer.json()["error"]["code"]), (400, &json!(-32_602)), "{}", answer.text());
    };
    let mut forged = state.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    invalid(&post, std::str::from_utf8(&forged).expect("ASCII"));
    invalid(&post, "portcullis.AAAA");
    invalid(&post, "portcullis.");
    // Another subject's, of the same tool with the same arguments; of a tool that is hidden, all the same.
    let theirs = post.clone().without("authorization").token(&token(&gateway, "bob"));
    invalid(&theirs, &state);
    invalid(&Post::call("hidden").token(&token(&gateway, "bob")), &state);
    // Other arguments are another call.
    let other = post.clone().param("/arguments/amount", json!(5_000));
    let (changed, _) = question(&again(&other, &state, &accept(true)).to(&gateway));
    assert_ne!(changed, id);
    assert!(upstream.calls().is_empty());
    // The same value, written otherwise, is the same call.
    let retry = again(&post, &state, &accept(true));
    let body = String::from_utf8(retry.body_bytes()).expect("text").replace("\"amount\":5", "\"amount\": 50e-1");
    let retry = retry.body(body);
    retry.is_echoed(&retry.to(&gateway));
}

#[test]
fn a_yes_that_comes_too_late_is_none() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "1s");
    let post = pay(&gateway, "ada", json!(5));
    let (id, state) = question(&post.to(&gateway));
    eventually("it has expired", || question(&post.to(&gateway)).0 != id);
    question(&again(&post, &state, &accept(true)).to(&gateway));
    assert!(upstream.calls().is_empty());
}

#[test]
fn a_question_outlives_a_restart_and_its_rule() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let (kept, other) = (Post::call("pay"), Post::call("pay"));
    let by_ada = |post: &Post, gateway: &Gateway| post.clone().token(&token(gateway, "ada"));
    let (_, kept_state) = question(&by_ada(&kept, &gateway).to(&gateway));
    let (_, other_state) = question(&by_ada(&other, &gateway).to(&gateway));
    let gateway = gateway.restart(|_| {});
    let retry = again(&by_ada(&kept, &gateway), &kept_state, &accept(true));
    retry.is_echoed(&retry.to(&gateway));
    // Nobody asks any more: what was for us goes no further all the same.
    let gateway = gateway.restart(|config| config["policy"]["rules"] = json!([{ "id": "all", "permit": ["up/*"] }]));
    let retry = again(&by_ada(&other, &gateway), &other_state, &json!({ "action": "decline" }));
    retry.is_echoed(&retry.to(&gateway));
    for seen in upstream.calls() {
        let params = &seen.message["params"];
        assert!(params.get("requestState").is_none() && params.get("inputResponses").is_none(), "{params}");
    }
    assert_eq!(upstream.calls().len(), 2);
}

#[test]
fn a_client_that_cannot_ask_is_told_so() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let mute = [json!({}), json!({ "elicitation": { "url": {} } }), json!({ "sampling": {} })];
    for declared in mute {
        let answer = pay(&gateway, "ada", json!(5)).declaring(declared).to(&gateway);
        assert_eq!(refusal(&answer)["kind"], "unasked", "{}", answer.text());
        let text = text_of(&answer.json()).to_owned();
        assert!(text.contains("its client cannot ask its user"), "{text}");
    }
    let token = token(&gateway, "ada");
    let session = open_session(&gateway, |post| {
        let post = post.token(&token);
        if post.tells_of_itself() { post.param("/capabilities", json!({ "elicitation": { "url": {} } })) } else { post }
    });
    let answer = Post::legacy_call(&session, "pay").token(&token).to(&gateway);
    assert!(text_of(&answer.json()).contains("its client cannot ask its user"), "{}", answer.text());
    let old = Post::initialize("2025-03-26").token(&token).to(&gateway).field("mcp-session-id").to_owned();
    let call = Post::legacy_call(&old, "pay").token(&token).without("mcp-protocol-version");
    let answer = call.to(&gateway);
    assert!(text_of(&answer.json()).contains("MCP 2025-06-18 or later"), "{}", answer.text());
    let long = "x".repeat(300);
    let arguments: Value = (0..20).map(|n| (format!("a{n}"), json!(long))).collect::<serde_json::Map<_, _>>().into();
    let much = Post::call("pay").param("/arguments", arguments).token(&token).to(&gateway);
    assert!(text_of(&much.json()).contains("more than its user can look through"), "{}", much.text());
    assert!(upstream.calls().is_empty());
    let records = gateway.records_until("the refusals", |all| {
        oracle::of_kind(all, "decision").filter(|it| it["reason"] == "unasked").count() == 6
    });
    let unasked = oracle::of_kind(&records, "decision").find(|it| it["reason"] == "unasked").expect("there are six");
    assert_eq!((&unasked["verdict"], &unasked["rules"]), (&json!("refuse"), &json!(["asks"])), "{unasked}");
}

/// A legacy call that is asked about: the id of its approval, and that of the request to the client, which is there
/// before the refusal, on one stream.
#[track_caller]
fn requested(post: &Post, gateway: &Gateway) -> (String, Value) {
    let (messages, _) = post.stream(gateway).rest();
    let [request, answer] = &messages[..] else { panic!("a request and a refusal: {messages:#?}") };
    assert_eq!((&request["method"], &request["jsonrpc"]), (&json!("elicitation/create"), &json!("2.0")), "{request}");
    assert!(request["params"].get("mode").is_none(), "a mode is unknown before 2025-11-25: {request}");
    let said = request["params"]["message"].as_str().unwrap_or_default();
    let begins = format!("The agent wants to call the tool '{}' of the server 'up'. Money leaves.", post.tool());
    assert!(said.starts_with(&begins), "{said}");
    assert_eq!(request["params"]["requestedSchema"]["required"], json!(["approve"]));
    assert_eq!((&answer["id"], &answer["result"]["isError"]), (post.request_id(), &json!(true)), "{answer}");
    (waiting(answer), request["id"].clone())
}

/// The approval that a refusal says is waited for.
#[track_caller]
fn waiting(answer: &Value) -> String {
    let refusal = &answer["result"]["_meta"]["portcullis/refusal"];
    assert_eq!(refusal["kind"], "approval", "{answer}");
    assert!(text_of(answer).contains("approved by the user first"), "{answer}");
    refusal["approval"].as_str().expect("an id").to_owned()
}

/// A client's answer to a request, in a session.
#[track_caller]
fn reply(gateway: &Gateway, session: &str, subject: &str, id: &Value, result: &Value) {
    let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
    let told = Post::tell(session, answer).token(&token(gateway, subject)).to(gateway);
    assert_eq!((told.status(), told.text()), (202, String::new()));
}

fn session_of(gateway: &Gateway, subject: &str) -> String {
    open_session(gateway, |post| post.token(&token(gateway, subject)))
}

fn pay_in(gateway: &Gateway, session: &str, subject: &str) -> Post {
    Post::legacy_call(session, "pay").token(&token(gateway, subject))
}

#[test]
fn a_legacy_user_is_asked_in_front_of_the_refusal() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    for revision in ["2025-11-25", "2025-06-18"] {
        let before = upstream.calls().len();
        let by_ada = |post: Post| post.token(&token(&gateway, "ada"));
        let opened = by_ada(Post::initialize(revision)).to(&gateway);
        let session = opened.field("mcp-session-id").to_owned();
        let call = by_ada(Post::legacy_call(&session, "pay")).without("mcp-protocol-version");
        let call = call.field("mcp-protocol-version", revision);
        let (id, request) = requested(&call, &gateway);
        // One question at a time.
        assert_eq!(waiting(&call.to(&gateway).json()), id);
        // What says nothing is asked again, under another id.
        reply(&gateway, &session, "ada", &request, &json!({ "action": "accept" }));
        let (same, second) = requested(&call, &gateway);
        assert!(same == id && second != request);
        // An answer to what was answered means nothing.
        reply(&gateway, &session, "ada", &request, &accept(true));
        assert_eq!(waiting(&call.to(&gateway).json()), id);
        assert_eq!(upstream.calls().len(), before);
        reply(&gateway, &session, "ada", &second, &accept(true));
        // Other arguments are another call.
        assert_ne!(requested(&pay_in(&gateway, &session, "ada"), &gateway).0, id);
        let retry = call.clone().id(2);
        retry.is_echoed(&retry.to(&gateway));
        assert_eq!(upstream.calls().len(), before + 1);
        assert_ne!(requested(&call, &gateway).0, id, "it is used up");
        assert_eq!(upstream.calls().len(), before + 1);
        let of_call = |it: &&Value| it["trace"] == call.value.as_str();
        let records =
            gateway.records_until("all of them", |all| oracle::of_kind(all, "decision").filter(of_call).count() == 6);
        let all: Vec<_> = oracle::of_kind(&records, "decision").filter(of_call).collect();
        let of = |verdict: &str| all.iter().filter(|it| it["verdict"] == verdict).collect::<Vec<_>>();
        assert_eq!((of("pending").len(), of("permit").len()), (5, 1), "{all:#?}");
        let by = &of("permit")[0]["approval"];
        assert_eq!((&by["id"], &by["by"]), (&json!(id), &json!("user")), "{all:#?}");
    }
    // The answers went no further.
    assert!(upstream.seen().iter().all(|seen| seen.message.get("result").is_none()));
}

#[test]
fn a_legacy_user_is_asked_behind_several_servers() {
    let (upstream, other) = (Plan::tools(&["pay"]).start(), Plan::tools(&["echo"]).start());
    let gateway = Setup::new()
        .server("up", &upstream.url())
        .server("other", &other.url())
        .tokens("deny")
        .shards(2)
        .rule(json!({ "id": "asks", "approve": ["up/pay"], "ask": "elicit", "reason": "Money leaves." }))
        .rule(json!({ "id": "others", "permit": ["other/*"] }))
        .start();
    let session = session_of(&gateway, "ada");
    let call = Post::legacy_call(&session, "up__pay").token(&token(&gateway, "ada"));
    let (_, request) = requested(&call, &gateway);
    assert!(upstream.calls().is_empty());
    reply(&gateway, &session, "ada", &request, &accept(true));
    call.is_echoed(&call.to(&gateway));
    requested(&call, &gateway);
    assert_eq!(upstream.calls().len(), 1);
    let told = |seen: &crate::support::upstream::Seen| seen.message.get("result").is_some();
    assert!(!upstream.seen().iter().any(told) && !other.seen().iter().any(told), "the answer went no further");
}

#[test]
fn a_legacy_users_no_is_a_no() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let session = session_of(&gateway, "ada");
    for no in [json!({ "action": "decline" }), json!({ "action": "cancel" }), accept(false)] {
        let call = pay_in(&gateway, &session, "ada");
        let (id, request) = requested(&call, &gateway);
        reply(&gateway, &session, "ada", &request, &no);
        // Nor does a second answer turn it.
        reply(&gateway, &session, "ada", &request, &accept(true));
        let answer = call.to(&gateway);
        let refusal = refusal(&answer);
        assert_eq!((&refusal["kind"], &refusal["approval"]), (&json!("denied"), &json!(id)), "{}", answer.text());
    }
    assert!(upstream.calls().is_empty());
}

#[test]
fn a_legacy_question_is_answered_in_its_own_session() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let (session, own_other, foreign) =
        (session_of(&gateway, "ada"), session_of(&gateway, "ada"), session_of(&gateway, "bob"));
    let call = pay_in(&gateway, &session, "ada");
    let (id, request) = requested(&call, &gateway);
    reply(&gateway, &foreign, "bob", &request, &accept(true));
    reply(&gateway, &own_other, "ada", &request, &accept(true));
    assert_eq!(waiting(&call.to(&gateway).json()), id);
    // Nor is it anybody else's to find out whose it is: a session belongs to who opened it.
    let stolen = json!({ "jsonrpc": "2.0", "id": request, "result": accept(true) });
    let told = Post::tell(&session, stolen).token(&token(&gateway, "bob")).to(&gateway);
    assert_eq!(told.status(), 404, "{}", told.text());
    assert_eq!(waiting(&call.to(&gateway).json()), id);
    assert!(upstream.calls().is_empty());
    reply(&gateway, &session, "ada", &request, &accept(true));
    call.is_echoed(&call.to(&gateway));
}

#[test]
fn a_legacy_yes_that_comes_too_late_is_none() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "1s");
    let session = session_of(&gateway, "ada");
    let call = pay_in(&gateway, &session, "ada");
    let (id, request) = requested(&call, &gateway);
    let later = || call.to(&gateway);
    let mut newer = None;
    eventually("it has expired", || {
        let answer = later();
        newer = Some(answer.text());
        answer.field("content-type") == "text/event-stream"
    });
    assert!(!newer.unwrap_or_default().contains(&id));
    reply(&gateway, &session, "ada", &request, &accept(true));
    assert_eq!(refusal_kind(&call, &gateway), "approval");
    assert!(upstream.calls().is_empty());
}

/// What kind of refusal a legacy call gets, asked about anew or not.
#[track_caller]
fn refusal_kind(call: &Post, gateway: &Gateway) -> String {
    let text = call.to(gateway).text();
    let last = text.lines().rev().find(|line| line.contains("portcullis/refusal")).unwrap_or_default();
    let answer: Value = serde_json::from_str(last.trim_start_matches("data: ")).expect("a message");
    answer["result"]["_meta"]["portcullis/refusal"]["kind"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn prompts_and_resources_are_asked_about_too() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let token = token(&gateway, "ada");
    let get = Post::modern("prompts/get", json!({ "name": "greet" })).token(&token);
    let read = Post::modern("resources/read", json!({ "uri": "note://open" })).token(&token);
    for (post, what) in [(get, "get the prompt 'greet'"), (read, "read the resource 'note://open'")] {
        let asked = post.to(&gateway);
        let (_, state) = question(&asked);
        assert!(message(&asked).contains(what), "{}", message(&asked));
        let answer = again(&post, &state, &accept(true)).to(&gateway).json();
        assert!(answer["result"].is_object() && answer["result"]["resultType"] != "input_required", "{answer}");
    }
    let asked = |seen: &&crate::support::upstream::Seen| matches!(seen.method(), "prompts/get" | "resources/read");
    assert_eq!(upstream.seen().iter().filter(asked).count(), 2);
}

/// A server that asks for input itself, and goes by what comes back.
fn asking() -> Plan {
    Plan::tools(&["pay"]).script(|seen, out| {
        let params = &seen.message["params"];
        if !seen.calls("pay") || (params["requestState"] == "theirs" && params["inputResponses"]["k"].is_object()) {
            return Acted::Default;
        }
        let ask = json!({ "method": "elicitation/create", "params": { "mode": "form", "message": "Sure?",
            "requestedSchema": { "type": "object", "properties": {} } } });
        let result = json!({ "resultType": "input_required", "inputRequests": { "k": ask }, "requestState": "theirs" });
        out.json(200, "", &json!({ "jsonrpc": "2.0", "id": seen.id(), "result": result }));
        Acted::Done
    })
}

#[test]
fn a_server_that_asks_for_input_itself_gets_its_own_state_back() {
    let (gateway, upstream) = house(asking(), "15m");
    let post = pay(&gateway, "ada", json!(5));
    let (first, state) = question(&post.to(&gateway));
    let theirs = again(&post, &state, &accept(true)).to(&gateway).json();
    assert_eq!(theirs["result"]["requestState"], "theirs", "{theirs}");
    assert_eq!(upstream.calls().len(), 1);
    // The yes was for the call that the server has had: the next one, with what the server asked for, needs its own.
    let answers = json!({ "k": { "action": "accept", "content": { "n": 1 } } });
    let next = post.clone().id(3).param("/requestState", json!("theirs")).param("/inputResponses", answers.clone());
    let (second, state) = question(&next.to(&gateway));
    assert_ne!(first, second);
    assert!(!state.contains("theirs"));
    // A question that was not answered does not lose it.
    let (_, state) = question(&again(&post, &state, &json!({ "action": "accept" })).to(&gateway));
    let last = again(&post, &state, &accept(true));
    last.is_echoed(&last.to(&gateway));
    let seen = upstream.calls();
    assert_eq!(seen.len(), 2);
    let params = &seen[1].message["params"];
    assert_eq!((&params["requestState"], &params["inputResponses"]), (&json!("theirs"), &answers));
    assert_eq!(params["arguments"]["amount"], 5);
}

#[test]
fn what_stays_here_is_cut_out_and_nothing_else() {
    let (gateway, upstream) = house(Plan::tools(&["pay"]), "15m");
    let token = token(&gateway, "ada");
    // Our members first, last, apart, and alone with others that mean nothing to us.
    let cases = [
        ("{S} , {R},{rest}", "{rest}"),
        ("{rest} , {R} ,{S} ", "{rest}  "),
        ("{R},{rest},{S}", "{rest}"),
        (
            "\"x\":[12345678901234567890123], {S},\"y\" : 1.50E+2,{R} ,{rest}",
            "\"x\":[12345678901234567890123], \"y\" : 1.50E+2,{rest}",
        ),
        ("{rest},{S}", "{rest}"),
    ];
    for (index, (sent, wanted)) in cases.into_iter().enumerate() {
        let post = Post::call("pay").param("/arguments/index", json!(index)).token(&token);
        let whole = String::from_utf8(post.body_bytes()).expect("text");
        let start = whole.find("\"params\":{").expect("params") + "\"params\":{".len();
        let rest = &whole[start..whole.len() - "}}".len()];
        let with = |form: &str, state: &str| {
            let state = format!("\"requestState\" : \"{state}\"");
            let responses = format!("\"inputResponses\":{{\"{ENTRY}\":{}}}", accept(true));
            let params = form.replace("{S}", &state).replace("{R}", &responses).replace("{rest}", rest);
            format!("{}{params}}}}}", &whole[..start])
        };
        assert!(whole.ends_with("}}") && rest.contains("_meta"), "{whole}");
        let (_, state) = question(&post.to(&gateway));
        let answer = post.clone().body(with(sent, &state)).to(&gateway);
        if !sent.contains("{R}") {
            question(&answer);
            continue;
        }
        post.is_echoed(&answer);
        let seen = upstream.wait("the call", |seen| seen.value() == post.value);
        assert_eq!(String::from_utf8(seen.body), Ok(with(wanted, "")));
    }
}
