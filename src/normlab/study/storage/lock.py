"""A lock behind a URL: a file that only one can make, with signs of life in it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from normlab.errors import StoreError, StoreLocked

if TYPE_CHECKING:
    from normlab.study.storage.bucket import Bucket

LOCK = "lock.json"
BEAT, STALE = 20.0, 90.0  # seconds between a holder's signs of life, and after which it counts as dead
WATCH = 1.25  # beats without one, for who believes it dead


@contextmanager
def held(bucket: Bucket, owner: str) -> Generator[Callable[[], None], None, None]:
    """Hold the bucket; what is yielded raises StoreLocked once somebody else does.

    That happens to a process that was asleep for so long that it was taken for dead, and where two find the same lock
    dead at once: object stores cannot compare and remove in one step, so the second one may remove the first one's.
    Until it is noticed both make the same runs, whose results are the same.

    Raises:
        StoreLocked: somebody holds it; the message says who.
        StoreError: it cannot be written.
    """
    token, over = secrets.token_hex(8), threading.Event()
    others: list[str] = []
    _take(bucket, owner, token)

    def beat() -> None:
        while not over.wait(BEAT):
            holder = _holder(bucket)
            if holder and holder.get("token") != token:
                others.append(str(holder.get("owner", "another process")))
                return
            with suppress(OSError):
                bucket.write(LOCK, _sign(owner, token))

    def check() -> None:
        if others:
            raise StoreLocked(f"{bucket} was taken over by {others[0]}, who took this process for dead; it stops here")

    beating = threading.Thread(target=beat, daemon=True)
    beating.start()
    try:
        yield check
    finally:
        over.set()
        beating.join()
        if _holder(bucket).get("token") == token:
            bucket.remove(LOCK)


def _take(bucket: Bucket, owner: str, token: str) -> None:
    if _is_dead(bucket):
        bucket.remove(LOCK)
    try:
        bucket.create(LOCK, _sign(owner, token))
    except FileExistsError:
        holder = _holder(bucket)
        age = max(0.0, time.time() - holder.get("beat", time.time()))
        raise StoreLocked(
            f"{bucket} is in use by {holder.get('owner', 'another process')}, last heard of {age:.0f} s ago; "
            f"wait for it, or stop it (if it is dead, the store is free after {STALE + WATCH * BEAT:.0f} s)"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot lock {bucket}: {error.strerror or error}") from None


def _is_dead(bucket: Bucket) -> bool:
    """No sign of life for long by our clock, and none while we wait, whatever the clock of the holder's machine."""
    holder = _holder(bucket)
    if not holder or time.time() - holder.get("beat", 0.0) <= STALE:
        return False
    time.sleep(WATCH * BEAT)
    return _holder(bucket) == holder


def _holder(bucket: Bucket) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return json.loads(bucket.read(LOCK))
    return {}


def _sign(owner: str, token: str) -> bytes:
    return json.dumps({"owner": owner, "token": token, "beat": time.time()}).encode()
