"""The errors azflow raises, and whether trying again can help.

::

    AzflowError
     +-- ConfigurationError      an Airflow connection or setting is missing or contradicts itself         no
     |    +-- SpecError          a model.yml or one of the files it names is wrong (file and key)          no
     +-- AccessDenied            the service refuses our credential (connection id)                       no
     +-- ServiceUnavailable      throttled, time-out, 5xx: the service didn't take the request            yes
     +-- ArrivalTimeout          the partition's marker didn't arrive (blob)                              yes
     +-- SqlFailed               a T-SQL statement failed (file, line, error number)                      depends
     +-- PoolInUse               others' requests run in the SQL pool that was to be paused (requests)     yes
     +-- RemoteRunError          something about one remote run (service, id, URL)
     |    +-- RemoteRunFailed    it ended without success (cause, last log lines)                         depends
     |    +-- RemoteRunTimedOut  it passed its deadline and was cancelled                                 no
     |    +-- UnknownRunState    the service says a word we don't know                                    yes
     |    +-- RunExists          a run of that name exists already; the loop attaches to it                  yes
     |    +-- RunAbandoned       this worker is asked to stop; the remote run goes on                     yes
     +-- QualityFailed           a blocking expectation failed (column, rule, examples)                   no
     +-- RolloutFailed           a stage failed and the previous traffic was restored                     no

A verdict against a challenger is no error: the run goes on with the champion.

"Yes" means that the same task, started again unchanged, may succeed. `runs.raise_for_airflow` turns a "no" into
Airflow's ``AirflowFailException``, so that retries aren't spent on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class AzflowError(Exception):
    """Base of all errors of azflow. The message says what happened, where, and what to do.

    :param message: for a person; holds no secret.
    :param retry_helps: whether the same task, started again unchanged, may succeed.
    """

    def __init__(self, message: str, *, retry_helps: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retry_helps = retry_helps

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments don't survive pickling by themselves; errors cross process borders here.
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(cls: type[AzflowError], message: str, attributes: dict[str, object]) -> AzflowError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(attributes)
    return error


class ConfigurationError(AzflowError):
    """A connection or a setting is missing, malformed, or contradicts another."""


class SpecError(ConfigurationError):
    """A file of the user's (model.yml, a job's YAML, a suite) is wrong.

    :param file: as the user knows it, relative to the project.
    :param key: dotted path inside the file, e.g. ``train.job``; empty when the file as a whole is meant.
    """

    def __init__(self, file: str | Path, key: str, problem: str) -> None:
        place = f"{file}: {key}" if key else str(file)
        super().__init__(f"{place}: {problem}")
        self.file = str(file)
        self.key = key
        self.problem = problem


class AccessDenied(AzflowError):
    """The service refuses the credential of an Airflow connection.

    :param connection_id: the Airflow connection whose credential was refused.
    :param reason: the service's own words.
    """

    def __init__(self, connection_id: str, reason: str) -> None:
        super().__init__(
            f"Connection {connection_id!r} was refused: {reason} "
            f"Check its login (client id), password (client secret), tenant_id and role assignments."
        )
        self.connection_id = connection_id


class ServiceUnavailable(AzflowError):
    """The service is there but doesn't take the request now: throttled, timed out, or 5xx.

    :param retry_after: seconds the service asked us to wait, if it did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_helps=True)
        self.retry_after = retry_after


class ArrivalTimeout(AzflowError):
    """A blob didn't arrive before the deadline.

    :param blob: container and path waited for.
    """

    def __init__(self, blob: str, waited_minutes: float) -> None:
        super().__init__(
            f"{blob} didn't arrive within {waited_minutes:g} minutes. "
            f"Check the source that writes it, then clear this task; or raise arrival.timeout_minutes in model.yml.",
            retry_helps=True,
        )
        self.blob = blob


class SqlFailed(AzflowError):
    """A T-SQL statement failed.

    :param file: the SQL file as the user knows it (below include/sql).
    :param line: 1-based line of the statement in that file.
    :param number: the server's error number, if it gave one.
    """

    def __init__(
        self, message: str, *, file: str, line: int, number: int | None = None, retry_helps: bool = False
    ) -> None:
        error = f" (error {number})" if number is not None else ""
        super().__init__(f"{file}, line {line}: {message}{error}", retry_helps=retry_helps)
        self.file = file
        self.line = line
        self.number = number


