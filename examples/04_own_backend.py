"""Bring your own place for bytes: the six verbs of a backend, here over a dict. `tests/test_examples.py` proves it."""

import threading
from collections.abc import Iterable, Iterator

import chunkstore
from chunkstore.backends import ANY, Blob, Condition, Entry, Guarantees
from chunkstore.errors import ConflictError, ObjectNotFoundError
from chunkstore.process import ProcessLocal


class DictBackend:
    """Objects in a dict. What it cannot promise, it does not state: nobody else's process sees it."""

    place = "a dict"
    concurrency = 1
    guarantees = Guarantees(
        True, True, across_processes=False, across_hosts=False, atomic=True, durable=False, conditional_delete=True
    )
    asynchronous = False

    def __init__(self) -> None:
        self.objects: dict[str, Blob] = {}
        self.puts = 0
        self.lock = ProcessLocal(threading.Lock)  # a forked child must not inherit a locked one

    def get(self, key: str) -> Blob:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectNotFoundError(f"{self.place} holds no {key}", key=key) from None

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        found = ((key, self.objects.get(key)) for key in keys)
        return ((key, blob) for key, blob in found if blob is not None)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        with self.lock.get():  # the comparison and the write are one step: that is all there is to it
            there = self.objects.get(key)
            version = "" if there is None else there.version
            if condition.kind != "any" and version != condition.version:
                raise ConflictError(f"{key} in {self.place} is not as expected", key=key)
            self.puts += 1
            self.objects[key] = Blob(data, str(self.puts))
            return str(self.puts)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        with self.lock.get():
            there = self.objects.get(key)
            if there and condition.kind == "unchanged" and there.version != condition.version:
                raise ConflictError(f"{key} was changed meanwhile", key=key)
            self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[Entry]:
        found = [(key, blob) for key, blob in list(self.objects.items()) if key.startswith(prefix)]
        return (Entry(key, blob.version, len(blob.data)) for key, blob in found)

    def folders(self) -> Iterator[str]:
        names = {key.partition("/")[0] for key in list(self.objects)}
        return iter({name for name in names if not name.startswith(".")})

    def close(self) -> None:
        pass


if __name__ == "__main__":
    store = chunkstore.ChunkedRunLogStore(DictBackend())
    store.create_run_log("r1", tag="own")
    store.set_parameters("r1", {"alpha": 0.5})
    store.update_run_log_status("r1", "SUCCESS")
    print(store.get_run_log_by_id("r1").status, store.get_parameters("r1"))

# SUCCESS {'alpha': 0.5}
