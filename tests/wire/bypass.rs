//! Somebody who means harm, against a policy with conditions: calls that are spelled so that the gateway and a server
//! could read them differently. Nothing that `explain` refuses may reach a server, and what reaches one is byte for byte
//! what was decided on. To replay a run: `PORTCULLIS_BYPASS_SEED` as printed, and `PORTCULLIS_BYPASS_CALLS`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::support::gateway::{Gateway, ISSUER, PATIENCE, Setup, eventually};
use crate::support::http::Wire;
use crate::support::mcp::{CAPABILITIES_KEY, LEGACY, MODERN, Post, VERSION_KEY, fresh, open_session};
use crate::support::oracle;
use crate::support::upstream::{Acted, Plan, Upstream, definition};

/// The one revision that has batches.
const BATCHES: &str = "2025-03-26";
const CALLS: u64 = 2_000;
const SERVERS: [&str; 2] = ["pay", "files"];
/// Both servers offer all of them, so that a call that goes astray finds something.
const TOOLS: [&str; 7] = ["refund", "order", "crm", "read", "fetch", "push", "secret"];

/// A tool that some rule is about: its server, and for each argument what is fine and what is not, as JSON.
struct Target {
    server: usize,
    tool: &'static str,
    arguments: &'static [Argument],
}

struct Argument {
    name: &'static str,
    good: &'static [&'static str],
    bad: &'static [&'static str],
    /// It may be missing.
    free: bool,
}

