"""Events, quarantine and the pod's identity: what the cluster is told, and what it is asked for."""

from probe.kubernetes.client import Account as Account
from probe.kubernetes.collector import ClusterCollector as ClusterCollector
from probe.kubernetes.identity import Identity as Identity
from probe.kubernetes.identity import identify as identify
from probe.kubernetes.quarantine import Terms as Terms
from probe.kubernetes.reporter import Activity as Activity
from probe.kubernetes.reporter import KubernetesReporter as KubernetesReporter
