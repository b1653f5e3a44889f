//! The program and the slow twin agree: on conditions, arguments and claims drawn at random, for calls, lists, numbers,
//! values, dead paths. And what a list was told could happen is what a call comes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ast::Kind;
use super::*;

/// Conditions tried, each on several facts.
const CASES: u64 = 3_000;
/// Multiplies them, for a longer look.
const CASES_VARIABLE: &str = "PORTCULLIS_CONDITION_CASES";
const FACTS_EACH: u64 = 5;

/// Draws the same for the same seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ drawn >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ drawn >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((drawn ^ drawn >> 31) % below as u64).unwrap()
    }

    fn of<'t>(&mut self, all: &[&'t str]) -> &'t str {
        all[self.next(all.len())]
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.next(of) == 0
    }

    // ---- conditions -------------------------------------------------------------------------------------------
    fn truth(&mut self, depth: usize, variables: &[&str]) -> String {
        let kinds = if depth == 0 { 10 } else { 17 };
        match self.next(kinds) {
            0 => self.of(&["true", "false"]).to_owned(),
            1 => self.path(variables),
            2 | 3 => format!("has({})", self.inner_path(variables)),
            4 => format!("{} {} {}", self.any(variables), self.of(&["==", "!="]), self.any(variables)),
            5 => format!(
                "{} {} {}",
                self.number(1, variables),
                self.of(&["<", "<=", ">", ">="]),
                self.number(1, variables)
            ),
            6 => format!("{} in {}", self.any(variables), self.list(variables)),
            7 => {
                let test = self.of(&["startsWith", "endsWith", "contains", "under"]);
                let other = if test == "under" { self.of(ROOTS).to_owned() } else { self.text(variables) };
                format!("{}.{test}({other})", self.text(variables))
            }
            8 => format!("{}.matches({})", self.text(variables), self.of(PATTERNS)),
            9 => format!("ip({}).in({})", self.text(variables), self.of(NETWORKS)),
            10 => format!("!({})", self.truth(depth - 1, variables)),
            11 | 12 => {
                let sign = self.of(&[" && ", " || "]);
                let count = 2 + self.next(2);
                let all: Vec<_> = (0..count).map(|_| format!("({})", self.truth(depth - 1, variables))).collect();
                all.join(sign)
            }
            13 | 14 if variables.len() < 2 => {
                let name = ["x", "y"][variables.len()];
                let inner: Vec<_> = variables.iter().copied().chain([name]).collect();
                let list = self.list(variables);
                format!("{list}.{}({name}, {})", self.of(&["all", "exists"]), self.truth(depth - 1, &inner))
            }
            15 => format!("({}) == ({})", self.truth(depth - 1, variables), self.truth(depth - 1, variables)),
            16 => format!("({}) in [true, null]", self.truth(depth - 1, variables)),
            _ => format!("{} == {}", self.number(2, variables), self.number(1, variables)),
        }
    }

    fn any(&mut self, variables: &[&str]) -> String {
        match self.next(6) {
            0 => self.number(1, variables),
            1 => self.text(variables),
            2 => self.of(&["null", "true", "[1, 2]", "[\"a\", null]", "[]", "[[\"a\"]]"]).to_owned(),
            _ => self.path(variables),
        }
    }

    fn number(&mut self, depth: usize, variables: &[&str]) -> String {
        match self.next(if depth == 0 { 5 } else { 10 }) {
            0 | 1 => self.of(NUMBERS).to_owned(),
            2 | 3 => self.path(variables),
            4 => self.of(&["now", "now % 1"]).replace(" % 1", ""),
            5 => format!("size({})", self.sizeable(variables)),
            6 => format!("time(now, {}).{}", self.of(&["\"UTC\"", "\"Asia/Kolkata\""]), self.of(&["hour", "weekday"])),
            7 => format!("url({}).port", self.text(variables)),
            8 => format!("-({})", self.number(depth - 1, variables)),
            _ => {
                let sign = self.of(&["+", "-", "*"]);
                format!("({} {sign} {})", self.number(depth - 1, variables), self.number(depth - 1, variables))
            }
        }
    }

    fn sizeable(&mut self, variables: &[&str]) -> String {
        match self.next(4) {
            0 => self.list(variables),
            1 => self.text(variables),
            2 => self.of(&["args", "claims"]).to_owned(),
            _ => self.path(variables),
        }
    }

    fn text(&mut self, variables: &[&str]) -> String {
        match self.next(8) {
            0 | 1 => self.of(TEXTS).to_owned(),
            2 => self.of(&["subject", "agent", "issuer", "task", "tool", "server"]).to_owned(),
            3 => format!("url({}).{}", self.path(variables), self.of(&["scheme", "host"])),
            4 => format!("{}.split({})[{}]", self.path(variables), self.of(SEPARATORS), self.next(3)),
            _ => self.path(variables),
        }
    }

    fn list(&mut self, variables: &[&str]) -> String {
        match self.next(8) {
            0 => self
                .of(&["[1, 2.0, 5e2]", "[\"a\", \"b\", \"\"]", "[null, \"x\"]", "[null]", "[]", "[true]"])
                .to_owned(),
            1 => format!("{}.split({})", self.text(variables), self.of(SEPARATORS)),
            2 => self.of(&["args.list", "claims.list", "args.c"]).to_owned(),
            _ => self.path(variables),
        }
    }

    /// A variable, or something within it.
    fn path(&mut self, variables: &[&str]) -> String {
        if !variables.is_empty() && self.one_in(2) {
            let variable = self.of(variables).to_owned();
            return if self.one_in(3) { variable + &self.step() } else { variable };
        }
        self.inner_path(&[])
    }

    fn inner_path(&mut self, variables: &[&str]) -> String {
        let mut path = match variables.is_empty() || self.one_in(2) {
            true => self.of(&["args", "args", "args", "claims"]).to_owned() + "." + self.of(NAMES),
            false => self.of(variables).to_owned() + &self.step(),
        };
        while self.one_in(3) {
            path += &self.step();
        }
        path
    }

    fn step(&mut self) -> String {
        match self.next(4) {
            0 => format!("[{}]", self.next(3)),
            1 => format!("[\"{}\"]", self.of(NAMES)),
            _ => format!(".{}", self.of(NAMES)),
        }
    }

    // ---- facts ------------------------------------------------------------------------------------------------
    fn object(&mut self, depth: usize) -> String {
        let mut members = BTreeMap::new();
        for _ in 0..self.next(7) {
            let name = self.of(NAMES);
            members.insert(name, self.value(depth, name));
        }
        let mut out = "{".to_owned();
        for (at, (name, value)) in members.into_iter().enumerate() {
            out += if at > 0 { "," } else { "" };
            let name = if self.one_in(6) {
                format!("\\u{:04x}{}", u32::from(name.as_bytes()[0]), &name[1..])
            } else {
                name.to_owned()
            };
            out += &format!("{}\"{name}\"{}:{}{value}", self.blank(), self.blank(), self.blank());
        }
        out + self.blank() + "}"
    }

    fn value(&mut self, depth: usize, name: &str) -> String {
        if depth > 0 && (name == "list" || self.one_in(4)) {
            let count = self.next(4);
            let all: Vec<_> = (0..count).map(|_| format!("{}{}", self.blank(), self.value(depth - 1, ""))).collect();
            return format!("[{}{}]", all.join(","), self.blank());
        }
        match self.next(if depth > 0 { 10 } else { 8 }) {
            0 => self.of(&["true", "false", "null"]).to_owned(),
            1 | 2 => self.of(NUMBERS).to_owned(),
            3 => self.of(&["1e400", "-0", "0.0", "100000000000000000000000000000000000000000001", "5.0E2"]).to_owned(),
            4 => self.of(ODD_TEXTS).to_owned(),
            5..8 => self.of(TEXTS).replace("\\x", "\\u00"),
            _ => self.object(depth - 1),
        }
    }

    fn blank(&mut self) -> &'static str {
        if self.one_in(4) { [" ", "\n ", "\t\r\n"][self.next(3)] } else { "" }
    }
}

