//! Makes jobs at the times that a schedule says.

mod schedule;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bowline_api::events::{Severity, reference};
use bowline_api::informer::Key;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};

use self::schedule::Schedule;
use crate::context::{Context, Error, Reconciled, is_code, seconds};
use crate::job::{condition, is_finished};
use crate::owners::{controller_key, controller_reference, controls};
use crate::queue::Queue;

/// More missed times than this are not looked through: the last one counts, and a warning is given.
const MOST_MISSED: usize = 100;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub(crate) fn watch(context: &Arc<Context>) -> Queue<Key> {
    let queue = Queue::new();
    let adds = queue.clone();
    context.caches.cron_jobs.on_change(move |change| adds.add(Key::of(change.object().as_ref())));
    let adds = queue.clone();
    context.caches.jobs.on_change(move |change| {
        if let Some(key) = controller_key(change.object().as_ref(), "CronJob") {
            adds.add(key);
        }
    });
    queue
}

pub(crate) async fn reconcile(context: Arc<Context>, key: Key) -> Reconciled {
    let Some(cron) = context.caches.cron_jobs.get(&key) else { return Ok(None) };
    let Some(spec) = cron.spec.clone() else { return Ok(None) };
    if cron.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let mut jobs = context.caches.jobs.in_namespace(&key.namespace);
    jobs.retain(|job| controls(cron.as_ref(), job.as_ref()));
    let mut pass = Pass { context: &context, cron, spec, jobs };
    pass.clean_up().await?;
    pass.run().await
}

struct Pass<'c> {
    context: &'c Context,
    cron: Arc<CronJob>,
    spec: CronJobSpec,
    jobs: Vec<Arc<Job>>,
}

