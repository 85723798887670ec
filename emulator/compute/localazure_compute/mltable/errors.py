"""What is wrong with a table."""

from __future__ import annotations


class MLTableError(Exception):
    """A table can't be read; the message names the transformation, column or file, for the person who wrote them."""
