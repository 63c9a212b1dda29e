//! The apiserver as the source: one watch for each kind.

use std::fmt::Debug;

use bowline_api::{chain::chain, retry::Retry};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::Source;
use crate::{
    model::{Change, Event},
    objects::{EndpointSlice, Service},
};

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
    let mut broken = false;
    events.backoff(Retry::default()).filter_map(move |event| {
        if matches!(event, Ok(watcher::Event::InitDone | watcher::Event::Apply(_))) && broken {
            broken = false;
            info!(kind = %T::kind(&()), "the watch goes on");
        }
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
                // Told once, not at every try.
                if !std::mem::replace(&mut broken, true) {
                    let error = chain(&error);
                    warn!(kind = %T::kind(&()), error, "the watch broke and is tried again");
                }
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
