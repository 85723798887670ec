"""Distributed command jobs: which processes a job is, and how each finds the others.

https://learn.microsoft.com/azure/machine-learning/how-to-train-distributed-gpu names the variables. Nodes are process
groups of this machine: `instance_count` times `process_count_per_instance` processes, all on loopback.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localazure.core.errors import BadRequest, NotImplementedOperation
from localazure.executors.job import LOG_NAME

_KINDS = ("PyTorch", "Mpi", "TensorFlow")
_KNOWN = (*_KINDS, "Ray")
_MAX_PROCESSES = 32
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Worker:
    """One process: its own environment variables, its log below the job's folder, and whether the job's end waits for
    its end (a parameter server has none).
    """

    label: str
    environment: dict[str, str]
    log: str
    awaited: bool = True


def instances(properties: Mapping[str, Any]) -> int:
    """Nodes the job asks for."""
    count = (properties.get("resources") or {}).get("instanceCount") or 1
    try:
        return int(count)
    except (TypeError, ValueError):
        message = f"resources.instance_count must be a whole number, not '{count}'."
        raise BadRequest(message, "resources.instanceCount", "UserError") from None


def validate(properties: Mapping[str, Any]) -> None:
    """Refuses what can't run: BadRequest, or NotImplementedOperation by name."""
    kind = (properties.get("distribution") or {}).get("distributionType")
    if instances(properties) < 1:
        raise BadRequest("resources.instance_count must be 1 or more.", "resources.instanceCount", "UserError")
    if kind is None:
        if instances(properties) > 1:
            raise NotImplementedOperation(
                f"Jobs_CreateOrUpdate of a command job with instanceCount {instances(properties)} and no distribution"
            )
        return
    if kind not in _KNOWN:
        raise BadRequest(f"distribution.type must be one of {', '.join(_KNOWN)}, not '{kind}'.", "distribution")
    if kind not in _KINDS:
        raise NotImplementedOperation(f"Jobs_CreateOrUpdate of a command job with distribution {kind}")
    count = _count(properties)
    if not 1 <= count <= _MAX_PROCESSES:
        raise BadRequest(
            f"The distribution asks for {count} processes; localazure runs 1 to {_MAX_PROCESSES} a job.", "distribution"
        )


def workers(properties: Mapping[str, Any]) -> list[Worker]:
    """The job's processes, rank 0 first; one plain process without a distribution. Ports are free at the moment."""
    distribution = properties.get("distribution") or {}
    kind = distribution.get("distributionType")
    nodes = instances(properties)
    if kind is None:
        return [Worker("the command", {"AZUREML_NODE_COUNT": "1"}, LOG_NAME)]
    if kind == "TensorFlow":
        return _tensorflow(distribution, nodes)
    per_node = int(distribution.get("processCountPerInstance") or 1)
    variables = _pytorch if kind == "PyTorch" else _mpi
    port = _free_port()
    return [
        Worker(
            f"the process of rank {rank}",
            {"AZUREML_NODE_COUNT": str(nodes), **variables(rank, per_node, nodes, port)},
            _log("process", rank, nodes * per_node),
        )
        for rank in range(nodes * per_node)
    ]


def _pytorch(rank: int, per_node: int, nodes: int, port: int) -> dict[str, str]:
    return {
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(nodes * per_node),
        "LOCAL_WORLD_SIZE": str(per_node),
        "NODE_RANK": str(rank // per_node),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % per_node),
    }


def _mpi(rank: int, per_node: int, nodes: int, port: int) -> dict[str, str]:
    return {
        "OMPI_COMM_WORLD_SIZE": str(nodes * per_node),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(per_node),
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank % per_node),
        "OMPI_COMM_WORLD_NODE_RANK": str(rank // per_node),
        "AZ_BATCH_MASTER_NODE": f"{_HOST}:{port}",
        "AZ_BATCHAI_MPI_MASTER_NODE": _HOST,
    }


def _tensorflow(distribution: Mapping[str, Any], nodes: int) -> list[Worker]:
    # https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable
    counts = {"worker": int(distribution.get("workerCount") or nodes)}
    if servers := int(distribution.get("parameterServerCount") or 0):
        counts["ps"] = servers
    cluster = {kind: [f"{_HOST}:{_free_port()}" for _ in range(count)] for kind, count in counts.items()}
    found = []
    for kind, count in counts.items():
        for index in range(count):
            task = {"type": kind, "index": index}
            variables = {
                "AZUREML_NODE_COUNT": str(nodes),
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": task, "environment": "cloud"}),
            }
            log = _log(kind, index, count)
            found.append(Worker(f"the {kind} {index}", variables, log, awaited=kind == "worker"))
    return found


def _count(properties: Mapping[str, Any]) -> int:
    distribution = properties.get("distribution") or {}
    nodes = instances(properties)
    if distribution.get("distributionType") == "TensorFlow":
        workers = int(distribution.get("workerCount") or nodes)
        return workers + int(distribution.get("parameterServerCount") or 0)
    return nodes * int(distribution.get("processCountPerInstance") or 1)


def _log(kind: str, index: int, count: int) -> str:
    # Names that the SDK's stream knows: it shows the first one.
    return f"user_logs/std_log_{kind}_{index:0{len(str(count - 1))}}.txt"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