const NAMES: &[&str] = &["a", "b", "c", "list", "amount"];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "2.0",
    "3",
    "-1",
    "500",
    "5e2",
    "0.1",
    "0.2",
    "0.30",
    "443",
    "99999999999999999999999999999999999999",
];
const TEXTS: &[&str] = &[
    "\"\"",
    "\"a\"",
    "\"b\"",
    "\"a b,c\"",
    "\"é€😀\"",
    "\"/srv/a/../b\"",
    "\"/srv/%2e\"",
    "\"/srv/b\"",
    "\"srv\"",
    "\"https://API.example.com./x\"",
    "\"https://u@example.com\"",
    "\"http://[::ffff:10.0.0.1]:8080/\"",
    "\"mailto:a@b\"",
    "\"10.1.2.3\"",
    "\"::ffff:10.1.2.3\"",
    "\"2001:db8::1\"",
    "\"10.1.2.03\"",
    "\"api.example.com\"",
    "\"https\"",
    "\"q\\\"uote\\\\ \\n\"",
];
/// As only JSON writes them.
const ODD_TEXTS: &[&str] = &[
    "\"\\u0061\"",
    "\"\\ud83d\\ude00\"",
    "\"a\\u0020b\\u002cc\"",
    "\"\\/srv\\/b\"",
    "\"https:\\/\\/api.example.com\"",
    "\"10.1\\u002e2.3\"",
];
const ROOTS: &[&str] = &["\"/srv\"", "\"/\"", "\"/srv/b/\"", "args.a", "args.b", "\"/srv/a\""];
const PATTERNS: &[&str] = &["\"^a\"", "r\"^\\d+$\"", "\"[a-z]{2}\"", "\"\"", "\"^$\"", "\"é\"", "\"(?i)API\""];
const NETWORKS: &[&str] = &["\"10.0.0.0/8\"", "\"2001:db8::/32\"", "\"::/0\"", "\"10.1.2.3\""];
const SEPARATORS: &[&str] = &["\" \"", "\",\"", "\"b,\"", "\"/\""];

