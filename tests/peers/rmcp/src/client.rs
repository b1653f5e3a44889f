//! Drives one MCP server, and prints what happened as one JSON object; the steps and outcomes are those of ts_client.mjs.

use std::collections::HashMap;
use std::future::Future;
use std::io::{BufRead as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use rmcp::model::*;
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, PeerRequestOptions, RequestContext, RunningService};
use rmcp::service::{NotificationContext, ServiceError, Subscription};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::common::client_side_sse::FixedInterval;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ErrorData, RoleClient};
use serde_json::{Map, Value, json};

use crate::{Fault, WATCHED};

const STEP_TIMEOUT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);
/// What was received is handled by then.
const LATE: Duration = Duration::from_millis(50);
const PROBES_MAX: u32 = 40;
const LEVEL_KEY: &str = "io.modelcontextprotocol/logLevel";

type Client = RunningService<RoleClient, Listener>;

/// What the client heard, and was asked.
#[derive(Default)]
struct Heard {
    asked: Vec<String>,
    urls: Vec<String>,
    levels: Vec<Value>,
    progress: Vec<Value>,
    updated: u32,
    changed: u32,
}

#[derive(Clone, Default)]
struct Listener {
    heard: Arc<Mutex<Heard>>,
    /// What it answers to forms.
    answer: Value,
}

