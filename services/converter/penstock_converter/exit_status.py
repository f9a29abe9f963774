"""Exit statuses of ``penstock convert``, beside 0 (all well), 1 (nothing made) and 2 (usage)."""

from __future__ import annotations

__all__ = ["NOT_UPLOADED", "PARTLY", "UNSOUND"]

PARTLY = 3
"""Some recordings were refused, or could not be read, and the others went on."""

NOT_UPLOADED = 4
"""The dataset was made, and not uploaded."""

UNSOUND = 5
"""The checks that follow a conversion found a fault in the dataset."""