/// What was seen, so that nothing is missed.
#[derive(Default)]
struct Seen {
    kinds: BTreeMap<String, u64>,
    truths: BTreeMap<String, u64>,
    sets: BTreeMap<u8, u64>,
    refused: u64,
}

fn kind_of(kind: &Kind) -> String {
    match kind {
        Kind::Logic(logic, _) => format!("{logic:?}"),
        Kind::Compare(compare, ..) => format!("{compare:?}"),
        Kind::Arithmetic(arithmetic, ..) => format!("{arithmetic:?}"),
        Kind::Text(test, ..) => format!("{test:?}"),
        Kind::Each(quantifier, ..) => format!("{quantifier:?}"),
        Kind::Url(part, _) => format!("{part:?}"),
        Kind::Time(part, _) => format!("{part:?}"),
        Kind::Path(path) => format!("{:?}", path.root),
        other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
    }
}

fn cases() -> u64 {
    std::env::var(CASES_VARIABLE).ok().and_then(|times| times.parse::<u64>().ok()).unwrap_or(1) * CASES
}

/// The condition, and on some facts all that can be asked of it.
fn agree(seed: u64, seen: &mut Seen) {
    let mut draw = Draw(seed.wrapping_mul(0xd134_2543_de82_ef95));
    let text = draw.truth(3, &[]);
    let condition = match Condition::parse(&text, Purpose::When, &ClaimTypes::default()) {
        Ok(condition) => condition,
        Err(fault) => {
            assert!(fault.column <= text.chars().count() + 1, "{text}: {fault:?}");
            seen.refused += 1;
            return;
        }
    };
    condition.ast().walk(&mut |expr| *seen.kinds.entry(kind_of(&expr.kind)).or_default() += 1);
    let purposes = [(draw.number(2, &[]), Purpose::Sum), (draw.any(&[]), Purpose::Value)];
    let others = purposes.map(|(text, purpose)| Condition::parse(&text, purpose, &ClaimTypes::default()).ok());
    for _ in 0..FACTS_EACH {
        let mut caller = Caller::anonymous();
        caller.claims = Arc::from(draw.object(3).into_bytes());
        caller.agent = [None, Some(Arc::from("a"))][draw.next(2)].clone();
        let args = draw.object(3);
        let facts = Facts {
            caller: &caller,
            args: if draw.one_in(20) { None } else { Some(args.as_bytes()) },
            task: [None, Some("b")][draw.next(2)],
            tool: draw.of(&["", "a"]),
            server: "srv",
            now_s: draw.next(2_000_000_000) as u64,
        };
        let dead = if draw.one_in(4) { draw.next(16) as u64 } else { 0 };
        let shown =
            || format!("{text}\nargs {args}\nclaims {}\ndead {dead:b}", String::from_utf8_lossy(&caller.claims));
        let truth = condition.truth(&facts, dead);
        assert_eq!(truth, reference::truth(&condition, &facts, dead), "{}", shown());
        assert_eq!(condition.unknown(&facts, dead).is_some(), truth == Truth::Unknown, "{}", shown());
        let could = condition.could(&facts);
        assert_eq!(could, reference::could(&condition, &facts), "{}", shown());
        assert!(could.has(truth), "{truth:?} could not be: {}", shown());
        *seen.truths.entry(format!("{truth:?}")).or_default() += 1;
        *seen.sets.entry(could.0).or_default() += 1;
        for other in others.iter().flatten() {
            let shown = || format!("{other:?}\n{}", shown());
            assert_eq!(other.number(&facts, dead), reference::number(other, &facts, dead), "{}", shown());
            let mut fed = Vec::new();
            let is = other.value(&facts, dead, &mut |bytes| fed.extend_from_slice(bytes));
            assert_eq!(is.then_some(fed), reference::value(other, &facts, dead), "{}", shown());
        }
    }
}

