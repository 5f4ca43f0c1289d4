"""Manifests against the schemas of Kubernetes and JobSet."""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.34"
SCHEMA = json.loads((Path(__file__).parent / "jobset_schema.json").read_text())


def check(document: dict) -> None:
    """Raises unless a document is one that the API takes: no field that it does not know, none of another type."""
    if document["kind"] != "JobSet":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, SCHEMA)
    for job in document["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


def crd(path: str) -> dict:
    """The JSON schema of a published CustomResourceDefinition of JobSet."""
    (whole,) = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
    return whole["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
