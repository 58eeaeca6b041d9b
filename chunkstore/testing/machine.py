"""A Hypothesis machine that drives any backend beside a plain dict. Needs hypothesis.

    TestMyMachine = backend_machine(lambda: MyBackend(...)).TestCase

Refusals are rules too; one invariant compares everything after each step.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from chunkstore.backends import ANY, CREATE, FOUND, Backend, Blob, Condition, unchanged
from chunkstore.errors import ConflictError, ObjectNotFoundError

FOLDERS = st.sampled_from(["run", "run1", "run10", "run.1", "run 1", "run%2F1"])
NAMES = st.sampled_from(["run.json", "step.a.json", "step.a.b.json", "step-a.json", "step.a b.json"]) | st.from_regex(
    r"step\.[A-Za-z0-9._\- %@=+,~()]{1,30}\.json", fullmatch=True
)
KEYS = st.builds("{}/{}".format, FOLDERS, NAMES)
BODIES = st.binary(max_size=64)
BARRIERS = st.booleans()


@dataclass(frozen=True)
class Seen:
    """A version that some object once had."""

    key: str
    version: str


class BackendMachine(RuleBasedStateMachine):
    """A backend and the dict that it should be like; `backend_machine` fills in the first three."""

    has_folders: ClassVar[bool]

    def make(self) -> Backend:
        """A new backend on an empty place."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Takes the place away."""
        raise NotImplementedError

    keys = Bundle("keys")
    seen = Bundle("seen")

    def __init__(self) -> None:
        super().__init__()
        self.backend = self.make()
        self.model: dict[str, Blob] = {}

    @initialize(target=keys)
    def some_keys(self) -> object:
        return multiple("run/run.json", "run/step.a.json", "run1/run.json", "run10/run.json")

    @rule(target=keys, key=KEYS)
    def another_key(self, key: str) -> str:
        return key

    @rule(target=seen, key=keys, data=BODIES, barrier=BARRIERS)
    def found(self, *, key: str, data: bytes, barrier: bool) -> object:
        if key in self.model:
            return self._refused(key, data, FOUND, barrier=barrier)
        return self._written(key, data, FOUND, barrier=barrier)

    @rule(target=seen, key=keys, data=BODIES, barrier=BARRIERS)
    def create(self, *, key: str, data: bytes, barrier: bool) -> object:
        if key in self.model:
            return self._refused(key, data, CREATE, barrier=barrier)
        if not self._has_folder_for(key):
            return self._homeless(key, data, CREATE)
        return self._written(key, data, CREATE, barrier=barrier)

    @rule(target=seen, key=keys, data=BODIES, barrier=BARRIERS)
    def put_anyway(self, *, key: str, data: bytes, barrier: bool) -> object:
        if not self._has_folder_for(key):
            return self._homeless(key, data, ANY)
        return self._written(key, data, ANY, barrier=barrier)

    @rule(target=seen, key=keys, data=BODIES, barrier=BARRIERS)
    def update_what_was_just_read(self, *, key: str, data: bytes, barrier: bool) -> object:
        if key not in self.model:
            return multiple()
        return self._written(key, data, unchanged(self.backend.get(key).version), barrier=barrier)

    @rule(target=seen, old=seen, data=BODIES, barrier=BARRIERS)
    def update_what_was_once_seen(self, *, old: Seen, data: bytes, barrier: bool) -> object:
        return self._try_update(old.key, old.version, data, barrier=barrier)

    @rule(target=seen, key=keys, old=seen, data=BODIES, barrier=BARRIERS)
    def update_with_the_version_of_another(self, *, key: str, old: Seen, data: bytes, barrier: bool) -> object:
        return self._try_update(key, old.version, data, barrier=barrier)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.backend.delete(key)
        self.model.pop(key, None)

    @precondition(lambda self: self.backend.guarantees.conditional_delete)
    @rule(key=keys, old=seen)
    def delete_what_was_seen(self, *, key: str, old: Seen) -> None:
        there = self.model.get(key)
        if there is None or there.version == old.version:
            self.backend.delete(key, unchanged(old.version))
            self.model.pop(key, None)
            return
        with pytest.raises(ConflictError):
            self.backend.delete(key, unchanged(old.version))

    @rule(key=keys)
    def read(self, key: str) -> None:
        if key in self.model:
            assert self.backend.get(key) == self.model[key]
            return
        with pytest.raises(ObjectNotFoundError):
            self.backend.get(key)

    @rule(asked=st.lists(keys | KEYS, max_size=8))
    def read_many(self, asked: list[str]) -> None:
        there = {(key, self.model[key]) for key in asked if key in self.model}
        assert set(self.backend.get_many(iter(asked))) == there

    @rule(key=keys | KEYS, length=st.integers(0, 30))
    def list_by_prefix(self, key: str, length: int) -> None:
        folder, _, name = key.partition("/")
        self._assert_listing(f"{folder}/{name[:length]}")

    @rule()
    def close_it(self) -> None:
        self.backend.close()

    @rule()
    def go_on_with_a_pickled_copy(self) -> None:
        self.backend = pickle.loads(pickle.dumps(self.backend))

    @invariant()
    def all_is_as_in_the_model(self) -> None:
        folders = list(self.backend.folders())
        assert sorted(folders) == sorted(_folders(self.model))
        for folder in folders:
            self._assert_listing(f"{folder}/")

    def teardown(self) -> None:
        assert {key: self.backend.get(key) for key in self.model} == self.model
        self.backend.close()
        self.clean_up()

    def _has_folder_for(self, key: str) -> bool:
        return not self.has_folders or key.partition("/")[0] in _folders(self.model)

    def _written(self, key: str, data: bytes, condition: Condition, *, barrier: bool) -> Seen:
        version = self.backend.put(key, data, condition, barrier=barrier)
        assert version
        self.model[key] = Blob(data, version)
        return Seen(key, version)

    def _refused(self, key: str, data: bytes, condition: Condition, *, barrier: bool) -> object:
        with pytest.raises(ConflictError):
            self.backend.put(key, data, condition, barrier=barrier)
        return multiple()

    def _homeless(self, key: str, data: bytes, condition: Condition) -> object:
        with pytest.raises(ObjectNotFoundError):
            self.backend.put(key, data, condition)
        return multiple()

    def _try_update(self, key: str, version: str, data: bytes, *, barrier: bool) -> object:
        # By the version's text and not by its history: on S3 equal bytes have equal versions, and that is allowed.
        if key in self.model and self.model[key].version == version:
            return self._written(key, data, unchanged(version), barrier=barrier)
        if not self._has_folder_for(key):
            return self._homeless(key, data, unchanged(version))
        return self._refused(key, data, unchanged(version), barrier=barrier)

    def _assert_listing(self, prefix: str) -> None:
        entries = {entry.key: entry for entry in self.backend.list(prefix)}
        expected = {key: blob for key, blob in self.model.items() if key.startswith(prefix)}
        assert {key: entry.size for key, entry in entries.items()} == {
            key: len(blob.data) for key, blob in expected.items()
        }
        for key, blob in expected.items():
            assert entries[key].version in ("", blob.version)


def backend_machine(
    new_backend: Callable[[], Backend],
    *,
    folders: bool = False,
    remove: Callable[[Backend], object] = lambda backend: None,
    examples: int = 60,
    steps: int = 40,
) -> type[BackendMachine]:
    """A machine on the backends that `new_backend` gives, each on an empty place that `remove` takes away again.

    `folders`: must a folder be founded before anything can be put into it?
    """

    class Machine(BackendMachine):
        has_folders = folders

        def make(self) -> Backend:
            return new_backend()

        def clean_up(self) -> None:
            remove(self.backend)

    Machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    return Machine


def _folders(keys: Iterable[str]) -> set[str]:
    return {key.partition("/")[0] for key in keys}
