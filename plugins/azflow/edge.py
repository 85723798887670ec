"""Where azflow meets Airflow: the base of its operators, and how errors leave them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from azflow.connection import DEFAULT_CONNECTION, AzureConnection
from azflow.errors import AccessDenied, AzflowError, ServiceUnavailable, first_line
from azflow.specs import Night

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context


def raise_for_airflow(error: AzflowError) -> NoReturn:
    """Raise `error` as Airflow understands it: without retries if no retry can help."""
    if error.retry_helps:
        raise AirflowException(str(error)) from error
    raise AirflowFailException(str(error)) from error


@contextlib.contextmanager
def airflow_edge(conn_id: str = DEFAULT_CONNECTION) -> Iterator[None]:
    """Around the body of an operator's ``execute``: errors of azflow and of Azure's SDKs leave it as Airflow's."""
    try:
        yield
    except AzflowError as error:
        raise_for_airflow(error)
    except Exception as error:
        if (known := as_azflow_error(error, conn_id)) is None:
            raise
        try:
            raise known from error
        except AzflowError as chained:
            raise_for_airflow(chained)


_FORBIDDEN = (401, 403)
_UNAVAILABLE = (408, 429, 500, 502, 503, 504)


def as_azflow_error(error: BaseException, conn_id: str) -> AzflowError | None:
    """An error of an Azure SDK as one of ours, if it says something about access or availability; else None."""
    if isinstance(error, AzflowError):
        return error
    core = sys.modules.get("azure.core.exceptions")  # not loaded: the error can't be one of its
    if core is None:
        return None
    if isinstance(error, core.HttpResponseError):
        status = error.status_code
        if isinstance(error, core.ClientAuthenticationError) or status in _FORBIDDEN:
            return AccessDenied(conn_id, first_line(error))
        if status in _UNAVAILABLE:
            return ServiceUnavailable(
                f"The service answered {status}: {first_line(error)}", retry_after=retry_after(error)
            )
        return None
    if isinstance(error, core.ServiceRequestError | core.ServiceResponseError):
        return ServiceUnavailable(f"The service can't be reached: {first_line(error)}")
    return None


def retry_after(error: BaseException) -> float | None:
    """Seconds the service asked to wait, from our own or an SDK's error; dates in the header are ignored."""
    if isinstance(error, ServiceUnavailable):
        return error.retry_after
    headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is None:
        return None
    value = headers.get("Retry-After") or headers.get("retry-after")
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


class AzflowOperator(BaseOperator):
    """Base of azflow's operators: templates also see ``night`` (`Night`), ``azure`` (`AzureConnection.view`) and
    ``model`` (the model's name).

    :param conn_id: the Airflow connection.
    :param model: the model's name; empty for tasks that belong to none.
    """

    ui_color = "#e8f1fb"

    def __init__(self, *, conn_id: str = DEFAULT_CONNECTION, model: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.model = model

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """As the base class, with azflow's names in the context (and left there for ``execute``)."""
        with airflow_edge(self.conn_id):
            self.add_to_context(context)
        super().render_template_fields(context, jinja_env)

    def add_to_context(self, context: Any) -> None:
        """Put ``night``, ``azure`` and ``model`` into `context`."""
        context["night"] = Night.from_context(context)
        context["azure"] = AzureConnection.load(self.conn_id).view()
        context["model"] = self.model
