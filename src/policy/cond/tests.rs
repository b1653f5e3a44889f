//! Conditions and what they come to; texts that are none, and what is said of them.

use std::sync::Arc;

use super::*;
use Truth::{False, True, Unknown};

const CLAIMS: &str = r#"{"sub":"ana","groups":["support","dev"],"level":3,"tenant":"acme","admin":false,"none":null,
    "mixed":[1,"a",null],"realm":{"roles":["r1"]},"https://x/y":"z","scope":"read write","empty":[],"big":1e400}"#;

const ARGS: &str = r#"{ "amount" : 499.90, "currency":"EUR", "qu\u0061ntity": 3, "price": 0.1, "flag": true, "off": false,
    "nothing": null, "path": "/srv/files/public/../public/a.txt", "bad_path": "/srv/../etc/passwd",
    "url": "https://API.Example.com./v1", "evil": "https://api.example.com@evil.org/", "ip": "10.1.2.3", "text": "a\u0062c",
    "lines": [{"price": 1, "tags": ["x","y"]}, {"price": 2.50, "tags": []}], "numbers": [1, 2, 3], "texts": ["a","b"],
    "odd": [1, "b", null], "nested": {"a": {"b": [0, {"c": 7}]}}, "empty": [], "none": {}, "email": "a@b.example",
    "long": 1234567890123456789012345678901234567890123, "same": {"x":[1,{"y":2.0}]}, "same2": {"x":[1.0,{"y":2}]},
    "tenant": "acme", "ümlaut": "ä€😀", "": 1, "with space": 2 }"#;

fn caller() -> Caller {
    let mut caller = Caller::anonymous();
    caller.claims = Arc::from(CLAIMS.as_bytes());
    caller.subject = Arc::from("ana");
    caller.issuer = Arc::from("https://issuer.example");
    caller
}

fn facts(caller: &Caller) -> Facts<'_> {
    // A Saturday, 15:26:40 in Berlin.
    Facts {
        caller,
        args: Some(ARGS.as_bytes()),
        task: Some("refund"),
        tool: "pay",
        server: "shop",
        now_s: 1_758_979_600,
    }
}

fn when(text: &str) -> Condition {
    Condition::parse(text, Purpose::When, &ClaimTypes::default())
        .unwrap_or_else(|fault| panic!("{text}\n{:>1$} {fault} ({2})", "^", fault.column, fault.hint))
}

#[track_caller]
fn check(text: &str, want: Truth) {
    let (condition, caller) = (when(text), caller());
    assert_eq!(condition.truth(&facts(&caller), 0), want, "{text}");
    assert_eq!(condition.unknown(&facts(&caller), 0).is_some(), want == Unknown, "{text}");
}

#[test]
fn numbers_compare_by_value() {
    check("args.amount > 0 && args.amount <= 500 && args.currency in [\"EUR\", \"USD\"]", True);
    check("args.amount == 499.9", True);
    check("args.amount == 4.999e2", True);
    check("args.amount != 499.9", False);
    check("args.amount < 499.9", False);
    check("args.amount >= 499.9", True);
    check("args.quantity * args.price == 0.3", True);
    check("args.price + 0.2 == 0.3", True);
    check("args.quantity - 5 == -2", True);
    check("-args.quantity == -3", True);
    check("- 3 == -args.quantity", True);
    check("1 + 2 * 3 == 7", True);
    check("(1 + 2) * 3 == 9", True);
    check("10 - 3 - 2 == 5", True);
    check("args.long > 5", True);
    check("args.long + 1 > 5", Unknown);
    check("-args.long < 0", Unknown);
    check("args.long == args.long", True);
    check("claims.big > args.long", True);
    check("args.amount > \"5\".size()", True);
    check("99999999999999999999999999999999999999 * 10 > 1", True);
    check("99999999999999999999999999999999999999 * 11 > 1", Unknown);
}

#[test]
fn nothing_is_coerced() {
    check("args.amount == args.currency", Unknown);
    check("args.amount != args.currency", Unknown);
    check("!(args.amount == args.currency)", Unknown);
    check("args.currency < 5", Unknown);
    check("args.currency + 1 > 0", Unknown);
    check("args.flag == 1", Unknown);
    check("args.flag", True);
    check("!args.off && args.flag", True);
    check("args.amount", Unknown);
    check("args.amount || true", True);
    check("args.currency.startsWith(args.amount)", Unknown);
    check("args.amount.startsWith(\"4\")", Unknown);
    check("(args.amount > 1) == true", True);
    check("(args.amount > 1) == args.flag", True);
    check("(args.missing > 1) == true", Unknown);
    check("args.nothing == args.nothing", True);
    check("args.nothing == args.amount", Unknown);
    check("args.nothing == null && null == args.nothing && args.amount != null", True);
    check("args.amount == null", False);
    check("args.missing == null", Unknown);
    check("args.missing != null", Unknown);
    check("null == null", True);
    check("agent == null", Unknown);
    check("args.same == args.same2", True);
    check("args.same != args.none", True);
    check("args.texts == [\"a\", \"b\"]", True);
    check("args.texts == [\"b\", \"a\"]", False);
    check("args.numbers == [1.0, 2, 3e0]", True);
    check("args.odd == [1, null]", False);
}

