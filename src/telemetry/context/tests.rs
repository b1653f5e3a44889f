use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::scan;
use crate::mcp::call::{self, Call, Given};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OURS: Context = Context { trace: [0xab; 16], span: [0xcd; 8], flags: 1 };
const OURS_TEXT: &str = "00-abababababababababababababababab-cdcdcdcdcdcdcdcd-01";

fn parse(text: &str) -> Option<Context> {
    Context::parse(text.as_bytes())
}

#[test]
fn contexts_are_written_as_they_are_read() {
    let parent = parse(PARENT).unwrap();
    assert_eq!((parent.trace[0], parent.trace[15], parent.span[0], parent.flags), (0x0a, 0x9c, 0xb7, 1));
    assert!(parent.is_sampled());
    assert_eq!(parent.write().as_slice(), PARENT.as_bytes());
    assert_eq!(OURS.write().as_slice(), OURS_TEXT.as_bytes());
    assert!(!parse(&PARENT.replace("-01", "-02")).unwrap().is_sampled());
    // A later version may say more; what it says of flags is what it says.
    assert_eq!(parse(&format!("{}-more", PARENT.replacen("00", "cc", 1))).unwrap().trace, parent.trace);
    for bad in ["", "00", &PARENT[..54], &PARENT.to_uppercase(), &PARENT.replacen("00", "ff", 1), &format!("{PARENT}0")]
    {
        assert_eq!(parse(bad), None, "{bad}");
    }
    assert_eq!(parse("00-00000000000000000000000000000000-b7ad6b7169203331-01"), None);
    assert_eq!(parse("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"), None);
}

#[test]
fn a_message_has_one_parent() {
    let inside = parse(PARENT);
    let hop = Some(OURS);
    let check = |trust, inside: Option<Context>, hop: Option<Context>, parent, links: [Option<Context>; 2]| {
        assert_eq!(Origin::of(trust, inside, hop), Origin { parent, links }, "{trust:?} {inside:?} {hop:?}");
    };
    use TraceContext::{Continue, Drop, Link};
    // Its own context before that of the hop, which is a link then.
    check(Continue, inside, hop, inside, [hop, None]);
    check(Continue, None, hop, hop, [None, None]);
    check(Continue, inside, None, inside, [None, None]);
    check(Continue, inside, inside, inside, [None, None]);
    check(Continue, None, None, None, [None, None]);
    check(Link, inside, hop, None, [inside, hop]);
    check(Link, inside, inside, None, [inside, None]);
    check(Link, None, hop, None, [None, hop]);
    check(Drop, inside, hop, None, [None, None]);
}

#[test]
fn baggage_goes_by_its_keys() {
    let allowed = ["tenant".to_owned(), "b".to_owned()];
    let check = |value: &str, want: Kept| assert_eq!(kept(value, &allowed), want, "{value}");
    check("tenant=1", Kept::All);
    check(" tenant = 1;p=2 , b=x", Kept::All);
    check("user=ada,tenant=1", Kept::Some("tenant=1".into()));
    check("b=2, user=ada;p, tenant=1", Kept::Some("b=2, tenant=1".into()));
    for none in ["", "user=ada", "Tenant=1", "tenant", "=1", ",,", "tenant=1\r\nx: y", "tenant=\u{e9}"] {
        check(none, Kept::None);
    }
    check(&format!("tenant={}", "x".repeat(TRACE_FIELD_BYTES_MAX)), Kept::None);
    assert_eq!(kept("tenant=1", &[]), Kept::None);
}

#[test]
fn a_state_that_cannot_go_on_does_not() {
    assert_eq!(state(" a=1,b=2 "), "a=1,b=2");
    for bad in ["a=1\r\nx: y", "a=\u{e9}", "a\tb"] {
        assert_eq!(state(bad), "", "{bad}");
    }
    assert_eq!(state(&"x".repeat(TRACE_FIELD_BYTES_MAX + 1)), "");
}

fn edited(body: &str, wanted: &Wanted<'_>) -> Option<String> {
    let envelope = scan::read(body.as_bytes()).unwrap_or_else(|fault| panic!("{fault}: {body}"));
    let (place, new) = edit(body.as_bytes(), &envelope, wanted)?;
    let mut out = Vec::new();
    splice(body.as_bytes(), &[(place, &new)], &mut out);
    Some(String::from_utf8(out).unwrap())
}

