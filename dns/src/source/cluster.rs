//! The apiserver as the source: one watch for each kind.

use std::{fmt::Debug, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::Source;
use crate::{
    model::{Change, Event},
    objects::{EndpointSlice, Service},
};

/// A broken watch is tried again after the first of these, at most the second.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub fn new(client: Client) -> Self {
        Cluster { client }
    }
}

impl Source for Cluster {
    fn changes(self: Box<Self>) -> BoxStream<'static, Change> {
        let services = watch::<Service>(self.client.clone()).map(Change::Services);
        let slices = watch::<EndpointSlice>(self.client).map(Change::Slices);
        stream::select(services, slices).boxed()
    }
}

/// One kind's events. A list is passed on whole, when it is complete.
fn watch<T>(client: Client) -> impl futures::Stream<Item = Event<T>>
where
    T: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<T>::all(client), watcher::Config::default().any_semantic());
    let mut listed: Vec<T> = vec![];
    events.backoff(Retry { next: RETRY[0] }).filter_map(move |event| {
        let passed_on = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.push(trim(object));
                None
            }
            Ok(watcher::Event::InitDone) => Some(Event::Replace(std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(object)) => Some(Event::Apply(trim(object))),
            Ok(watcher::Event::Delete(object)) => Some(Event::Delete(trim(object))),
            Err(error) => {
                warn!(kind = %T::kind(&()), %error, "the watch broke and is tried again");
                None
            }
        };
        futures::future::ready(passed_on)
    })
}

/// Drops the metadata that DNS does not read.
fn trim<T: Resource>(mut object: T) -> T {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.annotations = None;
    meta.owner_references = None;
    object
}

/// Waits longer after each failure; a success starts over.
struct Retry {
    next: Duration,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next;
        self.next = (wait * 2).min(RETRY[1]);
        Some(wait)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        self.next = RETRY[0];
    }
}