#[test]
fn logic_has_three_values() {
    for (left, left_is) in [("true", True), ("false", False), ("args.missing", Unknown)] {
        for (right, right_is) in [("true", True), ("false", False), ("args.missing", Unknown)] {
            let and = match (left_is, right_is) {
                (False, _) | (_, False) => False,
                (True, True) => True,
                _ => Unknown,
            };
            let or = match (left_is, right_is) {
                (True, _) | (_, True) => True,
                (False, False) => False,
                _ => Unknown,
            };
            check(&format!("{left} && {right}"), and);
            check(&format!("{left} || {right}"), or);
            check(&format!("true && {left} && {right} && true"), and);
            check(&format!("[true].all(x, {left} && {right})"), and);
            check(&format!("!(!{left} || !{right})"), and);
        }
    }
    check("!args.missing", Unknown);
    check("true || false && false", True);
    check("!false && false", False);
    check("!!true", True);
    check("args.missing || args.amount > 5", True);
}

#[test]
fn paths_lead_into_arguments_and_claims() {
    check("args.nested.a.b[1].c == 7", True);
    check("args[\"nested\"][\"a\"].b[0] == 0", True);
    check("args.nested.a.b[2].c == 7", Unknown);
    check("args.nested[0] == 7", Unknown);
    check("args.numbers.first == 7", Unknown);
    check("has(args.nested.a.b[1].c)", True);
    check("has(args.nested.a.b[1].d) || has(args.nested.a.b[9]) || has(args.x.y.z) || has(args.amount.x)", False);
    check("has(args.nothing)", True);
    check("has(args.missing)", False);
    check("has(args[\"with space\"]) && args[\"\"] == 1", True);
    check("args[\"\\u00fcmlaut\"] == \"ä€😀\"", True);
    check("size(args[\"ümlaut\"]) == 3", True);
    check("claims.tenant == args.tenant", True);
    check("claims.realm.roles[0] == \"r1\"", True);
    check("claims[\"https://x/y\"] == \"z\"", True);
    check("claims.none == null && has(claims.none) && !has(claims.nope)", True);
    check("size(args) > 5 && size(claims) == 12 && size(args.none) == 0", True);
    check("subject == \"ana\" && issuer == \"https://issuer.example\"", True);
    check("task == \"refund\" && tool == \"pay\" && server == \"shop\"", True);
    check("agent == \"x\"", Unknown);
    check("args.text == \"abc\" && \"abc\" == args.text", True);
}

#[test]
fn lists() {
    check("\"support\" in claims.groups", True);
    check("\"boss\" in claims.groups", False);
    check("args.amount in claims.groups", Unknown);
    check("args.currency in args.missing", Unknown);
    check("args.missing in []", Unknown);
    check("args.currency in []", False);
    check("args.currency in args.text", Unknown);
    check("\"a\" in claims.mixed", True);
    check("\"b\" in claims.mixed", Unknown);
    check("null in claims.mixed", True);
    check("null in claims.groups", False);
    check("null in args.none", Unknown);
    check("args.nothing in [null, 1]", True);
    check("args.nothing in [1]", Unknown);
    check("args.nothing in args.odd", True);
    check("args.amount in [null, 1]", False);
    check("args.amount in [null, \"1\"]", Unknown);
    check("args.amount in [null]", False);
    check("args.quantity in [1, 2, 3.0]", True);
    check("args.flag in [true]", True);
    check("args.texts in [[\"a\"], [\"a\", \"b\"]]", True);
    check("args.texts in [[\"a\"]]", False);
    check("args.text in [\"abc\"]", True);
    check("args.text in [\"abd\", \"x\"]", False);
    check("args.long in [1, 2]", False);
    check("\"write\" in claims.scope.split(\" \")", True);
    check("\"writ\" in claims.scope.split(\" \")", False);
    check("args.amount in claims.scope.split(\" \")", Unknown);
}