const fn needed(name: &'static str, good: &'static [&'static str], bad: &'static [&'static str]) -> Argument {
    Argument { name, good, bad, free: false }
}

const TARGETS: [Target; 6] = [
    Target {
        server: 0,
        tool: "refund",
        arguments: &[
            needed(
                "amount",
                &["500", "5e2", "500.00", "0.1e1", "4.99E+2", "1e-400", "50000e-2"],
                &[
                    "501",
                    "1e400",
                    "-1e400",
                    "-0",
                    "0",
                    "-0.0",
                    "-1",
                    "5e3",
                    "500.00000000000000000000000000000000000000000001",
                    "9007199254740993",
                    "\"500\"",
                    "[500]",
                    "{\"a\":500}",
                    "true",
                    "null",
                    "\"\"",
                    FOUR_HUNDRED_DIGITS,
                ],
            ),
            needed(
                "currency",
                &["\"EUR\"", "\"USD\"", "\"\\u0045UR\""],
                &[
                    "\"eur\"",
                    "\"EUR \"",
                    "\"GBP\"",
                    "[\"EUR\"]",
                    "null",
                    "\"\u{ff25}UR\"",
                    "\"EUR\\u0000\"",
                    "\"\\u0415UR\"",
                ],
            ),
            Argument { name: "force", good: &["false"], bad: &["true", "\"false\"", "null", "0", "[]"], free: true },
        ],
    },
    Target {
        server: 0,
        tool: "order",
        arguments: &[needed(
            "order",
            &[
                "{\"lines\":[{\"price\":1}]}",
                "{\"lines\":[{\"price\":100.0},{\"pric\\u0065\":2}]}",
                "{\"l\\u0069nes\":[{\"price\":1,\"Price\":500}]}",
            ],
            &[
                "{\"lines\":[{\"price\":101}]}",
                "{\"lines\":[{\"price\":1},{\"price\":101}]}",
                "{\"lines\":[{\"price\":1,\"price\":101}]}",
                "{\"lines\":[{\"price\":101,\"pric\\u0065\":1}]}",
                "{\"lines\":[{\"Price\":1}]}",
                "{\"lines\":[{\"price\":1}],\"lines\":[{\"price\":101}]}",
                "{\"lines\":[]}",
                "{\"lines\":{\"0\":{\"price\":1}}}",
                "{\"lines\":[[{\"price\":1}]]}",
                "{\"lines\":\"[{}]\"}",
                "[]",
                "null",
            ],
        )],
    },
    Target {
        server: 0,
        tool: "crm",
        arguments: &[needed(
            "tenant",
            &["\"acme\"", "\"\\u0061cme\""],
            &[
                "\"globex\"",
                "\"ACME\"",
                "\"acme \"",
                "[\"acme\"]",
                "{\"a\":\"acme\"}",
                "null",
                "\"acm\\u0435\"",
                "\"acme\\u0000\"",
            ],
        )],
    },
    Target {
        server: 1,
        tool: "read",
        arguments: &[needed(
            "path",
            &["\"/srv/public/a\"", "\"/srv//public/./a\"", "\"\\/srv\\/public\\/a\"", "\"/srv/x/../public/a\""],
            &[
                "\"/srv/public/../secret\"",
                "\"/srv/public/%2e%2e/secret\"",
                "\"/srv/public/..%2fsecret\"",
                "\"/srv/public/..\\\\secret\"",
                "\"/srv/public/\\u002e\\u002e/secret\"",
                "\"/srv/public\\u0000/../../etc\"",
                "\"/srv/publicity\"",
                "\"srv/public/a\"",
                "\"file:///srv/public/a\"",
                "\"/SRV/public/a\"",
                "[\"/srv/public/a\"]",
                "\"\"",
            ],
        )],
    },
    Target {
        server: 1,
        tool: "fetch",
        arguments: &[needed(
            "url",
            &[
                "\"https://api.example.com/\"",
                "\"HTTPS://API.example.com:443/x?u=@evil\"",
                "\"https:\\/\\/api.example.com.\\/\"",
            ],
            &[
                "\"https://api.example.com@evil.example/\"",
                "\"https://evil.example\\\\@api.example.com/\"",
                "\"https://api.example.com\\\\.evil.example/\"",
                "\"https://api.example.com:8443/\"",
                "\"http://api.example.com/\"",
                "\"https://api.example.com.evil.example/\"",
                "\"https://\\u0430pi.example.com/\"",
                "\"https://api.example.com\\t/\"",
                "\" https://api.example.com/\"",
                "\"//api.example.com/\"",
                "{\"href\":\"https://api.example.com/\"}",
            ],
        )],
    },
    Target {
        server: 1,
        tool: "push",
        arguments: &[needed(
            "repo",
            &["\"web\"", "\"api\"", "\"\\u0077eb\""],
            &["\"we\"", "\"WEB\"", "[\"web\"]", "\"web,api\"", "{\"web\":true}", "null", "1", "\"web\\n\"", "\"wеb\""],
        )],
    },
];

const FOUR_HUNDRED_DIGITS: &str = "1000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000";

const GOOD_URIS: [&str; 3] = ["note://open/a", "note://open/b%20c", "note://open/"];
const BAD_URIS: [&str; 9] = [
    "note://shut/a",
    "note://open/../shut/a",
    "note://open/%2e%2e/%2e%2e/shut",
    "note://open@shut/a",
    "note:open/a",
    "note://shut/note://open/a",
    " note://open/a",
    "note://open/private/a",
    "note://open/x/../private/a",
];

/// Two servers, and a rule of each kind that people write.
fn house() -> (Gateway, [Upstream; 2]) {
    let start = |_| {
        let plan = Plan::tools(&TOOLS[..5]).tool(definition("secret"));
        let mut push = definition("push");
        push["inputSchema"]["properties"] = json!({ "repo": { "type": "string", "x-mcp-header": "Repo" } });
        let plan = plan.tool(push).script(|seen, out| {
            // A number that the test's own reader has no room for.
            let Some(id) = Message::of(&seen.body).and_then(|it| it.id).filter(|_| seen.message.is_null()) else {
                return Acted::Default;
            };
            let answer = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[],\"resultType\":\"complete\"}}}}"
            );
            out.json_bytes(200, "", answer.as_bytes());
            Acted::Done
        });
        plan.start()
    };
    let upstreams = [0, 1].map(start);
    let gateway = Setup::new()
        .server("pay", &upstreams[0].url())
        .server("files", &upstreams[1].url())
        .shards(2)
        .tokens("deny")
        .rule(json!({ "id": "caps", "permit": ["pay/refund"], "reason": "Small ones.",
            "when": "args.amount > 0 && args.amount <= 500 && args.currency in [\"EUR\", \"USD\"]" }))
        .rule(json!({ "id": "never-by-force", "forbid": ["pay/refund"], "reason": "Never by force.",
            "when": "has(args.force) && args.force != false" }))
        .rule(json!({ "id": "lines", "permit": ["pay/order"],
            "when": "size(args.order.lines) >= 1 && args.order.lines.all(line, line.price <= 100)" }))
        .rule(json!({ "id": "crm", "permit": ["pay/crm"] }))
        .rule(json!({ "id": "own-tenant", "forbid": ["pay/crm"], "when": "args.tenant != claims.tenant" }))
        .rule(json!({ "id": "root", "permit": ["files/read"], "when": "args.path.under(\"/srv/public\")" }))
        .rule(json!({ "id": "hosts", "permit": ["files/fetch"],
            "when": "url(args.url).scheme == \"https\" && url(args.url).port == 443 && url(args.url).host == \"api.example.com\"" }))
        .rule(json!({ "id": "repos", "permit": ["files/push"], "when": "args.repo in claims.repos" }))
        .rule(json!({ "id": "notes", "permit": ["files!resource:note://open/*"] }))
        .rule(json!({ "id": "private", "forbid": ["files!resource:note://open/private/*"] }))
        .rule(json!({ "id": "greets", "permit": ["files!prompt:greet"], "when": "args.name == \"ada\"" }))
        .start();
    eventually("all servers are known", || {
        let status = gateway.status();
        status["servers"].as_array().is_some_and(|servers| servers.iter().all(|server| server["known"] == true))
    });
    (gateway, upstreams)
}

fn claims() -> Value {
    json!({ "sub": "ada", "client_id": "agent-1", "tenant": "acme", "repos": ["web", "api"] })
}

/// A token for every endpoint.
fn token_of(gateway: &Gateway) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is set").as_secs();
    let mut claims = claims();
    claims["iss"] = json!(ISSUER);
    claims["aud"] = PATHS.iter().map(|path| gateway.url(path)).collect();
    claims["iat"] = json!(now - 60);
    claims["exp"] = json!(now + 3600);
    let header = json!({ "alg": "ES256", "typ": "at+jwt", "kid": gateway.key_id() });
    gateway.sign(&header.to_string(), &claims.to_string())
}

