//! Exits of containers, heard from the runtime instead of asked for.
//!
//! containerd publishes task events on its own socket; other runtimes offer CRI's
//! `GetContainerEvents`. Where neither exists, a slow tick asks everybody to look again. After every
//! (re)connection [`Event::Resync`] is sent first, since events may have been lost before it.

use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Code;

use super::client::Client;
use super::v1::{ContainerEventResponse, ContainerEventType, Empty};

/// How often everybody looks again when the runtime has no events at all.
const RELIST_PERIOD: Duration = Duration::from_secs(1);
/// Wait before another connection is tried.
const RECONNECT: Duration = Duration::from_millis(100);

/// Something happened in the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Events may have been lost: look at everything.
    Resync,
    /// The container or sandbox with this id is no longer running.
    Exited(String),
    /// The container with this id is in some other state than before.
    Changed(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The fields that all task events share; `id` differs from `container_id` for an exec's process.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskEvent {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// Sends events into `to` until its receiver is dropped.
pub async fn follow(client: Client, to: mpsc::Sender<Event>) {
    let mut missing = Missing::default();
    let mut told = false;
    while !to.is_closed() {
        let ended = if !missing.containerd {
            containerd(&client, &to).await
        } else if !missing.cri {
            cri(&client, &to).await
        } else {
            tokio::time::sleep(RELIST_PERIOD).await;
            if to.send(Event::Resync).await.is_err() {
                return;
            }
            continue;
        };
        match ended {
            Err(status) if status.code() == Code::Unimplemented => {
                missing.note_one();
                tracing::info!(%status, "the runtime lacks a source of events, trying another");
            }
            Err(status) => {
                if !told {
                    tracing::warn!(code = %status.code(), message = status.message(),
                        "the runtime's events ended, connecting again");
                }
                told = status.code() == Code::Unavailable;
                tokio::time::sleep(RECONNECT).await;
            }
            Ok(()) => tokio::time::sleep(RECONNECT).await,
        }
    }
}

/// Which sources the runtime was found not to have.
#[derive(Default)]
struct Missing {
    containerd: bool,
    cri: bool,
}

impl Missing {
    fn note_one(&mut self) {
        if self.containerd {
            self.cri = true;
        } else {
            self.containerd = true;
        }
    }
}

async fn containerd(client: &Client, to: &mpsc::Sender<Event>) -> Result<(), tonic::Status> {
    let filters = ["/tasks/exit", "/tasks/oom", "/tasks/paused"]
        .map(|topic| format!("namespace==k8s.io,topic==\"{topic}\""))
        .to_vec();
    let mut stream = client
        .stream::<_, Envelope>(
            "/containerd.services.events.v1.Events/Subscribe",
            SubscribeRequest { filters },
        )
        .await?;
    if to.send(Event::Resync).await.is_err() {
        return Ok(());
    }
    while let Some(envelope) = stream.message().await? {
        if let Some(event) = from_containerd(&envelope)
            && to.send(event).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

fn from_containerd(envelope: &Envelope) -> Option<Event> {
    let body = envelope.event.as_ref()?;
    let task = <TaskEvent as prost::Message>::decode(body.value.as_slice()).ok()?;
    match envelope.topic.as_str() {
        "/tasks/exit" if task.id == task.container_id => Some(Event::Exited(task.container_id)),
        "/tasks/exit" => None,
        _ => Some(Event::Changed(task.container_id)),
    }
}

async fn cri(client: &Client, to: &mpsc::Sender<Event>) -> Result<(), tonic::Status> {
    let mut stream = client
        .stream::<_, ContainerEventResponse>(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            Empty {},
        )
        .await?;
    if to.send(Event::Resync).await.is_err() {
        return Ok(());
    }
    while let Some(event) = stream.message().await? {
        let event = match event.container_event_type() {
            ContainerEventType::StoppedEvent => Event::Exited(event.container_id),
            _ => Event::Changed(event.container_id),
        };
        if to.send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn exit(container: &str, id: &str) -> Envelope {
        let task = TaskEvent { container_id: container.into(), id: id.into() };
        Envelope {
            namespace: "k8s.io".into(),
            topic: "/tasks/exit".into(),
            event: Some(Any { value: task.encode_to_vec() }),
        }
    }

    #[test]
    fn the_exit_of_an_exec_is_not_the_exit_of_its_container() {
        assert_eq!(from_containerd(&exit("c1", "exec-1")), None);
        assert_eq!(from_containerd(&exit("c1", "c1")), Some(Event::Exited("c1".into())));
    }
}