#[test]
fn the_program_and_the_slow_twin_agree() {
    let mut seen = Seen::default();
    let cases = cases();
    (0..cases).for_each(|seed| agree(seed, &mut seen));
    assert!(seen.refused < cases / 2, "{} of {cases} were no conditions", seen.refused);
    let kinds = [
        "Literal",
        "Has",
        "Not",
        "Negate",
        "And",
        "Or",
        "Equal",
        "NotEqual",
        "Less",
        "LessOrEqual",
        "Greater",
        "GreaterOrEqual",
        "In",
        "Plus",
        "Minus",
        "Times",
        "Size",
        "StartsWith",
        "EndsWith",
        "Contains",
        "Under",
        "Matches",
        "Split",
        "Piece",
        "All",
        "Exists",
        "Scheme",
        "Host",
        "Port",
        "IpIn",
        "Hour",
        "Weekday",
        "Args",
        "Claims",
        "Subject",
        "Agent",
        "Issuer",
        "Task",
        "Tool",
        "Server",
        "Now",
        "Variable",
    ];
    for kind in kinds {
        let count: u64 = seen.kinds.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, count)| count).sum();
        assert!(count >= 10, "{kind} was seen {count} times");
    }
    assert!(seen.truths.len() == 3 && seen.truths.values().all(|count| *count > cases / 10), "{:?}", seen.truths);
    assert_eq!(seen.sets.len(), 7, "each set of truths: {:?}", seen.sets);
}
