//! Where servers are, how they are started and treated, and the endpoints in front of them.

use super::*;

fn servers(text: &str) -> Vec<ServerSettings> {
    let text = format!(
        "auth: {{ anonymous: allow }}\nservers:\n{text}\npolicy: {{ rules: [{{ id: o, permit: ['*/*'] }}] }}\n"
    );
    read(&text).unwrap_or_else(|faults| panic!("{text}{faults:?}")).settings.servers
}

#[test]
fn instances_keep_their_order() {
    let servers = servers(
        "  a: { urls: [http://One.example/mcp, https://two.example:9443/mcp?k=v, http://127.0.0.1:80/mcp] }\n  \
           b: { url: http://one.example/mcp }",
    );
    let [a, b] = servers.as_slice() else { panic!("two servers") };
    let urls: Vec<String> = a.instances().iter().map(InstanceSettings::url).collect();
    // What a query says is not for people.
    assert_eq!(urls, ["http://one.example/mcp", "https://two.example:9443/mcp", "http://127.0.0.1/mcp"]);
    assert_eq!(a.instances()[1].path, "/mcp?k=v");
    assert_eq!(a.instances()[1].tls.as_ref().map(|tls| &*tls.name), Some("two.example"));
    assert!(a.instances()[0].tls.is_none() && a.command().is_none());
    // One instance asks nobody how it is: there is nothing to give way to.
    let health = |interval_ms| HealthSettings { interval_ms, failures: 5, open_ms: 5_000 };
    assert_eq!((a.health, b.health), (health(10_000), health(0)));
    assert_eq!(a.instances()[0], b.instances()[0]);
}

#[test]
fn what_tls_says_goes_for_all_instances() {
    let servers = servers("  a: { urls: [https://one/, https://two/], tls: { name: crm.example, ca: tls/ca.pem } }");
    let names: Vec<_> =
        servers[0].instances().iter().map(|it| it.tls.as_ref().map(|tls| (&*tls.name, &tls.ca))).collect();
    let ca = Some(path("tls/ca.pem"));
    assert_eq!(names, [Some(("crm.example", &ca)), Some(("crm.example", &ca))]);
}

