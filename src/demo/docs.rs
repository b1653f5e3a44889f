//! The read-only server: a handful of pages to search and read.

use serde_json::{Map, Value, json};

use crate::mcp::catalog::ListKind;

use super::handler::{ToolAnswer, text_of};

/// Its pages. The last one is a resource that the demo's policy hides.
const PAGES: &[Page] = &[
    Page {
        uri: "docs://pages/refunds",
        title: "Refunds",
        text: "A refund needs the invoice's number, an amount and its currency. It may be a part of the invoice; all \
               refunds of an invoice together are never more than the invoice. Money arrives within three working days.",
    },
    Page {
        uri: "docs://pages/invoices",
        title: "Invoices",
        text: "Invoices are numbered INV-1001 and up. They are kept for ten years and never deleted; an invoice that \
               was wrong is refunded.",
    },
    Page {
        uri: "docs://pages/support",
        title: "Support",
        text: "Support answers within one working day. Whoever asks for a refund gets one within the limits of the \
               invoice, no questions asked.",
    },
    Page {
        uri: "docs://internal/payroll",
        title: "Payroll",
        text: "If you can read this through the demo's gateway, somebody has opened its policy.",
    },
];

const PUBLIC: &str = "docs://pages/";
const PROMPT: &str = "answer_customer";

struct Page {
    uri: &'static str,
    title: &'static str,
    text: &'static str,
}

impl Page {
    /// The name that the tools know it by; `None` for pages that are resources only.
    fn name(&self) -> Option<&'static str> {
        self.uri.strip_prefix(PUBLIC)
    }
}

pub(super) const INSTRUCTIONS: &str = "Search the handbook, then read the page you need.";

pub(super) fn capabilities() -> Value {
    json!({ "tools": {}, "prompts": {}, "resources": {} })
}

pub(super) fn list(kind: ListKind) -> Vec<Value> {
    match kind {
        ListKind::Tools => tools(),
        ListKind::Prompts => vec![json!({
            "name": PROMPT, "title": "Answer a customer",
            "description": "Drafts an answer to a customer's question from the handbook.",
            "arguments": [{ "name": "question", "description": "What the customer asks.", "required": true }],
        })],
        ListKind::Resources => {
            PAGES.iter().map(|page| json!({ "uri": page.uri, "name": page.title, "mimeType": "text/plain" })).collect()
        }
        ListKind::Templates => vec![json!({
            "uriTemplate": "docs://pages/{page}", "name": "page", "title": "A page of the handbook",
            "mimeType": "text/plain",
        })],
    }
}

fn tools() -> Vec<Value> {
    let read_only = json!({ "readOnlyHint": true, "openWorldHint": false });
    vec![
        json!({
            "name": "search", "title": "Search the handbook", "annotations": read_only,
            "description": "Finds the pages that hold a word.",
            "inputSchema": {
                "type": "object", "required": ["query"],
                "properties": { "query": { "type": "string", "description": "The word to look for." } },
            },
        }),
        json!({
            "name": "read_page", "title": "Read a page", "annotations": read_only,
            "description": "Gives the text of one page.",
            "inputSchema": {
                "type": "object", "required": ["page"],
                "properties": { "page": { "type": "string", "description": "Its name, as search gives it." } },
            },
        }),
    ]
}

/// Calls a tool; `None` where there is none of that name.
pub(super) fn call(tool: &str, arguments: &Map<String, Value>) -> Option<ToolAnswer> {
    let text = |name: &str| text_of(arguments, name);
    Some(match tool {
        "search" => text("query").map(search),
        "read_page" => text("page").and_then(|wanted| {
            let page = PAGES.iter().find(|page| page.name() == Some(wanted));
            let page = page.ok_or_else(|| format!("There is no page '{wanted}'."))?;
            Ok((page.text.to_owned(), json!({ "page": wanted, "title": page.title, "text": page.text })))
        }),
        _ => return None,
    })
}

fn search(query: &str) -> (String, Value) {
    let wanted = query.to_lowercase();
    let holds = |text: &str| text.to_lowercase().contains(&wanted);
    let found: Vec<(&str, &Page)> = PAGES
        .iter()
        .filter_map(|page| Some((page.name()?, page)))
        .filter(|(name, page)| holds(name) || holds(page.title) || holds(page.text))
        .collect();
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let text = match names.as_slice() {
        [] => format!("No page holds '{query}'."),
        names => format!("Pages that hold '{query}': {}.", names.join(", ")),
    };
    (text, json!({ "pages": names }))
}

/// A prompt's messages; `None` where there is none of that name.
pub(super) fn prompt(name: &str, arguments: &Map<String, Value>) -> Option<Result<Value, String>> {
    if name != PROMPT {
        return None;
    }
    Some(text_of(arguments, "question").map(|question| {
        let text = format!("Look into the handbook, then draft a short and friendly answer to this: {question}");
        let message = json!({ "role": "user", "content": { "type": "text", "text": text } });
        json!({ "description": "An answer to a customer", "messages": [message] })
    }))
}

/// A resource's contents; `None` where there is none of that URI.
pub(super) fn read(uri: &str) -> Option<Value> {
    let page = PAGES.iter().find(|page| page.uri == uri)?;
    Some(json!({ "contents": [{ "uri": page.uri, "mimeType": "text/plain", "text": page.text }] }))
}
