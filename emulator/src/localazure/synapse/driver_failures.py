"""Why a Spark driver ended: what its last lines and its exit code say. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_TRACEBACK = "Traceback (most recent call last):"
_PYTHON_ERROR = re.compile(r"^([A-Za-z_][\w.]*)(?::\s*(.*))?$")
_JAVA_ERROR = re.compile(
    r'^(?:Exception in thread "[^"]*"|Caused by:|Error:)?\s*((?:[a-z_][\w$]*\.)+[A-Z][\w$]*)(?::\s*(.*))?$'
)
_OUT_OF_MEMORY = re.compile(r"(java\.lang\.OutOfMemoryError(?:: [^\n]*)?|\bMemoryError\b[^\n]*)")
_LINES = 12
_SHELL_SIGNAL = 128


@dataclass(frozen=True)
class Cause:
    """`name` is the exception's class (or signal), `message` holds the last lines of its traceback."""

    name: str
    message: str
    source: Literal["User", "System", "Unknown"]


def cause(lines: Sequence[str], exit_code: int, file: str, *, is_script: bool = True) -> Cause:
    """What ended the driver of `file`; `lines` are its output's last ones, `exit_code` isn't 0.

    An interpreter of statements (not `is_script`) outlives tracebacks: one in its log isn't the cause.
    """
    text = "\n".join(lines)
    if memory := _OUT_OF_MEMORY.search(text):
        name = "java.lang.OutOfMemoryError" if memory[0].startswith("java") else "MemoryError"
        tail = "\n".join(_traceback(lines) or lines[-_LINES:])
        return Cause(name, f"The driver of {file} ran out of memory: {memory[0]}\n{tail}", "User")
    killed = -exit_code if exit_code < 0 else exit_code - _SHELL_SIGNAL
    if killed == signal.SIGKILL:
        message = f"The driver of {file} was ended by SIGKILL, as the system does when memory runs out."
        return Cause("SIGKILL", "\n".join([message, *lines[-_LINES:]]), "System")
    if is_script and (traceback := _traceback(lines)):
        name = _name(traceback)
        return Cause(name, "\n".join([f"{file}: {_summary(traceback)}", *traceback]), "User")
    if is_script and (java := _java(lines)):
        match = _JAVA_ERROR.match(java[0])
        assert match is not None
        return Cause(match[1], "\n".join([f"{file}: {match[1]}: {match[2] or ''}".rstrip(": "), *java]), "User")
    how = f"was ended by signal {-exit_code}" if exit_code < 0 else f"exited with code {exit_code}"
    return Cause("ExitCode", "\n".join([f"{file} {how}. Its last lines:", *lines[-_LINES:]]), "User")


def _traceback(lines: Sequence[str]) -> list[str]:
    """The last Python traceback's lines: its head, the last frames, and the error."""
    starts = [number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if not starts:
        return []
    block = [lines[starts[-1]]]
    for line in lines[starts[-1] + 1 :]:
        block.append(line)
        if line and not line.startswith((" ", "\t")) and _PYTHON_ERROR.match(line):
            break
    else:
        block = list(lines[starts[-1] :])
    if len(block) <= _LINES:
        return block
    # The script's own frames tell more than the libraries' below them.
    own = [
        number for number, line in enumerate(block) if line.startswith('  File "') and not line.startswith('  File "/')
    ]
    kept = block[own[-1] : own[-1] + 3] if own else block[-_LINES:-1]
    error = _summary(block)
    return [block[0], "  ...", *kept, "  ...", *block[block.index(error) :][: _LINES - len(kept)]]


def _summary(traceback: Sequence[str]) -> str:
    return next((line for line in reversed(traceback) if _PYTHON_ERROR.match(line)), traceback[-1])


def _name(traceback: Sequence[str]) -> str:
    match = _PYTHON_ERROR.match(_summary(traceback))
    return match[1].rsplit(".", 1)[-1] if match else "Error"


def _java(lines: Sequence[str]) -> list[str]:
    """The lines from the first Java exception that has a stack trace."""
    for number, line in enumerate(lines[:-1]):
        if _JAVA_ERROR.match(line) and lines[number + 1].startswith("\tat "):
            return list(lines[number : number + _LINES])
    return []
