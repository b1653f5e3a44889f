//! The table of keys: what each is, whether this version serves it, and what it means in a sentence. Checking
//! (`shape`), the nearest key in a hint, and the JSON Schema that editors use are all read off it.

use serde_json::{Map, Value, json};

use crate::base::limits::{
    APPROVAL_MS_MIN, BATCH_MESSAGES_MAX, BODY_BYTES_MAX, CONFIG_MS_MAX, CONFIG_SESSION_MS_MAX, CONNECTIONS_MAX,
    HEALTH_FAILURES_MAX, HEALTH_OPEN_MS_MAX, INTROSPECTION_CACHE_MS_MAX, KEYS_TIME_MS_MIN, LIMIT_CALLS_MAX,
    LIMIT_CONCURRENT_MAX, LIMIT_MS_MAX, NAME_BYTES_MAX, OTLP_INTERVAL_MS_MIN, OTLP_TIMEOUT_MS_MAX,
    PROCESS_CONNECTIONS_MAX, PROCESS_SESSIONS_MAX, REASON_BYTES_MAX, SHARDS_MAX, SPIN_US_MAX, STREAM_KEEPALIVE_MS_MAX,
    STREAM_RESUME_MS_MAX,
};

/// One key of a block.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    /// What to do when it is missing; `None` for a key that may be.
    pub(crate) required: Option<&'static str>,
    pub(crate) doc: &'static str,
}

/// Whether this version does what a key or word asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    Served,
    /// Known, not done yet, so refused: what to do instead.
    Later(&'static str),
}

