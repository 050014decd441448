"""How a training function gets to the processes that call it."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import cloudpickle

from normlab.errors import SpecError
from normlab.study.run import TrainFunction


def packed(function: TrainFunction) -> bytes:
    """The function as bytes.

    What stands in a file of the user's own travels by value: other machines lack that file, and a worker that starts
    later would find it as it was edited meanwhile.

    Raises:
        SpecError: it holds what cannot be sent.
    """
    module = sys.modules.get(function.__module__)
    own = module is not None and not _is_installed(module)
    already = function.__module__ in cloudpickle.list_registry_pickle_by_value()
    if own and not already:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(function)
    except Exception as error:  # whatever the objects that it holds raise
        raise SpecError(
            f"the training function cannot be sent to a worker process ({error}); create what it holds inside it, or "
            "run with workers=0"
        ) from None
    finally:
        if own and not already:
            cloudpickle.unregister_pickle_by_value(module)


@lru_cache(maxsize=1)
def unpacked(payload: bytes) -> TrainFunction:
    """The function; the same object for all runs of a process, with what it keeps in global variables."""
    return cloudpickle.loads(payload)


def _is_installed(module: ModuleType) -> bool:
    if module.__name__ == "__main__" or module.__name__.partition(".")[0] == "normlab":
        return True  # __main__ travels by value of its own accord
    file = getattr(module, "__file__", None)
    return file is None or bool({"site-packages", "dist-packages"} & set(Path(file).parts))
