"""What a remote run is called, what its payload comes to, and what a service's word for its state means."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

import memory_runs
from azflow.errors import UnknownRunState
from azflow.runs import AZURE_ML_JOB, NOTEBOOK_RUN, Alphabet, RunIdentity, RunState, RunStates, payload_digest

# -- names -----------------------------------------------------------------------------------------------------------


IDENTITY = RunIdentity("nightly", "scheduled__2013", "train.job", -1, 0)


def test_a_name_never_changes() -> None:
    # Changing these orphans every run that is under way during an upgrade.
    assert IDENTITY.name(AZURE_ML_JOB) == "nightly-train-job-074d04b96dbdb8c7e405"
    assert IDENTITY.name(NOTEBOOK_RUN) == "92cfa9cd-2208-563d-8fbb-47531b2ac54c"


@pytest.mark.parametrize(
    "other",
    [
        RunIdentity("nightly2", "scheduled__2013", "train.job", -1, 0),
        RunIdentity("nightly", "scheduled__2014", "train.job", -1, 0),
        RunIdentity("nightly", "scheduled__2013", "train.jab", -1, 0),
        RunIdentity("nightly", "scheduled__2013", "train.job", 0, 0),
        RunIdentity("nightly", "scheduled__2013", "train.job", -1, 1),
        RunIdentity("nightly", "scheduled__2013", "train.job", -1, 0, 1),
        # the parts mustn't run into each other
        RunIdentity("nightlys", "cheduled__2013", "train.job", -1, 0),
    ],
)
@pytest.mark.parametrize("alphabet", [AZURE_ML_JOB, NOTEBOOK_RUN])
def test_every_part_of_the_identity_counts(other: RunIdentity, alphabet: Alphabet) -> None:
    assert other.name(alphabet) != IDENTITY.name(alphabet)


@pytest.mark.parametrize("dag_id", ["d", "9lives", "überflüge ✈", "d" * 300, "---", "a/b.c"])
def test_names_stay_in_the_alphabet(dag_id: str) -> None:
    identity = RunIdentity(dag_id, "manual__2013-03-08T00:00:00+00:00", "group.task", 3, 1, 2)
    name = identity.name(AZURE_ML_JOB)
    assert len(name) <= AZURE_ML_JOB.length
    assert name[0].isascii() and name[0].isalpha()
    assert all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in name)
    assert UUID(identity.name(NOTEBOOK_RUN)).version == 5


def test_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert payload_digest({"a": 1, "b": [1, 2]}) == payload_digest({"b": [1, 2], "a": 1})
    assert payload_digest({"a": 1, "b": [1, 2]}) != payload_digest({"a": 1, "b": [2, 1]})
    assert payload_digest({"a": 1}) != payload_digest({"a": "1"})


# -- states ----------------------------------------------------------------------------------------------------------


def test_states_keep_the_services_word() -> None:
    assert memory_runs.STATES.of("running") == RunState("running", "active")
    assert memory_runs.STATES.of("Completed").succeeded
    assert memory_runs.STATES.of("Failed").is_terminal and not memory_runs.STATES.of("Failed").succeeded


@pytest.mark.parametrize("word", ["Paused", "None", None])
def test_an_unknown_word_raises_and_is_quoted(word: Any) -> None:
    with pytest.raises(UnknownRunState, match=str(word)):
        RunStates("S", active=["A"], succeeded=["B"], failed=["C"], cancelled=["D"]).of(word, id="i")
