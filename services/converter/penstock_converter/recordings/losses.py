"""What a recording that was cut off or damaged has lost, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Losses"]

_MB = 1e6


@dataclass
class Losses:
    """Counted while a file is walked through.

    Attributes:
        size_bytes: Of the file.
        ended: Whether the recorder wrote its end.
        tail_bytes: At the end, that nothing can be made of.
        chunks: Damaged before the end, and left out in whole or in part.
        chunk_bytes: Of these.
        stretches: Where records between chunks could not be told apart.
        stretch_bytes: Of these.
        orphans: Messages whose topic and type are lost.
        astray: Messages that the recorder counted and that are nowhere.
        rows: Of a table, damaged.
    """

    size_bytes: int
    ended: bool = False
    tail_bytes: int = 0
    chunks: int = 0
    chunk_bytes: int = 0
    stretches: int = 0
    stretch_bytes: int = 0
    orphans: int = 0
    astray: int = 0
    rows: int = 0

    def __bool__(self) -> bool:
        return not self.ended or bool(self.lost_bytes or self.orphans or self.astray or self.rows)

    @property
    def lost_bytes(self) -> int:
        """All that nothing can be made of."""
        return self.tail_bytes + self.chunk_bytes + self.stretch_bytes

    def told(self, name: str, kept: int, expected: int | None = None) -> str:
        """A sentence for people.

        Args:
            name: Of the file.
            kept: Messages that can be read.
            expected: Messages that the recorder counted, if it came to that.
        """
        if expected is None:
            readable = max(self.size_bytes - self.lost_bytes, 1)
            found = kept + self.orphans
            expected = round(found * self.size_bytes / readable) + self.rows
            total = f"about {expected}"
        else:
            total = str(expected)
        size = f"{self.size_bytes / _MB:.3f} MB"
        parts: list[str] = []
        if self.tail_bytes:
            parts.append(f"the last {self.tail_bytes / _MB:.3f} MB of {size} are unreadable")
        elif not self.ended:
            parts.append("its end is missing")
        if self.chunks:
            parts.append(
                f"{self.chunks} damaged chunks ({self.chunk_bytes / _MB:.3f} MB of {size}) are "
                "left out"
            )
        if self.stretches:
            parts.append(
                f"{self.stretches} damaged stretches ({self.stretch_bytes / _MB:.3f} MB of {size}) "
                "are left out"
            )
        if self.orphans:
            parts.append(f"{self.orphans} messages are of topics whose names are lost")
        if self.rows:
            parts.append(f"{self.rows} rows are damaged")
        if self.astray:
            parts.append(f"{self.astray} messages that were counted are nowhere")
        if not parts:
            parts.append("only its index is unreadable")
        return f"salvaged: {kept} of {total} messages of {name}: {'; '.join(parts)}"
