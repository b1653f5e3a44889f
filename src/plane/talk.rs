//! The plane's own session with a server that speaks HTTP+SSE (MCP 2024-11-05 basic/transports): one event stream,
//! and POSTs whose answers come on it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::limits::{PLANE_ANSWER_BYTES_MAX, PLANE_ANSWER_MS_MAX, PLANE_HEARD_MAX};
use crate::http::head::Method;
use crate::mcp::transport::{EndpointFault, StreamUrl, read_endpoint};
use crate::upstream::shown::Shown;

use super::client::{self, Begun, ClientFault, Heard, Parsed, Stream, Target};

/// A session: it lasts as long as its stream.
#[derive(Debug)]
pub(super) struct Talk {
    stream: Stream,
    /// Where messages go.
    endpoint: Target,
    /// Messages that came while an answer was waited for.
    heard: VecDeque<Vec<u8>>,
}

/// Says whether a message is the answer.
pub(super) type Wanted<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum TalkFault {
    #[error(transparent)]
    Client(#[from] ClientFault),
    #[error("a GET of its URL brings no event stream")]
    NoStream,
    #[error(transparent)]
    Endpoint(#[from] EndpointFault),
}

impl Talk {
    /// Opens the stream at the server's URL, and learns from its first event where to POST.
    ///
    /// # Errors
    /// `TalkFault`; nothing but the GET was sent then.
    pub(super) fn open(target: &Target, fields: &[(&str, &str)]) -> Result<Self, TalkFault> {
        let until = Instant::now() + Duration::from_millis(PLANE_ANSWER_MS_MAX);
        let mut stream = client::listen(target, Method::Get, fields, None)?.ok_or(TalkFault::NoStream)?;
        let (name, data) = stream.event(until)?;
        let here = StreamUrl { scheme: target.scheme.as_str(), authority: &target.host, target: &target.path };
        let path = read_endpoint(&name, &data, &here)?.into();
        Ok(Self { stream, endpoint: Target { path, ..target.clone() }, heard: VecDeque::new() })
    }

    /// What its server is shown from now on.
    pub(super) fn shows(&mut self, shown: Option<Arc<Shown>>) {
        self.endpoint.shown = shown;
    }

    /// Sends a message; with `wanted`, waits for the one that it says is the answer. What comes before it is kept for
    /// [`Talk::heard`].
    ///
    /// # Errors
    /// `ClientFault`: the session is over then.
    pub(super) fn say(
        &mut self,
        fields: &[(&str, &str)],
        body: &[u8],
        wanted: Option<Wanted<'_>>,
    ) -> Result<Option<Vec<u8>>, ClientFault> {
        let until = Instant::now() + Duration::from_millis(PLANE_ANSWER_MS_MAX);
        let mut post = Some(client::begin(&self.endpoint, Method::Post, fields, Some(body), true)?);
        let (mut answer, mut total) = (None, 0);
        // Read side by side: a server may write its whole answer before it takes the message.
        while post.is_some() || (wanted.is_some() && answer.is_none()) {
            match self.stream.parse() {
                Parsed::Message => {
                    let data = self.stream.data();
                    total += data.len();
                    if total > PLANE_ANSWER_BYTES_MAX {
                        return Err(ClientFault::TooLarge);
                    }
                    let data = data.to_vec();
                    if answer.is_none() && wanted.is_some_and(|wanted| wanted(&data)) {
                        answer = Some(data);
                    } else if self.heard.len() < PLANE_HEARD_MAX {
                        self.heard.push_back(data);
                    }
                    continue;
                }
                Parsed::End => return Err(ClientFault::Cut),
                Parsed::Hungry => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ClientFault::Timeout);
            }
            let (spoken, taken) = client::either(&mut self.stream, post.as_mut(), left);
            if spoken {
                self.stream.receive()?;
            }
            if taken && accepted(&mut post)? {
                post = None;
            }
        }
        Ok(answer)
    }

    /// A message that came while an answer was waited for, oldest first.
    pub(super) fn heard(&mut self) -> Option<Vec<u8>> {
        self.heard.pop_front()
    }

    /// Waits for the next message, the bell, or the end of `patience`.
    pub(super) fn next(&mut self, bell: &OwnedFd, patience: Duration) -> Heard {
        self.heard().map_or_else(|| self.stream.next(bell, patience), Heard::Message)
    }
}

/// Whether the server has taken the message. It has when it says any 2xx: 2024-11-05 names no status.
fn accepted(post: &mut Option<Begun>) -> Result<bool, ClientFault> {
    let Some(post) = post else { return Ok(true) };
    match post.receive()? {
        None => Ok(false),
        Some(200..=299) => Ok(true),
        Some(status) => Err(ClientFault::Refused(status)),
    }
}
