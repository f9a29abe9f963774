"""Reading pickles that the user vouches for, to convert them once.

Nothing but the command ``penstock checkpoints convert --trust`` comes here: unpickling runs
whatever code a file names.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

from penstock.client.checkpoint_files.load import kind_of_file, load_file, opened_plain
from penstock.container import flatten
from penstock.container.torch_bridge import require_torch
from penstock.errors import Corrupt, DataFault, InvalidInput

__all__ = ["load_trusted"]


def load_trusted(path: Path) -> Any:
    """Load a state from a pickle, running the code that it names.

    Args:
        path: ``.pt`` or a plain pickle, or an LZ4 frame of one; other kinds are read as always.

    Raises:
        Corrupt: It is damaged.
        DataFault: It is no checkpoint, or what it names is not installed here or fails.
        InvalidInput: It holds what a checkpoint cannot hold; names its path and class.
        LimitExceeded: It decompresses to more than a checkpoint may have.
    """
    with path.open("rb") as file, opened_plain(file, str(path)) as (plain, name):
        kind = kind_of_file(plain, name)
        if kind in ("pstk", "safetensors"):
            return load_file(path)
        state = _unpickle(plain, name, by_torch=kind != "pickle")
    try:
        flatten(state)
    except InvalidInput as error:
        error.message = f"{path}: {error.message}"
        error.args = (error.message,)
        raise
    return state


def _unpickle(file: BinaryIO, name: str, *, by_torch: bool) -> Any:
    torch = require_torch(f"{name} (a .pt file)") if by_torch else None
    file.seek(0)
    try:
        if torch is not None:
            return torch.load(file, map_location="cpu", weights_only=False)
        return pickle.load(file)  # noqa: S301 - the user vouches for the file
    except (ImportError, AttributeError) as error:
        raise DataFault(
            f"{name} holds objects whose class is not found here ({error!s:.160}): run this in the "
            "environment of the program that made it",
            reason="CLASS_MISSING",
        ) from error
    except (pickle.UnpicklingError, EOFError) as error:
        raise Corrupt(
            f"{name}: its pickle is cut off or damaged ({error!s:.120}): copy or save it again"
        ) from error
    except OSError:
        raise
    except Exception as error:
        # The code of the file's objects may raise anything.
        raise DataFault(
            f"{name}: its objects cannot be made ({type(error).__name__}: {error!s:.160}): run "
            "this in the environment of the program that made it, or copy the file again",
            reason="UNPICKLING_FAILED",
        ) from error
