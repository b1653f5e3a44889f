//! The command line. Quiet on success; what a person should read goes to standard error, what a program should read to
//! standard output.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Everything went well.
pub(crate) const EXIT_OK: u8 = 0;
/// Something failed that is neither of the others.
pub(crate) const EXIT_FAILURE: u8 = 1;
/// The configuration has faults.
pub(crate) const EXIT_CONFIG: u8 = 3;
/// The command line says nothing that can be done; also what `clap` ends with.
pub(crate) const EXIT_USAGE: u8 = 2;
/// An address, folder, or kernel feature that was asked for cannot be had.
pub(crate) const EXIT_START: u8 = 4;
/// The gateway is not healthy.
pub(crate) const EXIT_UNHEALTHY: u8 = 5;

const EXITS: &str = "\
Exit codes:
  0  all went well
  1  something failed
  2  the command line is wrong
  3  the configuration has faults (each is shown with its line)
  4  an address, folder or kernel feature cannot be had
  5  the gateway does not answer, or is not ready

Colours are left out when NO_COLOR is set or the output is no terminal.";

/// An MCP gateway: every call between agents and MCP servers routed, authenticated, authorised by task and tool, and
/// written down.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = EXITS, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the gateway.
    Run(Run),
    /// Check a configuration and say everything that is wrong with it.
    Check(Check),
    /// See what a configuration comes to.
    Config(Config),
    /// Run a gateway on loopback with two built-in servers, a throw-away issuer and tokens ready to paste.
    Demo(Demo),
    /// Mint a token for trying things out: development issuers only.
    Token(Token),
    /// Ask a running gateway whether it is ready; for container health checks.
    Healthcheck(Healthcheck),
    /// Tell a running gateway to read its configuration again; where that has faults, it goes on with what it had.
    Reload(Steer),
    /// Tell a running gateway to take nothing new, to finish what is under way, and to end.
    Drain(Steer),
    /// Print what a running gateway says of itself and of its servers, as JSON.
    Status(Steer),
    /// Read the record.
    Audit(Audit),
    /// See which definitions of servers are known, what has changed in them, and approve those that wait.
    Pins(Pins),
    /// See what waits for a person, and approve or deny it.
    Approvals(Approvals),
    /// The kill switch: stop a subject, an agent, a task, a token or everybody at once, and until it is undone.
    Revoke(Revoke),
    /// Try a policy out: explain an answer, test tables of cases, compare two policies, decide the record again.
    Policy(Policy),
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file (YAML, or JSON).
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: PathBuf,
    /// How to speak to the kernel: io_uring where it can be had, or one of the two.
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    pub(crate) driver: Driver,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Driver {
    /// io_uring, else epoll.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG", required_unless_present = "schema")]
    pub(crate) config: Option<PathBuf>,
    /// Take warnings for errors.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print the JSON Schema of configurations instead, for editors.
    #[arg(long, conflicts_with_all = ["strict"])]
    pub(crate) schema: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print a configuration with its variables, files and included rules in place. Secrets are left out.
    Show {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
        config: PathBuf,
        /// Also what follows where the file says nothing: every default, and the names that the gateway answers to.
        #[arg(long)]
        effective: bool,
        /// JSON, for programs.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where to listen; port 0 is a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Where to keep keys and the record; a folder of its own under the system's temporary folder if left out.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The development issuer's private key (PKCS#8, P-256); made, with its key set beside it as FILE.jwks.json, if it
    /// is not there.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// `iss`: the issuer as the configuration names it.
    #[arg(long, value_name = "URL")]
    pub(crate) issuer: String,
    /// `aud`: the URL of the endpoint that the token is for; may be given more than once.
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) audience: Vec<String>,
    /// `sub`: whom it stands for.
    #[arg(long, value_name = "NAME", default_value = "dev")]
    pub(crate) subject: String,
    /// `client_id`: the agent acting for the subject.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// A task it may work on; may be given more than once.
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Vec<String>,
    /// How long it holds, seconds (at most a day).
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) expires: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Healthcheck {
    /// The admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090", env = "PORTCULLIS_ADMIN")]
    pub(crate) admin: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Steer {
    /// The configuration file that the gateway runs with: it names the admin listener and the state folder.
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: PathBuf,
    /// The admin listener, where the file does not say it.
    #[arg(long, value_name = "ADDRESS", env = "PORTCULLIS_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Approvals {
    #[command(subcommand)]
    pub(crate) verb: ApprovalsVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsVerb {
    /// List what waits for an answer, oldest first.
    Ls {
        #[command(flatten)]
        steer: Steer,
        /// Also what is decided or used and has not expired.
        #[arg(long)]
        all: bool,
        /// JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Show one whole: who asks, what for, and every argument.
    ///
    /// Arguments are what the agent sent: they may try to mislead. Letters that are invisible, move the cursor or turn the
    /// direction of text are shown as escapes. What an id shows never changes: a call with other arguments has another
    /// id.
    Show {
        /// The id, as 'ls' shows it.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        steer: Steer,
        /// JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Let it go: once, for exactly these arguments, as long as the rule's 'expires' says from now.
    ///
    /// The agent has to repeat its call; rules and limits are asked again then.
    Approve(Decide),
    /// Refuse it, and its repetitions until it expires. Also takes an approval back that has not been used.
    Deny(Decide),
}

#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// The id, as 'ls' shows it.
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) steer: Steer,
    #[command(flatten)]
    pub(crate) signed: Signed,
    /// A sentence that is kept with the decision, in the record.
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// JSON, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Signed {
    /// Whose word it is, for the record; the system's user if left out.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// It holds for every call that begins after this command has ended, on every shard; streams end within a second. It
/// survives restarts, and is undone by the same command with --undo. Where no gateway runs, it is written to the state
/// folder and holds from the next start on.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["subject", "agent", "task", "token", "jti", "all", "list"]))]
pub(crate) struct Revoke {
    #[command(flatten)]
    pub(crate) steer: Steer,
    /// A subject, of any issuer unless --issuer names one; 'anonymous' for those without a token.
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: Option<String>,
    /// The subject's issuer ('iss').
    #[arg(long, value_name = "URL", requires = "subject")]
    pub(crate) issuer: Option<String>,
    /// An agent, whomever it acts for.
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: Option<String>,
    /// A task, whoever works on it: it can no longer be the active one.
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// One token: itself ('-' reads it from standard input; only its digest is kept), 'sha256:' and the digest's digits,
    /// or its 'jti'.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Tokens with this 'jti', whatever it looks like.
    #[arg(long, value_name = "ID")]
    pub(crate) jti: Option<String>,
    /// Everybody.
    #[arg(long)]
    pub(crate) all: bool,
    /// List what is revoked, oldest first.
    #[arg(long, conflicts_with_all = ["undo", "reason", "name"])]
    pub(crate) list: bool,
    /// Let in again what was revoked in exactly these words.
    #[arg(long, conflicts_with = "reason")]
    pub(crate) undo: bool,
    /// Why, for whoever looks at the list.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) signed: Signed,
    /// JSON, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditVerb {
    /// Print the record as JSON lines, oldest first.
    Export {
        /// The audit folder (`audit.dir`).
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Pins {
    #[command(subcommand)]
    pub(crate) verb: PinsVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PinsVerb {
    /// List definitions and how they stand.
    Ls {
        #[command(flatten)]
        choice: PinsChoice,
        /// Only those that wait for a person: hidden ones, and changes that were reported.
        #[arg(long)]
        waiting: bool,
        /// A JSON object in each line.
        #[arg(long)]
        json: bool,
    },
    /// Show what is new or different in those that wait.
    Diff {
        #[command(flatten)]
        choice: PinsChoice,
    },
    /// Take those that wait as known; a running gateway shows them within a second.
    Approve {
        #[command(flatten)]
        choice: PinsChoice,
        /// All that wait.
        #[arg(long, required_unless_present_any = NAMES, conflicts_with_all = NAMES)]
        all: bool,
        /// Only if this is still their hash, as 'diff' shows it: not what has changed since you looked.
        #[arg(long, value_name = "SHA256")]
        hash: Option<String>,
    },
}

/// The flags that name a definition.
const NAMES: [&str; 4] = ["tool", "prompt", "resource", "template"];

#[derive(Debug, Args)]
pub(crate) struct PinsChoice {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: PathBuf,
    /// Those of this server.
    #[arg(long, value_name = "NAME")]
    pub(crate) server: Option<String>,
    /// A tool, by the server's own name for it; may be given more than once, as those below.
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Vec<String>,
    /// A prompt.
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt: Vec<String>,
    /// A resource.
    #[arg(long, value_name = "URI")]
    pub(crate) resource: Vec<String>,
    /// A resource template.
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) template: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    pub(crate) verb: PolicyVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Say what comes of a call, and why: which rules decide, which operand is false or unknown, what is counted.
    #[command(after_help = EXPLAIN)]
    Explain(Explain),
    /// Run tables of cases, each of which must be permitted, refused, or wait for a person.
    #[command(after_help = TEST)]
    Test(Test),
    /// Say which callers, tasks and tools gain or lose what with another policy.
    #[command(after_help = DIFF)]
    Diff(Diff),
    /// Decide recorded decisions again, and say which would come out otherwise.
    #[command(after_help = REPLAY)]
    Replay(Replay),
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["tool", "prompt", "resource"])))]
pub(crate) struct Explain {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: PathBuf,
    /// The server.
    #[arg(long, value_name = "NAME")]
    pub(crate) server: String,
    /// The tool that is called, by the server's own name for it.
    #[arg(long, value_name = "NAME")]
    pub(crate) tool: Option<String>,
    /// The prompt that is got.
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt: Option<String>,
    /// The resource that is read.
    #[arg(long, value_name = "URI")]
    pub(crate) resource: Option<String>,
    /// Claims of the token, a JSON object; without it there is no token.
    #[arg(long, value_name = "FILE")]
    pub(crate) claims: Option<PathBuf>,
    /// The task that is named; held, where the claims say nothing of tasks.
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// The arguments, a JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) args: Option<PathBuf>,
    /// What servers offer, instead of the definitions that the state folder has: `docs: [search, fetch]`, or lists of
    /// definitions as servers give them.
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// When; now, if left out.
    #[arg(long, value_name = "TIME")]
    pub(crate) now: Option<String>,
    /// Ask the running gateway, with its catalogue and its counts.
    #[arg(long, conflicts_with_all = ["tools", "now"])]
    pub(crate) live: bool,
    /// The admin listener, where the file does not say it.
    #[arg(long, value_name = "ADDRESS", env = "PORTCULLIS_ADMIN", requires = "live")]
    pub(crate) admin: Option<SocketAddr>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The tables, YAML or JSON.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The configuration whose policy is tested, for tables without rules of their own.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The configuration as it is.
    pub(crate) old: PathBuf,
    /// As it is to be.
    pub(crate) new: PathBuf,
    /// What servers offer, instead of the definitions that the state folder has.
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The audit folder (`audit.dir`), or a file that 'portcullis audit export' wrote.
    #[arg(value_name = "DIR")]
    pub(crate) record: PathBuf,
    /// The configuration by whose policy is decided.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

const EXPLAIN: &str = "\
Example:
  portcullis policy explain --config gateway.yaml --server payments --tool refund \\
      --claims claims.json --task support-refund --args args.json

Exits with 0 whatever the answer is. Nothing is called and nothing is counted.";

const TEST: &str = "\
A table:
  rules:                              # or those of --config FILE
    - id: small-refunds
      permit: [payments/refund]
      when: args.amount <= 500
      limits: [{ calls: 2, per: 1h }]
  cases:
    - { server: payments, tool: refund, args: { amount: 500 }, expect: permit, listed: true }
    - { server: payments, tool: refund, args: { amount: 500.01 }, expect: refuse, listed: true }
    - name: two in an hour
      server: payments
      tool: refund
      args: { amount: 1 }
      calls:
        - { repeat: 2, expect: permit }
        - { expect: refuse, rule: small-refunds }
        - { wait: 1h, expect: permit }

A case may also say name, claims, task, prompt or resource instead of tool, reason, rule, session, now, outcome
(ok, error, unsent), approved, and after: calls that were made before. Counts begin anew with each case.

Exits with 1 when a case comes out otherwise, with 3 when a file has faults.";

const DIFF: &str = "\
Exits with 0 when nothing is decided differently, else with 1.";

const REPLAY: &str = "\
What a rule looks at and the record does not hold (claims, arguments that `audit.arguments` does not name, counts) is
said, and never guessed. Exits with 1 when a decision would come out otherwise.";
