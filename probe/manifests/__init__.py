"""Manifests of Kubernetes, with the line of everything in them: documents, objects, pods, and
which Service sends traffic to which of their ports. Pure: text in, records out.
"""

from probe.manifests.nodes import Marks, NotYaml, Value, documents, repeated
from probe.manifests.objects import Container, Object, Pod, Probe, objects, pods
from probe.manifests.traffic import Route, routes, selected, services

__all__ = [
    "Container",
    "Marks",
    "NotYaml",
    "Object",
    "Pod",
    "Probe",
    "Route",
    "Value",
    "documents",
    "objects",
    "pods",
    "repeated",
    "routes",
    "selected",
    "services",
]