/// The body that comes of `meta`, where the call is recorded (`state`: its trace's), and where it is not.
fn check(meta: &str, state: Option<&str>, allowed: &[&str], want: Option<&str>) {
    let baggage: Vec<String> = allowed.iter().map(|key| (*key).to_owned()).collect();
    let body = |meta: &str| {
        format!(
            "{{ \"id\":1,\"params\": {{\"name\":\"x\",\"_meta\": {meta} ,\"arguments\":{{\"_meta\":{{\"baggage\":\"a=b\"}},\"n\":1e999}}}},\"method\":\"tools/call\",\"jsonrpc\":\"2.0\"}}"
        )
    };
    let wanted = Wanted { recorded: state.map(|state| (&OURS, state)), baggage: &baggage };
    assert_eq!(edited(&body(meta), &wanted), want.map(body), "{meta}");
}

#[test]
fn what_is_not_recorded_goes_as_it_came() {
    check("{}", None, &[], None);
    check(r#"{"traceparent":"nonsense","tracestate":7,"k":"v"}"#, None, &[], None);
    check(&format!(r#"{{"traceparent":"{PARENT}","tracestate":"a=1","progressToken":1}}"#), None, &[], None);
    check(r#"{"baggage":"a=b, c=d"}"#, None, &["a", "c"], None);
    // But for what is a leak, and what is too long.
    check(r#"{"baggage":"a=b"}"#, None, &[], Some("{}"));
    check(r#"{ "x" : 1 ,"baggage":"a=b","y":2}"#, None, &[], Some(r#"{"x" : 1,"y":2}"#));
    check(r#"{"baggage":{"a":"b"}}"#, None, &["a"], Some("{}"));
    check(r#"{"y":2,"baggage":"a=b,c=\u0064"}"#, None, &["c"], Some(r#"{"y":2,"baggage":"c=d"}"#));
    let long = format!(r#"{{"tracestate":"{}","y":2}}"#, "x".repeat(TRACE_FIELD_BYTES_MAX));
    check(&long, None, &[], Some(r#"{"y":2}"#));
}

#[test]
fn what_is_recorded_says_where_it_is_from() {
    let ours = |rest: &str| format!(r#"{{"traceparent":"{OURS_TEXT}"{rest}}}"#);
    check("{}", Some(""), &[], Some(&ours("")));
    check("{}", Some("a=1"), &[], Some(&ours(r#","tracestate":"a=1""#)));
    check(
        &format!(r#"{{"x":1,"traceparent" : "{PARENT}","tracestate":"a=1","y":{{}}}}"#),
        Some("a=1"),
        &[],
        Some(&format!(r#"{{"x":1,"traceparent" : "{OURS_TEXT}","tracestate":"a=1","y":{{}}}}"#)),
    );
    // The state of another trace is none of this one.
    check(r#"{"tracestate":"a=1"}"#, Some(""), &[], Some(&ours("")));
    check(
        r#"{"tracestate":null,"traceparent":7}"#,
        Some("b=2"),
        &[],
        Some(&format!(r#"{{"tracestate":"b=2","traceparent":"{OURS_TEXT}"}}"#)),
    );
    check(r#"{"baggage":"a=b"}"#, Some(""), &[], Some(&ours("")));
}

#[test]
fn there_is_a_place_for_it() {
    let recorded = Wanted { recorded: Some((&OURS, "")), baggage: &[] };
    let meta = format!(r#""_meta":{{"traceparent":"{OURS_TEXT}"}}"#);
    let check = |body: &str, want: Option<String>| assert_eq!(edited(body, &recorded), want, "{body}");
    check(
        r#" {"jsonrpc":"2.0","id":1,"method":"ping"}"#,
        Some(format!(r#" {{"params":{{{meta}}},"jsonrpc":"2.0","id":1,"method":"ping"}}"#)),
    );
    check(
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{ }}"#,
        Some(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{{meta} }}}}"#)),
    );
    check(
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}"#,
        Some(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{{{meta},"a":1}}}}"#)),
    );
    // An answer has none, and what is no object holds nothing.
    check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, None);
    let plain = Wanted { recorded: None, baggage: &[] };
    assert_eq!(edited(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &plain), None);
}

/// A modern call of a tool.
fn call_of(body: &str) -> Call {
    let given = Given {
        version: Some(b"2026-07-28"),
        version_count: 1,
        method: Some(b"tools/call"),
        method_count: 1,
        name: Some(b"pay"),
        name_count: 1,
        ..Given::default()
    };
    let envelope = scan::read(body.as_bytes()).unwrap();
    call::read(&given, body.as_bytes(), &envelope).unwrap()
}

/// What a call says, apart from its trace.
fn said(body: &str) -> (Value, String) {
    let call = call_of(body);
    let mut message: Value = serde_json::from_str(body).unwrap();
    if let Some(meta) = message.pointer_mut("/params/_meta").and_then(Value::as_object_mut) {
        ["traceparent", "tracestate", "baggage"].iter().for_each(|key| drop(meta.remove(*key)));
    }
    let text = |span: Option<crate::base::span::Span>| {
        span.map(|span| String::from_utf8_lossy(span.of(body.as_bytes())).into_owned())
    };
    let parts = (
        (call.era, call.revision, call.shape, call.method.map(|method| method.wire)),
        call.subject.text().map(|name| name.of(body.as_bytes()).to_owned()),
        (text(call.arguments), text(call.meta.capabilities), text(call.meta.progress_token), call.meta.log_level),
        call.meta.task.as_ref().map(|task| task.of(body.as_bytes()).to_owned()),
    );
    (message, format!("{parts:?}"))
}

fn meta_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(PARENT)),
        Just(json!("a=1")),
        Just(json!("a=1,tenant=\"2\\")),
        "[ -~]{0,20}".prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(json!({ "traceparent": [1, { "baggage": null }] })),
        Just(json!(null)),
    ]
}

proptest! {
    /// An edited message is the same call: everything but its trace's members is what it was, in the same order.
    #[test]
    fn an_edited_message_is_the_same_call(
        more in proptest::collection::vec(("(traceparent|tracestate|baggage|a|x/y|[a-c]{1,2})", meta_value()), 0..6),
        before in 0_usize..3,
        state in "(|a=1|b=2,c=3)",
        recorded in any::<bool>(),
        allowed in proptest::collection::vec("(a|tenant)", 0..2),
    ) {
        let mut meta = Map::new();
        let own = [
            ("io.modelcontextprotocol/protocolVersion", json!("2026-07-28")),
            ("io.modelcontextprotocol/clientCapabilities", json!({ "baggage": "x" })),
            ("progressToken", json!("t\"1")),
        ];
        for (place, (key, value)) in own.into_iter().enumerate() {
            for (key, value) in more.iter().skip(place * before).take(before) {
                meta.insert(key.clone(), value.clone());
            }
            meta.insert(key.into(), value);
        }
        meta.extend(more.iter().cloned());
        let params = json!({ "name": "pay", "arguments": { "_meta": { "baggage": "k" }, "n": 0.1 }, "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": "7", "method": "tools/call", "params": params }).to_string();
        let wanted = Wanted { recorded: recorded.then_some((&OURS, &*state)), baggage: &allowed };
        let sent = edited(&body, &wanted);
        let is_clean = !meta.contains_key("baggage");
        prop_assert!(recorded || !is_clean || sent.is_none(), "what is not recorded goes as it came");
        let sent = sent.unwrap_or_else(|| body.clone());
        prop_assert_eq!(said(&body), said(&sent));
        let message: Value = serde_json::from_str(&sent).unwrap();
        let after = message["params"]["_meta"].as_object().unwrap();
        let kept = |meta: &Map<String, Value>| -> Vec<String> {
            meta.keys().filter(|key| !["traceparent", "tracestate", "baggage"].contains(&key.as_str())).cloned().collect()
        };
        prop_assert_eq!(kept(&meta), kept(after));
        if recorded {
            prop_assert_eq!(&after["traceparent"], OURS_TEXT);
            let given = after.get("tracestate").and_then(Value::as_str).unwrap_or_default();
            prop_assert_eq!(given, &state);
        }
        if let Some(baggage) = after.get("baggage") {
            let members = baggage.as_str().unwrap().split(',');
            let mut keys = members.map(|member| member.split_once('=').unwrap().0.trim().to_owned());
            prop_assert!(keys.all(|key| allowed.contains(&key)));
        }
    }
}