impl Listener {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn note(&self, notification: &ServerNotification) {
        match notification {
            ServerNotification::ResourceUpdatedNotification(_) => self.heard().updated += 1,
            ServerNotification::ToolListChangedNotification(_) => self.heard().changed += 1,
            _ => {}
        }
    }
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let can = json!({ "elicitation": { "form": {}, "url": {} }, "sampling": {}, "roots": { "listChanged": true } });
        let can = serde_json::from_value(can).expect("capabilities");
        ClientConfig::new(can, Implementation::new("portcullis-rmcp-peer", "1"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let accepted = ElicitResult::new(ElicitationAction::Accept);
        match request {
            ElicitRequestParams::FormElicitationParams { message, .. } => {
                self.heard().asked.push(message);
                Ok(accepted.with_content(self.answer.clone()))
            }
            ElicitRequestParams::UrlElicitationParams { message, url, .. } => {
                self.heard().asked.push(message);
                self.heard().urls.push(url);
                Ok(accepted)
            }
            _ => Err(ErrorData::invalid_params("no such mode", None)),
        }
    }

    async fn create_message(
        &self,
        request: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let content = json!(request.messages[0].content);
        let words = content.get(0).unwrap_or(&content)["text"].as_str().unwrap_or_default().to_owned();
        Ok(CreateMessageResult::new(SamplingMessage::assistant_text(format!("heard {words}")), "none".into()))
    }

    async fn list_roots(&self, _: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Ok(ListRootsResult::new(vec![Root::new("file:///work")]))
    }

    async fn on_progress(&self, note: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.heard().progress.push(json!({ "progress": note.progress, "total": note.total }));
    }

    async fn on_logging_message(&self, note: LoggingMessageNotificationParam, _: NotificationContext<RoleClient>) {
        self.heard().levels.push(json!(note.level));
    }

    async fn on_resource_updated(&self, _: ResourceUpdatedNotificationParam, _: NotificationContext<RoleClient>) {
        self.heard().updated += 1;
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.heard().changed += 1;
    }
}

/// What the steps are about.
struct Steps(Value);

/// Runs the steps of `spec`, and prints their outcomes.
pub(crate) async fn run(spec: &Value) -> Result<(), Fault> {
    let mut steps = json!({
        "call": { "name": "add", "arguments": { "a": 2, "b": 3 } },
        "hidden": { "name": "secret", "arguments": {} },
        "unknown": { "name": "no_such_tool", "arguments": {} },
        "fail": { "name": "fail", "arguments": {} },
        "progress": { "name": "slow", "arguments": { "steps": 3, "step_ms": 20, "label": "progress" } },
        "cancel": { "name": "slow", "arguments": { "steps": 100, "step_ms": 100 }, "probe": "was_cancelled" },
        "elicit": { "name": "elicit", "arguments": {}, "answer": { "colour": "blue" } },
        "sample": { "name": "sample", "arguments": {} },
        "roots": { "name": "roots", "arguments": {} },
        "resume": { "name": "slow", "arguments": { "steps": 8, "step_ms": 100, "label": "resume" } },
        "touch": { "name": "touch", "arguments": {} },
    });
    for (name, step) in spec["steps"].as_object().into_iter().flatten() {
        steps[name] = step.clone();
    }
    let mut out = json!({ "client": "rmcp 3.9.0", "era": spec["era"] });
    let listener = Listener { answer: steps["elicit"]["answer"].clone(), ..Listener::default() };
    match connect(spec, listener).await {
        Ok(client) => drive(&mut out, client, spec, &Steps(steps)).await,
        Err(fault) => out["connect"] = json!({ "ok": false, "error": "connect", "message": fault.to_string() }),
    }
    println!("{out}");
    Ok(())
}

async fn connect(spec: &Value, listener: Listener) -> Result<Client, Fault> {
    let mut headers = HashMap::new();
    for (name, value) in spec["headers"].as_object().into_iter().flatten() {
        headers.insert(name.parse::<HeaderName>()?, value.as_str().unwrap_or_default().parse::<HeaderValue>()?);
    }
    let mut config = StreamableHttpClientTransportConfig::with_uri(spec["url"].as_str().unwrap_or_default());
    config = config.custom_headers(headers);
    config.auth_header = spec["token"].as_str().map(str::to_owned);
    // Two sessions for one client would hide what happened to the first.
    config.reinit_on_expired_session = false;
    let mut retry = FixedInterval::default();
    (retry.max_times, retry.duration) = (Some(20), Duration::from_millis(100));
    config.retry_config = Arc::new(retry);
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    let mode = match spec["era"].as_str() {
        Some("legacy") => ClientLifecycleMode::Initialize,
        Some("modern") => ClientLifecycleMode::Discover { preferred_versions },
        _ => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
    };
    Ok(listener.serve_with_lifecycle(StreamableHttpClientTransport::from_config(config), mode).await?)
}

async fn drive(out: &mut Value, client: Client, spec: &Value, steps: &Steps) {
    let info = client.peer_info().map(|info| json!(info.as_ref())).unwrap_or_default();
    let server = info.get("serverInfo").map_or(Value::Null, |info| info["name"].clone());
    out["connect"] =
        json!({ "ok": true, "protocol": protocol(&client), "server": server, "session": !modern(&client) });
    out["list"] = outcome(tools(&client)).await;
    out["resources"] = outcome(async {
        let all = client.list_all_resources().await?;
        Ok(json!({ "uris": all.iter().map(|it| json!(it)["uri"].clone()).collect::<Vec<_>>() }))
    })
    .await;
    out["prompts"] = outcome(async {
        let all = client.list_all_prompts().await?;
        Ok(json!({ "names": all.iter().map(|it| json!(it)["name"].clone()).collect::<Vec<_>>() }))
    })
    .await;
    for name in ["call", "hidden", "unknown", "fail"] {
        if steps.0[name].is_object() {
            out[name] = outcome(call(&client, &steps.0[name])).await;
        }
    }
    if steps.0["progress"].is_object() {
        out["progress"] = outcome(progress(&client, &steps.0["progress"])).await;
    }
    if steps.0["cancel"].is_object() {
        out["cancel"] = outcome(cancelled(&client, &steps.0["cancel"])).await;
    }
    if steps.0["elicit"].is_object() {
        let mut elicited = outcome(call(&client, &steps.0["elicit"])).await;
        elicited["asked"] = json!(client.service().heard().asked);
        out["elicit"] = elicited;
    }
    for name in spec["more"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out[name] = outcome(more(&client, name, steps)).await;
    }
    let closed = client.cancel().await;
    out["close"] = json!({ "ok": closed.is_ok() });
}

async fn more(client: &Client, name: &str, steps: &Steps) -> Result<Value, Fault> {
    match name {
        "sample" | "roots" => call(client, &steps.0[name]).await,
        "url" => {
            let mut got = plain(client, "elicit_url").await?;
            got["urls"] = json!(client.service().heard().urls);
            Ok(got)
        }
        "log" => log(client).await,
        "hang_up" => plain(client, "hang_up").await,
        "resume" | "behind" => {
            arranged(&format!("{} notifications/progress", cut(name))).await;
            progress(client, &steps.0["resume"]).await
        }
        "ended" => {
            arranged("the end of the session").await;
            call(client, &steps.0["call"]).await
        }
        // In the modern era nobody takes a stream up again: who listened finds out, and listens anew.
        "restart" if steps.0["touch"].is_null() || modern(client) => telling(client, name, steps).await,
        "updated" | "changed" | "resume_get" | "behind_get" | "restart" => told(client, name, steps).await,
        _ => Err(format!("no step {name}").into()),
    }
}

async fn log(client: &Client) -> Result<Value, Fault> {
    client.service().heard().levels.clear();
    let mut request = CallToolRequestParams::new("log");
    if modern(client) {
        let mut meta = Map::new();
        meta.insert(LEVEL_KEY.to_owned(), json!("warning"));
        request.meta = Some(serde_json::from_value(Value::Object(meta))?);
    } else {
        client.set_level(SetLevelRequestParams::new(LoggingLevel::Warning)).await?;
    }
    let mut got = said(&client.call_tool(request).await?);
    // Each is handled on a task of its own, and in no order.
    until("two messages", PATIENCE, || client.service().heard().levels.len() >= 2).await?;
    tokio::time::sleep(LATE).await;
    let mut levels = std::mem::take(&mut client.service().heard().levels);
    levels.sort_by_key(Value::to_string);
    levels.reverse();
    got["levels"] = json!(levels);
    Ok(got)
}

/// Runs a step while updates of the watched resource and changes of the tools are told.
async fn told(client: &Client, name: &str, steps: &Steps) -> Result<Value, Fault> {
    if !modern(client) {
        client.subscribe(SubscribeRequestParams::new(WATCHED)).await?;
        let got = telling(client, name, steps).await;
        let _ = client.unsubscribe(UnsubscribeRequestParams::new(WATCHED)).await;
        return got;
    }
    let filter = SubscriptionFilter::builder().tools_list_changed().resource_subscription(WATCHED).build();
    let mut subscription: Subscription = client.listen(filter).await?;
    let listener = client.service().clone();
    tokio::select! {
        got = telling(client, name, steps) => got,
        () = async {
            while let Ok(Some(notification)) = subscription.next().await {
                listener.note(&notification);
            }
            std::future::pending().await
        } => unreachable!("it never ends"),
    }
}

async fn telling(client: &Client, name: &str, steps: &Steps) -> Result<Value, Fault> {
    let heard = client.service();
    {
        let mut heard = heard.heard();
        (heard.updated, heard.changed) = (0, 0);
    }
    match name {
        "updated" => {
            plain(client, "touch").await?;
            until("the update", PATIENCE, || heard.heard().updated > 0).await?;
            Ok(json!({ "updated": heard.heard().updated }))
        }
        "changed" => {
            plain(client, "toggle").await?;
            until("the change", PATIENCE, || heard.heard().changed > 0).await?;
            tools(client).await
        }
        "resume_get" | "behind_get" => {
            arranged(&format!("{} notifications/resources/updated", cut(name))).await;
            for count in 1..=2 {
                plain(client, "touch").await?;
                until("an update", PATIENCE, || heard.heard().updated == count).await?;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(json!({ "updated": heard.heard().updated }))
        }
        _ => {
            arranged("another server").await;
            let got = call(client, &steps.0["call"]).await?;
            // A stream may be on its way back.
            if steps.0["touch"].is_null() || modern(client) {
                return Ok(got);
            }
            for _ in 0..50 {
                plain(client, "touch").await?;
                if until("an update", Duration::from_millis(200), || heard.heard().updated > 0).await.is_ok() {
                    break;
                }
            }
            until("an update", Duration::from_secs(1), || heard.heard().updated > 0).await?;
            Ok(got)
        }
    }
}

/// Where a stream is cut: before us, or behind the gateway.
fn cut(step: &str) -> &'static str {
    if step.starts_with("behind") { "a cut behind at" } else { "a cut at" }
}

async fn tools(client: &Client) -> Result<Value, Fault> {
    let all = client.list_all_tools().await?;
    Ok(json!({ "tools": all.iter().map(|tool| tool.name.as_ref()).collect::<Vec<_>>() }))
}

fn asking(step: &Value) -> CallToolRequestParams {
    let name = step["name"].as_str().unwrap_or_default().to_owned();
    CallToolRequestParams::new(name).with_arguments(step["arguments"].as_object().cloned().unwrap_or_default())
}

async fn call(client: &Client, step: &Value) -> Result<Value, Fault> {
    Ok(said(&client.call_tool(asking(step)).await?))
}

async fn plain(client: &Client, name: &str) -> Result<Value, Fault> {
    call(client, &json!({ "name": name, "arguments": {} })).await
}

async fn progress(client: &Client, step: &Value) -> Result<Value, Fault> {
    client.service().heard().progress.clear();
    let mut got = call(client, step).await?;
    // Each is handled on a task of its own, and in no order.
    tokio::time::sleep(LATE).await;
    let mut notes = std::mem::take(&mut client.service().heard().progress);
    notes.sort_by_key(|note| note["progress"].as_f64().map(f64::to_bits));
    got["notifications"] = json!(notes);
    Ok(got)
}

/// Cancels at the first progress, then asks the server (when it can tell) whether it noticed.
async fn cancelled(client: &Client, step: &Value) -> Result<Value, Fault> {
    client.service().heard().progress.clear();
    let (mut step, probe) = (step.clone(), step["probe"].clone());
    let label = format!("cancel-{}", std::process::id());
    if probe.is_string() {
        step["arguments"]["label"] = json!(label);
    }
    let request = ClientRequest::CallToolRequest(Request::new(asking(&step)));
    let running = client.send_cancellable_request(request, PeerRequestOptions::no_options()).await?;
    until("progress", PATIENCE, || !client.service().heard().progress.is_empty()).await?;
    running.cancel(Some("changed my mind".to_owned())).await?;
    let mut noticed = Value::Null;
    for _ in 0..PROBES_MAX {
        if !probe.is_string() || noticed == json!(true) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let told = call(client, &json!({ "name": probe, "arguments": { "label": label } })).await?;
        noticed = json!(told["text"].as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")));
    }
    Ok(json!({ "cancelled": true, "noticed": noticed }))
}

fn said(result: &CallToolResult) -> Value {
    let text: Vec<&str> = result.content.iter().filter_map(|it| it.as_text()).map(|it| it.text.as_str()).collect();
    json!({ "text": text.join("\n"), "isError": result.is_error == Some(true) })
}

async fn outcome(act: impl Future<Output = Result<Value, Fault>>) -> Value {
    let start = Instant::now();
    let got = match tokio::time::timeout(STEP_TIMEOUT, act).await {
        Ok(got) => got,
        Err(late) => Err(late.into()),
    };
    let mut got = match got {
        Ok(got) => got,
        Err(fault) => return failed(fault.as_ref()),
    };
    got["ok"] = json!(true);
    got["ms"] = json!(start.elapsed().as_millis());
    got
}

fn failed(fault: &(dyn std::error::Error + 'static)) -> Value {
    let mut got = json!({ "ok": false, "message": fault.to_string() });
    if let Some(ServiceError::McpError(error)) = fault.downcast_ref::<ServiceError>() {
        got["code"] = json!(error.code);
        got["message"] = json!(error.message);
    }
    got
}

/// Asks whoever started us to do something to the world, and waits until it is done.
async fn arranged(what: &str) {
    println!("waiting for {what}");
    let _ = std::io::stdout().flush();
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await;
}

async fn until(what: &str, patience: Duration, so: impl Fn() -> bool) -> Result<(), Fault> {
    let end = Instant::now() + patience;
    while !so() {
        if Instant::now() > end {
            return Err(format!("never: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn protocol(client: &Client) -> Value {
    client.peer_info().map_or(Value::Null, |info| json!(info.protocol_version))
}

fn modern(client: &Client) -> bool {
    protocol(client) == json!("2026-07-28")
}