#[test]
fn all_and_exists() {
    check("args.numbers.all(n, n > 0)", True);
    check("args.numbers.all(n, n > 1)", False);
    check("args.numbers.exists(n, n > 2)", True);
    check("args.numbers.exists(n, n > 3)", False);
    check("args.odd.exists(n, n == 1)", True);
    check("args.odd.exists(n, n == 2)", Unknown);
    check("args.odd.all(n, n == 2)", False);
    check("args.odd.all(n, n == \"b\" || n == 1)", Unknown);
    check("args.empty.all(n, n == args.missing)", True);
    check("args.empty.exists(n, n == args.missing)", False);
    check("args.missing.all(n, true)", Unknown);
    check("args.amount.all(n, true)", Unknown);
    check("args.lines.all(line, line.price * args.quantity < 10)", True);
    check("args.lines.exists(line, line.tags.exists(tag, tag == \"y\"))", True);
    check("args.lines.all(line, line.tags.exists(tag, tag == \"y\"))", False);
    check("args.lines.all(line, size(line.tags) > 0 || line.tags.all(tag, tag == line.price))", True);
    check("args.lines.exists(line, has(line.price) && !has(line.nope) && line.tags[0] == \"x\")", True);
    check("claims.groups.exists(g, g in [\"dev\"])", True);
    check("[1, 2].exists(x, x == args.numbers[1])", True);
    check("claims.scope.split(\" \").all(s, s in [\"read\", \"write\"])", True);
    check("args.numbers.exists(n, n == 2) && args.texts.exists(n, n == \"b\")", True);
    check("!args.numbers.exists(n, n == 7)", True);
}

#[test]
fn texts() {
    check("args.currency.startsWith(\"E\") && args.currency.endsWith(\"UR\") && args.currency.contains(\"U\")", True);
    check("args.text.startsWith(\"ab\") && args.text.endsWith(\"bc\") && args.text.contains(\"b\")", True);
    check("args.text.contains(\"d\")", False);
    check("args.currency.matches(\"^[A-Z]{3}$\")", True);
    check("args.currency.matches(r\"^\\w$\")", False);
    check("args.amount.matches(\"4\")", Unknown);
    check("size(args.currency) == 3 && args.currency.size() == 3 && size(args.numbers) == 3", True);
    check("size(args.flag) == 3", Unknown);
    check("size(claims.scope.split(\" \")) == 2", True);
    check("args.email.split(\"@\")[1] == \"b.example\"", True);
    check("args.email.split(\"@\")[2] == \"b.example\"", Unknown);
    check("args.path.under(\"/srv/files/public\")", True);
    check("args.bad_path.under(\"/srv\")", False);
    check("args.currency.under(\"/srv\")", Unknown);
    check("url(args.url).host == \"api.example.com\"", True);
    check("url(args.url).host in [\"x\", \"api.example.com\"]", True);
    check("url(args.url).scheme == \"https\" && url(args.url).port == 443", True);
    check("url(args.url).host.endsWith(\".example.com\") && size(url(args.url).host) == 15", True);
    check("url(args.evil).host == \"api.example.com\"", Unknown);
    check("url(args.evil).host == null", Unknown);
    check("url(args.amount).port == 443", Unknown);
    check("ip(args.ip).in(\"10.0.0.0/8\")", True);
    check("ip(args.ip).in(\"192.168.0.0/16\")", False);
    check("ip(args.currency).in(\"10.0.0.0/8\")", Unknown);
    check("'it\\'s' == \"it's\" && \"\\x41\\u0042\\U00000043\\104\\n\" == \"ABCD\\012\"", True);
    check(" true // and so on\n && true", True);
}

#[test]
fn times() {
    check("now == 1758979600 && now > 1.7e9", True);
    check("time(now, \"Europe/Berlin\").hour == 15", True);
    check("time(now, \"UTC\").hour == 13 && time(now, \"UTC\").weekday == 6", True);
    check("time(now, \"UTC\").weekday in [6, 7]", True);
}

#[test]
fn without_arguments_all_of_them_are_missing() {
    let caller = caller();
    let facts = Facts { args: None, task: None, ..facts(&caller) };
    let check = |text: &str, want| assert_eq!(when(text).truth(&facts, 0), want, "{text}");
    check("args.amount == 1", Unknown);
    check("has(args.amount)", False);
    check("size(args) == 0", Unknown);
    check("task == \"x\"", Unknown);
}