/// Merged, and each server alone.
const PATHS: [&str; 3] = ["/mcp", "/s/pay/mcp", "/s/files/mcp"];

/// A message as a server reads it that keeps texts as they are.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
struct Params<'a> {
    name: Option<String>,
    uri: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// `None` where such a server would refuse it.
    fn of(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The members of an object in their order, names unescaped, values as written.
struct Members(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Reader)
    }
}

/// Whether the policy means this to be let go, by the lists above, however a server reads doubled members.
fn is_sound(server: usize, tool: &str, arguments: Option<&str>) -> bool {
    let Some(target) = TARGETS.iter().find(|it| it.server == server && it.tool == tool) else { return false };
    let arguments = arguments.unwrap_or("{}").replace(BLANKS, ":");
    let Ok(Members(members)) = serde_json::from_str(&arguments) else { return false };
    target.arguments.iter().all(|argument| {
        let mut values = members.iter().filter(|(name, _)| name == argument.name).map(|(_, value)| value.as_str());
        let first = values.next();
        let good = |value: &str| argument.good.contains(&value);
        values.next().is_none() && first.map_or(argument.free, good)
    })
}

/// What a run draws from.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count as u64).expect("it is below a size")
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// True so many times in a hundred.
    fn chance(&mut self, hundredths: usize) -> bool {
        self.below(100) < hundredths
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Era {
    Modern,
    Legacy,
    Batch,
}

/// A colon with blanks around it.
const BLANKS: &str = " :\r\n\t";

/// One try.
#[derive(Debug)]
struct Attempt {
    era: Era,
    path: usize,
    message: String,
    /// Its name or URI in the message, as written.
    name: String,
    fields: Vec<(&'static str, String)>,
    mark: String,
    /// It is alone, or the first of its batch.
    leads: bool,
    /// Where nothing but the arguments is odd: the server, and what is asked of `explain`.
    plain: Option<(usize, &'static str, String, Option<String>)>,
}

impl Attempt {
    fn draw(draw: &mut Draw, number: u64, era: Era, path: usize) -> Self {
        match draw.below(10) {
            0 if path != 1 => Self::resource(draw, number, era, path),
            1 if path != 1 => Self::prompt(draw, number, era, path),
            _ => Self::tool(draw, number, era, path),
        }
    }

    fn tool(draw: &mut Draw, number: u64, era: Era, path: usize) -> Self {
        let fitting: Vec<&Target> = TARGETS.iter().filter(|it| path == 0 || it.server == path - 1).collect();
        let target = draw.one(&fitting);
        let members = members(draw, target);
        let mut odd = false;
        let arguments = odd_arguments(draw, &members);
        let shown = if path == 0 { format!("{}__{}", SERVERS[target.server], target.tool) } else { target.tool.into() };
        let mut name = format!("\"{shown}\"");
        if draw.chance(15) {
            name = odd_name(draw, target, &shown);
            odd = true;
        }
        let mut fields = Vec::new();
        if let Some((_, repo)) = members.iter().find(|(key, _)| target.tool == "push" && key == "\"repo\"")
            && let Ok(repo) = serde_json::from_str::<String>(repo)
            && repo.bytes().all(|byte| byte.is_ascii_graphic())
        {
            fields.push(("mcp-param-repo", if draw.chance(10) { "web".to_owned() } else { repo }));
        }
        let parts = Parts { method: "tools/call", key: "name", name, arguments, fields };
        let plain = (target.server, "tool", target.tool.to_owned());
        Self::put(draw, number, era, path, parts, (!odd).then_some(plain))
    }

    fn resource(draw: &mut Draw, number: u64, era: Era, path: usize) -> Self {
        let uri = if draw.chance(50) { draw.one(&GOOD_URIS) } else { draw.one(&BAD_URIS) };
        let whose =
            ["mcp+files:", "mcp+pay:", "", "mcp+files:mcp+files:", "mcp+pay:mcp+files:", "MCP+files:", "mcp+files: "];
        let shown = if path == 0 { format!("{}{uri}", draw.one(&whose)) } else { uri.to_owned() };
        // Where both have it, whose it is follows from the lists.
        let plain = (path != 0).then(|| (1, "resource", uri.to_owned()));
        let parts = Parts {
            method: "resources/read",
            key: "uri",
            name: format!("\"{shown}\""),
            arguments: Vec::new(),
            fields: Vec::new(),
        };
        Self::put(draw, number, era, path, parts, plain)
    }

    fn prompt(draw: &mut Draw, number: u64, era: Era, path: usize) -> Self {
        let values = ["\"ada\"", "\"\\u0061da\"", "\"bob\"", "\"Ada\"", "\"ada \"", "null", "[\"ada\"]", "1"];
        let mut arguments = vec![format!("\"arguments\":{{\"name\":{}}}", draw.one(&values))];
        if draw.chance(20) {
            arguments = vec![format!("\"arguments\":{{\"name\":\"ada\",\"n\\u0061me\":{}}}", draw.one(&values))];
        }
        let prompt = if draw.chance(80) { "greet" } else { "plot" };
        let shown = if path == 0 { format!("files__{prompt}") } else { prompt.to_owned() };
        let name = format!("\"{shown}\"");
        let parts = Parts { method: "prompts/get", key: "name", name, arguments, fields: Vec::new() };
        Self::put(draw, number, era, path, parts, Some((1, "prompt", prompt.to_owned())))
    }

    fn put(
        draw: &mut Draw,
        number: u64,
        era: Era,
        path: usize,
        parts: Parts,
        plain: Option<(usize, &'static str, String)>,
    ) -> Self {
        let mark = fresh();
        let mut meta = format!("\"traceparent\":\"00-{mark}-00f067aa0ba902b7-01\"");
        if era == Era::Modern {
            meta += &format!(",\"{VERSION_KEY}\":\"{MODERN}\",\"{CAPABILITIES_KEY}\":{{}}");
        }
        let mut members = vec![format!("\"{}\":{}", parts.key, parts.name), format!("\"_meta\":{{{meta}}}")];
        let arguments = parts.arguments.first().and_then(|it| it.strip_prefix("\"arguments\":")).map(str::to_owned);
        let mut odd = parts.arguments.len() > 1 || (arguments.is_none() && !parts.arguments.is_empty());
        members.extend(parts.arguments);
        if draw.chance(50) {
            members.reverse();
        }
        if draw.chance(3) {
            odd = true;
            members.push(
                draw.one(&[
                    "\"name\":\"refund\"",
                    "\"n\\u0061me\":\"secret\"",
                    "\"Name\":\"secret\"",
                    "\"arguments\":{}",
                ])
                .to_owned(),
            );
        }
        let params = members.join(",");
        let mut envelope = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{number},\"method\":\"{}\",\"params\":{{{params}}}}}",
            parts.method.replace('/', draw.one(&["/", "/", "\\/"]))
        );
        if draw.chance(3) {
            odd = true;
            envelope.pop();
            envelope += draw.one(&[
                ",\"params\":{\"name\":\"secret\"}}",
                ",\"method\":\"ping\"}",
                ",\"m\\u0065thod\":\"ping\"}",
                ",\"PARAMS\":{}}",
                ",\"result\":{}}",
            ]);
        }
        let mut fields = parts.fields;
        let trace = format!("00-{mark}-00f067aa0ba902b7-01");
        if era != Era::Batch {
            fields.push(("traceparent", trace));
        }
        if era == Era::Modern {
            odd |= modern_fields(draw, &mut fields, parts.method, &parts.name);
        } else if draw.chance(5) {
            // They mean nothing there.
            fields.push(("mcp-name", "secret".to_owned()));
        }
        let plain = plain.filter(|_| !odd).map(|(server, kind, name)| (server, kind, name, arguments));
        Self { era, path, message: envelope, name: parts.name, fields, mark, leads: true, plain }
    }
}

/// What a message is put together from.
struct Parts {
    method: &'static str,
    /// `name` or `uri`.
    key: &'static str,
    name: String,
    /// `"arguments":…`, none, one or several.
    arguments: Vec<String>,
    fields: Vec<(&'static str, String)>,
}

/// Arguments of a tool, keys as written.
fn members(draw: &mut Draw, target: &Target) -> Vec<(String, String)> {
    let mut members = Vec::new();
    let spoil = draw.chance(45);
    for argument in target.arguments {
        if argument.free && draw.chance(70) {
            continue;
        }
        let good = draw.one(argument.good).to_owned();
        let bad = draw.one(argument.bad).to_owned();
        let key = format!("\"{}\"", argument.name);
        let first = argument.name.as_bytes()[0];
        let escaped = format!("\"\\u{first:04x}{}\"", &argument.name[1..]);
        let twin = format!("\"{}{}\"", argument.name[..1].to_uppercase(), &argument.name[1..]);
        match if spoil { draw.below(9) } else { 9 + draw.below(4) } {
            0..=2 => members.push((key, bad)),
            3 => members.extend([(key.clone(), good), (key, bad)]),
            4 => members.extend([(key.clone(), bad), (key, good)]),
            5 => members.extend([(escaped, bad), (key, good)]),
            6 => members.extend([(key, good), (escaped, bad)]),
            7 => members.push((twin, good)),
            8 => members.extend([(twin, good), (key, bad)]),
            9 => members.extend([(twin, bad), (key, good)]),
            10 => members.push((escaped, good)),
            _ => members.push((key, good)),
        }
    }
    if draw.chance(10) {
        let deep = draw.below(80);
        members.push(("\"deep\"".into(), format!("{}{}", "[".repeat(deep), "]".repeat(deep))));
    }
    if draw.chance(10) {
        let junk =
            [("\"__proto__\"", "{\"amount\":1}"), ("\"\"", "0"), ("\"x\"", "{\"a\":1,\"a\":2}"), ("\"\\u0000\"", "1")];
        let (key, value) = draw.one(&junk);
        members.push((key.into(), value.into()));
    }
    members
}

fn odd_arguments(draw: &mut Draw, members: &[(String, String)]) -> Vec<String> {
    let members: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    let object = format!("{{{}}}", members.join(","));
    let plain = format!("\"arguments\":{object}");
    match draw.below(40) {
        0 => vec![],
        1 => vec![format!("\"arguments\":{}", Value::from(object))],
        2 => vec![format!("\"arguments\":[{object}]")],
        3 => vec!["\"arguments\":null".into()],
        4 => vec![plain.clone(), plain],
        5 => vec![plain, "\"arguments\":{}".into()],
        6 => vec![plain, "\"\\u0061rguments\":{}".into()],
        7 => vec![plain, "\"Arguments\":{}".into()],
        8 => vec![format!("\"\\u0061rguments\":{object}")],
        9 => vec!["\"arguments\":{}".into()],
        10 => vec![format!("\"arguments\":{}", object.replace(':', BLANKS))],
        _ => vec![plain],
    }
}

/// Names that are not this tool's, and one that is.
fn odd_name(draw: &mut Draw, target: &Target, shown: &str) -> String {
    let (own, other) = (SERVERS[target.server], SERVERS[1 - target.server]);
    let tool = target.tool;
    let first = u32::from(shown.as_bytes()[0]);
    match draw.below(16) {
        0 => format!("\"{own}__{own}__{tool}\""),
        1 => format!("\"{other}__{tool}\""),
        2 => format!("\"{other}__{own}__{tool}\""),
        3 => format!("\"{tool}\""),
        4 => format!("\"{}\"", shown.to_uppercase()),
        5 => format!("\"{shown} \""),
        6 => format!("\"{shown}\\u0000\""),
        7 => format!("\"{}\"", shown.replace('e', "\u{435}")),
        8 => format!("\"{own}__secret\""),
        9 => "\"secret\"".into(),
        10 => format!("\"{own}/{tool}\""),
        11 => format!("\"{own}_{tool}\""),
        12 => format!("\"{}\"", shown.replace("__", "_\\u005f_")),
        13 => format!("\"{shown}\\u200b\""),
        14 => format!("[\"{shown}\"]"),
        _ => format!("\"\\u{first:04x}{}\"", &shown[1..]),
    }
}

/// The head fields of a modern message; whether they say something else than it does.
fn modern_fields(draw: &mut Draw, fields: &mut Vec<(&'static str, String)>, method: &str, name: &str) -> bool {
    let plain: String = serde_json::from_str(name).unwrap_or_default();
    let fits = plain.bytes().all(|byte| byte.is_ascii_graphic()) && !plain.is_empty();
    let shown = if fits { plain } else { encoded(&plain) };
    fields.push(("mcp-protocol-version", MODERN.to_owned()));
    match draw.below(40) {
        0 => fields.extend([("mcp-method", method.to_owned()), ("mcp-name", "refund".to_owned())]),
        1 => fields.extend([("mcp-method", "ping".to_owned()), ("mcp-name", shown)]),
        2 => fields.extend([("mcp-method", method.to_owned())]),
        3 => fields.extend([("mcp-method", method.to_owned()), ("mcp-name", shown.clone()), ("mcp-name", shown)]),
        4 => fields.extend([("mcp-method", method.to_owned()), ("mcp-name", shown.to_uppercase())]),
        _ => {
            fields.extend([("mcp-method", method.to_owned()), ("mcp-name", shown)]);
            return false;
        }
    }
    true
}

fn encoded(text: &str) -> String {
    use base64::Engine as _;
    format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text))
}

/// A client with a session of each kind at each endpoint.
struct Client {
    token: String,
    sessions: BTreeMap<(Era, usize), String>,
}

impl Client {
    fn new(gateway: &Gateway) -> Self {
        let token = token_of(gateway);
        let mut sessions = BTreeMap::new();
        for (path, at) in PATHS.iter().enumerate() {
            let legacy = open_session(gateway, |post| post.at(at).token(&token));
            sessions.insert((Era::Legacy, path), legacy);
            let answer = Post::initialize(BATCHES).at(at).token(&token).to(gateway);
            let session = answer.field("mcp-session-id").to_owned();
            assert!(!session.is_empty(), "{}", answer.text());
            let told = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            let told = Post::tell(&session, told).without("mcp-protocol-version").at(at).token(&token);
            assert_eq!(told.to(gateway).status(), 202);
            sessions.insert((Era::Batch, path), session);
        }
        Self { token, sessions }
    }

    /// All of them have the era and the path of the first; its status.
    fn send(&self, gateway: &Gateway, wire: &mut Wire, attempts: &[Attempt]) -> u16 {
        let first = &attempts[0];
        let messages: Vec<&str> = attempts.iter().map(|it| it.message.as_str()).collect();
        let body = if first.era == Era::Batch { format!("[{}]", messages.join(", ")) } else { first.message.clone() };
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n",
            PATHS[first.path],
            gateway.address,
            self.token,
            body.len()
        );
        if let Some(session) = self.sessions.get(&(first.era, first.path)) {
            head += &format!("mcp-session-id: {session}\r\n");
        }
        if first.era == Era::Legacy {
            head += &format!("mcp-protocol-version: {LEGACY}\r\n");
        }
        for (name, value) in &first.fields {
            head += &format!("{name}: {value}\r\n");
        }
        let bytes = format!("{head}\r\n{body}").into_bytes();
        let response = loop {
            wire.send(&bytes);
            match wire.try_response() {
                Ok(response) => break response,
                // Closed after the answer before.
                Err(cut) => assert!(cut.had.is_empty(), "an answer was cut: {first:?}"),
            }
            *wire = Wire::to(gateway.address);
        };
        if response.field("connection") == "close" {
            *wire = Wire::to(gateway.address);
        }
        response.status()
    }
}

/// Asks the gateway itself; its verdict, or what is wrong with the question.
fn explained(wire: &mut Wire, gateway: &Gateway, admin: &str, question: &str) -> String {
    let bytes = format!(
        "POST /explain HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {admin}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{question}",
        gateway.admin,
        question.len()
    );
    let response = loop {
        wire.send(bytes.as_bytes());
        match wire.try_response() {
            Ok(response) => break response,
            Err(_) => *wire = Wire::to(gateway.admin),
        }
    };
    assert!([200, 400].contains(&response.status()), "{}", response.text());
    let answer = response.json();
    answer["verdict"].as_str().map_or_else(|| answer["error"].to_string(), str::to_owned)
}

fn question(server: usize, kind: &str, name: &str, arguments: Option<&str>) -> String {
    let arguments = arguments.map_or_else(String::new, |it| format!(",\"args\":{it}"));
    format!(
        "{{\"server\":\"{}\",\"{kind}\":{},\"claims\":{}{arguments}}}",
        SERVERS[server],
        Value::from(name),
        claims()
    )
}

/// What came of a try.
#[derive(Default)]
struct Came<'a> {
    status: u16,
    /// At which servers, and as what.
    reached: Vec<(usize, &'a [u8])>,
}

fn number_of(variable: &str, otherwise: impl FnOnce() -> u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or_else(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// [P1] [P4] [D1] [D6] [E2] [E3] [E7] [E9] Thousands of calls, spelled so that somebody could be misled.
#[test]
fn nothing_that_is_refused_reaches_a_server() {
    let seed = number_of("PORTCULLIS_BYPASS_SEED", || u64::from_str_radix(&fresh()[..12], 16).expect("digits"));
    let calls = number_of("PORTCULLIS_BYPASS_CALLS", || CALLS);
    let replay = format!("replay with PORTCULLIS_BYPASS_SEED={seed} PORTCULLIS_BYPASS_CALLS={calls}");
    println!("{replay}");
    let (gateway, upstreams) = house();
    let client = Client::new(&gateway);
    let mut draw = Draw(seed);
    let mut attempts: Vec<(Attempt, u16)> = Vec::new();
    let mut wire = Wire::to(gateway.address);
    while (attempts.len() as u64) < calls {
        let era = draw.one(&[Era::Modern, Era::Modern, Era::Legacy, Era::Batch]);
        let path = draw.below(3);
        let together = if era == Era::Batch { 1 + draw.below(3) } else { 1 };
        let number = attempts.len() as u64;
        let mut some: Vec<Attempt> =
            (0..together).map(|nth| Attempt::draw(&mut draw, number + nth as u64, era, path)).collect();
        some.iter_mut().skip(1).for_each(|attempt| attempt.leads = false);
        let status = client.send(&gateway, &mut wire, &some);
        attempts.extend(some.into_iter().map(|attempt| (attempt, status)));
    }
    let seen: Vec<_> = upstreams.iter().map(Upstream::seen).collect();
    let mut came: HashMap<&str, Came<'_>> = attempts
        .iter()
        .map(|(attempt, status)| (attempt.mark.as_str(), Came { status: *status, ..Came::default() }))
        .collect();
    for (server, seen) in seen.iter().enumerate() {
        for body in seen.iter().map(|seen| &seen.body[..]) {
            let mark = mark_in(body);
            if let Some(came) = mark.and_then(|mark| came.get_mut(mark)) {
                came.reached.push((server, body));
            }
        }
    }
    let mut faults = judged(&gateway, &attempts, &came);
    faults.extend(recorded(&gateway, &attempts, &came));
    let shown: Vec<&str> = faults.iter().take(12).map(String::as_str).collect();
    assert!(faults.is_empty(), "{replay}; {} faults:\n{}", faults.len(), shown.join("\n"));
    met(&attempts, &came, &replay);
}

fn mark_in(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("\"traceparent\":\"00-")?;
    rest.get(..32)
}

/// Everything that reached a server against `explain`, against the lists above, and against what was sent; and what did
/// not reach one, though nothing was odd about it but its arguments.
fn judged(gateway: &Gateway, attempts: &[(Attempt, u16)], came: &HashMap<&str, Came<'_>>) -> Vec<String> {
    let state = gateway.config().parent().expect("it is in a folder").join("state");
    let admin = fs::read_to_string(state.join("admin.token")).expect("it is made at start");
    let mut wire = Wire::to(gateway.admin);
    let mut faults = Vec::new();
    for (attempt, status) in attempts {
        let came = &came[attempt.mark.as_str()];
        let mut fault = |what: &str| faults.push(format!("{what} ({status}): {attempt:?}"));
        if came.reached.len() > 1 {
            fault("it was written twice");
        }
        for (server, body) in &came.reached {
            let Some(Message { method: Some(method), params: Some(params), .. }) = Message::of(body) else {
                fault("a server could read it otherwise");
                continue;
            };
            let kind = match method.as_str() {
                "tools/call" => "tool",
                "prompts/get" => "prompt",
                "resources/read" => "resource",
                _ => "",
            };
            let name = if kind == "resource" { params.uri } else { params.name }.unwrap_or_default();
            let arguments = params.arguments.map(RawValue::get);
            let verdict = explained(&mut wire, gateway, admin.trim(), &question(*server, kind, &name, arguments));
            if verdict != "permit" {
                fault(&format!("it reached {}/{name}, and explain says {verdict}", SERVERS[*server]));
            }
            let sound = match kind {
                "tool" => is_sound(*server, &name, arguments),
                "resource" => *server == 1 && GOOD_URIS.contains(&name.as_str()),
                _ => {
                    *server == 1
                        && name == "greet"
                        && arguments.is_some_and(|it| ["{\"name\":\"ada\"}", "{\"name\":\"\\u0061da\"}"].contains(&it))
                }
            };
            if !sound {
                fault(&format!("it reached {}/{name}, and nobody meant it to", SERVERS[*server]));
            }
            let own = Value::from(name).to_string();
            let renamed = attempt.message.replacen(&attempt.name, &own, 1);
            if **body != *attempt.message.as_bytes() && (attempt.path != 0 || **body != *renamed.as_bytes()) {
                fault(&format!("it was changed on its way: {}", String::from_utf8_lossy(body)));
            }
        }
        if let (Some((server, kind, name, arguments)), true) = (&attempt.plain, came.reached.is_empty()) {
            // One message that is none spoils its batch, and a field that does not fit its argument its call.
            let apart = attempt.era != Era::Batch && name != "push";
            let asked = question(*server, kind, name, arguments.as_deref());
            if apart && explained(&mut wire, gateway, admin.trim(), &asked) == "permit" {
                fault("explain says permit, and it did not arrive");
            }
        }
    }
    faults
}

/// Every call that was answered as one stands in the record once, and permits are those that reached a server.
fn recorded(gateway: &Gateway, attempts: &[(Attempt, u16)], came: &HashMap<&str, Came<'_>>) -> Vec<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let faults = unrecorded(&gateway.records(), attempts, came);
        // Lines are written a moment later than answers.
        if faults.is_empty() || Instant::now() > until {
            return faults;
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn unrecorded(records: &[Value], attempts: &[(Attempt, u16)], came: &HashMap<&str, Came<'_>>) -> Vec<String> {
    let mut decided: HashMap<&str, Vec<&str>> = HashMap::new();
    for decision in oracle::of_kind(records, "decision") {
        let text = |name: &str| decision[name].as_str().unwrap_or_default();
        decided
            .entry(decision["trace"].as_str().unwrap_or_default())
            .or_default()
            .push(if text("verdict") == "permit" { "permit" } else { "refuse" });
    }
    let mut faults = Vec::new();
    let mut undecided = 0;
    for (attempt, status) in attempts {
        let verdicts = decided.get(attempt.mark.as_str()).map_or(&[][..], Vec::as_slice);
        let want: &[&str] = match (came[attempt.mark.as_str()].reached.is_empty(), status) {
            (false, _) => &["permit"],
            // What cannot be read as a call is no less written down, though not by its mark.
            (true, _) if verdicts.is_empty() => {
                undecided += usize::from(*status == 200 || attempt.leads);
                continue;
            }
            (true, _) => &["refuse"],
        };
        if verdicts != want {
            faults.push(format!("the record has {verdicts:?} ({status}): {attempt:?}"));
        }
    }
    let unread = |it: &&Value| {
        let reason = it["reason"].as_str().unwrap_or_default();
        it["trace"].is_null() && it["verdict"] == "refuse" && ["envelope", "header", "params", "json"].contains(&reason)
    };
    let unread = oracle::of_kind(records, "decision").filter(unread).count();
    if unread != undecided {
        faults.push(format!("{undecided} were answered as no calls, and {unread} of them are in the record"));
    }
    faults
}

/// The run met what it is about: of each tool, at each endpoint and in each era, something arrived and something did not.
fn met(attempts: &[(Attempt, u16)], came: &HashMap<&str, Came<'_>>, replay: &str) {
    let mut met: BTreeMap<(Era, usize, &str), [usize; 2]> = BTreeMap::new();
    for (attempt, _) in attempts {
        if let Some((_, _, name, _)) = &attempt.plain {
            let count = met.entry((attempt.era, attempt.path, name)).or_default();
            count[usize::from(came[attempt.mark.as_str()].reached.is_empty())] += 1;
        }
    }
    let total = met.values().fold([0, 0], |sum, [a, b]| [sum[0] + a, sum[1] + b]);
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for came in came.values() {
        *statuses.entry(came.status).or_default() += 1;
    }
    let [prefixed, all] = [true, false].map(|prefixed| {
        let arrived = |it: &&(Attempt, u16)| !came[it.0.mark.as_str()].reached.is_empty();
        attempts.iter().filter(arrived).filter(|it| !prefixed || it.0.name.contains("mcp+files:note")).count()
    });
    println!(
        "{all} arrived, {prefixed} of them resources by their server; arrived and refused among plain ones: {total:?}; \
         statuses: {statuses:?}"
    );
    if attempts.len() as u64 >= CALLS {
        for target in &TARGETS {
            for path in [0, target.server + 1] {
                for era in [Era::Modern, Era::Legacy, Era::Batch] {
                    let count = met.get(&(era, path, target.tool)).copied().unwrap_or_default();
                    assert!(
                        count.iter().all(|it| *it > 0),
                        "{replay}: {era:?} {} {}: {count:?}",
                        PATHS[path],
                        target.tool
                    );
                }
            }
        }
    }
}