impl Pass<'_> {
    /// Deletes the oldest ended jobs beyond the history limits.
    async fn clean_up(&self) -> Result<(), Error> {
        let limits = [
            ("Complete", self.spec.successful_jobs_history_limit.unwrap_or(3)),
            ("Failed", self.spec.failed_jobs_history_limit.unwrap_or(1)),
        ];
        for (kind, limit) in limits {
            let mut ended: Vec<_> =
                self.jobs.iter().filter(|job| condition(job, kind).is_some()).collect();
            ended.sort_by_key(|job| Reverse(job.metadata.creation_timestamp.clone()));
            for job in ended.into_iter().skip(usize::try_from(limit).unwrap_or(0)) {
                self.delete(job).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, job: &Job) -> Result<(), Error> {
        let api: Api<Job> =
            Api::namespaced(self.context.client.clone(), &job.namespace().unwrap_or_default());
        match api.delete(&job.name_any(), &DeleteParams::background()).await {
            Ok(_) => {}
            Err(error) if is_code(&error, 404) => {}
            Err(error) => return Err(error.into()),
        }
        let text = format!("Deleted job {}", job.name_any());
        let (recorder, cron) = (&self.context.recorder, self.cron.as_ref());
        recorder.event(cron, Severity::Normal, "SuccessfulDelete", text);
        Ok(())
    }

    async fn run(&mut self) -> Reconciled {
        let mut status = self.cron.status.clone().unwrap_or_default();
        let active: Vec<_> = self.jobs.iter().filter(|job| !is_finished(job)).cloned().collect();
        let done = self.jobs.iter().filter_map(|job| job.status.as_ref()?.completion_time.clone());
        status.last_successful_time = done.chain(status.last_successful_time.take()).max();
        self.set_active(&mut status, &active);
        self.write(status).await?;
        if self.spec.suspend == Some(true) {
            return Ok(None);
        }
        let schedule = match Schedule::parse(&self.spec.schedule, self.spec.time_zone.as_deref()) {
            Ok(schedule) => schedule,
            Err(error) => {
                let text = format!("unparseable schedule {:?}: {error}", self.spec.schedule);
                let (recorder, cron) = (&self.context.recorder, self.cron.as_ref());
                recorder.event(cron, Severity::Warning, "UnparseableSchedule", text);
                return Ok(None);
            }
        };
        let now = self.context.now();
        if let Some(due) = self.due(&schedule, now) {
            self.start(due, &active).await?;
        }
        let next = schedule.next(now);
        Ok(next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default()))
    }

    /// The last time that has passed and was not served, unless it is too long ago.
    fn due(&self, schedule: &Schedule, now: Timestamp) -> Option<Timestamp> {
        let status = self.cron.status.as_ref();
        let last = status.and_then(|status| status.last_schedule_time.as_ref());
        let created = self.cron.metadata.creation_timestamp.as_ref();
        let mut from = last.or(created).map_or(now, |time| time.0);
        let deadline = self.spec.starting_deadline_seconds;
        if let Some(earliest) =
            deadline.and_then(|limit| Timestamp::from_second(now.as_second() - limit).ok())
        {
            from = from.max(earliest);
        }
        let mut due = None;
        for _ in 0..MOST_MISSED {
            match schedule.next(from).filter(|at| *at <= now) {
                Some(at) => (due, from) = (Some(at), at),
                None => return due,
            }
        }
        let text = "too many missed start times; set .spec.startingDeadlineSeconds or check clocks";
        let (recorder, cron) = (&self.context.recorder, self.cron.as_ref());
        recorder.event(cron, Severity::Warning, "TooManyMissedTimes", text);
        due
    }

    async fn start(&mut self, at: Timestamp, active: &[Arc<Job>]) -> Result<(), Error> {
        let (recorder, cron) = (&self.context.recorder, Arc::clone(&self.cron));
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency \
                            policy is Forbid";
                recorder.event(cron.as_ref(), Severity::Normal, "JobAlreadyActive", text);
                return Ok(());
            }
            Some("Replace") => {
                for job in active {
                    self.delete(job).await?;
                }
            }
            _ => {}
        }
        let job = self.job(at);
        let api: Api<Job> =
            Api::namespaced(self.context.client.clone(), &cron.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), &job).await {
            Ok(created) => {
                let text = format!("Created job {}", created.name_any());
                recorder.event(cron.as_ref(), Severity::Normal, "SuccessfulCreate", text);
                self.context.caches.jobs.observe(created.clone());
                self.jobs.push(Arc::new(created));
            }
            // Its name holds the time: made by a pass whose answer was lost.
            Err(error) if is_code(&error, 409) => {}
            Err(error) => return Err(error.into()),
        }
        let mut status = self.cron.status.clone().unwrap_or_default();
        status.last_schedule_time = Some(seconds(at));
        let active: Vec<_> = self.jobs.iter().filter(|job| !is_finished(job)).cloned().collect();
        self.set_active(&mut status, &active);
        self.write(status).await
    }

    /// A job whose name says for which minute it is, so that no time is served twice.
    fn job(&self, at: Timestamp) -> Job {
        let template = self.spec.job_template.clone();
        let meta = template.metadata.unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.insert(SCHEDULED_AT.to_owned(), seconds(at).0.to_string());
        Job {
            metadata: ObjectMeta {
                name: Some(format!("{}-{}", self.cron.name_any(), at.as_second() / 60)),
                namespace: self.cron.namespace(),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(self.cron.as_ref())]),
                ..Default::default()
            },
            spec: template.spec,
            status: None,
        }
    }

    fn set_active(&self, status: &mut CronJobStatus, active: &[Arc<Job>]) {
        let mut list: Vec<_> = active.iter().map(|job| reference(job.as_ref())).collect();
        list.iter_mut().for_each(|one| one.resource_version = None);
        list.sort_by(|a, b| a.name.cmp(&b.name));
        status.active = Some(list).filter(|list| !list.is_empty());
    }

    async fn write(&mut self, status: CronJobStatus) -> Result<(), Error> {
        if self.cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let mut changed = CronJob::clone(&self.cron);
        changed.status = Some(status);
        let namespace = self.cron.namespace().unwrap_or_default();
        let api: Api<CronJob> = Api::namespaced(self.context.client.clone(), &namespace);
        let name = self.cron.name_any();
        let written = api.replace_status(&name, &PostParams::default(), &changed).await?;
        self.context.caches.cron_jobs.observe(written.clone());
        self.cron = Arc::new(written);
        Ok(())
    }
}