#[test]
fn commands() {
    let servers = servers(
        "  a: { command: [npx, -y, '@scope/server@1', ''], pin: quarantine, timeout: 7s, concurrency: 3 }\n  \
           b:\n    command: [./bin/server, \"${COUNT}\"]\n    cwd: work\n    env: { KEY: \"${SECRET}\", EMPTY: '' }\n    \
           inherit: [PATH, HOME]\n    user: \"65534\"\n    sharing: shared\n  \
           c: { command: [/usr/bin/server], sharing: session, user: nobody }",
    );
    let command = |program: &str, args: &[&str]| CommandSettings {
        program: program.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        cwd: None,
        env: Vec::new(),
        inherit: Vec::new(),
        user: None,
        sharing: Sharing::Session,
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let want = [
        command("npx", &["-y", "@scope/server@1", ""]),
        CommandSettings {
            cwd: Some(path("work")),
            env: vec![pair("KEY", "hunter2"), pair("EMPTY", "")],
            inherit: vec!["PATH".to_owned(), "HOME".to_owned()],
            user: Some("65534".to_owned()),
            sharing: Sharing::Shared,
            ..command("/etc/gate/bin/server", &["3"])
        },
        CommandSettings { user: Some("nobody".to_owned()), ..command("/usr/bin/server", &[]) },
    ];
    let got: Vec<&CommandSettings> = servers.iter().filter_map(ServerSettings::command).collect();
    assert_eq!(got, want.iter().collect::<Vec<_>>());
    assert!(servers.iter().all(|server| server.instances().is_empty()));
    assert_eq!((servers[0].pin, servers[1].pin), (Pin::Quarantine, Pin::Warn));
    assert_eq!((servers[0].timeout_ms, servers[0].concurrency, servers[1].concurrency), (7_000, Some(3), None));
}

#[test]
fn how_servers_are_treated() {
    let servers = servers(
        "  a: { url: http://h/, pin: warn, concurrency: 1, health: { interval: 100ms, failures: 1, open: 1ms } }\n  \
           b: { urls: [http://h/, http://i/], health: { interval: 0s } }",
    );
    assert_eq!(servers[0].health, HealthSettings { interval_ms: 100, failures: 1, open_ms: 1 });
    assert_eq!((servers[0].pin, servers[0].concurrency), (Pin::Warn, Some(1)));
    assert_eq!(servers[1].health, HealthSettings { interval_ms: 0, failures: 5, open_ms: 5_000 });
}

/// Each of the three ways to say where a server is excludes the others, and brings keys that go with it only.
#[test]
fn what_does_not_go_together() {
    check(
        r#"auth: { anonymous: allow }
servers:
  a: { url: http://h/, urls: [http://i/] }
  b: { url: http://h/, command: [x] }
  c: { command: [x], urls: [http://h/], tls: { ca: tls/ca.pem }, transport: http, health: { failures: 2 } }
  d: { url: http://h/, cwd: /, env: { A: b }, inherit: [PATH], user: nobody, sharing: shared }
  e: { urls: [http://h/, "http://H:80/", http://h/x] }
  f: { urls: [] }
  g: { pin: warn }
policy: { rules: [{ id: open, permit: ["*/*"] }] }
"#,
        &[
            "3:24: servers.a.urls: `url` and `urls` exclude each other (keep one of them)",
            "4:24: servers.b.command: `url` and `command` exclude each other (keep one of them)",
            "5:8: servers.c.command: `urls` and `command` exclude each other (keep one of them)",
            "5:41: servers.c.tls: does not go with this server: a command has no use for it (leave it out)",
            "5:66: servers.c.transport: does not go with this server: a command has no use for it (leave it out)",
            "5:83: servers.c.health: does not go with this server: a command has no use for it (leave it out)",
            "6:24: servers.d.cwd: does not go with this server: it is for a server that is started with `command` (leave it out)",
            "6:32: servers.d.env: does not go with this server: it is for a server that is started with `command` (leave it out)",
            "6:47: servers.d.inherit: does not go with this server: it is for a server that is started with `command` (leave it out)",
            "6:64: servers.d.user: does not go with this server: it is for a server that is started with `command` (leave it out)",
            "6:78: servers.d.sharing: does not go with this server: it is for a server that is started with `command` (leave it out)",
            "7:26: servers.e.urls[1]: stands twice (keep one of them)",
            "8:14: servers.f.urls: expected 1 to 64 instances (name an instance)",
            "9:3: servers.g: has no `url` (write url: http://127.0.0.1:9001/mcp, or command: [PROGRAM, ARGUMENT])",
        ],
    );
}

#[test]
fn faults_in_commands() {
    check(
        r#"auth: { anonymous: allow }
servers:
  a: { command: npx -y server }
  b: { command: [] }
  c: { command: ["", x] }
  d: { command: [x, 8080, "a\0b"] }
  e: { command: [x], env: { 1A: b, "A=B": c, OK: "\0", NUM: 5 }, inherit: ["PA TH", PATH, PATH, OK, "${SECRET}!"] }
  f: { command: [x], user: "" , sharing: none }
  g: { command: [x], user: -1, cwd: "" }
  h: { command: [x], user: "root:wheel", environ: {} }
  i: { command: [x], env: { A: "${NOPE}", A: b } }
policy: { rules: [{ id: open, permit: ["*/*"] }] }
"#,
        &[
            "3:17: servers.a.command: expected a list, found a text (write [npx, -y, server])",
            "4:17: servers.b.command: is empty (name the program: [npx, -y, PACKAGE])",
            "5:18: servers.c.command[0]: is no program (name the program: [npx, -y, PACKAGE])",
            "6:21: servers.d.command[1]: expected a text, found a number (put it in quotes)",
            "6:27: servers.d.command[2]: has a NUL character",
            "7:29: servers.e.env.1A: `1A` is not a variable's name (A-Z, a-z, 0-9 and _, no digit first)",
            "7:36: servers.e.env.A=B: `A=B` is not a variable's name (A-Z, a-z, 0-9 and _, no digit first)",
            "7:50: servers.e.env.OK: has a NUL character",
            "7:61: servers.e.env.NUM: expected a text, found a number (put it in quotes)",
            "7:76: servers.e.inherit[0]: `PA TH` is not a variable's name (A-Z, a-z, 0-9 and _, no digit first)",
            "7:91: servers.e.inherit[2]: stands twice (keep one of them)",
            "7:97: servers.e.inherit[3]: `OK` stands in `env` too (keep one of them)",
            "7:101: servers.e.inherit[4]: the value is not a variable's name (A-Z, a-z, 0-9 and _, no digit first)",
            "8:28: servers.f.user: `` is not a user (write its name, or its number in quotes)",
            "8:42: servers.f.sharing: `none` is not `session` or `shared`",
            "9:28: servers.g.user: expected a text, found a number (put it in quotes)",
            "9:37: servers.g.cwd: is not a path",
            "10:28: servers.h.user: `root:wheel` is not a user (write its name, or its number in quotes)",
            "10:42: servers.h.environ: is not a key",
            "11:33: servers.i.env.A: the variable NOPE is not set (set it, or give a default: ${NOPE:-…})",
            "11:43: servers.i.env.A: stands twice; first on line 11 (keep one of them)",
        ],
    );
}

#[test]
fn faults_in_how_servers_are_treated() {
    check(
        r#"auth: { anonymous: allow }
servers:
  a: { url: http://h/, pin: quarantined, concurrency: 0 }
  b: { url: http://h/, health: { interval: 99ms, failures: 0, open: 6m, every: 1s } }
  c: { url: http://h/, health: 5s, concurrency: many }
policy: { rules: [{ id: open, permit: ["*/*"] }] }
"#,
        &[
            "3:29: servers.a.pin: `quarantined` is not `warn` or `quarantine` (did you mean `quarantine`?)",
            "3:55: servers.a.concurrency: must be from 1 to 10240000",
            "4:44: servers.b.health.interval: must be at least 100ms (write 0s for no probes)",
            "4:60: servers.b.health.failures: must be from 1 to 1000",
            "4:69: servers.b.health.open: must be from 1ms to 5m",
            "4:73: servers.b.health.every: is not a key",
            "5:32: servers.c.health: expected keys, found a text",
            "5:49: servers.c.concurrency: expected a whole number from 1 to 10240000, found a text",
        ],
    );
}

/// More instances than anybody has are refused, and only so many are looked into.
#[test]
fn instances_have_a_bound() {
    let urls = |count: usize| (0..count).map(|n| format!("http://h:{}/", n + 1)).collect::<Vec<_>>().join(", ");
    assert_eq!(servers(&format!("  a: {{ urls: [{}] }}", urls(64)))[0].instances().len(), 64);
    let text = format!("auth: {{ anonymous: allow }}\nservers: {{ a: {{ urls: [{}] }} }}\n", urls(65));
    let faults = read(&text).expect_err("one too many");
    assert!(faults.iter().any(|fault| fault.message == "expected 1 to 64 instances"), "{faults:?}");
}

#[test]
fn endpoints_with_several_servers() {
    let endpoints = |endpoints: &str| {
        let text = format!(
            "auth: {{ anonymous: allow }}\nservers:\n  a: {{ url: http://h/ }}\n  b: {{ command: [x] }}\n{endpoints}\n"
        );
        let endpoints = read(&text).unwrap_or_else(|faults| panic!("{faults:?}")).settings.endpoints;
        let short = |it: EndpointSettings| {
            let servers: Vec<usize> = it.servers.iter().map(|server| server.index()).collect();
            (it.path, servers, it.names, it.instructions)
        };
        endpoints.into_iter().map(short).collect::<Vec<_>>()
    };
    let own = |rest: &[(&str, &[usize], Names, bool)]| -> Vec<(String, Vec<usize>, Names, bool)> {
        let own: [(&str, &[usize], Names, bool); 2] =
            [("/s/a/mcp", &[0], Names::Bare, true), ("/s/b/mcp", &[1], Names::Bare, true)];
        let all = rest.iter().chain(&own);
        all.map(|(path, servers, names, told)| ((*path).to_owned(), servers.to_vec(), *names, *told)).collect()
    };
    // Without a word, one endpoint has them all.
    assert_eq!(endpoints(""), own(&[("/mcp", &[0, 1], Names::Prefix, true)]));
    assert_eq!(endpoints("endpoints: {}"), own(&[]));
    assert_eq!(
        endpoints(
            "endpoints:\n  /x: { servers: [b, a] }\n  /y: { servers: [b, a], names: bare, instructions: false }\n  \
             /z: { servers: [b], names: prefix }\n  /w: { servers: [a], instructions: true }"
        ),
        own(&[
            ("/x", &[1, 0], Names::Prefix, true),
            ("/y", &[1, 0], Names::Bare, false),
            ("/z", &[1], Names::Prefix, true),
            ("/w", &[0], Names::Bare, true),
        ])
    );
    let alone = read("auth: { anonymous: allow }\nservers: { a: { url: http://h/ } }\n").expect("it is sound");
    assert_eq!(alone.settings.endpoints[0].names, Names::Bare);
}

#[test]
fn faults_in_endpoints_with_several_servers() {
    check(
        r#"auth: { anonymous: allow }
servers: { docs: { url: http://h/ }, crm: { url: http://i/ } }
endpoints:
  /a: { servers: [docs, crm, docs] }
  /b: { servers: [docs, docs], names: bare }
  /c: { servers: [docs, cmr], names: prefixed, instructions: maybe }
policy: { rules: [{ id: open, permit: ["*/*"] }] }
"#,
        &[
            "4:30: endpoints./a.servers[2]: `docs` stands twice (keep one of them)",
            "5:25: endpoints./b.servers[1]: `docs` stands twice (keep one of them)",
            "6:25: endpoints./c.servers[1]: no server is called `cmr` (did you mean `crm`?)",
            "6:38: endpoints./c.names: `prefixed` is not `bare` or `prefix` (did you mean `prefix`?)",
            "6:62: endpoints./c.instructions: expected true or false, found a text",
        ],
    );
}

#[test]
fn many_servers() {
    let loaded = read(include_str!("../../../examples/many-servers.yaml")).expect("it is sound");
    assert_eq!(loaded.warnings, []);
    let Settings { servers, endpoints, .. } = loaded.settings;
    assert_eq!(servers.iter().map(|server| server.instances().len()).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(servers[1].health, HealthSettings { interval_ms: 5_000, failures: 3, open_ms: 10_000 });
    let at =
        |path: &str| endpoints.iter().find(|endpoint| endpoint.path == path).map(|it| (it.servers.len(), it.names));
    assert_eq!((at("/mcp"), at("/mcp/research")), (Some((3, Names::Prefix)), Some((2, Names::Bare))));
}

/// Everything in the long example that has to do with servers and endpoints is served.
#[test]
fn a_fleet() {
    let text = include_str!("../testdata/fleet.yaml");
    let faults = read(text).expect_err("some of it is not done yet");
    let about = |what: &str| faults.iter().filter(|fault| fault.path.starts_with(what)).count();
    assert_eq!((about("servers."), about("endpoints")), (1, 0), "a secret that is not set on this machine");
}
