"""What charts in a terminal are drawn with."""

from __future__ import annotations

from typing import Final, NamedTuple


class Marks(NamedTuple):
    """Characters of a chart; told apart without colour."""

    admitted: str
    denied: str
    axis: str
    corner: str
    line: str
    tick: str


BLOCKS: Final = Marks("█", "░", "┤", "└", "─", "┬")
ASCII: Final = Marks("#", ":", "|", "+", "-", "+")