#[test]
fn dead_paths_are_unknown_and_more_so_where_they_are_there() {
    let caller = caller();
    let condition = when("has(args.amount) || args.currency == \"EUR\" || args.nested.a.b[0] == 0");
    assert_eq!(
        condition.arg_paths().iter().map(|path| &**path).collect::<Vec<_>>(),
        [".amount", ".currency", ".nested.a.b[0]"]
    );
    let check = |dead, want| assert_eq!(condition.truth(&facts(&caller), dead), want, "{dead:b}");
    check(0, True);
    check(0b011, True);
    check(0b001, True);
    check(0b111, Unknown);
    let condition = when("has(args.a.b) || has(args.a) || size(args) == 1");
    let raw = br#"{"a":{"b":1}}"#;
    let facts = Facts { args: Some(raw), ..facts(&caller) };
    assert_eq!(condition.arg_paths().len(), 3);
    let check = |text: &str, dead, want| assert_eq!(when(text).truth(&facts, dead), want, "{text} {dead:b}");
    check("has(args.a.b) && has(args.a)", 0b00, True);
    check("has(args.a.b) && has(args.a)", 0b10, Unknown);
    check("has(args.a.b)", 0b1, Unknown);
    check("!has(args.a.b)", 0b1, Unknown);
    check("!has(args.a.b) || args.a.b == 1", 0b1, Unknown);
    // Not there, whoever has it.
    check("has(args.c)", 0b1, False);
    check("!has(args.c)", 0b1, True);
    assert_eq!(condition.truth(&facts, 0b111), Unknown);
    assert_eq!(condition.truth(&facts, 0b011), True);
}

#[test]
fn what_is_about_no_tool_has_none() {
    let caller = caller();
    let facts = Facts { tool: "", ..facts(&caller) };
    for text in ["tool != \"delete_all\"", "!(tool in [\"a\"])", "tool == \"\"", "tool.size() == 0"] {
        let (condition, could) = (when(text), 1 << Unknown as u8);
        assert_eq!((condition.truth(&facts, 0), condition.could(&facts).0), (Unknown, could), "{text}");
    }
}

#[test]
fn the_first_operand_that_cannot_be_told_is_named() {
    let caller = caller();
    let check = |text: &str, want: &str| {
        assert_eq!(when(text).unknown(&facts(&caller), 0), Some(want), "{text}");
    };
    check("args.amount > 1 && args.missing > 5", "args.missing");
    check("args.missing == 1 || args.nope == 2", "args.missing");
    check("(args.missing == 1 && false) || args.nope == 2", "args.nope");
    check("args.currency > 5", "args.currency");
    check("5 < args.currency", "args.currency");
    check("args.currency == 5", "args.currency == 5");
    check("args.amount in [\"a\"]", "args.amount in [\"a\"]");
    check("\"a\" in args.amount", "args.amount");
    check("args.numbers.all(n, n > 0 && n.x > 5)", "n.x");
    check("!args.missing.startsWith(\"a\")", "args.missing");
    check("!args.bad.under(\"/srv\")", "args.bad");
    check("args.currency.under(\"/srv\")", "args.currency");
    check("args.currency.startsWith(args.amount)", "args.amount");
    check("url(args.evil).host in [\"a\"]", "url(args.evil).host");
    check("args.amount && true", "args.amount");
    check("true && args.amount", "args.amount");
    check("args.long + 1 > 5", "args.long");
    check("agent == \"a\"", "agent");
    check("args.amount", "args.amount");
    check("size(args.flag) == 3", "args.flag");
}

#[test]
fn numbers_and_values() {
    let caller = caller();
    let number = |text: &str| {
        let condition = Condition::parse(text, Purpose::Sum, &ClaimTypes::default()).unwrap();
        condition.number(&facts(&caller), 0).map(|number| number.to_string())
    };
    assert_eq!(number("args.quantity * args.price").as_deref(), Some("0.3"));
    assert_eq!(number("500").as_deref(), Some("500"));
    assert_eq!(number("args.currency"), None);
    assert_eq!(number("args.long"), None);
    let value = |text: &str| {
        let condition = Condition::parse(text, Purpose::Value, &ClaimTypes::default()).unwrap();
        let mut fed = Vec::new();
        condition.value(&facts(&caller), 0, &mut |bytes| fed.extend_from_slice(bytes)).then_some(fed)
    };
    assert_eq!(value("args.missing"), None);
    assert_eq!(value("args.same"), value("args.same2"));
    assert_ne!(value("args.same"), value("args.none"));
    assert_eq!(value("args.text"), value("\"abc\""));
    assert_eq!(value("args.amount > 1"), value("true"));
    assert_eq!(value("url(args.url).host"), value("\"api.example.com\""));
    assert_eq!(value("args.quantity"), value("3.00"));
    assert_ne!(value("args.quantity"), value("\"3\""));
}

