//! What everybody is answered, with a token or without: metadata documents, preflights, and the way to the issuer for
//! clients of 2025-03-26.

use crate::base::ids::EndpointId;
use crate::base::limits::METADATA_S;
use crate::config::snapshot::{IssuerPage, Route};
use crate::http::head::{Framing, Method};
use crate::http::reply;
use crate::oauth::resource::Forwarding;

use super::conn::Conn;
use super::flight::Next;
use super::refusal::{Kind, Refusal};
use super::shard::{Held, Shard};
use super::{cors, gate};

/// Serves a request that needs no caller.
pub(super) async fn serve(shard: &Shard, conn: &mut Conn, snapshot: &Held, route: Route) -> Result<Next, Refusal> {
    if cors::is_preflight(conn) {
        return preflight(shard, conn, route).await;
    }
    match route {
        Route::Mcp(_) => Err(Kind::MethodNotAllowed.into()),
        Route::Metadata(endpoint) => metadata(shard, conn, snapshot, endpoint).await,
        Route::Issuer(page) => {
            let forwarding = snapshot.forwarding.as_deref().ok_or(Kind::IssuerUnknown)?;
            issuer(shard, conn, forwarding, page).await
        }
    }
}

/// May this be asked? What every page may read, every page may ask for.
async fn preflight(shard: &Shard, conn: &mut Conn, route: Route) -> Result<Next, Refusal> {
    let open = gate::is_open(route);
    if open {
        conn.origin = None;
    }
    let mut out = Vec::with_capacity(512);
    conn.write_status(shard, &mut out, 204);
    if open {
        cors::write_open(&mut out);
    }
    cors::write_preflight(conn, &mut out, gate::methods(route));
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}

/// The protected resource metadata of an endpoint (RFC 9728, section 3.2).
async fn metadata(shard: &Shard, conn: &mut Conn, snapshot: &Held, endpoint: EndpointId) -> Result<Next, Refusal> {
    document(shard, conn, &snapshot.prepared.endpoints[endpoint.index()].metadata).await
}

/// What an issuer has where clients look for it here (MCP 2025-03-26 basic/authorization, "Fallbacks for servers without
/// metadata discovery").
async fn issuer(shard: &Shard, conn: &mut Conn, at: &Forwarding, page: IssuerPage) -> Result<Next, Refusal> {
    let url = match page {
        IssuerPage::Metadata => return document(shard, conn, &at.document).await,
        IssuerPage::Authorize => &at.authorize,
        IssuerPage::Token => &at.token,
        IssuerPage::Register => &at.register,
    };
    let mut url = url.clone().ok_or(Kind::NotFound)?.into_bytes();
    if let Some(query) = conn.head.query.map(|query| query.of(conn.bytes())) {
        url.push(if url.contains(&b'?') { b'&' } else { b'?' });
        url.extend_from_slice(query);
    }
    // A POST stays one, with its body (RFC 9110, 15.4.8): the code, or the client, goes to the issuer and never here.
    let status = if page == IssuerPage::Authorize { 302 } else { 307 };
    let mut out = Vec::with_capacity(256 + url.len());
    conn.write_status(shard, &mut out, status);
    reply::write_field(&mut out, "location", &url).map_err(|_| Kind::NotFound)?;
    let _ = reply::write_field(&mut out, "cache-control", b"no-store");
    reply::finish(&mut out, Framing::Length(0));
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}

/// A JSON document for everybody.
async fn document(shard: &Shard, conn: &mut Conn, document: &[u8]) -> Result<Next, Refusal> {
    conn.origin = None;
    let mut out = Vec::with_capacity(256 + document.len());
    conn.write_status(shard, &mut out, 200);
    let _ = reply::write_field(&mut out, "content-type", b"application/json");
    let _ = reply::write_field(&mut out, "cache-control", format!("public, max-age={METADATA_S}").as_bytes());
    cors::write_open(&mut out);
    reply::finish(&mut out, Framing::Length(document.len() as u64));
    if conn.head.method == Method::Get {
        out.extend_from_slice(document);
    }
    conn.send(shard, &out).await;
    Ok(Next::Keep)
}
