//! The tools of the other servers, on the Rust SDK: both eras at one URL, sessions in the legacy one.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rmcp::model::*;
use rmcp::service::{RequestContext, SubscriptionContext, SubscriptionSink};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};

use crate::{Fault, WATCHED};

const RETRY: Duration = Duration::from_millis(100);
const LEVELS: [(&str, LoggingLevel); 4] = [
    ("debug", LoggingLevel::Debug),
    ("info", LoggingLevel::Info),
    ("warning", LoggingLevel::Warning),
    ("error", LoggingLevel::Error),
];
const TOOLS: [(&str, &str); 13] = [
    ("echo", "Says it back"),
    ("add", "Adds two numbers"),
    ("fail", "Always fails"),
    ("secret", "A tool that policies hide"),
    ("slow", "Takes steps, tells of each"),
    ("was_cancelled", "Whether the slow call of that label was cancelled"),
    ("elicit", "Asks for a colour"),
    ("elicit_url", "Sends the user to a page"),
    ("sample", "Asks the model"),
    ("roots", "Asks for the roots"),
    ("log", "One message of each of four levels"),
    ("touch", "Tells those who watch the note"),
    ("toggle", "Another tool comes or goes"),
];

/// What all sessions share.
#[derive(Default)]
struct World {
    cancelled: HashSet<String>,
    extra: bool,
    /// Of the modern era.
    listeners: Vec<SubscriptionSink>,
}

/// One session, or one request of the modern era.
#[derive(Clone, Default)]
struct Server {
    world: Arc<Mutex<World>>,
    session: Arc<Mutex<Session>>,
}

#[derive(Default)]
struct Session {
    watches: bool,
    level: Option<LoggingLevel>,
}

/// Serves until the test that started it is gone.
pub(crate) async fn run(port: u16) -> Result<(), Fault> {
    if std::env::var_os("PEER_HELD").is_some() {
        std::thread::spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    let world = Arc::new(Mutex::new(World::default()));
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.sse_retry = Some(RETRY);
    let service = StreamableHttpService::new(
        move || Ok(Server { world: world.clone(), session: Arc::default() }),
        Arc::new(sessions),
        StreamableHttpServerConfig::default().with_sse_retry(Some(RETRY)),
    );
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening {}", listener.local_addr()?.port());
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service));
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_prompts()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        ServerConfig::new(capabilities).with_server_info(Implementation::new("portcullis-rmcp", "1.0.0"))
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let extra = held(&self.world).extra.then_some(("extra", "Comes and goes"));
        let tools = TOOLS.into_iter().chain(extra);
        let tools: Vec<Value> = tools.map(|(name, description)| tool(name, description)).collect();
        from(json!({ "tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private" }))
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        from(
            json!({ "resources": [{ "uri": WATCHED, "name": "note" }], "resultType": "complete", "ttlMs": 0, "cacheScope": "private" }),
        )
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        from(json!({ "prompts": [{ "name": "greet" }], "resultType": "complete", "ttlMs": 0, "cacheScope": "private" }))
    }

    async fn set_level(&self, request: SetLevelRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        held(&self.session).level = Some(request.level);
        Ok(())
    }

    async fn subscribe(&self, _: SubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        held(&self.session).watches = true;
        Ok(())
    }

    async fn unsubscribe(&self, _: UnsubscribeRequestParams, _: RequestContext<RoleServer>) -> Result<(), ErrorData> {
        held(&self.session).watches = false;
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.supported_by(&self.get_info().capabilities))
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        held(&self.world).listeners.push(context.sink().clone());
        context.cancelled().await;
        Ok(())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let said = match request.name.as_ref() {
            "echo" => arguments["text"].as_str().unwrap_or_default().to_owned(),
            "add" => number(&arguments, "a", "b").to_string(),
            "fail" => return Ok(CallToolResult::error(vec![ContentBlock::text("failed on purpose")]).into()),
            "secret" => "leaked".to_owned(),
            "slow" => self.slow(&arguments, &context).await?,
            "was_cancelled" => {
                held(&self.world).cancelled.contains(arguments["label"].as_str().unwrap_or_default()).to_string()
            }
            "elicit" | "elicit_url" | "sample" | "roots" => {
                return asked(&request.name, request.input_responses.as_ref(), &context).await;
            }
            "log" => self.log(&context).await?,
            "touch" => self.touch(&context).await?,
            "toggle" => self.toggle(&context).await?,
            "extra" => "here".to_owned(),
            _ => return Err(ErrorData::invalid_params("no such tool", None)),
        };
        Ok(text(said))
    }
}