/// The shape of a value.
#[derive(Debug)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A text that nobody may read who was not meant to: wiped after use, in no message, and best written elsewhere.
    Secret,
    /// A text of this form; looked into by `check`, shown to editors.
    Form(&'static Form),
    Flag,
    /// A whole number in these bounds.
    Count(u64, u64),
    /// A number, not below nothing, exactly as written.
    Decimal,
    /// A duration in these bounds, milliseconds.
    Duration(u64, u64),
    /// A size in these bounds, bytes.
    Size(u64, u64),
    /// One of these words.
    Word(&'static [Word]),
    List(&'static Kind),
    Block(&'static [Key]),
    /// Names of the operator's own, each with a value of one kind. The text says what they name.
    Named(&'static str, &'static Kind),
    /// The first of these that fits what was typed.
    Either(&'static [Kind]),
    /// Not looked into: the key is not served yet.
    Any,
}

/// A word that stands for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) text: &'static str,
    pub(crate) state: State,
    pub(crate) doc: &'static str,
}

/// What a text must look like.
#[derive(Debug)]
pub(crate) struct Form {
    /// What it is, with its article.
    pub(crate) what: &'static str,
    pub(crate) example: &'static str,
    /// A regular expression for editors (ECMA 262); `check` is what decides.
    pub(crate) pattern: &'static str,
}

/// The whole file.
pub(crate) const ROOT: &[Key] = &[
    Key::new(
        "listen",
        Kind::Either(&[Kind::Form(&ADDRESS), Kind::List(&LISTENER)]),
        "Where clients connect: an address and port, or a list of them. Default: `127.0.0.1:8080`.",
    ),
    Key::new(
        "public_url",
        Kind::Form(&ORIGIN),
        "What clients call the gateway: scheme and authority, nothing more. With an endpoint's path behind it, it is \
         the audience a token must name. Default: `http://`, or `https://` where it has `tls`, and the first listener.",
    ),
    Key::new(
        "shards",
        Kind::Either(&[
            Kind::Word(&[Word::new("auto", "One per core this process may run on.")]),
            Kind::Count(1, SHARDS_MAX as u64),
        ]),
        "How many shards (pinned threads) to start. Default: `auto`, one per core this process may run on.",
    ),
    Key::new(
        "spin_us",
        Kind::Count(0, SPIN_US_MAX),
        "For installs where latency is worth more than CPU: how long a shard goes on looking for more before it sleeps, \
         microseconds after the last that came. Default: 0, it sleeps at once.",
    ),
    Key::new(
        "admin",
        Kind::Either(&[Kind::Word(&[Word::new("off", "No admin listener.")]), Kind::Form(&ADDRESS)]),
        "The listener for health, status, metrics and orders, never the one that clients use; or `off`. Default: \
         `127.0.0.1:9090`.",
    ),
    Key::new(
        "state",
        Kind::Form(&PATH),
        "The folder for what must outlive a restart: sealing keys, made at first start. Default: \
         `$STATE_DIRECTORY`, else `./portcullis-state`.",
    ),
    Key::new(
        "hosts",
        Kind::List(&Kind::Form(&HOST)),
        "The `Host` values that are answered; one without a port goes for every listener's port. `public_url`'s is \
         always one. Default: the listeners' addresses, and `localhost` where they are on loopback.",
    ),
    Key::new(
        "origins",
        Kind::List(&Kind::Form(&ORIGIN)),
        "The `Origin` values, of pages in a browser, that are answered. `public_url`'s is always one. Default: the \
         listeners on loopback.",
    ),
    Key::new("auth", Kind::Block(AUTH), "Whose tokens are believed, and what becomes of a request without one."),
    Key::new("servers", Kind::Named("server", &Kind::Block(SERVER)), "The MCP servers, by name.")
        .required("write servers: { docs: { url: http://127.0.0.1:9001/mcp } }"),
    Key::new(
        "endpoints",
        Kind::Named("path", &Kind::Block(ENDPOINT)),
        "The paths that clients connect to. `/s/NAME/mcp` is always there for each server. Default: `/mcp`, with all \
         servers.",
    ),
    Key::new("policy", Kind::Block(POLICY), "Who may call what. Without it everything is refused."),
    Key::new("audit", Kind::Block(AUDIT), "The record: one decision for every call, and its outcome."),
    Key::new("limits", Kind::Block(LIMITS), "Bounds of the gateway itself. The defaults suit most."),
    Key::new("telemetry", Kind::Block(TELEMETRY), "Metrics and traces for a collector that speaks OTLP."),
    Key::new("sessions", Kind::Block(SESSIONS), "How many sessions of clients there may be, and for how long."),
];

const LISTENER: Kind = Kind::Either(&[
    Kind::Form(&ADDRESS),
    Kind::Block(&[
        Key::new("address", Kind::Form(&ADDRESS), "Address and port.").required("write `address: 127.0.0.1:8080`"),
        Key::new("tls", Kind::Block(LISTENER_TLS), "TLS 1.2 and 1.3, with this certificate. Default: plain HTTP."),
    ]),
]);

const LISTENER_TLS: &[Key] = &[
    Key::new("cert", Kind::Form(&PATH), "The certificate and its chain, a PEM file. Read again when it changes."),
    Key::new("key", Kind::Form(&PATH), "Its private key, a PEM file, not encrypted."),
    Key::new(
        "certificates",
        Kind::List(&Kind::Block(CERTIFICATE)),
        "More pairs: the one whose certificate has the name that the client asks for is used; else the first of all.",
    ),
    Key::new(
        "client_ca",
        Kind::Form(&PATH),
        "The authorities that clients' certificates must come from, a PEM file. Default: none is asked for.",
    ),
    Key::new(
        "client_certificate",
        Kind::Word(&[
            Word::new("require", "No connection without a certificate."),
            Word::new("request", "A client may have none; one that it shows must hold."),
        ]),
        "With `client_ca`: whether every client must have a certificate. Default: `require`.",
    ),
];

const CERTIFICATE: &[Key] = &[
    Key::new("cert", Kind::Form(&PATH), "The certificate and its chain, a PEM file.")
        .required("name its PEM file: `cert: ./tls/cert.pem`"),
    Key::new("key", Kind::Form(&PATH), "Its private key, a PEM file, not encrypted.")
        .required("name its PEM file: `key: ./tls/key.pem`"),
];

const AUTH: &[Key] = &[
    Key::new("issuers", Kind::List(&Kind::Block(ISSUER)), "Whose tokens are believed."),
    Key::new(
        "anonymous",
        Kind::Word(&[
            Word::new("deny", "It is answered 401."),
            Word::new("allow", "It is the subject `anonymous`, without claims and tasks. For trying things out."),
        ]),
        "What becomes of a request without a token. A bad token is never anonymous. Default: `deny`.",
    ),
    Key::new(
        "anonymous_public",
        Kind::Flag,
        "Lets `anonymous: allow` stand with a listener that is not on loopback. Default: `false`.",
    ),
    Key::new(
        "scopes",
        Kind::List(&Kind::Form(&SCOPE)),
        "What a client without a token is told to ask its issuer for. Default: nothing.",
    ),
    Key::new(
        "legacy_metadata",
        Kind::Flag,
        "Whether clients of revision 2025-03-26 find the metadata of the one issuer at the gateway's own origin. \
         Default: `false`.",
    ),
];

const ISSUER: &[Key] = &[
    Key::new("issuer", Kind::Text, "The `iss` claim, byte for byte.")
        .required("write the `iss` of its tokens, byte for byte"),
    Key::new(
        "audience",
        Kind::Either(&[Kind::Text, Kind::List(&Kind::Text)]),
        "What a token's `aud` must name instead. Default: the endpoint's own URL.",
    ),
    Key::new(
        "jwks",
        Kind::Either(&[
            Kind::Word(&[Word::new("off", "It has none: its tokens are opaque, and it is asked about each.")]),
            Kind::Block(JWKS),
        ]),
        "The issuer's public keys (RFC 7517). Default: wherever its own metadata says.",
    ),
    Key::new(
        "introspection",
        Kind::Block(INTROSPECTION),
        "How tokens that are not JWTs are judged (RFC 7662); for one issuer at most. Default: they are refused.",
    ),
    Key::new(
        "algorithms",
        Kind::List(&Kind::Word(&ALGORITHMS)),
        "The signatures that are believed. Default: all of them.",
    ),
    Key::new(
        "subject",
        Kind::Form(&CLAIM),
        "The claim that is billed, limited and written down. Default: `claims.sub`.",
    ),
    Key::new(
        "agent",
        Kind::Form(&CLAIM),
        "The claim for the client acting for the subject. Default: `claims.client_id`.",
    ),
    Key::new(
        "tasks",
        Kind::Form(&CLAIM),
        "The claim for the tasks the token may work on: a text, a text with blanks, or an array. Default: \
         `claims.tasks`.",
    ),
    Key::new(
        "typ",
        Kind::List(&Kind::Text),
        "The `typ` headers that are believed; `none` for tokens without one. Default: `[at+jwt, JWT]`.",
    ),
    Key::new(
        "private",
        NETWORKS,
        "Networks that its documents may be fetched from although they are not public. Default: none.",
    ),
    Key::new(
        "ca",
        Kind::Form(&PATH),
        "The authorities that the certificate of what is fetched must come from, a PEM file. Default: those of the \
         system.",
    ),
    Key::new(
        "claims",
        CLAIM_TYPES,
        "Types of the claims, by path (`groups`, `realm.roles`), for checking `who` and `when`. One that is not here is \
         untyped.",
    ),
];

const JWKS: &[Key] = &[
    Key::new("file", Kind::Form(&PATH), "A file with its key set. Read again when it changes."),
    Key::new("url", Kind::Form(&FETCHED), "Where it publishes its key set. Default: wherever its own metadata says."),
    Key::new(
        "refresh",
        Kind::Duration(KEYS_TIME_MS_MIN, CONFIG_MS_MAX),
        "How often what is published is looked at again. Default: `5m`.",
    ),
    Key::new(
        "stale",
        Kind::Duration(KEYS_TIME_MS_MIN, CONFIG_MS_MAX),
        "So long keys are believed that cannot be looked at again; then nobody is let in by them. Default: `1h`.",
    ),
];

const INTROSPECTION: &[Key] = &[
    Key::new("url", Kind::Form(&FETCHED), "The introspection endpoint. Default: wherever its metadata says."),
    CLIENT_ID,
    CLIENT_SECRET,
    CLIENT_KEY,
    CLIENT_AUTH,
    Key::new(
        "cache",
        Kind::Duration(0, INTROSPECTION_CACHE_MS_MAX),
        "So long an answer is believed, and never beyond the token's end. Default: `30s`.",
    ),
];

const CLIENT_ID: Key = Key::new("client_id", Kind::Text, "Who the gateway is there.")
    .required("write the id that the gateway is registered with: `client_id: portcullis`");
const CLIENT_SECRET: Key =
    Key::new("client_secret", Kind::Secret, "Its proof: a secret, `\"${file:./secrets/client}\"`.");
const CLIENT_KEY: Key =
    Key::new("client_key", Kind::Block(SIGNING_KEY), "Its proof instead: a private key (`private_key_jwt`, RFC 7523).");
const CLIENT_AUTH: Key = Key::new(
    "auth",
    Kind::Word(&[
        Word::new("basic", "In the `Authorization` field (`client_secret_basic`)."),
        Word::new("post", "In the form (`client_secret_post`)."),
    ]),
    "How `client_secret` is shown. Default: `basic`.",
);

const SIGNING_KEY: &[Key] = &[
    Key::new("file", Kind::Form(&PATH), "The key, a PEM file of PKCS #8, not encrypted. Read again when it changes.")
        .required("name its PEM file: `file: ./secrets/client.pem`"),
    Key::new("algorithm", Kind::Word(SIGNED_WITH), "What is signed with. Default: `ES256`."),
    Key::new("key_id", Kind::Text, "Its `kid`, as it is registered. Default: none."),
    Key::new("audience", Kind::Text, "The `aud` of what is signed. Default: the URL of the endpoint it is shown to."),
];

/// What the gateway can sign with, a subset of what it can verify.
const SIGNED_WITH: &[Word] = &[ALGORITHMS[0], ALGORITHMS[1], ALGORITHMS[2], ALGORITHMS[3], ALGORITHMS[6]];

/// What jsonwebtoken can verify with a public key. Shared secrets (HS*) are never believed.
const ALGORITHMS: [Word; 9] = [
    Word::new("ES256", "ECDSA on P-256 with SHA-256."),
    Word::new("ES384", "ECDSA on P-384 with SHA-384."),
    Word::new("EdDSA", "Ed25519."),
    Word::new("RS256", "RSA PKCS#1 with SHA-256."),
    Word::new("RS384", "RSA PKCS#1 with SHA-384."),
    Word::new("RS512", "RSA PKCS#1 with SHA-512."),
    Word::new("PS256", "RSA-PSS with SHA-256."),
    Word::new("PS384", "RSA-PSS with SHA-384."),
    Word::new("PS512", "RSA-PSS with SHA-512."),
];

const CLAIM_TYPES: Kind =
    Kind::Named("claim", &Kind::Either(&[Kind::Word(CLAIM_WORDS), Kind::List(&Kind::Word(&CLAIM_ELEMENTS))]));

/// What a claim can be declared to be; a list of texts or numbers is written as a list of that word.
const CLAIM_WORDS: &[Word] = &[
    CLAIM_ELEMENTS[0],
    CLAIM_ELEMENTS[1],
    Word::new("bool", "`true` or `false`."),
    Word::new("list", "A list of anything."),
    Word::new("object", "An object."),
];
const CLAIM_ELEMENTS: [Word; 2] = [Word::new("text", "Text."), Word::new("number", "A number.")];

const SERVER: &[Key] = &[
    Key::new("url", Kind::Form(&SERVER_URL), "Where it is: an http or https URL."),
    Key::new(
        "urls",
        Kind::List(&Kind::Form(&SERVER_URL)),
        "Where its interchangeable instances are. A session, or an owner's task, stays at one as long as it is well.",
    ),
    Key::new(
        "command",
        Kind::List(&Kind::Text),
        "A program that speaks MCP over its pipes, and its arguments. No shell sees it. A program with a `/` is a \
         path; any other is looked up in `PATH`.",
    ),
    Key::new("cwd", Kind::Form(&PATH), "The folder that `command` starts in. Default: the gateway's own."),
    Key::new(
        "env",
        Kind::Named("variable", &Kind::Text),
        "The environment of `command`: it gets these variables, those of `inherit`, and no others.",
    ),
    Key::new(
        "inherit",
        Kind::List(&Kind::Form(&VARIABLE)),
        "Variables that `command` gets as the gateway has them. `PATH` is one to think of.",
    ),
    Key::new(
        "user",
        Kind::Text,
        "The user, by name or by number in quotes, that `command` runs as. Default: the gateway's own.",
    ),
    Key::new(
        "sharing",
        Kind::Word(&[
            Word::new("session", "Each session has a child of its own; in 2026-07-28, each owner."),
            Word::new("shared", "One child serves everybody."),
        ]),
        "Whom one child of `command` serves. Default: `session`.",
    ),
    Key::new("timeout", DURATION, "From a call's first byte to its answer. Default: `limits.call`."),
    Key::new(
        "transport",
        Kind::Word(&[
            Word::new("auto", "It is asked: streamable HTTP first, then HTTP+SSE."),
            Word::new("http", "Streamable HTTP."),
            Word::new("sse", "HTTP+SSE of 2024-11-05, which is deprecated; the URL is the event stream's."),
        ]),
        "How messages travel to it. Default: `auto`.",
    ),
    Key::new("tls", Kind::Block(SERVER_TLS), "How an https server is known, and how the gateway shows itself to it."),
    Key::new(
        "credentials",
        Kind::Either(&[
            Kind::Word(&[
                Word::new("strip", "The caller's token stays here."),
                Word::new("forward", "The caller's own token: only for a server that shares the gateway's audience."),
            ]),
            Kind::Block(CREDENTIALS),
        ]),
        "What the server is shown. Default: `strip`, nothing.",
    ),
    Key::new(
        "identity_headers",
        Kind::Named("field", &Kind::Form(&IDENTITY)),
        "What the server is told of the caller, by field: `subject`, `agent`, `issuer`, `task`, or a claim. Default: \
         nothing.",
    ),
    Key::new(
        "catalogue",
        Kind::Block(CATALOGUE),
        "Where `credentials` differ from caller to caller: what the gateway itself looks at its lists with. Default: \
         nothing.",
    ),
    Key::new(
        "pin",
        Kind::Word(&[
            Word::new("warn", "It is served, and reported."),
            Word::new("quarantine", "It is hidden until `portcullis pins approve`."),
        ]),
        "What becomes of a definition that is new or has changed. Default: `warn`.",
    ),
    Key::new(
        "concurrency",
        COUNT,
        "Requests to it at once, over all shards and instances; further ones are refused. Default: no bound but \
         `limits.calls`.",
    ),
    Key::new("health", Kind::Block(HEALTH), "When an instance is left alone, and for how long."),
];

const HEALTH: &[Key] = &[
    Key::new(
        "interval",
        Kind::Duration(0, CONFIG_MS_MAX),
        "How often each instance is asked whether it is there; `0s` for never. Default: `10s` where there are several, \
         else never.",
    ),
    Key::new(
        "failures",
        Kind::Count(1, HEALTH_FAILURES_MAX as u64),
        "So many failures in a row eject an instance. Default: 5.",
    ),
    Key::new(
        "open",
        Kind::Duration(1, HEALTH_OPEN_MS_MAX),
        "How long the first ejection lasts; each further one in a row twice as long, up to `5m`. Default: `5s`.",
    ),
];

const SERVER_TLS: &[Key] = &[
    Key::new(
        "ca",
        Kind::Form(&PATH),
        "The authorities that its certificate must come from, a PEM file. Default: those of the system.",
    ),
    Key::new("cert", Kind::Form(&PATH), "The gateway's own certificate for it and its chain, a PEM file."),
    Key::new("key", Kind::Form(&PATH), "The private key of `cert`, a PEM file, not encrypted."),
    Key::new(
        "name",
        Kind::Form(&TLS_NAME),
        "The name that is asked for, and that its certificate must have. Default: the URL's host.",
    ),
];

const CREDENTIALS: &[Key] = &[
    BEARER,
    HEADER,
    BASIC,
    CLIENT_CREDENTIALS,
    Key::new(
        "exchange",
        Kind::Block(GRANT),
        "The caller's token, traded for one that is meant for this server (RFC 8693).",
    ),
];

const CATALOGUE: &[Key] = &[BEARER, HEADER, BASIC, CLIENT_CREDENTIALS];

const BEARER: Key = Key::new("bearer", Kind::Secret, "A token, the same for everybody: `\"${file:./secrets/token}\"`.");
const HEADER: Key = Key::new("header", Kind::Block(HEADER_PARTS), "A field, the same for everybody.");
const BASIC: Key =
    Key::new("basic", Kind::Block(BASIC_PARTS), "A user and a password (RFC 7617), the same for everybody.");
const CLIENT_CREDENTIALS: Key = Key::new(
    "client_credentials",
    Kind::Block(GRANT),
    "A token that the gateway has for itself (RFC 6749, 4.4), the same for everybody.",
);

const HEADER_PARTS: &[Key] = &[
    Key::new("name", Kind::Form(&FIELD_NAME), "Its name.").required("name the field: `name: X-Api-Key`"),
    Key::new("value", Kind::Secret, "Its value.").required("give it a value: `value: \"${file:./secrets/key}\"`"),
];

const BASIC_PARTS: &[Key] = &[
    Key::new("username", Kind::Text, "The user.").required("name the user: `username: portcullis`"),
    Key::new("password", Kind::Secret, "Its password.")
        .required("give it a password: `password: \"${file:./secrets/password}\"`"),
];

const GRANT: &[Key] = &[
    Key::new("token_url", Kind::Form(&FETCHED), "The token endpoint.")
        .required("name the token endpoint: `token_url: https://idp.example.com/token`"),
    CLIENT_ID,
    CLIENT_SECRET,
    CLIENT_KEY,
    CLIENT_AUTH,
    Key::new("scope", Kind::Text, "The scopes that are asked for, with blanks between. Default: the issuer decides."),
    Key::new(
        "audience",
        Kind::Either(&[Kind::Text, Kind::List(&Kind::Text)]),
        "Whom the token is for, as its issuer calls it. Default: the issuer decides.",
    ),
    Key::new(
        "resource",
        Kind::Either(&[Kind::Form(&RESOURCE), Kind::List(&Kind::Form(&RESOURCE))]),
        "Whom the token is for, as a URL (RFC 8707). Default: the issuer decides.",
    ),
    Key::new(
        "private",
        NETWORKS,
        "Networks that the token endpoint may be in although they are not public. Default: none.",
    ),
    Key::new(
        "ca",
        Kind::Form(&PATH),
        "The authorities that its certificate must come from, a PEM file. Default: those of the system.",
    ),
];

const NETWORKS: Kind = Kind::List(&Kind::Form(&NETWORK));

const TELEMETRY: &[Key] = &[
    Key::new(
        "otlp",
        Kind::Either(&[Kind::Form(&COLLECTOR), Kind::Block(OTLP)]),
        "The collector's base URL, of OTLP over HTTP; or keys. Default: nothing is sent.",
    ),
    Key::new("traces", Kind::Decimal, "The share of traces that begin here and are recorded, 0 to 1. Default: 0."),
    Key::new("notification_traces", Kind::Decimal, "The same for traces that begin with a notification. Default: 0."),
    Key::new(
        "trace_context",
        Kind::Word(&[
            Word::new("continue", "It is the parent, and its word on sampling counts."),
            Word::new("link", "A new trace begins here, with a link to it."),
            Word::new("drop", "It is not looked at."),
        ]),
        "What a caller's own trace context is worth. Default: `continue`.",
    ),
    Key::new(
        "baggage",
        Kind::List(&Kind::Form(&BAGGAGE)),
        "Keys of a caller's baggage that go on to servers. Default: none.",
    ),
    Key::new("denial_is_error", Kind::Flag, "Whether a refusal is an error of its span. Default: `true`."),
    Key::new(
        "resource",
        Kind::Named("attribute", &Kind::Text),
        "Attributes of the gateway itself: `deployment.environment.name: prod`.",
    ),
    Key::new(
        "session_buckets",
        Kind::Word(&[
            Word::new("advised", "As the conventions say: up to 300 s."),
            Word::new("long", "For sessions of hours and days."),
        ]),
        "The buckets of the histograms of sessions. Default: `advised`.",
    ),
];

const OTLP: &[Key] = &[
    Key::new("url", Kind::Form(&COLLECTOR), "Its base URL; `/v1/traces` and `/v1/metrics` are behind it.")
        .required("write url: http://127.0.0.1:4318"),
    Key::new("headers", Kind::Named("field", &Kind::Secret), "Fields that it wants, its key for example."),
    Key::new(
        "ca",
        Kind::Form(&PATH),
        "The authorities that its certificate must come from, a PEM file. Default: those of the system.",
    ),
    Key::new(
        "interval",
        Kind::Duration(OTLP_INTERVAL_MS_MIN, CONFIG_MS_MAX),
        "Between two pushes of metrics. Default: `15s`.",
    ),
    Key::new("timeout", Kind::Duration(1, OTLP_TIMEOUT_MS_MAX), "One push may take so long. Default: `5s`."),
    Key::new("metrics", Kind::Flag, "Whether metrics are pushed too. Default: `true`."),
];

const ENDPOINT: &[Key] = &[
    Key::new("servers", Kind::List(&Kind::Form(&NAME)), "The servers behind it, in the order of its lists.")
        .required("write servers: [docs]"),
    Key::new(
        "names",
        Kind::Word(&[
            Word::new(
                "bare",
                "As the server calls them; of two that are called alike, the later server's is withheld.",
            ),
            Word::new("prefix", "`server__tool`."),
        ]),
        "How tools and prompts are called here. Default: `bare` with one server, else `prefix`.",
    ),
    Key::new(
        "instructions",
        Kind::Flag,
        "Whether clients are told what the servers say of themselves. Default: `true`.",
    ),
    Key::new(
        "sse",
        Kind::Flag,
        "Whether clients of the deprecated HTTP+SSE transport of 2024-11-05 are served here too. Default: `false`.",
    ),
    Key::new(
        "audience",
        Kind::Either(&[Kind::Text, Kind::List(&Kind::Text)]),
        "What a token's `aud` may name instead of this endpoint's own URL. Default: that URL alone.",
    ),
];

const POLICY: &[Key] = &[
    Key::new("tasks", TASKS, "The tasks that rules and tokens speak of, and a sentence about each."),
    Key::new(
        "rules",
        RULES,
        "Order never matters: forbid beats approve beats permit beats silence, and silence is a refusal.",
    ),
    Key::new(
        "include",
        Kind::List(&Kind::Form(&PATH_GLOB)),
        "More files of `tasks` and `rules`, part of the one set; `*` is any run of characters but `/`. One that finds no \
         file is a fault.",
    ),
    Key::new("rates", Kind::List(&Kind::Block(RATE)), "What protects servers, whatever the rules say."),
];

/// A file that `policy.include` names.
pub(crate) const INCLUDED: &[Key] = &[Key::new("tasks", TASKS, "More tasks."), Key::new("rules", RULES, "More rules.")];

/// A file that is a policy and nothing more: for trying it out.
pub(crate) const ALONE: &[Key] = &[
    Key::new("tasks", TASKS, "The tasks."),
    Key::new("rules", RULES, "The rules."),
    Key::new("include", Kind::List(&Kind::Form(&PATH_GLOB)), "More files of `tasks` and `rules`."),
    Key::new("rates", Kind::List(&Kind::Block(RATE)), "The rates."),
    Key::new("claims", CLAIM_TYPES, "Types of the claims."),
];

const TASKS: Kind = Kind::Named("task", &Kind::Text);
const RULES: Kind = Kind::List(&Kind::Block(RULE));

const RULE: &[Key] = &[
    Key::new("id", Kind::Text, "The rule's name, in records and refusals; no two alike.")
        .required("give the rule a name: `id: everyone-may-echo`"),
    Key::new("tasks", Kind::List(&Kind::Text), "It applies while one of these tasks is active. Left out: always."),
    Key::new("permit", PATTERNS, "What it lets go, as patterns: `server/tool`, `server!resource:GLOB`."),
    Key::new("forbid", PATTERNS, "What it refuses, whatever any permit says."),
    Key::new("approve", PATTERNS, "What somebody is asked about first. It needs no permit beside it."),
    Key::new(
        "who",
        Kind::Form(&CONDITION),
        "A condition over `claims`, `subject`, `agent` and `issuer`: whom the rule is about. Left out: everybody.",
    ),
    Key::new(
        "when",
        Kind::Form(&CONDITION),
        "A condition that may also use `args`, `task`, `tool`, `server` and `now`: when the rule applies. Left out: \
         always.",
    ),
    Key::new(
        "scopes",
        Kind::List(&Kind::Text),
        "On a permit: what the token's `scope` or `scp` must hold, all of them.",
    ),
    Key::new(
        "limits",
        Kind::List(&Kind::Block(LIMIT)),
        "On a permit: what must hold beside it, every entry. On a forbid or approve: `after` alone, and the rule applies \
         only after such a call.",
    ),
    Key::new("reason", Kind::Text, "One sentence that the agent may be shown. A forbid with a reason hides nothing."),
    Key::new(
        "expires",
        Kind::Duration(APPROVAL_MS_MIN, CONFIG_SESSION_MS_MAX),
        "On an approve: how long an answer is waited for, and good for. Default: `15m`.",
    ),
    Key::new(
        "ask",
        Kind::Word(&[
            Word::new("person", "A person, through the admin listener."),
            Word::new("elicit", "The agent's own user, through its client."),
        ]),
        "On an approve: who is asked. Default: `person`.",
    ),
    Key::new(
        "mode",
        Kind::Word(&[
            Word::new("enforce", "It decides."),
            Word::new("shadow", "It is decided, counted and written down as if it did, and changes nothing."),
        ]),
        "Whether it decides. Default: `enforce`.",
    ),
];

const LIMIT: &[Key] = &[
    Key::new("calls", LIMIT_COUNT, "At most so many calls in `per`."),
    Key::new(
        "sum",
        Kind::Either(&[Kind::Form(&EXPRESSION), Kind::Decimal]),
        "At most `max` in `per` of this: a number expression over the arguments, or a number.",
    ),
    Key::new("max", Kind::Decimal, "The most that a `sum` may come to."),
    Key::new("concurrent", Kind::Count(1, LIMIT_CONCURRENT_MAX), "At most so many calls under way at once."),
    Key::new("once", Kind::Form(&VALUE), "Each value of this once in `per`."),
    Key::new(
        "after",
        Kind::Either(&[Kind::Form(&PATTERN), PATTERNS]),
        "Only after a call of one of these patterns that succeeded; on a forbid or approve, that was let through.",
    ),
    Key::new("within", LIMIT_DURATION, "How long ago the call of `after` may be. Left out: as long as it is known."),
    Key::new("same", Kind::Form(&VALUE), "What the call of `after` must have had alike: `args.invoice_id`."),
    Key::new("per", LIMIT_DURATION, "The time that slides. Left out: a count ends with its session or task, or never."),
    Key::new("by", LIMIT_BY, "Whose count it is; each combination counts alone. Default: `subject`, of `once`: `all`."),
];

const RATE: &[Key] = &[
    Key::new("id", Kind::Text, "The rate's name, in records and refusals. Default: its place."),
    Key::new(
        "on",
        Kind::Either(&[Kind::Form(&PATTERN), PATTERNS]),
        "What it is about, as patterns. Left out: everything, lists and handshakes too.",
    ),
    Key::new(
        "method",
        Kind::Either(&[Kind::Form(&METHOD), Kind::List(&Kind::Form(&METHOD))]),
        "The methods that it is about, as on the wire. Left out: all.",
    ),
    Key::new(
        "endpoint",
        Kind::Either(&[Kind::Form(&ENDPOINT_PATH), Kind::List(&Kind::Form(&ENDPOINT_PATH))]),
        "The endpoints that it is about. Left out: all.",
    ),
    Key::new("calls", LIMIT_COUNT, "A bucket fills with so many calls in `per`."),
    Key::new("per", LIMIT_DURATION, "See `calls`."),
    Key::new("burst", LIMIT_COUNT, "And holds so many. Default: `calls`."),
    Key::new("concurrent", Kind::Count(1, LIMIT_CONCURRENT_MAX), "Instead of `calls`: so many at once."),
    Key::new("by", RATE_BY, "Whose it is; each combination has its own. Default: `subject`."),
];

const LIMIT_COUNT: Kind = Kind::Count(1, LIMIT_CALLS_MAX);
const LIMIT_DURATION: Kind = Kind::Duration(1, LIMIT_MS_MAX);
const LIMIT_BY: Kind = Kind::Either(&[
    Kind::Word(LIMIT_PARTIES),
    Kind::Form(&ARGUMENT),
    Kind::List(&Kind::Either(&[Kind::Word(LIMIT_PARTIES), Kind::Form(&ARGUMENT)])),
]);
const RATE_BY: Kind = Kind::Either(&[
    Kind::Word(RATE_PARTIES),
    Kind::Form(&OPERAND),
    Kind::List(&Kind::Either(&[Kind::Word(RATE_PARTIES), Kind::Form(&OPERAND)])),
]);

/// Whose a limit's count can be.
pub(crate) const LIMIT_PARTIES: &[Word] = &[SUBJECT, AGENT, TASK, SESSION, OF_SERVER, TOOL, EVERYBODY];

/// Whose a rate can be.
pub(crate) const RATE_PARTIES: &[Word] = &[
    SUBJECT,
    AGENT,
    TASK,
    SESSION,
    OF_SERVER,
    TOOL,
    EVERYBODY,
    Word::new("address", "The client's address."),
    Word::new("endpoint", "The endpoint."),
    Word::new("method", "The method."),
];

const SUBJECT: Word = Word::new("subject", "The subject, of its issuer.");
const AGENT: Word = Word::new("agent", "The client that acts for the subject.");
const TASK: Word = Word::new("task", "The active task of this subject.");
const SESSION: Word = Word::new("session", "The session; where there is none, subject and agent.");
const OF_SERVER: Word = Word::new("server", "The server.");
const TOOL: Word = Word::new("tool", "The tool.");
const EVERYBODY: Word = Word::new("all", "One for everybody.");

const AUDIT: &[Key] = &[
    Key::new("dir", Kind::Form(&PATH), "The folder of the record. Default: `audit` in `state`."),
    Key::new("durability", Kind::Any, "What a record outlives.")
        .later("a record is in the log milliseconds after its decision, and not before; leave it out"),
    Key::new(
        "arguments",
        Kind::Named("pattern", &Kind::List(&Kind::Form(&FIELD))),
        "Arguments to write down, by pattern of a tool or prompt. Of all others a keyed digest is written.",
    ),
    Key::new(
        "subject",
        Kind::Word(&[
            Word::new("plain", "As they are."),
            Word::new("keyed", "As keyed hashes, forgotten with the key in `state`."),
        ]),
        "How subjects and agents are written down. Default: `plain`.",
    ),
    Key::new("json", Kind::Any, "JSON lines beside the log.")
        .later("the record is written as JSON lines anyway; leave it out"),
];

const LIMITS: &[Key] = &[
    Key::new("body", Kind::Size(1024, BODY_BYTES_MAX as u64), "A request body. Default, and the most: `1MiB`."),
    Key::new("call", DURATION, "From a call's first byte upstream to its answer. Default: `60s`."),
    Key::new("connect", DURATION, "A connect to a server. Default: `3s`."),
    Key::new("idle", DURATION, "A client's connection without a request. Default: `60s`."),
    Key::new(
        "drain",
        Kind::Duration(0, CONFIG_MS_MAX),
        "From SIGTERM until calls still running are cut. Default: `30s`.",
    ),
    Key::new("connections", Kind::Count(1, CONNECTIONS_MAX as u64), "Connections of one shard. Default: 20000."),
    Key::new("connections_per_address", COUNT, "Connections from one address, over all shards. Default: 4096."),
    Key::new("calls", COUNT, "Calls in flight, over all shards. Default: 16384."),
    Key::new("calls_per_subject", COUNT, "Calls in flight of one subject, over all shards. Default: 1024."),
    Key::new("streams", COUNT, "Open streams, over all shards. Default: 16384."),
    Key::new("streams_per_subject", COUNT, "Open streams of one subject, over all shards. Default: 256."),
    Key::new("handshake", DURATION, "A client's TLS handshake. Default: `5s`."),
    Key::new("head", DURATION, "A whole request head, from its first byte. Default: `10s`."),
    Key::new("body_time", DURATION, "A whole request body. Default: `30s`."),
    Key::new("write_stall", DURATION, "A write to a client that makes no progress. Default: `30s`."),
    Key::new(
        "keepalive",
        Kind::Duration(100, STREAM_KEEPALIVE_MS_MAX),
        "The longest silence on an event stream; then a comment is sent. Default: `15s`.",
    ),
    Key::new(
        "resume",
        Kind::Duration(0, STREAM_RESUME_MS_MAX),
        "How long an event stream of a session that was cut is kept for its client to come back. Default: `60s`.",
    ),
    Key::new(
        "batch",
        Kind::Count(0, BATCH_MESSAGES_MAX as u64),
        "Messages of one batch, which only revision 2025-03-26 has; 0 refuses batches. Default: 64.",
    ),
];

const SESSIONS: &[Key] = &[
    Key::new("idle", SESSION_DURATION, "A session without a request ends after this. Default: `8h`."),
    Key::new("lifetime", SESSION_DURATION, "A session ends after this, whether it is in use or not. Default: `7d`."),
    Key::new("max", SESSION_COUNT, "Sessions of all callers. Default: 131072."),
    Key::new(
        "per_subject",
        SESSION_COUNT,
        "Sessions of one subject and agent. A further one takes the place of the one that was unused longest, if that \
         is a minute. Default: 4096.",
    ),
    Key::new("keys", Kind::Any, "Keys for session ids that several nodes share.")
        .later("one node keeps its keys in `state`; leave it out"),
];

const PATTERNS: Kind = Kind::List(&Kind::Form(&PATTERN));
const DURATION: Kind = Kind::Duration(1, CONFIG_MS_MAX);
const SESSION_DURATION: Kind = Kind::Duration(1000, CONFIG_SESSION_MS_MAX);
const SESSION_COUNT: Kind = Kind::Count(1, PROCESS_SESSIONS_MAX as u64);
/// A count over all shards.
const COUNT: Kind = Kind::Count(1, PROCESS_CONNECTIONS_MAX as u64);

const ADDRESS: Form = Form {
    what: "an address and port",
    example: "127.0.0.1:8080",
    pattern: r"^(\d+\.\d+\.\d+\.\d+|\[[0-9A-Fa-f:.]+\]):\d+$",
};
const ORIGIN: Form = Form {
    what: "a URL of scheme and authority",
    example: "https://tools.example.com",
    pattern: r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]+/?$",
};
const HOST: Form =
    Form { what: "a host, with or without a port", example: "tools.example.com", pattern: r"^[^/\s@]+$" };
const PATH: Form =
    Form { what: "a path; a relative one starts at this file's folder", example: "./portcullis", pattern: "." };
const SERVER_URL: Form =
    Form { what: "an http or https URL", example: "http://127.0.0.1:9001/mcp", pattern: "^[Hh][Tt][Tt][Pp][Ss]?://." };
const FETCHED: Form =
    Form { what: "an https URL", example: "https://idp.example.com/token", pattern: "^[Hh][Tt][Tt][Pp][Ss]?://." };
const RESOURCE: Form =
    Form { what: "a URL", example: "https://crm.internal.example", pattern: "^[A-Za-z][A-Za-z0-9+.-]*:[^#]+$" };
const COLLECTOR: Form = Form {
    what: "an http or https URL",
    example: "http://127.0.0.1:4318",
    pattern: "^[Hh][Tt][Tt][Pp][Ss]?://[^?#]+$",
};
const NETWORK: Form = Form {
    what: "a network",
    example: "10.0.0.0/8",
    pattern: r"^(\d+\.\d+\.\d+\.\d+(/\d{1,2})?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/\d{1,3})?)$",
};
const SCOPE: Form = Form { what: "a scope", example: "mcp:tools", pattern: r"^[!#-\[\]-~]+$" };
const FIELD_NAME: Form =
    Form { what: "a field's name", example: "X-Api-Key", pattern: r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" };
const IDENTITY: Form = Form {
    what: "`subject`, `agent`, `issuer`, `task` or a claim",
    example: "claims.sub",
    pattern: r#"^(subject|agent|issuer|task|claims(\.[^.\[]+|\["[^"]+"\])+)$"#,
};
const BAGGAGE: Form = Form { what: "a key of baggage", example: "tenant", pattern: r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" };
const TLS_NAME: Form =
    Form { what: "a host name or an address", example: "crm.internal.example", pattern: r"^[0-9A-Za-z._:-]+$" };
const VARIABLE: Form = Form { what: "a variable's name", example: "PATH", pattern: "^[A-Za-z_][A-Za-z0-9_]*$" };
const NAME: Form = Form { what: "a server's name", example: "docs", pattern: "^[a-z][a-z0-9-]*$" };
const CLAIM: Form = Form { what: "a claim", example: "claims.sub", pattern: r#"^claims(\.[^.\[]+|\["[^"]+"\])+$"# };
const PATTERN: Form = Form {
    what: "a pattern",
    example: "docs/search",
    pattern: r"^[a-z0-9*-]+(/.|!(resource:.|prompt:.|sampling$|elicitation$|roots$|\*$))",
};

const PATH_GLOB: Form = Form {
    what: "a path, with or without `*`; a relative one starts at this file's folder",
    example: "policies/*.yaml",
    pattern: ".",
};
const CONDITION: Form =
    Form { what: "a condition", example: r#"'args.amount <= 500 && "support" in claims.groups'"#, pattern: "." };
const EXPRESSION: Form = Form { what: "a number expression", example: "args.amount", pattern: "." };
const VALUE: Form = Form { what: "an expression", example: "args.invoice_id", pattern: "." };
const ARGUMENT: Form = Form { what: "an argument", example: "args.invoice_id", pattern: r"^args[.\[]." };
const OPERAND: Form = Form { what: "an argument or claim", example: "claims.tenant", pattern: r"^(args|claims)[.\[]." };
const FIELD: Form = Form { what: "an argument", example: "amount", pattern: "." };
const METHOD: Form = Form { what: "a method", example: "tools/call", pattern: r"^[A-Za-z/]+$" };
const ENDPOINT_PATH: Form = Form { what: "an endpoint's path", example: "/mcp", pattern: "^/" };

impl Key {
    pub(crate) const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, state: State::Served, required: None, doc }
    }

    pub(crate) const fn required(mut self, hint: &'static str) -> Self {
        self.required = Some(hint);
        self
    }

    const fn later(mut self, instead: &'static str) -> Self {
        self.state = State::Later(instead);
        self
    }
}

impl Word {
    pub(crate) const fn new(text: &'static str, doc: &'static str) -> Self {
        Self { text, state: State::Served, doc }
    }
}

/// The names of all keys that are secrets.
pub(crate) fn secret_names() -> Vec<&'static str> {
    fn walk(keys: &[Key], out: &mut Vec<&'static str>) {
        for key in keys {
            of(&key.kind, key.name, out);
        }
    }
    fn of(kind: &Kind, name: &'static str, out: &mut Vec<&'static str>) {
        match kind {
            Kind::Secret => out.push(name),
            Kind::Block(keys) => walk(keys, out),
            Kind::List(kind) | Kind::Named(_, kind) => of(kind, name, out),
            Kind::Either(kinds) => kinds.iter().for_each(|kind| of(kind, name, out)),
            _ => {}
        }
    }
    let mut out = Vec::new();
    walk(ROOT, &mut out);
    out
}

/// The JSON Schema (draft-07, which every editor knows) of the file, pretty-printed, with a newline at the end. Keys
/// that are not served yet are in it, described, and valid with no value.
#[must_use]
pub fn schema_json() -> String {
    let mut root = block(ROOT);
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("portcullis");
    root["description"] = json!("One file is the whole gateway.");
    let mut text = serde_json::to_string_pretty(&root).expect("the schema has text keys only");
    text.push('\n');
    text
}

fn block(keys: &[Key]) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.required.is_some()).map(|key| key.name).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &Key) -> Value {
    match key.state {
        State::Served => {
            let mut schema = kind(&key.kind);
            schema["description"] = json!(key.doc);
            schema
        }
        State::Later(instead) => json!({
            "description": format!("Not in this version yet: {instead}. {}", key.doc),
            "doNotSuggest": true,
            "not": {},
        }),
    }
}

fn kind(kind_of: &Kind) -> Value {
    match kind_of {
        Kind::Text | Kind::Secret => json!({ "type": "string" }),
        Kind::Form(form) => text(form.pattern),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Count(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        // A number, or a text of one that a float could not hold.
        Kind::Decimal => {
            json!({ "anyOf": [{ "type": "number", "minimum": 0 }, text(r"^\d+(\.\d+)?([eE][+-]?\d+)?$")] })
        }
        Kind::Duration(..) => text(r"^\d+(ms|s|m|h|d)$"),
        Kind::Size(..) => text(r"^\d+(B|KiB|MiB|GiB)$"),
        Kind::Word(words) => {
            let served = words.iter().filter(|word| matches!(word.state, State::Served));
            let (texts, docs): (Vec<&str>, Vec<&str>) = served.map(|word| (word.text, word.doc)).unzip();
            json!({ "type": "string", "enum": texts, "enumDescriptions": docs })
        }
        Kind::List(of) => json!({ "type": "array", "items": kind(of) }),
        Kind::Block(keys) => block(keys),
        Kind::Named(what, of) => named(what, kind(of)),
        Kind::Either(kinds) => json!({ "anyOf": kinds.iter().map(kind).collect::<Vec<_>>() }),
        Kind::Any => json!({}),
    }
}

/// A text of this form, or one that a `${…}` will make.
fn text(pattern: &str) -> Value {
    json!({ "type": "string", "anyOf": [{ "pattern": pattern }, { "pattern": r"\$\{.*\}" }] })
}

fn named(what: &str, of: Value) -> Value {
    let pattern = match what {
        "server" => "^[a-z][a-z0-9-]*$",
        "variable" => "^[A-Za-z_][A-Za-z0-9_]*$",
        "path" => "^/",
        "claim" | "attribute" => ".",
        "field" => FIELD_NAME.pattern,
        "pattern" => PATTERN.pattern,
        _ => r"^[!-+\--~]+$",
    };
    json!({
        "type": "object",
        "propertyNames": { "pattern": pattern, "maxLength": NAME_BYTES_MAX },
        "additionalProperties": of,
    })
}

const _: () = assert!(REASON_BYTES_MAX >= NAME_BYTES_MAX, "a sentence is longer than a name");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::identity::keys::Algorithm;

    /// The file beside Cargo.toml is what editors read.
    #[test]
    fn the_schema_file_is_current() {
        let file: Value = serde_json::from_str(include_str!("../../portcullis.schema.json")).expect("it is JSON");
        let now: Value = serde_json::from_str(&schema_json()).expect("it is JSON");
        assert_eq!(file, now, "write it anew: portcullis check --schema > portcullis.schema.json");
    }

    #[test]
    fn every_row_is_sound() {
        fn walk(keys: &[Key]) {
            let mut names = HashSet::new();
            for key in keys {
                assert!(names.insert(key.name), "{} stands twice", key.name);
                assert!(key.doc.ends_with('.'), "{}: its doc is a sentence", key.name);
                if let State::Later(instead) = key.state {
                    assert!(!instead.is_empty() && !instead.ends_with('.'), "{}", key.name);
                    assert!(key.required.is_none(), "{} cannot be required and not served", key.name);
                }
                walk_kind(&key.kind, key);
            }
        }
        fn walk_kind(kind: &Kind, key: &Key) {
            match kind {
                Kind::Block(keys) => walk(keys),
                Kind::List(of) | Kind::Named(_, of) => walk_kind(of, key),
                Kind::Either(kinds) => kinds.iter().for_each(|kind| walk_kind(kind, key)),
                Kind::Any => assert!(matches!(key.state, State::Later(_)), "{}: served, so looked into", key.name),
                _ => {}
            }
        }
        walk(ROOT);
    }

    #[test]
    fn the_algorithms_are_those_that_can_be_verified() {
        let words: HashSet<&str> = ALGORITHMS.iter().map(|word| word.text).collect();
        assert_eq!(words, Algorithm::all().map(Algorithm::as_str).collect());
    }
}