class PoolInUse(AzflowError):
    """A SQL pool wasn't paused or scaled: that would end what others run.

    :param requests: the running requests, a line each.
    """

    def __init__(self, pool: str, action: str, requests: Sequence[str]) -> None:
        listed = "".join(f"\n  {request}" for request in requests)
        super().__init__(
            f"The SQL pool {pool} is in use, and {action} would end what runs. Wait for it (wait_minutes), or end it: "
            f"{listed}",
            retry_helps=True,
        )
        self.requests = list(requests)


class RemoteRunError(AzflowError):
    """Something about one remote run.

    :param service: whose run it is, e.g. ``Azure ML job``.
    :param id: the run's id at the service.
    :param url: where a person can look at it.
    """

    def __init__(self, problem: str, *, service: str, id: str, url: str, retry_helps: bool) -> None:
        super().__init__(f"{service} {id} {problem}", retry_helps=retry_helps)
        self.service = service
        self.id = id
        self.url = url


class RemoteRunFailed(RemoteRunError):
    """A remote run ended without success.

    :param state: the service's own word for how it ended.
    :param cause: the service's explanation, one or a few lines.
    :param log_tail: the last lines of the run's log, oldest first; may be empty.
    """

    def __init__(
        self, *, service: str, id: str, url: str, state: str, cause: str, log_tail: Sequence[str], retry_helps: bool
    ) -> None:
        lines = [f"ended as {state}: {cause or 'the service gave no reason'}", f"See {url}"]
        if log_tail:
            lines += ["Last lines of its log:", *(f"  {line}" for line in log_tail)]
        super().__init__("\n".join(lines), service=service, id=id, url=url, retry_helps=retry_helps)
        self.state = state
        self.cause = cause
        self.log_tail = list(log_tail)


class RemoteRunTimedOut(RemoteRunError):
    """A remote run passed its deadline; azflow asked the service to cancel it.

    :param cancel_problem: why the cancellation itself failed; empty when the service took it.
    :param because: what the deadline follows from, where it isn't the task's ``timeout_minutes``.
    """

    def __init__(
        self, *, service: str, id: str, url: str, minutes: float, cancel_problem: str = "", because: str = ""
    ) -> None:
        what = (
            f"COULD NOT BE CANCELLED ({cancel_problem}): it may still be running, cancel it by hand"
            if cancel_problem
            else "was cancelled"
        )
        raised = because or "the task's timeout_minutes"
        super().__init__(
            f"passed its deadline of {minutes:.4g} minutes and {what}. Raise {raised}, or make the work smaller.\n"
            f"See {url}",
            service=service,
            id=id,
            url=url,
            retry_helps=False,
        )


class UnknownRunState(RemoteRunError):
    """A service reports a state that isn't in its table; guessing could lose a run or report one done that isn't."""

    def __init__(self, word: str, *, service: str, id: str = "", url: str = "") -> None:
        super().__init__(
            f"is in the unknown state {word!r}. The run itself was left alone; azflow's table of states for this "
            f"service needs the word.",
            service=service,
            id=id,
            url=url,
            retry_helps=True,
        )
        self.word = word


class RunExists(RemoteRunError):
    """A run of that name exists: somebody was faster. `RemoteRuns.submit` raises it and the loop attaches."""

    def __init__(self, name: str, *, service: str) -> None:
        super().__init__("exists already", service=service, id=name, url="", retry_helps=True)


class RunAbandoned(RemoteRunError):
    """This worker was asked to stop while the task still belongs to it: the remote run goes on, a retry attaches."""

    def __init__(self, *, service: str, id: str, url: str) -> None:
        super().__init__(
            "goes on: only this worker was asked to stop. The task's next try attaches to it.",
            service=service,
            id=id,
            url=url,
            retry_helps=True,
        )


class QualityFailed(AzflowError):
    """A blocking expectation failed.

    :param findings: one line an expectation: column, rule, examples.
    """

    def __init__(self, suite: str, table: str, findings: Sequence[str]) -> None:
        lines = "\n".join(f"  {line}" for line in findings)
        super().__init__(f"Suite {suite} on {table} failed {len(findings)} expectation(s):\n{lines}")
        self.suite = suite
        self.table = table
        self.findings = list(findings)


class RolloutFailed(AzflowError):
    """A roll-out stage failed; the traffic from before is restored (or the message says that it isn't)."""


def first_line(error: BaseException) -> str:
    """The first line of an error that says something, without what follows it (traces, correlation ids)."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
