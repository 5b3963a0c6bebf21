//! EndpointSlices and Services, as far as they are of use here, and what they say.
//!
//! Only these fields are kept: a cluster has many objects, and most of each is of no use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use skreap_core::{Backend, Protocol};

use crate::state::{Action, Conditions, Member, Name, Service, Slice};

/// What is done when a backend is gone: an [`Action`].
pub(super) const ANNOTATION: &str = "skreap.io/on-backend-gone";

/// Addresses of nodes, at which clients find the node ports of Services.
pub type Nodes = [IpAddr];

/// Names and versions.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    name: String,
    namespace: String,
    pub(super) resource_version: String,
    labels: Option<Labels>,
    pub(super) annotations: Option<Annotations>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Labels {
    #[serde(rename = "kubernetes.io/service-name")]
    service: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Annotations {
    #[serde(rename = "skreap.io/on-backend-gone")]
    action: Option<String>,
    /// On a bookmark: the list at the beginning of a watch is complete.
    #[serde(rename = "k8s.io/initial-events-end")]
    pub(super) initial_events_end: Option<String>,
}

impl Metadata {
    pub(super) fn key(&self) -> Name {
        format!("{}/{}", self.namespace, self.name).into()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice {
    pub(super) metadata: Metadata,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    uid: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
    node_port: Option<u16>,
}

impl Port {
    fn name(&self) -> Name {
        self.name.as_deref().unwrap_or_default().into()
    }

    /// `None` for SCTP, and what else may come.
    fn protocol(&self) -> Option<Protocol> {
        match self.protocol.as_deref() {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some(_) => None,
        }
    }
}

/// A backend of these; `None` for what no event can be about.
fn backend(protocol: Protocol, addr: IpAddr, port: u16) -> Option<Backend> {
    Backend::new(protocol, addr, port).ok().filter(|backend| !backend.is_link_local())
}

impl EndpointSlice {
    /// What it says, and how many of its endpoints, for each of its ports, stand for no backend.
    pub(super) fn read(self) -> (Slice, u64) {
        let namespace = &self.metadata.namespace;
        let service = self.metadata.labels.and_then(|labels| labels.service).filter(|name| !name.is_empty());
        let service: Option<Name> = service.map(|name| format!("{namespace}/{name}").into());
        let (mut members, mut left_out) = (Vec::new(), 0);
        let named = self.address_type == "FQDN";
        for port in self.ports.iter().flatten() {
            let name = port.name();
            for endpoint in self.endpoints.iter().flatten() {
                for address in &endpoint.addresses {
                    let member = port.protocol().zip(port.port).filter(|_| !named);
                    let addr = address.parse::<IpAddr>().ok();
                    let Some(backend) = member.zip(addr).and_then(|((p, n), addr)| backend(p, addr, n))
                    else {
                        left_out += 1;
                        continue;
                    };
                    members.push(Member {
                        backend,
                        port: name.clone(),
                        conditions: endpoint.conditions.unwrap_or_default(),
                        instance: endpoint.target_ref.as_ref().and_then(|r| r.uid.as_deref()).map(Name::from),
                    });
                }
            }
        }
        (Slice { service, members }, left_out)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceObject {
    pub(super) metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
}

impl ServiceObject {
    /// What it says, and an annotation that is no action.
    pub(super) fn read(self, nodes: &Nodes) -> (Service, Option<String>) {
        let spec = self.spec;
        // Either field may be missing: the list is younger than the single address.
        let mut addresses: Vec<String> = spec.cluster_ips.unwrap_or_default();
        addresses.extend(spec.cluster_ip);
        addresses.extend(spec.external_ips.unwrap_or_default());
        addresses
            .extend(self.status.load_balancer.ingress.unwrap_or_default().into_iter().filter_map(|i| i.ip));
        // A Service without a cluster address says "None", and one that is a name in the DNS nothing.
        let mut ips: Vec<IpAddr> = Vec::new();
        for ip in addresses.iter().filter_map(|text| text.parse().ok()) {
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        let mut frontends: BTreeMap<Name, Vec<Backend>> = BTreeMap::new();
        for port in spec.ports.iter().flatten() {
            let (Some(protocol), Some(number)) = (port.protocol(), port.port) else { continue };
            let of_port = frontends.entry(port.name()).or_default();
            of_port.extend(ips.iter().filter_map(|ip| backend(protocol, *ip, number)));
            let node_port = port.node_port.unwrap_or(0);
            of_port.extend(nodes.iter().filter_map(|ip| backend(protocol, *ip, node_port)));
        }
        frontends.retain(|_, of_port| !of_port.is_empty());
        let annotation = self.metadata.annotations.and_then(|annotations| annotations.action);
        let action: Option<Result<Action, _>> = annotation.as_deref().map(str::parse);
        match action {
            None => (Service { frontends, ..Service::default() }, None),
            Some(Ok(action)) => (Service { frontends, action: Some(action), ..Service::default() }, None),
            // It may have meant to spare its clients.
            Some(Err(_)) => {
                (Service { frontends, action: Some(Action::None), ..Service::default() }, annotation)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

    use serde_json::{Value, json};

    use super::*;

    fn slice(value: Value) -> (Option<String>, Vec<String>, u64) {
        let object: EndpointSlice = serde_json::from_value(value).unwrap();
        let (slice, left_out) = object.read();
        let c = |said: Option<bool>| said.map_or('-', |said| if said { 'T' } else { 'F' });
        let members = slice.members.iter().map(|m| {
            let Conditions { ready, serving, terminating } = m.conditions;
            let conditions: String = [ready, serving, terminating].into_iter().map(c).collect();
            format!("{} {:?} {conditions} {}", m.backend, &*m.port, m.instance.as_deref().unwrap_or("-"))
        });
        (slice.service.as_deref().map(str::to_owned), members.collect(), left_out)
    }

    #[test]
    fn slices_as_servers_store_them() {
        // kube-apiserver 1.20.2: v1beta1, zone hints as topology, no conditions beside ready.
        let beta = slice(json!({
            "metadata": {"name": "dns-x", "namespace": "kube-system", "resourceVersion": "7",
                "labels": {"kubernetes.io/service-name": "dns", "other": "x"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "topology": {"kubernetes.io/hostname": "n"},
                    "targetRef": {"kind": "Pod", "name": "p", "uid": "u1", "resourceVersion": "6"}},
                {"addresses": ["10.1.0.2"], "conditions": {}},
            ],
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}],
        }));
        assert_eq!(beta.0.as_deref(), Some("kube-system/dns"));
        assert_eq!(
            beta.1,
            [
                "udp://10.1.0.1:53 \"dns\" T-- u1",
                "udp://10.1.0.2:53 \"dns\" --- -",
                "tcp://10.1.0.1:53 \"dns-tcp\" T-- u1",
                "tcp://10.1.0.2:53 \"dns-tcp\" --- -",
            ]
        );
        let v1 = slice(json!({
            "metadata": {"name": "s", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv6",
            "endpoints": [{"addresses": ["fd00::1"], "zone": "a", "nodeName": "n", "hints": {"forZones": [{"name": "a"}]},
                "conditions": {"ready": false, "serving": true, "terminating": true}}],
            "ports": [{"name": "", "port": 80}],
        }));
        assert_eq!(v1.1, ["tcp://[fd00::1]:80 \"\" FTT -"]);
    }

    #[test]
    fn slices_without_backends() {
        let nothing = (None, Vec::<String>::new(), 0);
        assert_eq!(
            slice(json!({"metadata": {}, "addressType": "IPv4", "endpoints": null, "ports": null})),
            nothing
        );
        let one = json!([{"addresses": ["10.1.0.1"], "conditions": null}]);
        // A headless Service without ports, as a placeholder has.
        assert_eq!(
            slice(json!({"metadata": {}, "addressType": "IPv4", "endpoints": one, "ports": null})),
            nothing
        );
        let left = |kind: &str, address: &str, port: Value| {
            let endpoints = json!([{"addresses": [address]}]);
            let object =
                json!({"metadata": {}, "addressType": kind, "endpoints": endpoints, "ports": [port]});
            let (_, members, left_out) = slice(object);
            assert_eq!(members, Vec::<String>::new());
            left_out
        };
        let dns = json!({"protocol": "UDP", "port": 53});
        assert_eq!(left("FQDN", "db.example", dns.clone()), 1);
        assert_eq!(left("FQDN", "10.1.0.1", dns.clone()), 1);
        assert_eq!(left("IPv4", "10.1.0.1", json!({"protocol": "SCTP", "port": 53})), 1);
        assert_eq!(left("IPv4", "10.1.0.1", json!({"protocol": "UDP", "port": null})), 1, "every port");
        assert_eq!(left("IPv4", "10.1.0.1", json!({"protocol": "UDP", "port": 0})), 1);
        assert_eq!(left("IPv6", "fe80::1", dns.clone()), 1);
        assert_eq!(left("IPv4", "0.0.0.0", dns), 1);
    }

    fn service(value: Value, nodes: &Nodes) -> (Vec<String>, Option<Action>, Option<String>) {
        let object: ServiceObject = serde_json::from_value(value).unwrap();
        let (service, wrong) = object.read(nodes);
        assert!(!service.only_its_clients);
        let text = |list: &[Backend]| list.iter().map(Backend::to_string).collect::<Vec<_>>().join("+");
        let frontends = service.frontends.iter().map(|(port, list)| format!("{port}={}", text(list)));
        (frontends.collect(), service.action, wrong)
    }

    #[test]
    fn services_and_their_frontends() {
        let object = json!({
            "metadata": {"name": "dns", "namespace": "d", "annotations": {"skreap.io/on-backend-gone": "move", "x": "y"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:96::a"],
                "externalIPs": ["192.0.2.7"],
                "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053, "targetPort": "dns"},
                    {"name": "sctp", "protocol": "SCTP", "port": 53}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "lb.example"}]}},
        });
        let nodes = ["172.16.0.1".parse().unwrap()];
        let (frontends, action, wrong) = service(object, &nodes);
        assert_eq!(
            frontends,
            [
                "dns=udp://10.96.0.10:53+udp://[fd00:96::a]:53+udp://192.0.2.7:53+udp://198.51.100.1:53+udp://172.16.0.1:30053"
            ]
        );
        assert_eq!((action, wrong), (Some(Action::Move), None));
        // Before the list of addresses, and with one port that has no name.
        let object = json!({"metadata": {}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}});
        assert_eq!(service(object, &[]).0, ["=tcp://10.96.0.1:443"]);
    }

    #[test]
    fn services_without_frontends() {
        let headless = json!({"metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"],
            "ports": [{"name": "dns", "port": 53}]}});
        assert_eq!(service(headless, &[]), (Vec::new(), None, None));
        let external = json!({"metadata": {}, "spec": {"type": "ExternalName", "externalName": "x.example"}});
        assert_eq!(service(external, &[]), (Vec::new(), None, None));
    }

    #[test]
    fn an_annotation_that_cannot_be_read_spares_everybody() {
        assert_eq!(ANNOTATION, "skreap.io/on-backend-gone");
        let object =
            json!({"metadata": {"annotations": {"skreap.io/on-backend-gone": "Destroy"}}, "spec": {}});
        assert_eq!(service(object, &[]), (Vec::new(), Some(Action::None), Some("Destroy".to_owned())));
    }
}