#[test]
fn what_lists_ask() {
    const T: u8 = 1;
    const F: u8 = 2;
    const U: u8 = 4;
    let caller = caller();
    let check = |text: &str, want: u8| {
        assert_eq!(when(text).could(&facts(&caller)).0, want, "{text}");
    };
    check("true", T);
    check("claims.level > 2", T);
    check("claims.missing > 2", U);
    check("args.amount > 2", T | F | U);
    check("args.amount > claims.missing", U);
    check("args.amount > claims.tenant", T | F | U);
    check("args.amount > 1 && claims.level > 5", F);
    check("args.amount > 1 && claims.level > 2", T | F | U);
    check("args.amount > 1 && claims.missing > 2", F | U);
    check("args.amount > 1 || claims.missing > 2", T | U);
    check("args.amount > 1 || claims.level > 2", T);
    check("!(args.amount > 1 && claims.missing > 2)", T | U);
    check("has(args.x)", T | F);
    check("!has(args.x)", T | F);
    check("has(claims.nope)", F);
    check("has(args.x) && claims.missing == 1", F | U);
    check("(has(args.x) && claims.missing == 1) == true", T | F | U);
    check("(has(args.x) && false) == false", T);
    check("now > 5", T | F | U);
    check("time(now, \"UTC\").hour > 5 && false", F);
    check("args.flag", T | F | U);
    check("claims.groups.exists(g, g == args.g)", T | F | U);
    check("claims.empty.exists(g, g == args.g)", F);
    check("claims.groups.all(g, has(args.g) || g == \"dev\")", T | F);
    check("claims.groups.exists(g, g == \"dev\" || args.x)", T);
    check("args.list.exists(x, x == claims.missing)", F | U);
    check("args.list.all(x, x == claims.missing)", T | U);
    check("args.list.all(x, x == 1)", T | F | U);
    check("args.list.all(x, true)", T | U);
    check("args.list.all(x, false)", T | F | U);
    check("args.list.all(x, has(x.y))", T | F | U);
    check("args.list.exists(x, x.list.exists(y, false))", F | U);
    check("args.x in claims.groups", T | F | U);
    check("args.x in claims.missing", U);
    check("args.x in []", T | F | U);
    check("args.x == null", T | F | U);
    check("size(args.x) + claims.missing > 1", U);
    check("url(args.x).host in [\"a\"] || task == \"refund\"", T);
    check("args.a.split(\",\").exists(x, x in claims.groups)", T | F | U);
}

#[test]
fn names_that_are_written_otherwise_are_found() {
    let caller = caller();
    let raw = br#"{"am\u006funt":5,"a\"b":{"\u0078":[10,[],{},20]},"nest":{"amount":1},"list":[{"a":1},{"a":2}]}"#;
    let facts = Facts { args: Some(raw), ..facts(&caller) };
    let check = |text: &str, want| assert_eq!(when(text).truth(&facts, 0), want, "{text}");
    check("args.amount == 5", True);
    check("args[\"a\\\"b\"].x[3] == 20 && args[\"a\\\"b\"].x[0] == 10", True);
    check("args.list[0].a == 1 && args.list[1].a == 2 && args.nest.amount == 1", True);
    check("args[\"am\\\\u006funt\"] == 5", Unknown);
}

#[test]
fn what_costs_too_much_is_unknown() {
    let caller = caller();
    let long = format!("{{\"a\":[{}0],\"b\":1}}", "\"x\",".repeat(200_000));
    let facts = Facts { args: Some(long.as_bytes()), ..facts(&caller) };
    let check = |text: &str, want| assert_eq!(when(text).truth(&facts, 0), want, "{text}");
    check("args.b == 1", Unknown);
    check("args.a.all(x, x == \"x\")", Unknown);
    check("args.a.exists(x, x == \"x\")", Unknown);
    check("args.b == 1 || true", Unknown);
    check("true || args.b == 1", True);
    let text = format!("{{\"a\":\"{}\",\"b\":1}}", "x".repeat(500_000));
    let facts = Facts { args: Some(text.as_bytes()), ..facts };
    let check = |text: &str, want| assert_eq!(when(text).truth(&facts, 0), want, "{text}");
    check("args.b == 1", True);
    check("args.a != \"y\"", True);
    check("args.a.matches(\"y\")", Unknown);
}

#[test]
fn a_condition_shows_its_text() {
    let condition = when("args.amount > 0");
    assert_eq!(format!("{condition:?}"), "\"args.amount > 0\"");
    assert_eq!(condition, when("args.amount > 0"));
    assert_ne!(condition, when("args.amount  > 0"));
    assert!(condition.reads_args() && !condition.reads_now());
    assert!(when("tool == \"a\"").reads_tool() && when("!(server == \"s\" || tool in [\"a\"])").reads_tool());
    assert!(!when("claims.tool == \"tool\" && args.tool == 1").reads_tool());
    assert!(when("time(now, \"UTC\").hour > 1").reads_now() && !when("now > 1").reads_args());
}

