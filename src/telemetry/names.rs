//! Every name that the gateway exports, on one page: a rename of the conventions is a change of this file.

/// `mcp.method.name`: the method, or [`OTHER`] for one that there is not.
pub const METHOD: &str = "mcp.method.name";
/// `mcp.protocol.version`.
pub const PROTOCOL_VERSION: &str = "mcp.protocol.version";
/// `mcp.session.id`: a keyed digest, never the id.
pub const SESSION: &str = "mcp.session.id";
/// `mcp.resource.uri`.
pub const RESOURCE_URI: &str = "mcp.resource.uri";
/// `gen_ai.tool.name`.
pub const TOOL: &str = "gen_ai.tool.name";
/// `gen_ai.prompt.name`.
pub const PROMPT: &str = "gen_ai.prompt.name";
/// `gen_ai.operation.name`: [`EXECUTE_TOOL`], or not there.
pub const OPERATION: &str = "gen_ai.operation.name";
/// The operation of `tools/call`.
pub const EXECUTE_TOOL: &str = "execute_tool";
/// `jsonrpc.request.id`, as text.
pub const REQUEST_ID: &str = "jsonrpc.request.id";
/// `rpc.response.status_code`: the JSON-RPC error code of the answer, as text.
pub const STATUS_CODE: &str = "rpc.response.status_code";
/// `error.type`.
pub const ERROR_TYPE: &str = "error.type";
/// `network.transport`.
pub const TRANSPORT: &str = "network.transport";
/// `network.protocol.name`.
pub const NETWORK_PROTOCOL: &str = "network.protocol.name";
/// `network.protocol.version`.
pub const NETWORK_VERSION: &str = "network.protocol.version";
/// `client.address`.
pub const CLIENT_ADDRESS: &str = "client.address";
/// `client.port`.
pub const CLIENT_PORT: &str = "client.port";
/// `server.address`.
pub const SERVER_ADDRESS: &str = "server.address";
/// `server.port`.
pub const SERVER_PORT: &str = "server.port";

/// The configured name of a server.
pub const TARGET: &str = "portcullis.target";
/// The path of an endpoint.
pub const ROUTE: &str = "portcullis.route";
/// `permit`, `refuse` or `pending`.
pub const DECISION: &str = "portcullis.decision";
/// The record's word for why.
pub const REASON: &str = "portcullis.decision.reason";
/// The ids of the deciding rules.
pub const POLICY_IDS: &str = "portcullis.policy.ids";
/// The policy's hash, 12 hexadecimal digits.
pub const POLICY_SET: &str = "portcullis.policy.set";
/// The active task.
pub const TASK: &str = "portcullis.task.id";
/// Which kind of credential a server was shown.
pub const CREDENTIAL: &str = "portcullis.credential.ref";
/// Which try of a message this is, from 1.
pub const ATTEMPT: &str = "portcullis.upstream.attempt";
/// It was answered from the catalogue.
pub const CACHE_HIT: &str = "portcullis.cache.hit";
/// It names a tool or prompt that is not in the catalogue.
pub const UNRESOLVED: &str = "portcullis.tool.unresolved";
/// The number of its decision in the record of its shard.
pub const AUDIT_SEQ: &str = "portcullis.audit.seq";
/// The shard that this number is of.
pub const AUDIT_SHARD: &str = "portcullis.audit.shard";

/// What stands for every name that is none of ours.
pub const OTHER: &str = "_OTHER";
/// An `isError` result.
pub const TOOL_ERROR: &str = "tool_error";
