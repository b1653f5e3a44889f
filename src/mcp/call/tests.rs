use super::*;
use crate::jsonrpc::scan;

const MODERN: &str = "2026-07-28";

/// A head, and what it is read with.
#[derive(Clone, Copy, Default)]
struct Head<'a> {
    version: &'a str,
    method: &'a str,
    name: &'a str,
    session: bool,
    session_revision: Option<Revision>,
    /// Which header is there twice.
    twice: Option<Header>,
}

fn check(head: Head<'_>, body: &str) -> Result<Call, CallFault> {
    let envelope = scan::read(body.as_bytes()).unwrap_or_else(|fault| panic!("{fault}: {body}"));
    let value = |text: &'static str, given: bool| given.then_some(text.as_bytes());
    let some = |text| Some(text).filter(|text: &&str| !text.is_empty()).map(str::as_bytes);
    let count = |header, given: bool| usize::from(given) + usize::from(head.twice == Some(header));
    let given = Given {
        version: some(head.version),
        version_count: count(Header::Version, !head.version.is_empty()),
        method: some(head.method),
        method_count: count(Header::Method, !head.method.is_empty()),
        name: some(head.name),
        name_count: count(Header::Name, !head.name.is_empty()),
        session: value("session", head.session),
        session_count: count(Header::Session, head.session),
        session_revision: head.session_revision,
    };
    read(&given, body.as_bytes(), &envelope)
}