// ---- texts that are no conditions -----------------------------------------------------------------------------
fn claims() -> ClaimTypes {
    let declared = [
        ("groups", ClaimType::Texts),
        ("level", ClaimType::Number),
        ("list", ClaimType::List),
        ("numbers", ClaimType::Numbers),
        ("ok", ClaimType::Bool),
        ("realm", ClaimType::Object),
        ("realm.roles", ClaimType::Texts),
        ("tenant", ClaimType::Text),
    ];
    ClaimTypes { declared: declared.iter().map(|(path, ty)| (Box::from(*path), *ty)).collect() }
}

/// The text is refused at this character, with words that hold these, and a hint that holds those.
#[track_caller]
fn refused(purpose: Purpose, text: &str, column: usize, problem: &str, hint: &str) {
    let fault = Condition::parse(text, purpose, &claims()).expect_err(text);
    assert_eq!(fault.column, column, "{text}: {fault} ({})", fault.hint);
    assert!(fault.problem.contains(problem), "{text}: {fault}");
    assert!(fault.hint.contains(hint) && fault.hint.is_empty() == hint.is_empty(), "{text}: {fault} ({})", fault.hint);
}

#[track_caller]
fn fault(text: &str, column: usize, problem: &str, hint: &str) {
    refused(Purpose::When, text, column, problem, hint);
}

#[test]
fn words_that_are_none() {
    fault("", 1, "nothing stands here", "");
    fault("  // x", 1, "nothing stands here", "");
    fault("args.ä > 1", 6, "`ä` is no name", "[\"…\"]");
    fault("\"ä\" = args.x", 5, "`=`", "write ==");
    fault("args.x === 1", 8, "`===`", "write ==");
    fault("args.x =~ \"a\"", 8, "`=~`", ".matches(");
    fault("args.x <> 1", 8, "`<>`", "write !=");
    fault("args.x ≥ 1", 8, "`≥`", ">=");
    fault("args.a & args.b", 8, "`&`", "write &&");
    fault("args.a | args.b", 8, "`|`", "write ||");
    fault("args.a ? 1 : 2", 8, "`?`", "&& and ||");
    fault("args.a / 2 > 1", 8, "`/`", "multiply");
    fault("args.a == “x”", 11, "typographic", "\"");
    fault("args.a == \"x", 11, "quote", "write \"");
    fault("args.a == 'x\ny'", 13, "line ends", "'");
    fault("args.a == \"\"\"x\"\"\"", 11, "three quotes", "\\n");
    fault("args.a.matches(\"\\d\")", 17, "`\\d` is no escape", "r\"");
    fault("args.a == \"\\u12\"", 12, "4 hexadecimal digits", "");
    fault("args.a == \"\\ud800\"", 12, "no character", "");
    fault("args.a == \"\\18\"", 12, "3 octal", "");
    fault("args.a == 0x10", 11, "hexadecimal", "digits");
    fault("args.a == 007", 11, "begin with 0", "\"007\"");
    fault("args.a == 5u", 12, "no types", "`u`");
    fault("args.a == 5.", 13, "digits are missing", "");
    fault("args.a == 5e", 13, "exponent", "");
    fault("args.a == 5kg", 12, "`k`", "quotes");
    fault("args.a == 1234567890123456789012345678901234567891", 11, "38 digits", "");
    fault("args.a == {}", 11, "`{`", "");
    fault("args.a == #", 11, "`#`", "");
}

