"""A container's health check: `health.py COMPONENT` ends with 0 if that component, in this container, is well.

COMPONENT is api-server, scheduler, dag-processor, triggerer or worker. Each is asked in the cheapest way that tells
(`airflow jobs check` takes seconds of processor time to start): API server and scheduler by HTTP, DAG processor and
triggerer by the heartbeat they leave in the metadata database, the worker by a ping through the broker.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request

_SECONDS = 10
# Airflow's own thresholds: [triggerer] and [dag_processor] health_check_threshold.
_HEARTBEATS = {"dag-processor": ("DagProcessorJob", 50), "triggerer": ("TriggererJob", 30)}
_ADDRESSES = {
    "api-server": "http://127.0.0.1:8080/api/v2/version",
    "scheduler": "http://127.0.0.1:8974/health",
}


def beats(component: str) -> bool:
    """Whether this container's job left a heartbeat lately."""
    import psycopg2

    kind, seconds = _HEARTBEATS[component]
    address = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("postgresql+psycopg2:", "postgresql:")
    connection = psycopg2.connect(address, connect_timeout=_SECONDS)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM job WHERE job_type = %s AND hostname = %s AND state = 'running'"
            " AND latest_heartbeat > now() - make_interval(secs => %s)",
            (kind, socket.gethostname(), seconds),
        )
        return cursor.fetchone() is not None


def answers_ping() -> bool:
    """Whether this container's Celery worker answers through the broker."""
    from celery import Celery

    application = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"])
    name = f"celery@{socket.gethostname()}"
    return bool(application.control.inspect(destination=[name], timeout=_SECONDS / 2).ping())


def healthy(component: str) -> bool:
    """Whether `component` is well; raises when it can't be asked, and for any HTTP status that is an error."""
    if component in _ADDRESSES:
        with urllib.request.urlopen(_ADDRESSES[component], timeout=_SECONDS):
            return True
    return answers_ping() if component == "worker" else beats(component)


if __name__ == "__main__":
    sys.exit(0 if healthy(sys.argv[1]) else f"{sys.argv[1]} isn't healthy")
