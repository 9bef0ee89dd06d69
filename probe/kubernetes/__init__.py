"""What the cluster is told and asked for: Events, a condition, quarantine, the floor."""

from probe.kubernetes.client import Account as Account
from probe.kubernetes.collector import ClusterCollector as ClusterCollector
from probe.kubernetes.departure import FloorTerms as FloorTerms
from probe.kubernetes.departure import Unknown as Unknown
from probe.kubernetes.identity import Identity as Identity
from probe.kubernetes.identity import identify as identify
from probe.kubernetes.quarantine import Terms as Terms
from probe.kubernetes.reporter import Activity as Activity
from probe.kubernetes.reporter import KubernetesReporter as KubernetesReporter