#[test]
fn sentences_that_are_none() {
    fault("args.x > 1 and args.y > 2", 12, "`and`", "write &&");
    fault("args.x > 1 OR args.y > 2", 12, "`OR`", "write ||");
    fault("args.x not in [1]", 8, "`not`", "!(x in list)");
    fault("not args.x", 1, "`not`", "write !");
    fault("args.x == None", 11, "`None`", "null");
    fault("args.x is null", 8, "`is`", "==");
    fault("args.x like \"a\"", 8, "`like`", ".matches");
    fault("1 < args.x < 5", 12, "do not chain", "a < b && b < c");
    fault("args.x == args.y == args.z", 18, "do not chain", "&&");
    fault("!args.x in [1]", 1, "`!` binds closer", "!(x in list)");
    fault("args.x >", 9, "an operand is missing", "");
    fault("args.x > 1 args.y", 12, "an operator is missing", "");
    fault("(args.x > 1", 12, "`)` is missing", "");
    fault("args.x > 1)", 11, "`)` closes nothing", "");
    fault("args.", 6, "a name is missing", "");
    fault("args.x[", 8, "`]` is missing", "");
    fault("args.x[args.y] == 1", 8, "as written only", "[0]");
    fault("args.x[-1] == 1", 8, "as written only", "[0]");
    fault("args.x[1.5] == 1", 8, "`1.5` counts", "[0]");
    fault("args.x in [args.y]", 12, "lists hold", "x == a || x == b");
    fault("args.x in [1, \"a\"]", 11, "in one list", "x in […]");
    fault("args.x in [1 2]", 14, "`,` or `]`", "");
    fault("args.x in [1", 13, "`]` is missing", "");
    fault("== 1", 1, "operand is missing", "");
    fault("args.x && && args.y", 11, "not `&&`", "");
    let deep = format!("{}true{}", "(".repeat(40), ")".repeat(40));
    fault(&deep, 33, "within each other", "several rules");
    let chain = format!("0{} > 1", " + 1".repeat(40));
    fault(&chain, 129, "within each other", "several rules");
    fault(&format!("{}true", "!".repeat(100)), 33, "within each other", "several");
    fault(&"x".repeat(5_000), 4_097, "longer than 4096 bytes", "several rules");
    fault(&(0..65).map(|at| format!("has(args.a{at})")).collect::<Vec<_>>().join("||"), 951, "64", "several rules");
    assert!(Condition::parse("true&&".repeat(600).trim_end_matches('&'), Purpose::When, &claims()).is_ok());
}

#[test]
fn names_that_do_not_exist() {
    fault("arg.amount > 1", 1, "`arg`", "did you mean `args`?");
    fault("claim.x == 1", 1, "`claim`", "`claims`");
    fault("args.x == EUR", 11, "`EUR`", "quotes");
    fault("user == \"x\"", 1, "`user`", "claims.…");
    fault("args.x.startswith(\"a\")", 8, "`.startswith()`", "`startsWith`");
    fault("args.x.lower() == \"a\"", 8, "`.lower()`", "each spelling");
    fault("args.x.filter(y, y > 1)", 8, "`.filter()`", "lists have");
    fault("args.x.exists_one(y, y > 1)", 8, "`.exists_one()`", "lists have");
    fault("args.x.includes(\"a\")", 8, "`.includes()`", ".contains(");
    fault("args.x.has(\"a\")", 8, "`.has()`", "has(args.name)");
    fault("args.x.url()", 8, "no method", "url(…)");
    fault("sice(args.x) > 1", 1, "`sice`", "`size`");
    fault("int(args.x) > 1", 1, "`int`", "coerced");
    fault("timestamp(args.x) > now", 1, "`timestamp`", "now");
    fault("startsWith(args.x, \"a\")", 1, "is a method", "x.startsWith(…)");
    fault("size == 1", 1, "is a function", "size(…)");
    fault("now() > 1", 1, "`now`", "()");
    fault("url(args.x) == \"a\"", 12, "alone", ".scheme, .host, .port");
    fault("url(args.x).hots == \"a\"", 13, "`hots`", "`host`");
    fault("url(args.x).path == \"a\"", 13, "`path`", ".scheme, .host, .port");
    fault("url(args.x).host() == \"a\"", 17, "no method", "()");
    fault("ip(args.x) == \"a\"", 11, "alone", ".in(");
    fault("ip(args.x).is(\"a\")", 12, ".in()", "ip(x).in(");
    fault("ip(args.x).in(args.y)", 15, "written out", "10.0.0.0/8");
    fault("ip(args.x).in(\"10.0.0.1/8\")", 15, "no network", "10.0.0.0/8");
    fault("time(args.x, \"UTC\").hour == 1", 6, "`now`", "time(now");
    fault("time(now).hour == 1", 9, "zone is missing", "Europe/Berlin");
    fault("time(now, \"Europe/Bärlin\").hour == 1", 11, "no time zone", "IANA");
    fault("time(now, \"UTC\").minute == 1", 18, "`minute`", ".hour, .weekday");
    fault("args.x.matches(\"[\")", 16, "", "");
    fault("args.x.matches(args.y)", 16, "written out", "matches(");
    fault("args.x.split(\"\")[0] == \"a\"", 14, "empty", "split(\" \")");
    fault("args.x.under(\"srv\")", 14, "absolute", ".under(");
    fault("args.x.startsWith()", 19, "takes something", "");
    fault("args.x.startsWith(\"a\", \"b\")", 22, "no more", "");
    fault("has(args)", 5, "a member", "has(args.name)");
    fault("has(args.x > 1)", 5, "a member", "has(args.name)");
    fault("args.l.all(args, true)", 12, "a meaning already", "another name");
    fault("args.l.all(x, x.all(x, true))", 21, "a meaning already", "another");
    fault("args.l.all(x, x.all(y, y.all(z, true)))", 30, "more than 2", "");
    fault("args.l.all(5, true)", 12, "name of an element", "all(x");
    fault("args.l.all(x, true) && x == 1", 24, "`x`", "quotes");
}

