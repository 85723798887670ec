"""docs/parity.md lists the operations that the code has."""

from __future__ import annotations

from pathlib import Path

from localazure import stack
from localazure.settings import Settings

PARITY = Path(__file__).parents[2] / "docs" / "parity.md"
BEGIN, END = "<!-- coverage: `localazure coverage` -->\n", "\n<!-- end of coverage -->"


def test_the_page_lists_every_operation(tmp_path: Path) -> None:
    listed = PARITY.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    wanted = stack.coverage(stack.compose(Settings.load(tmp_path))).strip()
    assert listed == wanted, "put the output of `localazure coverage` into docs/parity.md, between the two comments"
