"""docs/parity.md says of every kind of statement what a test of it expects."""

from __future__ import annotations

from .statement_kinds import BEGIN, CASES, END, KINDS, PARITY, SHOWN_BY_ERROR, state, table


def test_every_kind_is_shown_by_a_case_that_exists() -> None:
    named = [case for kinds in KINDS.values() for _, *cases in kinds for case in cases if case]
    assert not {case for case in named if case not in CASES}
    assert set(SHOWN_BY_ERROR) <= set(named)
    for kinds in KINDS.values():
        for kind, dedicated, serverless in kinds:
            assert dedicated or serverless, kind
            assert not dedicated.partition(": ")[2].startswith("serverless: "), kind
            assert not serverless or serverless.startswith("lake: ") or ": serverless: " in serverless, kind


def test_the_page_has_the_table() -> None:
    listed = PARITY.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert listed == table(), "in emulator: python -m tests.sql.statement_kinds"


def test_most_are_supported() -> None:
    states = [state(case) for kinds in KINDS.values() for _, *cases in kinds for case in cases if case]
    assert sum(found == "supported" for found in states) > len(states) / 2
