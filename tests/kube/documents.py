"""What the programs of the test cluster are told: configuration files, flags, certificates."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

CNI = "/usr/lib/cni"  # where Debian puts the plugins
GROUP = "hydra-kube"  # the control group of all pods of the test cluster


def of_node(name: str, folder: Path, pods: str, kubeconfig: Path, all_pods: str) -> dict[str, str]:
    """The files of one node by their name below its folder."""
    return {
        "containerd.toml": _containerd(folder),
        "cni/10-hydra.conflist": json.dumps(_network(name, pods), indent=2),
        "kubelet.yaml": json.dumps(_kubelet(name), indent=2),
        "kube-proxy.yaml": json.dumps(_kube_proxy(name, kubeconfig, all_pods), indent=2),
    }


def _containerd(folder: Path) -> str:
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "/run/containerd/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "hydra.test/pause:1"
# a machine that may not lower oom_score_adj lets every sandbox die without this
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI}"
conf_dir = "{folder}/cni"
"""


def _network(name: str, pods: str) -> dict[str, Any]:
    return {
        "cniVersion": "0.4.0",
        "name": name,
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/var/lib/cni",
                    "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{GROUP}/{name}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        # the defaults are for a fleet; a test has two nodes
        "nodeStatusUpdateFrequency": "2s",
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "maxPods": 60,
    }


def _kube_proxy(name: str, kubeconfig: Path, all_pods: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": name,
        "clusterCIDR": all_pods,
        "conntrack": {"maxPerCore": 0, "min": 0},  # the kernel's limit belongs to the whole machine
    }


def api_server(pki: Path, address: str, services: str, etcd: str, token: str) -> list[str]:
    """The flags of kube-apiserver; `token` is that of an administrator."""
    tokens = pki / "tokens.csv"
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    return [
        f"--etcd-servers={etcd}",
        f"--advertise-address={address}",
        f"--bind-address={address}",
        f"--service-cluster-ip-range={services}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        f"--token-auth-file={tokens}",
        f"--tls-cert-file={pki}/api.crt",
        f"--tls-private-key-file={pki}/api.key",
        f"--service-account-key-file={pki}/accounts.pub",
        f"--service-account-signing-key-file={pki}/accounts.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--client-ca-file={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--endpoint-reconciler-type=lease",
    ]


def controllers(kubeconfig: Path, pki: Path, pods: str) -> dict[str, list[str]]:
    """The other two programs of the control plane and their flags."""
    common = [f"--kubeconfig={kubeconfig}", "--leader-elect=false"]
    return {
        "kube-controller-manager": [
            *common,
            f"--root-ca-file={pki}/ca.crt",
            f"--service-account-private-key-file={pki}/accounts.key",
            "--use-service-account-credentials=true",
            f"--cluster-cidr={pods}",
            # the defaults are 50 s and 5 s: how long a dead kubelet goes unnoticed; longer than a restart of
            # the API server takes here, which must not look like one
            "--node-monitor-grace-period=16s",
            "--node-monitor-period=1s",
        ],
        "kube-scheduler": common,
    }


def kubeconfig(server: str, pki: Path, token: str) -> str:
    """A kubeconfig for one user."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority": str(pki / "ca.crt")},
            }
        ],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    return json.dumps(content, indent=2)


def certificates(pki: Path, address: str) -> None:
    """A certificate authority, the API server's certificate, the keys that sign service account tokens."""
    pki.mkdir(parents=True)
    names = f"subjectAltName=IP:{address},IP:10.79.0.1,DNS:kubernetes,DNS:kubernetes.default.svc"
    (pki / "names").write_text(names)
    new = "req -new -newkey rsa:2048 -nodes"
    for words in (
        f"{new} -x509 -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt",
        f"{new} -subj /CN=kube-apiserver -keyout api.key -out api.csr",
        "x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out api.crt",
        "genrsa -out accounts.key 2048",
        "rsa -in accounts.key -pubout -out accounts.pub",
    ):
        subprocess.run(["openssl", *words.split()], cwd=pki, check=True, capture_output=True)
