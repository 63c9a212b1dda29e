//! A CA and what it signed, in one folder: for trials and tests.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bowline_apiserver::{Config, Limits, ServiceAccounts, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A CA and what it signed, in one folder.
pub(crate) struct Pki {
    dir: PathBuf,
}

impl Pki {
    pub(crate) fn open(dir: &Path, address: IpAddr) -> anyhow::Result<Self> {
        let pki = Self { dir: dir.to_owned() };
        if dir.join("ca.crt").exists() {
            return Ok(pki);
        }
        let ca_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "bowline-ca");
        let ca = params.self_signed(&ca_key)?;
        pki.write("ca.crt", &ca.pem())?;
        pki.write("ca.key", &ca_key.serialize_pem())?;
        let issuer = Issuer::new(params, ca_key);
        pki.sign(&issuer, "server", "kube-apiserver", None, Some(address))?;
        pki.sign(&issuer, "admin", "kubernetes-admin", Some("system:masters"), None)?;
        pki.sign(
            &issuer,
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
            None,
        )?;
        pki.sign(&issuer, "controllers", "system:kube-controller-manager", None, None)?;
        pki.sign(&issuer, "scheduler", "system:kube-scheduler", None, None)?;
        for node in ["n1", "n2", "n3"] {
            pki.sign(&issuer, node, &format!("system:node:{node}"), Some("system:nodes"), None)?;
        }
        let accounts = KeyPair::generate()?;
        pki.write("sa.key", &accounts.serialize_pem())?;
        pki.write("sa.pub", &accounts.public_key_pem())?;
        Ok(pki)
    }

    fn sign(
        &self,
        issuer: &Issuer<'_, KeyPair>,
        file: &str,
        name: &str,
        organization: Option<&str>,
        address: Option<IpAddr>,
    ) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let names = names.iter().filter(|_| address.is_some()).map(ToString::to_string);
        let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        if let Some(address) = address {
            let addresses = [address, "127.0.0.1".parse()?, "10.96.0.1".parse()?];
            params.subject_alt_names.extend(addresses.map(SanType::IpAddress));
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, issuer)?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        std::fs::write(self.dir.join(name), text).with_context(|| format!("cannot write {name}"))
    }

    pub(crate) fn read(&self, name: &str) -> anyhow::Result<String> {
        std::fs::read_to_string(self.dir.join(name)).with_context(|| format!("cannot read {name}"))
    }

    pub(crate) fn kubeconfig(&self, server: &str) -> anyhow::Result<()> {
        let users = [
            ("kubeconfig", "admin"),
            ("n1.kubeconfig", "n1"),
            ("n2.kubeconfig", "n2"),
            ("n3.kubeconfig", "n3"),
            ("controllers.kubeconfig", "controllers"),
            ("scheduler.kubeconfig", "scheduler"),
        ];
        for (file, user) in users {
            let dir = self.dir.canonicalize()?;
            let dir = dir.display();
            self.write(
                file,
                &format!(
                    "apiVersion: v1\nkind: Config\ncurrent-context: trial\n\
                 clusters:\n- name: trial\n  cluster:\n    server: {server}\n    \
                 certificate-authority: {dir}/ca.crt\n\
                 users:\n- name: {user}\n  user:\n    client-certificate: {dir}/{user}.crt\n    \
                 client-key: {dir}/{user}.key\n\
                 contexts:\n- name: trial\n  context:\n    cluster: trial\n    user: {user}\n"
                ),
            )?;
        }
        Ok(())
    }

    pub(crate) fn config(
        &self,
        listen: SocketAddr,
        advertise_address: IpAddr,
    ) -> anyhow::Result<Config> {
        Ok(Config {
            listen,
            advertise_address,
            data_dir: self.dir.join("db"),
            tls: Tls {
                cert_pem: self.read("server.crt")?,
                key_pem: self.read("server.key")?,
                ca_pem: self.read("ca.crt")?,
                kubelet_client_cert_pem: self.read("kubelet-client.crt")?,
                kubelet_client_key_pem: self.read("kubelet-client.key")?,
            },
            service_accounts: ServiceAccounts {
                issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
                signing_key_pem: self.read("sa.key")?,
                public_keys_pem: vec![self.read("sa.pub")?],
            },
            service_cidrs: vec!["10.96.0.0/16".parse()?],
            node_ports: 30000..=32767,
            cluster_domain: "cluster.local".to_owned(),
            limits: Limits::default(),
        })
    }
}