impl Server {
    async fn slow(&self, arguments: &Value, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
        let (steps, pause) = (arguments["steps"].as_u64().unwrap_or(0), arguments["step_ms"].as_u64().unwrap_or(0));
        for step in 1..=steps {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                () = context.ct.cancelled() => {
                    let label = arguments["label"].as_str().unwrap_or_default();
                    held(&self.world).cancelled.insert(label.to_owned());
                    return Ok("cancelled".to_owned());
                }
            }
            if let Some(token) = context.meta.get_progress_token() {
                let progress = ProgressNotificationParam::new(token, step as f64).with_total(steps as f64);
                let _ = context.peer.notify_progress(progress).await;
            }
        }
        Ok(format!("took {steps} steps"))
    }

    async fn log(&self, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
        let meta = serde_json::to_value(&context.meta).unwrap_or_default();
        let wanted = match modern(context) {
            true => meta["io.modelcontextprotocol/logLevel"].as_str().map(str::to_owned),
            false => {
                held(&self.session).level.as_ref().map(|level| json!(level).as_str().unwrap_or("debug").to_owned())
            }
        };
        let place = |level: &str| LEVELS.iter().position(|(name, _)| *name == level);
        for (name, level) in LEVELS {
            let silent = wanted.as_deref().map_or(modern(context), |least| place(name) < place(least));
            if !silent {
                let message = LoggingMessageNotificationParam::new(level, json!(format!("a message of level {name}")));
                let _ = context.peer.notify_logging_message(message).await;
            }
        }
        Ok("logged".to_owned())
    }

    async fn touch(&self, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
        for sink in self.listeners() {
            let _ = sink.notify_resource_updated(WATCHED).await;
        }
        let watches = held(&self.session).watches;
        if watches {
            let _ = context.peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(WATCHED)).await;
        }
        Ok("touched".to_owned())
    }

    async fn toggle(&self, context: &RequestContext<RoleServer>) -> Result<String, ErrorData> {
        {
            let mut world = held(&self.world);
            world.extra = !world.extra;
        }
        for sink in self.listeners() {
            let _ = sink.notify_tool_list_changed().await;
        }
        if !modern(context) {
            let _ = context.peer.notify_tool_list_changed().await;
        }
        Ok("toggled".to_owned())
    }

    fn listeners(&self) -> Vec<SubscriptionSink> {
        held(&self.world).listeners.clone()
    }
}

/// Asks the client: by a request of its own in the legacy era, by the result in the modern one.
async fn asked(
    tool: &str,
    responses: Option<&InputResponses>,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let request = match tool {
        "sample" => json!({
            "method": "sampling/createMessage",
            "params": { "maxTokens": 10, "messages": [{ "role": "user", "content": { "type": "text", "text": "a question" } }] },
        }),
        "roots" => json!({ "method": "roots/list" }),
        "elicit" => json!({ "method": "elicitation/create", "params": {
            "mode": "form",
            "message": "Which colour?",
            "requestedSchema": { "type": "object", "properties": { "colour": { "type": "string" } }, "required": ["colour"] },
        } }),
        _ => json!({ "method": "elicitation/create", "params": {
            "mode": "url", "message": "Please sign", "url": "https://sign.test/1", "elicitationId": "page-1",
        } }),
    };
    let answer = match (modern(context), responses.and_then(|given| given.get("it"))) {
        (true, Some(answer)) => json!(answer),
        (true, None) => {
            return from::<InputRequiredResult>(
                json!({ "resultType": "input_required", "inputRequests": { "it": request } }),
            )
            .map(Into::into);
        }
        (false, _) => legacy(request, context).await?,
    };
    let words = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(text(match tool {
        "sample" => {
            let content = &answer["content"];
            format!("model: {}", words(&content.get(0).unwrap_or(content)["text"]))
        }
        "roots" => words(&answer["roots"][0]["uri"]),
        "elicit" => format!("chose {}", words(&answer["content"]["colour"])),
        _ => format!("page: {}", words(&answer["action"])),
    }))
}

async fn legacy(request: Value, context: &RequestContext<RoleServer>) -> Result<Value, ErrorData> {
    let params = request["params"].clone();
    let failed = |fault: rmcp::ServiceError| ErrorData::internal_error(fault.to_string(), None);
    Ok(match request["method"].as_str().unwrap_or_default() {
        "sampling/createMessage" => json!(context.peer.create_message(from(params)?).await.map_err(failed)?),
        "roots/list" => json!(context.peer.list_roots().await.map_err(failed)?),
        _ => json!(context.peer.create_elicitation(from(params)?).await.map_err(failed)?),
    })
}

fn modern(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version() == Some(ProtocolVersion::V_2026_07_28)
}

fn tool(name: &str, description: &str) -> Value {
    let (number, text) = (json!({ "type": "number" }), json!({ "type": "string" }));
    let properties = match name {
        "echo" => json!({ "text": text }),
        "add" => json!({ "a": number, "b": number }),
        "slow" => json!({ "steps": number, "step_ms": number, "label": text }),
        "was_cancelled" => json!({ "label": text }),
        _ => json!({}),
    };
    json!({ "name": name, "description": description, "inputSchema": { "type": "object", "properties": properties } })
}

fn number(arguments: &Value, a: &str, b: &str) -> f64 {
    arguments[a].as_f64().unwrap_or_default() + arguments[b].as_f64().unwrap_or_default()
}

fn text(said: String) -> CallToolResponse {
    CallToolResult::success(vec![ContentBlock::text(said)]).into()
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, ErrorData> {
    serde_json::from_value(value).map_err(|fault| ErrorData::internal_error(fault.to_string(), None))
}

fn held<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(|held| held.into_inner())
}
