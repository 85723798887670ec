"""The errors an operation may raise, and their form on the wire.

    AzureError                       any status and code
      BadRequest               400   the request can't be understood or is invalid
      Unauthorized             401   no token, or one that isn't good here
      NotFound                 404   nothing under that name
      Conflict                 409   the name is taken, or the state forbids it
      NotImplementedOperation  501   Azure has it, localazure doesn't

The body is Resource Manager's error envelope, which Azure ML and Synapse use as well:
https://learn.microsoft.com/azure/azure-resource-manager/management/common-error-codes and
https://github.com/microsoft/api-guidelines/blob/vNext/azure/Guidelines.md#handling-errors
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AzureError(Exception):
    """An error that reaches the client: HTTP `status`, Azure's error `code`, a message for people."""

    def __init__(
        self, status: int, code: str, message: str, target: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.headers = dict(headers or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def body(self) -> dict[str, Any]:
        """The error envelope: `{"error": {"code", "message"[, "target"]}}`."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            error["target"] = self.target
        return {"error": error}


class BadRequest(AzureError):
    """400. `code` defaults to "BadRequest"."""

    def __init__(self, message: str, target: str | None = None, code: str = "BadRequest") -> None:
        super().__init__(400, code, message, target)


class Unauthorized(AzureError):
    """401. `code` defaults to Resource Manager's "AuthenticationFailed"."""

    def __init__(
        self, message: str, code: str = "AuthenticationFailed", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(401, code, message, headers=headers)


class NotFound(AzureError):
    """404. `code` defaults to "NotFound"; Resource Manager's own resources use "ResourceNotFound"."""

    def __init__(self, message: str, target: str | None = None, code: str = "NotFound") -> None:
        super().__init__(404, code, message, target)


class Conflict(AzureError):
    """409. `code` defaults to "Conflict"."""

    def __init__(self, message: str, target: str | None = None, code: str = "Conflict") -> None:
        super().__init__(409, code, message, target)


class NotImplementedOperation(AzureError):
    """501, naming the operation (or the part of it) that localazure doesn't implement."""

    def __init__(self, operation: str) -> None:
        super().__init__(501, "NotImplemented", f"{operation} is not implemented by localazure", operation)