#[test]
fn types_that_cannot_fit() {
    fault("args.x + 1", 1, "is a number", "compare");
    fault("\"a\" == 1", 1, "never compared", "");
    fault("args.x == 1 && claims.level == \"a\"", 16, "never compared", "");
    fault("claims.tenant > \"a\"", 1, "a text, where a number", "startsWith");
    fault("claims.groups == \"a\"", 1, "never compared", "x in list");
    fault("\"a\" in claims.tenant", 8, "where a list", "contains");
    fault("\"a\" in claims.realm", 8, "where a list", "has(");
    fault("1 in claims.groups", 1, "a list of texts", "");
    fault("claims.groups in [\"a\"]", 1, "a list of texts", "list.exists");
    fault("claims.groups.contains(\"a\")", 1, "where a text", "write \"a\" in claims.groups");
    fault("claims.groups[0] > 1", 1, "is a text", "startsWith");
    fault("claims.groups.exists(g, g > 1)", 25, "is a text", "startsWith");
    fault("claims.tenant.x == 1", 1, "`claims.tenant` is a text, which has no members", "");
    fault("claims.groups.x == 1", 1, "`claims.groups` is a list of texts, which has no members", "[0]");
    fault("claims[0] == 1", 1, "`claims` is an object, which has no elements", ".name");
    fault("args[0] == 1", 1, "`args` is an object", ".name");
    fault("claims.realm.roles == 1", 1, "never compared", "x in list");
    fault("subject.x == 1", 1, "`subject` is a text", "");
    fault("has(tool.x)", 1, "`tool` is a text", "");
    fault("claims.ok > 1", 1, "true or false, where a number", "");
    fault("!claims.level", 2, "where true or false", "compare");
    fault("claims.level && true", 1, "where true or false", "compare");
    fault("size(5) == 1", 6, "a number, where a text, list or object", "");
    fault("5.all(x, true)", 3, "digits", "");
    fault("claims.level.all(x, true)", 1, "where a list", "");
    fault("!args.x == 5", 1, "never compared", "!(a == b)");
    fault("args.x.split(\" \") == [\"a\"]", 1, "not compared", "split(…)[0]");
    fault("url(args.x).host.split(\".\")[0] == \"a\"", 1, "taken apart", ".endsWith(");
    fault("null > 1", 1, "null, where a number", "");
    fault("args == 1", 1, "never compared", "");
    for text in [
        "claims.list[0] == 1 && claims.list[1].x == \"a\"",
        "claims.realm.other == 1 && claims.realm.roles[0] == \"a\"",
        "claims.groups == [\"a\"] && claims.list == [1] && claims.numbers == []",
        "claims.ok && claims.ok == true && claims.level == null",
        "claims.undeclared > 1 || claims.level > 1 && 1 in claims.numbers",
        "args.x in claims.groups && args.y in [null, \"a\"]",
        "claims.list in [[1], [\"a\"]]",
    ] {
        Condition::parse(text, Purpose::When, &claims()).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    }
}

#[test]
fn purposes() {
    refused(Purpose::Who, "args.x == 1", 1, "`args` is not known in `who`", "write it in `when`");
    refused(Purpose::Who, "claims.x == 1 && now > 5", 18, "`now`", "`when`");
    refused(Purpose::Who, "arg.x", 1, "`arg`", "claims.…");
    refused(Purpose::Who, "claims.level", 1, "is a number", "compare");
    refused(Purpose::Sum, "args.x > 1", 1, "true or false, where a number", "");
    refused(Purpose::Sum, "\"5\"", 1, "a text, where a number", "startsWith");
    refused(Purpose::Value, "args.x.split(\" \")", 1, "not a value", "split(…)[0]");
    refused(Purpose::Claim, "args.x", 1, "`args`", "claims.…");
    refused(Purpose::Claim, "subject", 1, "a path of a claim", "claims.name");
    refused(Purpose::Claim, "claims", 1, "a path of a claim", "claims.name");
    for (purpose, text) in [
        (Purpose::Who, "\"support\" in claims.groups && subject != \"root\" && has(claims.x)"),
        (Purpose::Who, "claims.ok"),
        (Purpose::Sum, "args.quantity * args.price"),
        (Purpose::Sum, "size(args.list)"),
        (Purpose::Value, "args.invoice_id"),
        (Purpose::Value, "args.x > 1"),
        (Purpose::Claim, "claims.tenant"),
        (Purpose::Claim, "claims[\"https://x/y\"]"),
    ] {
        Condition::parse(text, purpose, &claims()).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    }
}
