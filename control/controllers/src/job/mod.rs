//! Runs pods until enough of them have succeeded, and deletes ended jobs when their time is up.
//!
//! Each pod carries a finalizer until the job has counted it, so that no pod is counted twice or
//! lost, whoever deletes it and whenever this process dies:
//!
//! ```text
//!   ended, with finalizer ──> in status.uncountedTerminatedPods ──> finalizer removed ──> counted
//! ```

mod indexes;
mod judge;

use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::Severity;
use bowline_api::informer::Key;
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use self::judge::{FINALIZER, INDEX, Tally, Verdict};
use crate::context::{Context, Error, Reconciled, is_code, seconds};
use crate::owners::{claim, controller_key};
use crate::pods;
use crate::queue::Queue;
use crate::replicas::{count, shown};

pub(crate) use self::judge::{condition, is_finished};

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.jobs.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let adds = queue.clone();
    context.caches.pods.on_change(move |change| {
        for pod in change.sides() {
            if let Some(key) = controller_key(pod.as_ref(), "Job") {
                adds.add(key);
            }
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(job) = context.caches.jobs.get(&key) else {
        return release_orphans(&context, &key).await.map(|()| None);
    };
    let Some(spec) = job.spec.clone() else { return Ok(None) };
    if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
        return Ok(None);
    }
    let cache = &context.caches.pods;
    let pods = claim(&context.client, cache, job.as_ref(), spec.selector.as_ref()).await?;
    let mut pass = Pass { context: &context, job, spec, pods };
    if is_finished(&pass.job) || pass.job.metadata.deletion_timestamp.is_some() {
        pass.untrack(&pass.pods).await?;
        return pass.expire().await;
    }
    pass.run().await
}

/// The pods of a job that is gone wait for nobody's count.
async fn release_orphans(context: &Context, key: &Key) -> Result<(), Error> {
    for pod in context.caches.pods.in_namespace(&key.namespace) {
        if judge::is_tracked(&pod) && controller_key(pod.as_ref(), "Job").as_ref() == Some(key) {
            untrack(context, &pod).await?;
        }
    }
    Ok(())
}

async fn untrack(context: &Context, pod: &Pod) -> Result<(), Error> {
    let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|one| one != FINALIZER);
    let patch = Patch::Merge(json!({"metadata": {
        "uid": pod.uid(),
        "resourceVersion": pod.resource_version(),
        "finalizers": finalizers,
    }}));
    let api: Api<Pod> =
        Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    match api.patch(&pod.name_any(), &PatchParams::default(), &patch).await {
        Ok(written) => {
            // The last finalizer of a deleted pod: the answer is its end.
            if written.metadata.deletion_timestamp.is_none() {
                context.caches.pods.observe(written);
            }
            Ok(())
        }
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Pass<'c> {
    context: &'c Context,
    job: Arc<Job>,
    spec: JobSpec,
    pods: Vec<Arc<Pod>>,
}

impl Pass<'_> {
    async fn untrack(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let tracked = pods.iter().filter(|pod| judge::is_tracked(pod));
        let results = join_all(tracked.map(|pod| untrack(self.context, pod))).await;
        results.into_iter().collect()
    }

    /// Deletes an ended job whose time to live is over.
    async fn expire(&self) -> Reconciled {
        let Some(ttl) = self.spec.ttl_seconds_after_finished else { return Ok(None) };
        let ended = condition(&self.job, "Complete").or_else(|| condition(&self.job, "Failed"));
        let Some(ended) = ended.and_then(|one| one.last_transition_time.as_ref()) else {
            return Ok(None);
        };
        let age = self.context.now().duration_since(ended.0);
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        let left = ttl.saturating_sub(Duration::try_from(age).unwrap_or_default());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: self.job.uid(), resource_version: None }),
            ..DeleteParams::background()
        };
        match self.api().delete(&self.job.name_any(), &parameters).await {
            Ok(_) => Ok(None),
            Err(error) if is_code(&error, 404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn run(&mut self) -> Reconciled {
        let suspended = self.spec.suspend == Some(true);
        if !suspended && self.status().start_time.is_none() {
            let mut status = self.status();
            status.start_time = Some(seconds(self.context.now()));
            self.write(status).await?;
        }
        let tally = self.count_ended().await?;
        let active = self.active();
        let now = self.context.now();
        match judge::verdict(&self.job, &tally, &active, now) {
            Verdict::Running => {}
            verdict => return self.finish(verdict, &tally, active).await,
        }
        let mut again = judge::until_deadline(&self.job, now);
        if suspended {
            pods::delete_all(self.context, self.job.as_ref(), &active).await?;
        } else if let Some(wait) = self.scale(&tally, active).await? {
            again = Some(again.map_or(wait, |again| again.min(wait)));
        }
        let mut status = self.counted(&tally);
        self.set_suspended(&mut status, suspended);
        self.write(status).await?;
        Ok(again)
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect()
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    /// Counts every ended pod once; see the module's diagram.
    async fn count_ended(&mut self) -> Result<Tally, Error> {
        let mut status = self.status();
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        let good = uncounted.succeeded.get_or_insert_default();
        let bad = uncounted.failed.get_or_insert_default();
        let known = |list: &[String], pod: &Pod| {
            list.iter().any(|uid| pod.metadata.uid.as_ref() == Some(uid))
        };
        let mut new = false;
        for pod in self.pods.iter().filter(|pod| judge::is_tracked(pod)) {
            if known(good, pod) || known(bad, pod) {
                continue;
            }
            if pods::phase(pod) == "Succeeded" {
                good.extend(pod.metadata.uid.clone());
                new = true;
            } else if judge::has_failed(&self.spec, pod) {
                bad.extend(pod.metadata.uid.clone());
                new = true;
            }
        }
        let (good, bad) = (good.clone(), bad.clone());
        let mut tally = judge::tally(&self.job);
        if good.is_empty() && bad.is_empty() {
            return Ok(tally);
        }
        if new {
            self.write(status).await?;
        }
        let counted = |pod: &Pod| known(&good, pod) || known(&bad, pod);
        let ended: Vec<_> = self.pods.iter().filter(|pod| counted(pod)).cloned().collect();
        self.untrack(&ended).await?;
        if judge::is_indexed(&self.spec) {
            let won = ended.iter().filter(|pod| known(&good, pod));
            tally.completed.extend(won.filter_map(|pod| judge::index_of(pod)));
            tally.succeeded = count(tally.completed.len());
        } else {
            tally.succeeded += count(good.len());
        }
        tally.failed += count(bad.len());
        let mut status = self.status();
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
        status.succeeded = shown(tally.succeeded);
        status.failed = shown(tally.failed);
        if judge::is_indexed(&self.spec) {
            status.completed_indexes = Some(indexes::format(&tally.completed));
        }
        self.write(status).await?;
        Ok(tally)
    }

    /// The status with the counters and what is seen now.
    fn counted(&self, tally: &Tally) -> JobStatus {
        let cached =
            self.context.caches.pods.in_namespace(&self.job.namespace().unwrap_or_default());
        let own: Vec<_> = cached
            .into_iter()
            .filter(|pod| crate::owners::controls(self.job.as_ref(), pod.as_ref()))
            .collect();
        let active: Vec<_> = own.iter().filter(|pod| pods::is_active(pod)).collect();
        let leaving = own
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_ended(pod));
        let mut status = self.status();
        status.active = shown(count(active.len()));
        status.ready = Some(count(active.iter().filter(|pod| pods::is_ready(pod)).count()));
        status.terminating = Some(count(leaving.count()));
        status.succeeded = shown(tally.succeeded);
        status.failed = shown(tally.failed);
        status.uncounted_terminated_pods.get_or_insert_default();
        status
    }

    /// Ends what still runs, then says how it ended.
    async fn finish(
        &mut self,
        verdict: Verdict,
        tally: &Tally,
        active: Vec<Arc<Pod>>,
    ) -> Reconciled {
        let (target, last, reason, message) = match verdict {
            Verdict::Failed { reason, message } => ("FailureTarget", "Failed", reason, message),
            _ => {
                let message = "Reached expected number of succeeded pods";
                ("SuccessCriteriaMet", "Complete", "CompletionsReached", message)
            }
        };
        pods::delete_all(self.context, self.job.as_ref(), &active).await?;
        let mut status = self.counted(tally);
        self.add_condition(&mut status, target, reason, message);
        let over = status.active.is_none() && status.terminating.unwrap_or(0) == 0;
        if over {
            self.add_condition(&mut status, last, reason, message);
            if last == "Complete" {
                status.completion_time = Some(seconds(self.context.now()));
            }
        }
        self.write(status).await?;
        if over {
            let (recorder, job) = (&self.context.recorder, self.job.as_ref());
            match last {
                "Complete" => recorder.event(job, Severity::Normal, "Completed", "Job completed"),
                _ => recorder.event(job, Severity::Warning, reason, message),
            }
        }
        Ok(None)
    }

    fn add_condition(&self, status: &mut JobStatus, kind: &str, reason: &str, message: &str) {
        let conditions = status.conditions.get_or_insert_default();
        if conditions.iter().any(|one| one.type_ == kind && one.status == "True") {
            return;
        }
        conditions.retain(|one| one.type_ != kind);
        let now = Some(seconds(self.context.now()));
        conditions.push(JobCondition {
            type_: kind.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: now.clone(),
            last_transition_time: now,
        });
    }

    fn set_suspended(&self, status: &mut JobStatus, suspended: bool) {
        if suspended {
            self.add_condition(status, "Suspended", "JobSuspended", "Job suspended");
            status.start_time = None;
            return;
        }
        for one in status.conditions.iter_mut().flatten() {
            if one.type_ == "Suspended" && one.status == "True" {
                one.status = "False".to_owned();
                one.reason = Some("JobResumed".to_owned());
                one.message = Some("Job resumed".to_owned());
                one.last_transition_time = Some(seconds(self.context.now()));
            }
        }
    }

    /// Starts missing pods and ends surplus ones; says when to look again while it holds back.
    async fn scale(
        &self,
        tally: &Tally,
        mut active: Vec<Arc<Pod>>,
    ) -> Result<Option<Duration>, Error> {
        let wanted = judge::wanted(&self.spec, tally, active.len());
        if active.len() > wanted {
            pods::rank_for_deletion(&mut active);
            let surplus = active.len() - wanted;
            pods::delete_all(self.context, self.job.as_ref(), &active[..surplus]).await?;
            return Ok(None);
        }
        // A job that waits for the end of its pods counts those that are ending.
        let waits = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let ending = self
            .pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_ended(pod));
        let ending = if waits { ending.count() } else { 0 };
        let missing = wanted.saturating_sub(active.len() + ending).min(pods::BURST);
        if missing == 0 {
            return Ok(None);
        }
        let failures = self.pods.iter().filter(|pod| judge::has_failed(&self.spec, pod));
        let last = failures.filter_map(|pod| judge::ended_at(pod)).max();
        let left = judge::backoff_left(tally.failed, last, self.context.now());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let new: Vec<Pod> = if judge::is_indexed(&self.spec) {
            let free = judge::free_indexes(&self.spec, tally, &active, missing);
            free.into_iter().map(|index| self.indexed_pod(index)).collect()
        } else {
            (0..missing).map(|_| self.pod()).collect()
        };
        pods::create_all(self.context, self.job.as_ref(), new).await?;
        Ok(None)
    }

    fn pod(&self) -> Pod {
        let mut pod = pods::from_template(&self.spec.template, self.job.as_ref());
        pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
        pod
    }

    fn indexed_pod(&self, index: i32) -> Pod {
        let mut pod = self.pod();
        let name = format!("{}-{index}", self.job.name_any());
        pod.metadata.generate_name = Some(format!("{name}-"));
        pod.annotations_mut().insert(INDEX.to_owned(), index.to_string());
        pod.labels_mut().insert(INDEX.to_owned(), index.to_string());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname.get_or_insert(name);
        let from = EnvVar {
            name: "JOB_COMPLETION_INDEX".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: format!("metadata.labels['{INDEX}']"),
                }),
                ..Default::default()
            }),
        };
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|one| one.name == from.name) {
                env.push(from.clone());
            }
        }
        pod
    }

    fn api(&self) -> Api<Job> {
        let namespace = self.job.namespace().unwrap_or_default();
        Api::namespaced(self.context.client.clone(), &namespace)
    }

    async fn write(&mut self, status: JobStatus) -> Result<(), Error> {
        if self.job.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = Job::clone(&self.job);
        changed.status = Some(status);
        let name = self.job.name_any();
        let written = self.api().replace_status(&name, &PostParams::default(), &changed).await?;
        self.context.caches.jobs.observe(written.clone());
        self.job = Arc::new(written);
        Ok(())
    }
}
