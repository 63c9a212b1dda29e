//! Just enough HTTP/1.1 for probes and for Prometheus: GET of a few paths, then the end.

use std::{io, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::spawn_local,
    time::timeout,
};
use tracing::debug;

/// A request's head is at most this long.
const HEAD_MAX: usize = 8192;
/// A client has so long for its request and for taking the answer.
const CLIENT: Duration = Duration::from_secs(5);

/// An answer: status and plain text.
pub struct Page {
    pub status: u16,
    pub text: String,
}

impl Page {
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Page { status, text: text.into() }
    }
}

/// Gives the page of a path.
pub type Pages = Rc<dyn Fn(&str) -> Page>;

/// Serves `page_of(path)` for ever.
pub async fn serve(listener: TcpListener, page_of: Pages) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let page_of = Rc::clone(&page_of);
                spawn_local(async move {
                    match timeout(CLIENT, connection(stream, &*page_of)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%peer, %error, "an HTTP connection ended"),
                        Err(late) => debug!(%peer, %late, "an HTTP connection ended"),
                    }
                });
            }
            Err(error) => {
                debug!(%error, "accepting an HTTP connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, page_of: &dyn Fn(&str) -> Page) -> io::Result<()> {
    let mut head = vec![];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let page = match method {
        "GET" | "HEAD" => page_of(path.split('?').next().unwrap_or_default()),
        _ => Page::new(405, "only GET is served\n"),
    };
    let reason = match page.status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let body = if method == "HEAD" { "" } else { page.text.as_str() };
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        page.status,
        page.text.len(),
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
