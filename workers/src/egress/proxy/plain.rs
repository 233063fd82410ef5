//! Plain HTTP through the proxy: one request for one host, read and written anew.

use http_body_util::BodyExt as _;
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;

use super::{Body, HTTP, No, Proxy, canonical_host};
use crate::egress::models::strip;

impl Proxy {
    /// Answers one request that is no CONNECT.
    pub(super) async fn plain(&self, request: Request<Incoming>) -> Result<Response<Body>, No> {
        let bad = |sentence: &str| No::new(StatusCode::BAD_REQUEST, sentence);
        let uri = request.uri().clone();
        if uri.scheme_str() != Some("http") {
            let host = uri.host().or_else(|| host_header(&request)).unwrap_or_default();
            self.block(host, "neither a tunnel nor plain http");
            return Err(bad("a proxy is asked with CONNECT, or with a whole http:// URL"));
        }
        let authority = uri.authority().ok_or_else(|| bad("the URL names no host"))?;
        if authority.as_str().contains('@') {
            self.block(authority.host(), "user names have no place here");
            return Err(bad("user names have no place in a URL here"));
        }
        let target = match authority.port() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{authority}:{HTTP}"),
        };
        // Two names for one request would be read differently by somebody.
        let agrees = |named: &str| {
            let named = if named.contains(':') { named.to_owned() } else { format!("{named}:{HTTP}") };
            named.eq_ignore_ascii_case(&target)
        };
        let mut named = request.headers().get_all(header::HOST).iter();
        if !named.all(|named| named.to_str().is_ok_and(agrees))
            || request.headers().get_all(header::HOST).iter().count() > 1
        {
            self.block(authority.host(), "the URL and the Host header name different hosts");
            return Err(bad("the URL and the Host header name different hosts"));
        }
        if let Ok(host) = canonical_host(authority.host())
            && authority.port_u16().unwrap_or(HTTP) == HTTP
            && let Some(door) = self.doors.of(&host)
        {
            return self.through(door, request).await;
        }
        let way = self.open(&target, HTTP).await?;
        let (mut parts, body) = request.into_parts();
        strip(&mut parts.headers);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse::<Uri>().map_err(|_| bad("the path cannot be read"))?;
        let host = HeaderValue::from_str(authority.host()).map_err(|_| bad("the host cannot be read"))?;
        parts.headers.insert(header::HOST, host);
        let no_answer = |_| No::new(StatusCode::BAD_GATEWAY, format!("{} broke the connection off", authority.host()));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(way.stream)).await.map_err(no_answer)?;
        let over = way.over;
        tokio::spawn(over.run_until_cancelled_owned(async move {
            // The one who asked sees it end.
            let _ = connection.await;
        }));
        let answer = sender.send_request(Request::from_parts(parts, body)).await.map_err(no_answer)?;
        let (mut parts, body) = answer.into_parts();
        strip(&mut parts.headers);
        Ok(Response::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }

    /// Notes a request that was refused before it was looked at as one for a host.
    fn block(&self, host: &str, why: &str) {
        let phase = self.now.read().unwrap_or_else(std::sync::PoisonError::into_inner).phase;
        self.tally.asked_for(phase, host, Some(why));
    }
}

fn host_header(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(header::HOST)?.to_str().ok()
}
