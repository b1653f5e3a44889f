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
fn dead_paths_are_missing() {
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
    assert_eq!(when("has(args.a.b) && !has(args.a)").truth(&facts, 0b10), True, "each path by itself");
    assert_eq!(condition.truth(&facts, 0b111), Unknown);
    assert_eq!(condition.truth(&facts, 0b011), True);
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
    assert!(when("time(now, \"UTC\").hour > 1").reads_now() && !when("now > 1").reads_args());
}
