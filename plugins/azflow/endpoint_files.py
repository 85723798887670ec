"""An endpoint's folder below include/ml/endpoints: ``endpoint.yml`` and ``deployment.yml``, Azure ML's own CLI v2 YAML
as Jinja templates, and the name that stands for what they deploy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from azflow.errors import SpecError
from azflow.remote import Alphabet
from azflow.specs import INCLUDE

if TYPE_CHECKING:
    import jinja2

ENDPOINTS = INCLUDE / "ml" / "endpoints"
#: https://learn.microsoft.com/azure/machine-learning/how-to-manage-quotas : 3 to 32 letters, digits, -
DEPLOYMENT_NAME = Alphabet("A-Za-z0-9-", 32)


@dataclass(frozen=True)
class EndpointFiles:
    """The rendered YAML of an endpoint's folder.

    :param name: the endpoint's, from endpoint.yml.
    :param deployment: the deployment's name: model version and a digest of everything that is deployed.
    :param digest: of code, YAML and model.
    """

    folder: Path
    name: str
    endpoint: str
    deployment_yaml: str
    deployment: str
    digest: str


def render_files(
    folder: str, environment: jinja2.Environment, context: Mapping[str, Any], registered_model: str
) -> EndpointFiles:
    """Render endpoint.yml and deployment.yml of include/ml/endpoints/`folder`.

    They see what every template sees, and ``registered_model``, ``endpoint`` and ``deployment`` (the names to use).

    :raises SpecError: a file is missing or wrong; names it and the key.
    """
    root = _endpoint_folder(folder)
    endpoint = render_endpoint(folder, environment, context)
    name = str(mapping_of(endpoint, folder, "endpoint.yml")["name"])
    # The SDK takes ids in YAML with this prefix only.
    reference = f"azureml:{registered_model}" if registered_model.startswith("/") else registered_model
    values = {**context, "registered_model": reference, "endpoint": name}
    # The name stands for the content, so it is found with a name of fixed length in its place.
    draft = _render(root, "deployment.yml", environment, {**values, "deployment": "deployment"})
    content = [registered_model, draft, *_files_digest(root)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    deployment = f"v{_version(registered_model)}-{digest[:8]}"[: DEPLOYMENT_NAME.length]
    text = _render(root, "deployment.yml", environment, {**values, "deployment": deployment})
    written = mapping_of(text, folder, "deployment.yml")
    for key, wanted in (("name", deployment), ("endpoint_name", name)):
        if written.get(key) != wanted:
            template = "deployment" if key == "name" else "endpoint"
            raise SpecError(_shown(folder, "deployment.yml"), key, f"must be '{{{{ {template} }}}}'")
    return EndpointFiles(root, name, endpoint, text, deployment, digest[:32])


def render_endpoint(folder: str, environment: jinja2.Environment, context: Mapping[str, Any]) -> str:
    """endpoint.yml of include/ml/endpoints/`folder`, rendered; it has a name."""
    text = _render(_endpoint_folder(folder), "endpoint.yml", environment, context)
    if not isinstance(mapping_of(text, folder, "endpoint.yml").get("name"), str):
        raise SpecError(_shown(folder, "endpoint.yml"), "name", "is missing")
    return text


def _endpoint_folder(folder: str) -> Path:
    pure = PurePosixPath(folder)
    if pure.is_absolute() or ".." in pure.parts or not (ENDPOINTS / pure).is_dir():
        raise SpecError(_shown(folder, ""), "", "is no folder below include/ml/endpoints")
    return ENDPOINTS / pure


def _render(root: Path, file: str, environment: jinja2.Environment, context: Mapping[str, Any]) -> str:
    import jinja2

    try:
        source = (root / file).read_text(encoding="utf-8")
        return environment.overlay(undefined=jinja2.StrictUndefined).from_string(source).render(context)
    except OSError as problem:
        raise SpecError(_shown(root.name, file), "", f"can't be read: {problem.strerror}") from None
    except jinja2.TemplateError as problem:
        raise SpecError(_shown(root.name, file), "", f"isn't a good template: {problem}") from None


def mapping_of(text: str, folder: str, file: str) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise SpecError(_shown(folder, file), "", f"isn't YAML: {problem}") from None
    if not isinstance(found, dict):
        raise SpecError(_shown(folder, file), "", "must be a mapping")
    return found


def _files_digest(root: Path) -> list[str]:
    """Digests of the files that a deployment takes along: its code, and the environments beside the endpoints."""
    environments = (root.parent.parent / "environments").glob("*")
    files = sorted(path for path in (*(root / "code").rglob("*"), *environments) if path.is_file())
    kept = [path for path in files if "__pycache__" not in path.parts]
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in kept]


def _shown(folder: str, file: str) -> str:
    return f"include/ml/endpoints/{folder}/{file}".rstrip("/")


def _version(registered_model: str) -> str:
    """The version in a model's id: ``.../versions/3`` or ``azureml:name:3``; "0" where there is none."""
    found = re.search(r"(?:/versions/|:)([\w.-]+)$", registered_model)
    return re.sub(r"[^A-Za-z0-9-]", "-", found[1])[:12] if found else "0"
