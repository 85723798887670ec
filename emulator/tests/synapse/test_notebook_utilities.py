"""docs/parity.md lists every function of the notebook utilities: there, or refused by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PARITY = Path(__file__).resolve().parents[3] / "docs" / "parity.md"
BEGIN = "<!-- utilities: emulator/tests/synapse/notebook_utilities.py -->\n"
END = "\n<!-- end of utilities -->"


def test_the_page_lists_every_function() -> None:
    path = Path(__file__).with_name("notebook_utilities.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = PARITY.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert listed == module.table(), f"put the output of {path.name} into docs/parity.md, between the two comments"
