//! The apiserver as the source: one watch for each kind.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

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
use tracing::{info, warn};

use super::Source;
use crate::{
    model::{Change, Event},
    objects::{EndpointSlice, Service},
};

/// A broken watch is tried again after the first of these, and then ever later up to the second.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// After so long without a failure, the first of them is due again.
const CALM: Duration = Duration::from_secs(10);

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
                    warn!(kind = %T::kind(&()), %error, "the watch broke and is tried again");
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

/// Waits longer after each failure, and starts over after a calm. (The watcher calls `reset` at the
/// beginning of every try already, whatever becomes of it.)
#[derive(Default)]
struct Retry {
    last: Option<(Instant, Duration)>,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let wait = match self.last {
            Some((at, wait)) if now.duration_since(at) < CALM => (wait * 2).min(RETRY[1]),
            _ => RETRY[0],
        };
        self.last = Some((now, wait));
        Some(wait)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_though_each_try_begins_well() {
        let mut retry = Retry::default();
        let mut pauses = vec![];
        for _ in 0..8 {
            retry.reset();
            pauses.extend(retry.next());
        }
        assert_eq!(pauses[..3], [RETRY[0], RETRY[0] * 2, RETRY[0] * 4]);
        assert_eq!(pauses[7], RETRY[1]);
        retry.last = Some((Instant::now() - CALM, RETRY[1]));
        assert_eq!(retry.next(), Some(RETRY[0]), "after a calm they start over");
    }
}
