//! The files of a configMap, secret, downwardAPI or projected volume.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};

use super::atomic::{File, Payload};
use super::{Error, fs_group};
use crate::context::Context;
use crate::make::field;
use crate::pod::view;

/// Permission bits of files that say nothing else.
const DEFAULT_MODE: i32 = 0o644;

/// Files, and when they must be made anew.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub files: Payload,
    pub renew_at: Option<Timestamp>,
}

struct Builder<'a> {
    ctx: &'a Context,
    pod: &'a Pod,
    /// Bits of files without their own.
    mode: i32,
    made: Made,
}

/// Makes the files of `volume`.
pub(super) async fn of(ctx: &Context, pod: &Pod, volume: &Volume) -> Result<Made, Error> {
    let mut b = Builder { ctx, pod, mode: DEFAULT_MODE, made: Made::default() };
    if let Some(s) = &volume.config_map {
        b.mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        b.config_map(&s.name, s.items.as_deref(), s.optional == Some(true)).await?;
    } else if let Some(s) = &volume.secret {
        b.mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        let name = s.secret_name.as_deref().unwrap_or_default();
        b.secret(name, s.items.as_deref(), s.optional == Some(true)).await?;
    } else if let Some(s) = &volume.downward_api {
        b.mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        b.downward(s.items.as_deref())?;
    } else if let Some(s) = &volume.projected {
        b.mode = s.default_mode.unwrap_or(DEFAULT_MODE);
        for source in s.sources.iter().flatten() {
            b.projection(source).await?;
        }
    }
    Ok(b.made)
}

impl Builder<'_> {
    fn put(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) {
        let mut mode = u32::try_from(mode.unwrap_or(self.mode)).unwrap_or(0o644) & 0o777;
        if fs_group(self.pod).is_some() {
            mode |= 0o440;
        }
        self.made.files.insert(path.to_owned(), File { content, mode });
    }

    /// All keys, or those that `items` name.
    fn items(
        &mut self,
        (kind, name): (&'static str, &str),
        data: &BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Error> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, value) in data {
                self.put(key, value.clone(), None);
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.put(&item.path, value.clone(), item.mode),
                None if optional => {}
                None => {
                    let (name, key) = (name.to_owned(), item.key.clone());
                    return Err(Error::NoKey { kind, name, key });
                }
            }
        }
        Ok(())
    }

    async fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Error> {
        let (uid, namespace) = (view::uid(self.pod), view::namespace(self.pod));
        match self.ctx.objects.config_maps.get(uid, namespace, name).await? {
            Some(map) => {
                let text = map.data.iter().flatten();
                let mut data: BTreeMap<_, _> =
                    text.map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect();
                let binary = map.binary_data.iter().flatten();
                data.extend(binary.map(|(k, v)| (k.clone(), v.0.clone())));
                self.items(("configmap", name), &data, items, optional)
            }
            None if optional => Ok(()),
            None => Err(Error::Missing { kind: "configmap", name: name.to_owned() }),
        }
    }

    async fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Error> {
        let (uid, namespace) = (view::uid(self.pod), view::namespace(self.pod));
        match self.ctx.objects.secrets.get(uid, namespace, name).await? {
            Some(secret) => {
                let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
                self.items(("secret", name), &data.collect(), items, optional)
            }
            None if optional => Ok(()),
            None => Err(Error::Missing { kind: "secret", name: name.to_owned() }),
        }
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), Error> {
        let place = self.ctx.place(&[]);
        for item in items.unwrap_or_default() {
            let fail = |source| Error::Field { path: item.path.clone(), source };
            let text = if let Some(f) = &item.field_ref {
                field::value(self.pod, &place, &f.field_path).map_err(fail)?
            } else if let Some(r) = &item.resource_field_ref {
                field::resource(self.pod, &place, "", r).map_err(fail)?
            } else {
                continue;
            };
            self.put(&item.path, text.into_bytes(), item.mode);
        }
        Ok(())
    }

    async fn projection(&mut self, source: &VolumeProjection) -> Result<(), Error> {
        if let Some(s) = &source.config_map {
            self.config_map(&s.name, s.items.as_deref(), s.optional == Some(true)).await?;
        }
        if let Some(s) = &source.secret {
            self.secret(&s.name, s.items.as_deref(), s.optional == Some(true)).await?;
        }
        if let Some(s) = &source.downward_api {
            self.downward(s.items.as_deref())?;
        }
        if let Some(s) = &source.service_account_token {
            let client = &self.ctx.config.client;
            let token = self.ctx.tokens.get(client, self.pod, s).await?;
            let renew = token.renew_at;
            self.made.renew_at = Some(self.made.renew_at.map_or(renew, |old| old.min(renew)));
            self.put(&s.path, token.text.into_bytes(), None);
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err(Error::Unsupported);
        }
        Ok(())
    }
}
