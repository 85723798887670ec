"""The search's own failures."""

from __future__ import annotations


class SearchError(Exception):
    """The job can't go on; the message is for the person who submitted it."""