/// A request in the modern shape, naming `version` in its `_meta`.
fn shaped(version: &str, method: &str, params: &str) -> String {
    let comma = if params.is_empty() { "" } else { "," };
    let version = format!(r#""io.modelcontextprotocol/protocolVersion":"{version}""#);
    let capabilities = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
    plain(method, &format!(r#""_meta":{{{version},{capabilities}}}{comma}{params}"#))
}

fn modern(method: &str, name: &str, params: &str) -> Result<Call, CallFault> {
    check(Head { version: MODERN, method, name, ..Head::default() }, &shaped(MODERN, method, params))
}

/// A request without the modern `_meta`.
fn plain(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#)
}

fn legacy(method: &str, params: &str) -> Result<Call, CallFault> {
    check(Head { version: "2025-11-25", session: true, ..Head::default() }, &plain(method, params))
}

/// The text that a call is about, unescaped.
fn about(call: &Call, body: &str) -> String {
    call.subject.text().unwrap().of(body.as_bytes()).to_owned()
}

/// The era and revision of a `tools/list` with this version in its head.
fn eras(version: &str, body: &str) -> Result<(Era, Revision), CallFault> {
    let head = Head { version, method: "tools/list", ..Head::default() };
    check(head, body).map(|call| (call.era, call.revision))
}

#[test]
fn the_era_of_a_post() {
    let list = plain("tools/list", "");
    // Header absent or legacy, no `_meta` version: legacy.
    assert_eq!(eras("", &list), Ok((Era::Legacy, Revision::R2025_03_26)));
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        assert_eq!(eras(version, &list), Ok((Era::Legacy, Revision::parse(version.as_bytes()).unwrap())));
    }
    // Header modern, no `_meta` version.
    assert_eq!(eras(MODERN, &list), Err(CallFault::MetaMissing(MetaKey::Meta)));
    // Header absent, `_meta` version present.
    let missing = HeaderFault::Missing(Header::Version);
    assert_eq!(eras("", &shaped(MODERN, "tools/list", "")), Err(missing.into()));
    assert_eq!(eras("", &shaped("2025-06-18", "tools/list", "")), Err(missing.into()));
    // Unknown header, no `_meta` version: it depends on the session.
    assert_eq!(eras("1999-01-01", &list), Err(CallFault::UnsupportedVersion));
    let head = Head { version: "1999-01-01", session: true, ..Head::default() };
    assert_eq!(check(head, &list), Err(CallFault::VersionUnknown));
}

#[test]
fn versions_of_header_and_body() {
    // They differ, whichever of them is modern.
    for (header, said) in
        [("2025-11-25", MODERN), (MODERN, "2025-11-25"), ("1999-01-01", MODERN), (MODERN, "1999-01-01"), (MODERN, "")]
    {
        let differs = HeaderFault::Differs(Header::Version);
        assert_eq!(eras(header, &shaped(said, "tools/list", "")), Err(differs.into()), "{header} {said}");
    }
    // They agree.
    assert_eq!(eras(MODERN, &shaped(MODERN, "tools/list", "")), Ok((Era::Modern, Revision::R2026_07_28)));
    for version in ["2025-11-25", "2024-11-05", "1999-01-01", "2099-01-01"] {
        assert_eq!(eras(version, &shaped(version, "tools/list", "")), Err(CallFault::UnsupportedVersion), "{version}");
    }
}

#[test]
fn a_session_says_what_a_legacy_request_speaks() {
    let said = Some(Revision::R2025_11_25);
    for version in ["", "2025-03-26", "2025-11-25"] {
        let head = Head { version, session: true, session_revision: said, ..Head::default() };
        assert_eq!(check(head, &plain("ping", "")).unwrap().revision, Revision::R2025_11_25);
    }
    // In the modern era a session id means nothing, not even twice.
    let head = Head {
        version: MODERN,
        method: "tools/list",
        session: true,
        session_revision: said,
        twice: Some(Header::Session),
        ..Head::default()
    };
    assert_eq!(check(head, &shaped(MODERN, "tools/list", "")).unwrap().era, Era::Modern);
    let head = Head { version: MODERN, session: true, session_revision: said, ..Head::default() };
    assert_eq!(check(head, &plain("tools/list", "")), Err(CallFault::MetaMissing(MetaKey::Meta)));
}

#[test]
fn initialize_is_a_handshake_whatever_it_asks_for() {
    for version in ["", "2025-06-18", MODERN, "1999-01-01"] {
        for (asked, want) in [
            ("2024-11-05", Revision::R2024_11_05),
            ("2025-03-26", Revision::R2025_03_26),
            ("2025-06-18", Revision::R2025_06_18),
            ("2025-11-25", Revision::R2025_11_25),
            (MODERN, Revision::R2025_11_25),
            ("1999-01-01", Revision::R2025_11_25),
        ] {
            let head = Head { version, method: "initialize", ..Head::default() };
            let call = check(head, &plain("initialize", &format!(r#""protocolVersion":"{asked}""#))).unwrap();
            assert_eq!((call.era, call.revision), (Era::Legacy, want), "{version} {asked}");
        }
    }
    let fault = CallFault::ParamsInvalid(Era::Legacy, Param::ProtocolVersion);
    assert_eq!(check(Head::default(), &plain("initialize", "")), Err(fault));
    assert_eq!(check(Head::default(), &plain("initialize", r#""protocolVersion":1"#)), Err(fault));
    // With the modern `_meta` it is a method that does not exist.
    assert_eq!(
        modern("initialize", "", r#""protocolVersion":"2025-06-18""#),
        Err(CallFault::MethodUnknown(Era::Modern))
    );
}

#[test]
fn modern_requests_need_their_metadata() {
    let read = |meta: &str| {
        let head = Head { version: MODERN, method: "tools/list", ..Head::default() };
        check(head, &plain("tools/list", meta)).map(|call| call.era)
    };
    const VERSION: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
    const CAPABILITIES: &str = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
    let missing = |key| Err(CallFault::MetaMissing(key));
    assert_eq!(read(""), missing(MetaKey::Meta));
    assert_eq!(read(r#""_meta":null"#), missing(MetaKey::Meta));
    assert_eq!(read(r#""_meta":"x""#), missing(MetaKey::Meta));
    assert_eq!(read(r#""_meta":{}"#), missing(MetaKey::ProtocolVersion));
    assert_eq!(read(&format!(r#""_meta":{{{CAPABILITIES}}}"#)), missing(MetaKey::ProtocolVersion));
    assert_eq!(read(&format!(r#""_meta":{{{VERSION}}}"#)), missing(MetaKey::ClientCapabilities));
    let null = CAPABILITIES.replace("{}", "null");
    assert_eq!(read(&format!(r#""_meta":{{{VERSION},{null}}}"#)), missing(MetaKey::ClientCapabilities));
    let number = VERSION.replace("\"2026-07-28\"", "20260728");
    assert_eq!(read(&format!(r#""_meta":{{{number},{CAPABILITIES}}}"#)), missing(MetaKey::ProtocolVersion));
    assert_eq!(read(&format!(r#""_meta":{{{VERSION},{CAPABILITIES}}}"#)), Ok(Era::Modern));
    let php = format!(r#""_meta":{{{VERSION},{CAPABILITIES}}}"#).replace('/', r"\/");
    assert_eq!(read(&php), Ok(Era::Modern), "an escaped slash is a slash");
    // No `params` at all.
    let head = Head { version: MODERN, method: "ping", ..Head::default() };
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(check(head, bare), Err(CallFault::MetaMissing(MetaKey::Meta)));
}

#[test]
fn faults_come_in_order() {
    // Each row mends the first fault of the row above.
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01""#;
    let broken = plain("tools/nope", &format!("{meta}}}"));
    let read = |version, method, body: &str| check(Head { version, method, ..Head::default() }, body);
    assert_eq!(read(MODERN, "x", &broken), Err(CallFault::MetaMissing(MetaKey::ClientCapabilities)));
    let future = shaped("2099-01-01", "tools/nope", "");
    assert_eq!(read(MODERN, "x", &future), Err(HeaderFault::Differs(Header::Version).into()));
    assert_eq!(read("2099-01-01", "x", &future), Err(CallFault::UnsupportedVersion));
    let unknown = shaped(MODERN, "tools/nope", "");
    assert_eq!(read(MODERN, "x", &unknown), Err(HeaderFault::Differs(Header::Method).into()));
    assert_eq!(read(MODERN, "tools/nope", &unknown), Err(CallFault::MethodUnknown(Era::Modern)));
    let call = shaped(MODERN, "tools/call", r#""arguments":[]"#);
    assert_eq!(read(MODERN, "tools/call", &call), Err(CallFault::ParamsInvalid(Era::Modern, Param::Name)));
}

/// A `tools/call` of `get_weather` whose head has `value` for one of its headers; empty: not there.
fn with(header: Header, value: &str) -> Result<Call, CallFault> {
    let mut head = WEATHER;
    match header {
        Header::Version => head.version = value,
        Header::Method => head.method = value,
        _ => head.name = value,
    }
    check(head, &shaped(MODERN, "tools/call", r#""name":"get_weather""#))
}

const WEATHER: Head<'_> = Head {
    version: MODERN,
    method: "tools/call",
    name: "get_weather",
    session: false,
    session_revision: None,
    twice: None,
};

#[test]
fn modern_headers_agree_with_the_body() {
    for (header, value, want) in [
        (Header::Version, "", HeaderFault::Missing(Header::Version)),
        (Header::Method, "", HeaderFault::Missing(Header::Method)),
        (Header::Method, "tools/list", HeaderFault::Differs(Header::Method)),
        (Header::Method, "TOOLS/CALL", HeaderFault::Differs(Header::Method)),
        (Header::Method, "=?base64?dG9vbHMvY2FsbA==?=", HeaderFault::Differs(Header::Method)),
        (Header::Name, "", HeaderFault::Missing(Header::Name)),
        (Header::Name, "Get_weather", HeaderFault::Differs(Header::Name)),
        (Header::Name, "get_weather\u{e9}", HeaderFault::Bytes(Header::Name)),
        (Header::Name, "=?base64?Z2V0X3dlYXRoZXI?=", HeaderFault::Encoding(Header::Name)),
    ] {
        assert_eq!(with(header, value), Err(want.into()), "{header:?} {value}");
    }
    assert!(with(Header::Name, "get_weather").is_ok());
    assert!(with(Header::Name, "=?base64?Z2V0X3dlYXRoZXI=?=").is_ok());
    let body = shaped(MODERN, "tools/call", r#""name":"get_weather""#);
    for header in [Header::Version, Header::Method, Header::Name] {
        let head = Head { twice: Some(header), ..WEATHER };
        assert_eq!(check(head, &body), Err(HeaderFault::Doubled(header).into()));
    }
}

#[test]
fn some_methods_need_their_name_in_the_head() {
    let escaped = shaped(MODERN, "tools/call", r#""name":"get\u005fweather""#);
    assert_eq!(about(&check(WEATHER, &escaped).unwrap(), &escaped), "get_weather");
    // A header for a name that the body does not have.
    let none = shaped(MODERN, "tools/call", r#""name":7"#);
    assert_eq!(check(WEATHER, &none), Err(HeaderFault::Differs(Header::Name).into()));
    let missing = Err(HeaderFault::Missing(Header::Name).into());
    let (prompt, resource, beyond) = (r#""name":"p""#, r#""uri":"file:///a""#, r#""uri":"file:///✓""#);
    assert_eq!(modern("prompts/get", "", prompt), missing);
    assert_eq!(modern("resources/read", "", resource), missing);
    assert!(modern("prompts/get", "p", prompt).is_ok());
    assert!(modern("resources/read", "file:///a", resource).is_ok());
    assert!(modern("resources/read", "=?base64?ZmlsZTovLy/inJM=?=", beyond).is_ok());
    assert!(modern("tools/list", "", "").is_ok());
}

#[test]
fn methods_belong_to_their_era() {
    let gone = Err(CallFault::MethodUnknown(Era::Modern));
    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
        assert_eq!(modern(method, "", r#""uri":"file:///a""#), gone, "{method}");
    }
    for method in
        ["tasks/list", "tasks/result", "tools/nope", "sampling/createMessage", "notifications/initialized", ""]
    {
        // An empty Mcp-Method cannot be told from none by this helper.
        let want = if method.is_empty() { Err(HeaderFault::Missing(Header::Method).into()) } else { gone.clone() };
        assert_eq!(modern(method, "", ""), want, "{method}");
    }
    let unknown = Err(CallFault::MethodUnknown(Era::Legacy));
    for method in ["server/discover", "subscriptions/listen", "tasks/list", "Tools/call", "elicitation/create"] {
        assert_eq!(legacy(method, ""), unknown, "{method}");
    }
    for method in ["ping", "tools/list", "logging/setLevel"] {
        assert!(legacy(method, "").is_ok(), "{method}");
    }
    assert_eq!(legacy("tools\u{7f}list", ""), Err(CallFault::NameInvalid));
    assert_eq!(legacy("tools\u{85}list", ""), Err(CallFault::NameInvalid));
    assert_eq!(legacy(r"tools\/list", "").unwrap().method.unwrap().wire, "tools/list");
}

fn notify(version: &str, method: &str) -> Result<Era, CallFault> {
    let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#);
    let call = check(Head { version, ..Head::default() }, &body)?;
    assert_eq!((call.shape, call.id), (Shape::Notification, None));
    Ok(call.era)
}

#[test]
fn notifications_have_no_id() {
    for (version, method, want) in [
        ("2025-11-25", "notifications/initialized", Ok(Era::Legacy)),
        ("2025-11-25", "notifications/nope", Err(CallFault::MethodUnknown(Era::Legacy))),
        ("2025-11-25", "tools/call", Err(CallFault::FormMismatch(Era::Legacy))),
        // Modern ones need neither `_meta` nor `Mcp-Method`.
        (MODERN, "notifications/cancelled", Ok(Era::Modern)),
        (MODERN, "notifications/initialized", Err(CallFault::MethodUnknown(Era::Modern))),
        (MODERN, "tools/call", Err(CallFault::FormMismatch(Era::Modern))),
    ] {
        assert_eq!(notify(version, method), want, "{version} {method}");
    }
    let unknown = Err(CallFault::MethodUnknown(Era::Legacy));
    assert_eq!(legacy("notifications/initialized", ""), unknown);
    // What is there must agree.
    let said = shaped(MODERN, "notifications/cancelled", "").replace(r#""id":1,"#, "");
    let read = |version, method| check(Head { version, method, ..Head::default() }, &said);
    assert_eq!(read("", "").unwrap().era, Era::Modern);
    assert_eq!(read("2025-11-25", ""), Err(HeaderFault::Differs(Header::Version).into()));
    assert_eq!(read(MODERN, "ping"), Err(HeaderFault::Differs(Header::Method).into()));
}

#[test]
fn only_legacy_clients_answer() {
    let old = Head { version: "2025-11-25", session: true, ..Head::default() };
    let new = Head { version: MODERN, ..Head::default() };
    let result = r#"{"jsonrpc":"2.0","id":"s-1","result":{"roots":[]}}"#;
    let error = r#"{"jsonrpc":"2.0","id":"s-1","error":{"code":-1,"message":"no"}}"#;
    for (body, shape) in [(result, Shape::Result), (error, Shape::Error)] {
        let call = check(old, body).unwrap();
        assert_eq!((call.shape, call.method, &call.subject), (shape, None, &Object::None));
        assert_eq!(call.id.unwrap().raw(body.as_bytes()), br#""s-1""#);
        assert_eq!(check(new, body), Err(CallFault::ResponseRefused));
    }
    let meta = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
    let claims = result.replace(r#"{"roots":[]}"#, meta);
    assert_eq!(check(old, &claims).unwrap().era, Era::Legacy, "a result claims no version");
}

#[test]
fn doubled_headers_are_refused_in_the_legacy_era() {
    let head = Head { version: "2025-11-25", session: true, ..Head::default() };
    for header in [Header::Version, Header::Session] {
        let head = Head { twice: Some(header), ..head };
        assert_eq!(check(head, &plain("ping", "")), Err(CallFault::Doubled));
        let initialize = plain("initialize", r#""protocolVersion":"2025-11-25""#);
        assert_eq!(check(head, &initialize), Err(CallFault::Doubled));
    }
    // The headers of the modern era mean nothing in the legacy one.
    assert!(check(Head { method: "x", name: "y", twice: Some(Header::Name), ..head }, &plain("ping", "")).is_ok());
}

#[test]
fn what_a_call_is_about() {
    for (method, params, text) in [
        ("tools/call", r#""name":"a b","arguments":{"x":1}"#, "a b"),
        ("tools/call", r#""name":"\ud83d\ude00\u00e9\/""#, "\u{1f600}\u{e9}/"),
        ("prompts/get", r#""name":"p""#, "p"),
        ("resources/read", r#""uri":"file:\/\/\/a""#, "file:///a"),
        ("resources/subscribe", r#""uri":"file:///a""#, "file:///a"),
        ("resources/unsubscribe", r#""uri":"file:///a""#, "file:///a"),
        ("completion/complete", r#""ref":{"type":"ref/prompt","name":"p","title":"t"}"#, "p"),
        ("completion/complete", r#""ref":{"uri":"file:///{x}","type":"ref\/resource"}"#, "file:///{x}"),
    ] {
        let call = legacy(method, params).unwrap();
        assert_eq!(about(&call, &plain(method, params)), text, "{method} {params}");
        let fits = matches!(
            (method, &call.subject),
            ("tools/call", Object::Tool(_))
                | ("prompts/get", Object::Prompt(_))
                | ("resources/read" | "resources/subscribe" | "resources/unsubscribe", Object::Resource(_))
                | ("completion/complete", Object::CompletePrompt(_) | Object::CompleteResource(_))
        );
        assert!(fits, "{method} {:?}", call.subject);
    }
    let body = plain("tools/call", r#""name":"t","arguments":{"x":1}"#);
    let call = check(Head::default(), &body).unwrap();
    assert_eq!(call.arguments.unwrap().of(body.as_bytes()), br#"{"x":1}"#);
    assert_eq!(legacy("tools/call", r#""name":"t","arguments":null"#).unwrap().arguments, None);
}

#[test]
fn parameters_are_well_formed() {
    for (params, param) in [
        ("", Param::Name),
        (r#""name":null"#, Param::Name),
        (r#""uri":"t""#, Param::Name),
        (r#""name":"t","arguments":[]"#, Param::Arguments),
        (r#""name":"t","arguments":"x""#, Param::Arguments),
        (r#""name":"t","_meta":[]"#, Param::Meta),
        (r#""name":"t","_meta":{"progressToken":1.5}"#, Param::Meta),
        (r#""name":"t","_meta":{"progressToken":null}"#, Param::Meta),
    ] {
        let want = CallFault::ParamsInvalid(Era::Legacy, param);
        assert_eq!(legacy("tools/call", params), Err(want), "{params}");
    }
    let uri = CallFault::ParamsInvalid(Era::Legacy, Param::Uri);
    assert_eq!(legacy("resources/read", r#""name":"x""#), Err(uri));
    assert_eq!(legacy("resources/read", r#""uri":["x"]"#), Err(uri));
    for reference in [
        "null",
        r#""p""#,
        r#"{"type":"ref/prompt"}"#,
        r#"{"name":"p"}"#,
        r#"{"type":"ref/tool","name":"p"}"#,
        r#"{"type":"ref/resource","name":"p"}"#,
        r#"{"type":1,"name":"p"}"#,
        r#"{"type":"ref/prompt","n\u0061me":"p"}"#,
        r#"{"type":"ref/prompt","name":"p","n\u0101me":"q"}"#,
    ] {
        let want = CallFault::ParamsInvalid(Era::Legacy, Param::Ref);
        let params = format!(r#""ref":{reference}"#);
        assert_eq!(legacy("completion/complete", &params), Err(want), "{reference}");
    }
    let twin = r#""ref":{"type":"ref/prompt","name":"p","Name":"q"}"#;
    assert_eq!(legacy("completion/complete", twin), Err(CallFault::CaseTwin));
}

#[test]
fn names_hold_no_control_characters() {
    for name in ["\\u0000", "a\\u0000b", "\\n", "a\\u001b[0m", "\u{7f}", "\u{9f}", "\\u0085"] {
        for (method, params) in [
            ("tools/call", format!(r#""name":"{name}""#)),
            ("prompts/get", format!(r#""name":"{name}""#)),
            ("resources/read", format!(r#""uri":"{name}""#)),
            ("completion/complete", format!(r#""ref":{{"type":"ref/prompt","name":"{name}"}}"#)),
            ("completion/complete", format!(r#""ref":{{"type":"ref/resource","uri":"{name}"}}"#)),
        ] {
            assert_eq!(legacy(method, &params), Err(CallFault::NameInvalid), "{method} {params}");
        }
        let listen = format!(r#""notifications":{{"resourceSubscriptions":["{name}"]}}"#);
        assert_eq!(modern("subscriptions/listen", "", &listen), Err(CallFault::NameInvalid));
    }
}

#[test]
fn listening_names_its_resources() {
    let read = |filters: &str| {
        let params = format!(r#""notifications":{filters}"#);
        let body = shaped(MODERN, "subscriptions/listen", &params);
        let Object::Listen(listen) = modern("subscriptions/listen", "", &params)?.subject else {
            panic!("a listen call is about what it listens to")
        };
        let uris: Vec<String> = listen.uris.iter().map(|uri| uri.of(body.as_bytes()).to_owned()).collect();
        Ok((listen.tools, listen.prompts, listen.resources, uris))
    };
    assert_eq!(read("{}"), Ok((false, false, false, vec![])));
    assert_eq!(
        read(r#"{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["file:///a","b\/c"]}"#),
        Ok((true, false, false, vec!["file:///a".to_owned(), "b/c".to_owned()]))
    );
    assert_eq!(
        read(r#"{ "promptsListChanged" : true , "resourcesListChanged" : true, "resourceSubscriptions" : [ ] }"#),
        Ok((false, true, true, vec![]))
    );
    let many = vec![r#""x""#; LISTEN_URIS_MAX + 1].join(",");
    let tasks = vec![r#""x""#; LISTEN_TASKS_MAX + 1].join(",");
    let fault = CallFault::ParamsInvalid(Era::Modern, Param::Notifications);
    for filters in [
        "null",
        "[]",
        r#"{"toolsListChanged":1}"#,
        r#"{"toolsListChanged":null}"#,
        r#"{"resourceSubscriptions":"file:///a"}"#,
        r#"{"resourceSubscriptions":[1]}"#,
        r#"{"resourceSubscriptions":{"a":"b"}}"#,
        r#"{"taskIds":"t"}"#,
        r#"{"taskIds":[null]}"#,
        &format!(r#"{{"taskIds":[{tasks}]}}"#),
        r#"{"resource\u0053ubscriptions":["file:///a"]}"#,
        &format!(r#"{{"resourceSubscriptions":[{many}]}}"#),
    ] {
        assert_eq!(read(filters), Err(fault), "{filters}");
    }
    for twin in [r#"{"resourcesubscriptions":[]}"#, r#"{"taskIds":["t"],"taskids":["u"]}"#] {
        assert_eq!(read(twin), Err(CallFault::CaseTwin));
    }
    assert_eq!(modern("subscriptions/listen", "", ""), Err(fault));
}

#[test]
fn what_meta_says_to_the_gateway() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = format!(r#""traceparent":"{parent}","tracestate":"x=y","baggage":"k=v""#);
    let ours = r#""portcullis\/task":"ref\u0075nd","progressToken":"a\n","other":1"#;
    let params = format!(r#""_meta":{{{ours},{trace}}},"name":"t""#);
    let body = plain("tools/call", &params);
    let meta = check(Head::default(), &body).unwrap().meta;
    let at = |span: Option<Span>| std::str::from_utf8(span.unwrap().of(body.as_bytes())).unwrap();
    assert_eq!(meta.task.as_ref().unwrap().of(body.as_bytes()), "refund");
    assert_eq!(at(meta.progress_token), r#""a\n""#);
    assert_eq!((at(meta.traceparent), at(meta.tracestate), at(meta.baggage)), (parent, "x=y", "k=v"));
    assert_eq!(meta.capabilities, None);

    assert_eq!(legacy("ping", "").unwrap().meta, Meta::default());
    assert_eq!(legacy("ping", r#""_meta":{"portcullis/task":7}"#), Err(CallFault::TaskInvalid));
    assert!(legacy("ping", r#""_meta":{"progressToken":-9007199254740993}"#).unwrap().meta.progress_token.is_some());
    let params = r#""cursor":"x""#;
    let call = modern("tools/list", "", params).unwrap();
    assert_eq!(call.meta.capabilities.unwrap().of(shaped(MODERN, "tools/list", params).as_bytes()), b"{}");
}

#[test]
fn only_a_proper_traceparent_counts() {
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert!(is_traceparent(good.as_bytes()));
    assert!(is_traceparent(good.replacen("00", "cc", 1).as_bytes()));
    assert!(is_traceparent(format!("{}-what-comes-later", good.replacen("00", "cc", 1)).as_bytes()));
    for bad in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
    ] {
        assert!(!is_traceparent(bad.as_bytes()), "{bad}");
    }
}

#[test]
fn a_call_may_be_kept_without_its_body() {
    fn kept<T: Send + Sync + Clone + 'static>() {}
    kept::<Call>();
}

/// [E6] Batches are 2025-03-26's, whether the session says so, the header, or nothing.
#[test]
fn one_revision_has_batches() {
    let takes = |version: Option<&str>, session: Option<Revision>| {
        let given = Given {
            version: version.map(str::as_bytes),
            version_count: usize::from(version.is_some()),
            session: session.map(|_| &b"id"[..]),
            session_count: usize::from(session.is_some()),
            session_revision: session,
            ..Given::default()
        };
        assert!(!takes_batch(&Given { version_count: 2, ..given }));
        assert!(!takes_batch(&Given { session_count: 2, ..given }));
        takes_batch(&given)
    };
    assert!(takes(None, None));
    for revision in Revision::ALL {
        let one = revision == Revision::R2025_03_26;
        assert_eq!(takes(Some(revision.as_str()), None), one, "{revision:?}");
        if !revision.is_modern() {
            // What was negotiated holds, whatever legacy version the header names.
            assert_eq!(takes(None, Some(revision)), one, "{revision:?}");
            assert_eq!(takes(Some("2025-11-25"), Some(revision)), one, "{revision:?}");
        }
        assert!(!takes(Some(MODERN), Some(revision)), "{revision:?}");
        assert!(!takes(Some("1.0"), Some(revision)), "{revision:?}");
    }
}

#[test]
fn tasks_go_by_their_id_in_body_and_header() {
    let fault = |fault: HeaderFault| Err(CallFault::from(fault));
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let read = |name: &str, params: &str| modern(method, name, params).map(|call| call.subject);
        let Ok(Object::Task(task)) = read("t-1", r#""taskId":"t\u002d1","inputResponses":{}"#) else {
            panic!("{method} is about a task");
        };
        assert_eq!((task.opened, task.text.unescaped.as_deref()), (None, Some("t-1")));
        assert_eq!(read("t-2", r#""taskId":"t-1""#), fault(HeaderFault::Differs(Header::Name)));
        assert_eq!(read("", r#""taskId":"t-1""#), fault(HeaderFault::Missing(Header::Name)));
        assert_eq!(read("t-1", ""), fault(HeaderFault::Differs(Header::Name)));
        for params in ["", r#""taskId":1"#, r#""taskId":null"#] {
            assert_eq!(read("", params), Err(CallFault::ParamsInvalid(Era::Modern, Param::TaskId)), "{params}");
        }
        assert_eq!(read("a", r#""taskId":"a\u0000""#), fault(HeaderFault::Differs(Header::Name)));
        assert_eq!(legacy(method, r#""taskId":"t-1""#), Err(CallFault::MethodUnknown(Era::Legacy)), "{method}");
    }
    let body = shaped(MODERN, "subscriptions/listen", r#""notifications":{"taskIds":["a","b"]}"#);
    let head = Head { version: MODERN, method: "subscriptions/listen", ..Head::default() };
    let Object::Listen(listen) = check(head, &body).unwrap().subject else { panic!("a subscription") };
    let names: Vec<&str> = listen.tasks.iter().map(|task| task.text.of(body.as_bytes())).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(listen.tasks_place.map(|place| place.of(body.as_bytes())), Some(&br#"["a","b"]"#[..]));
}

#[test]
fn a_request_says_how_severe_a_log_message_must_be() {
    let read = |level: &str| {
        let body = shaped(MODERN, "tools/call", r#""name":"t""#);
        let body = body.replace(r#""_meta":{"#, &format!(r#""_meta":{{"io.modelcontextprotocol/logLevel":{level},"#));
        let head = Head { version: MODERN, method: "tools/call", name: "t", ..Head::default() };
        check(head, &body).map(|call| call.meta.log_level)
    };
    assert_eq!(read("\"warning\""), Ok(Some(LogLevel::Warning)));
    for level in ["\"loud\"", "4", "null"] {
        assert_eq!(read(level), Err(CallFault::ParamsInvalid(Era::Modern, Param::Meta)), "{level}");
    }
    assert_eq!(modern("tools/call", "t", r#""name":"t""#).unwrap().meta.log_level, None);
    // It means nothing to the legacy era.
    let meta = r#""name":"t","_meta":{"io.modelcontextprotocol/logLevel":"loud"}"#;
    assert_eq!(legacy("tools/call", meta).unwrap().meta.log_level, None);
}
