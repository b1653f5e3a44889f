//! What a server says beside answers, as a client hears it who does not know which of several servers spoke.

use crate::base::span::Span;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::text::{self, write_string};
use crate::mcp::walk;

/// A notification with the URI that `name` gives for its own (`notifications/resources/updated`); `None` when it has
/// none. `message` has passed the scanner, as for all of these.
#[must_use]
pub fn renamed(message: &[u8], name: impl FnOnce(&str) -> String) -> Option<Vec<u8>> {
    let place = param(message, "uri")?;
    let mut scratch = Vec::new();
    let uri = text::unescape(walk::string(message, place)?.of(message), &mut scratch).ok()?;
    let given = name(uri);
    if given == uri {
        return Some(message.to_vec());
    }
    Some(with(message, place, &json_text(&given)))
}

/// A log message (`notifications/message`) whose `logger` says which server it is of: `SERVER/LOGGER`, or `SERVER`
/// alone. `None` when it has no params, or a logger that is no text.
#[must_use]
pub fn logged(message: &[u8], server: &str) -> Option<Vec<u8>> {
    let params = walk::member(message, walk::whole(message), "params")?;
    let Some(place) = walk::member(message, params, "logger") else {
        if params.of(message).first() != Some(&b'{') {
            return None;
        }
        let mut member = b"\"logger\":".to_vec();
        write_string(&mut member, server);
        if walk::members(message, params).next().is_some() {
            member.push(b',');
        }
        let first = params.start as usize + 1;
        return Some(with(message, Span::new(first, first), &member));
    };
    let mut scratch = Vec::new();
    let logger = text::unescape(walk::string(message, place)?.of(message), &mut scratch).ok()?;
    Some(with(message, place, &json_text(&format!("{server}/{logger}"))))
}

/// Where a request asks to be told of its progress: the token, a text or a number (MCP 2025-11-25
/// basic/utilities/progress).
#[must_use]
pub fn progress_token(message: &[u8]) -> Option<Span> {
    let meta = param(message, "_meta")?;
    let token = walk::member(message, meta, "progressToken")?;
    matches!(token.of(message).first(), Some(b'"' | b'-' | b'0'..=b'9')).then_some(token)
}

fn param(message: &[u8], name: &str) -> Option<Span> {
    walk::member(message, walk::member(message, walk::whole(message), "params")?, name)
}

fn json_text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    out
}

fn with(message: &[u8], place: Span, new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + new.len());
    splice(message, &[(place, new)], &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(params: &str) -> String {
        format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{params}}}")
    }

    #[test]
    fn a_log_message_says_whose_it_is() {
        let check = |params: &str, want: Option<&str>| {
            let got = logged(note(params).as_bytes(), "git").map(|got| String::from_utf8(got).unwrap());
            assert_eq!(got, want.map(note), "{params}");
        };
        check(
            r#"{"level":"info","logger":"db","data":1e999}"#,
            Some(r#"{"level":"info","logger":"git/db","data":1e999}"#),
        );
        check(r#"{"logger":"a\u002fb\""}"#, Some(r#"{"logger":"git/a/b\""}"#));
        check(r#"{"level":"info"}"#, Some(r#"{"logger":"git","level":"info"}"#));
        check("{}", Some(r#"{"logger":"git"}"#));
        check(r#"{"logger":7}"#, None);
        check("[]", None);
        assert_eq!(logged(br#"{"jsonrpc":"2.0"}"#, "git"), None);
    }

    #[test]
    fn a_resource_goes_by_its_clients_name() {
        let check = |params: &str, want: Option<&str>| {
            let name = |uri: &str| if uri == "a:1" { "mcp+s:a:1".to_owned() } else { uri.to_owned() };
            let got = renamed(note(params).as_bytes(), name).map(|got| String::from_utf8(got).unwrap());
            assert_eq!(got, want.map(note), "{params}");
        };
        check(r#"{"x":0,"uri": "a\u003a1"}"#, Some(r#"{"x":0,"uri": "mcp+s:a:1"}"#));
        check(r#"{"uri":"a\u003a2"}"#, Some(r#"{"uri":"a\u003a2"}"#));
        check(r#"{"uri":1}"#, None);
        check("{}", None);
    }

    #[test]
    fn a_progress_token_is_a_text_or_a_number() {
        let check = |params: &str, want: Option<&str>| {
            let message = note(params);
            let got = progress_token(message.as_bytes()).map(|span| span.of(message.as_bytes()));
            assert_eq!(got, want.map(str::as_bytes), "{params}");
        };
        check(r#"{"_meta":{"progressToken":"t"}}"#, Some("\"t\""));
        check(r#"{"a":{"_meta":{"progressToken":1}},"_meta":{"x":0,"progressToken":-7}}"#, Some("-7"));
        check(r#"{"_meta":{"progressToken":null}}"#, None);
        check(r#"{"_meta":{}}"#, None);
    }
}
