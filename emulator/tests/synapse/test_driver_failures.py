"""What a driver's last lines say about its end."""

from __future__ import annotations

import pytest

from localazure.synapse.driver_failures import cause

PYTHON = """starting
Traceback (most recent call last):
  File "main.py", line 9, in <module>
    main()
  File "main.py", line 4, in main
    raise pkg.errors.Broken("no rows")
pkg.errors.Broken: no rows
26/11/22 14:54:26 INFO ShutdownHookManager: done"""
DEEP = "\n".join(
    [
        "Traceback (most recent call last):",
        '  File "main.py", line 3, in <module>',
        "    spark.read.parquet(path)",
        *(line for n in range(9) for line in (f'  File "/site-packages/library.py", line {n}, in read', "    call()")),
        "pyspark.errors.AnalysisException: [PATH_NOT_FOUND] Path does not exist: abfss://x.",
    ]
)
CHAINED = (
    PYTHON
    + "\n\nDuring handling of the above exception, another exception occurred:\n\n"
    + PYTHON.replace("pkg.errors.Broken: no rows", "KeyError: 'a'")
)
JAVA = """26/11/22 INFO SparkContext: Running
Exception in thread "main" java.lang.NumberFormatException: For input string: "x"
\tat java.lang.Long.parseLong(Long.java:1)
\tat Rows.main(Rows.java:3)"""
HEAP = """py4j.protocol.Py4JJavaError: An error occurred while calling o30.collect.
: java.lang.OutOfMemoryError: Java heap space
\tat java.util.Arrays.copyOf(Arrays.java:1)"""


@pytest.mark.parametrize(
    ("text", "code", "name", "source", "words"),
    [
        (PYTHON, 1, "Broken", "User", "main.py: pkg.errors.Broken: no rows"),
        (CHAINED, 1, "KeyError", "User", "main.py: KeyError: 'a'"),
        (DEEP, 1, "AnalysisException", "User", '  File "main.py", line 3, in <module>'),
        (JAVA, 1, "java.lang.NumberFormatException", "User", 'For input string: "x"'),
        (HEAP, 1, "java.lang.OutOfMemoryError", "User", "main.py ran out of memory: java.lang.OutOfMemoryError: Java"),
        ("x\nMemoryError", 1, "MemoryError", "User", "main.py ran out of memory: MemoryError"),
        ("working", -9, "SIGKILL", "System", "ended by SIGKILL"),
        ("working", 137, "SIGKILL", "System", "ended by SIGKILL"),
        ("working", -15, "ExitCode", "User", "main.py was ended by signal 15"),
        ("last words", 3, "ExitCode", "User", "main.py exited with code 3. Its last lines:\nlast words"),
        ("", 1, "ExitCode", "User", "main.py exited with code 1"),
    ],
)
def test_the_cause_is_named(text: str, code: int, name: str, source: str, words: str) -> None:
    found = cause(text.splitlines(), code, "main.py")
    assert (found.name, found.source) == (name, source)
    assert words in found.message
    assert len(found.message.splitlines()) <= 16


def test_an_interpreters_old_traceback_is_not_why_it_ended() -> None:
    found = cause(PYTHON.splitlines(), 3, "session 0", is_script=False)
    assert found.name == "ExitCode"
