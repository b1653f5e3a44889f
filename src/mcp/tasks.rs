//! Where the messages of the extension `io.modelcontextprotocol/tasks` name a task, and the one name put in the place
//! of the other: a server's own id never reaches a client, nor the client's a server.

use thiserror::Error;

use crate::base::span::Span;
use crate::jsonrpc::edit::splice;
use crate::jsonrpc::text;
use crate::mcp::input::{self, Asks, InputFault};
use crate::mcp::walk;

/// One task under both of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLink {
    /// The client's: JSON text with its quotes.
    pub client: Box<[u8]>,
    /// The server's.
    pub server: Box<str>,
}

/// What is wrong with a task in a server's message. It must not reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TaskFault {
    /// No `taskId`, or one that is no string.
    #[error("a task without an id")]
    Unnamed,
    /// Another task than the one asked for.
    #[error("another task")]
    Another,
    /// What it asks of the client is malformed.
    #[error("{0}")]
    Asks(#[from] InputFault),
}

/// A task in a server's message: the object that tells its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    object: Span,
    /// `taskId`, with its quotes.
    id: Span,
}

impl Task {
    /// The task that is the `result` of this answer, which has passed the scanner.
    ///
    /// # Errors
    /// [`TaskFault::Unnamed`].
    pub fn of_result(message: &[u8]) -> Result<Self, TaskFault> {
        Self::of(message, "result")
    }

    /// The task that is the `params` of this notification, which has passed the scanner.
    ///
    /// # Errors
    /// [`TaskFault::Unnamed`].
    pub fn of_params(message: &[u8]) -> Result<Self, TaskFault> {
        Self::of(message, "params")
    }

    fn of(message: &[u8], member: &str) -> Result<Self, TaskFault> {
        let object = walk::member(message, walk::whole(message), member).ok_or(TaskFault::Unnamed)?;
        let id = walk::member(message, object, "taskId").ok_or(TaskFault::Unnamed)?;
        walk::string(message, id).map(|_| Self { object, id }).ok_or(TaskFault::Unnamed)
    }

    /// Its id.
    ///
    /// # Errors
    /// [`TaskFault::Unnamed`] when it is no text.
    pub fn id<'a>(&self, message: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<&'a str, TaskFault> {
        text::unescape(text::inside(self.id.of(message)), scratch).map_err(|_| TaskFault::Unnamed)
    }

    /// Which of `links` it is.
    #[must_use]
    pub fn find<'a>(&self, message: &[u8], links: &'a [TaskLink]) -> Option<&'a TaskLink> {
        let id = text::inside(self.id.of(message));
        links.iter().find(|link| is_text(id, &link.server))
    }

    /// What it asks of the client.
    ///
    /// # Errors
    /// [`TaskFault::Asks`].
    pub fn asks(&self, message: &[u8]) -> Result<Asks, TaskFault> {
        Ok(input::task_asks(message, self.object)?)
    }

    /// The message with another id (JSON text) in the place of the task's.
    #[must_use]
    pub fn renamed(&self, message: &[u8], id: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() + id.len());
        splice(message, &[(self.id, id)], &mut out);
        out
    }
}

/// Whether the bytes inside a string's quotes are this text.
pub(crate) fn is_text(inside: &[u8], plain: &str) -> bool {
    if !text::has_escape(inside) {
        return inside == plain.as_bytes();
    }
    let mut scratch = Vec::new();
    text::unescape(inside, &mut scratch).is_ok_and(|text| text == plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::optin::Declared;

    fn link(client: &str, server: &str) -> TaskLink {
        TaskLink { client: client.as_bytes().into(), server: server.into() }
    }

    #[test]
    fn a_task_is_found_wherever_its_id_stands() {
        let check = |message: &str, want: Result<&str, TaskFault>| {
            let message = message.as_bytes();
            let task = Task::of_result(message);
            let mut scratch = Vec::new();
            assert_eq!(
                task.and_then(|task| task.id(message, &mut scratch).map(str::to_owned)),
                want.map(str::to_owned)
            );
        };
        check(r#"{"id":1,"result":{"taskId":"t-1","status":"working"},"jsonrpc":"2.0"}"#, Ok("t-1"));
        check(r#" {"result" : {"result":{"taskId":"no"},"task\u0049d" : "a\/b"}} "#, Ok("a/b"));
        check(r#"{"result":{"status":"working"}}"#, Err(TaskFault::Unnamed));
        check(r#"{"result":{"taskId":7}}"#, Err(TaskFault::Unnamed));
        check(r#"{"params":{"taskId":"t"}}"#, Err(TaskFault::Unnamed));
        check("", Err(TaskFault::Unnamed));
    }

    #[test]
    fn one_name_takes_the_place_of_the_other() {
        let message =
            br#"{"method":"notifications/tasks","params":{"n":1e999,"taskId":"b\u0032","result":{"taskId":"b2"}}}"#;
        let links = [link("\"B1\"", "b1"), link("\"B2\"", "b2")];
        let task = Task::of_params(message).unwrap();
        let found = task.find(message, &links).unwrap();
        assert_eq!(found, &links[1]);
        let renamed = String::from_utf8(task.renamed(message, &found.client)).unwrap();
        assert_eq!(
            renamed, r#"{"method":"notifications/tasks","params":{"n":1e999,"taskId":"B2","result":{"taskId":"b2"}}}"#,
            "every other byte as it came"
        );
        assert_eq!(task.find(message, &links[..1]), None);
    }

    #[test]
    fn a_task_may_ask() {
        let of = |message: &str| Task::of_result(message.as_bytes()).unwrap().asks(message.as_bytes());
        let asking = r#"{"result":{"taskId":"t","inputRequests":{"k":{"method":"elicitation/create","params":{}}}}}"#;
        assert_eq!(of(asking).map(Asks::needs), Ok(Declared::FORM));
        assert_eq!(of(r#"{"result":{"taskId":"t"}}"#).map(Asks::needs), Ok(Declared::NONE));
        let wrong = r#"{"result":{"taskId":"t","inputRequests":{"k":{"method":"tools/call"}}}}"#;
        assert_eq!(of(wrong), Err(TaskFault::Asks(InputFault::UnknownMethod)));
    }
}
