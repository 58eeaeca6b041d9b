"""Raw access to the places of the backends, round the backends: see `chunkstore.testing.Witness`."""

from __future__ import annotations

import shutil
from pathlib import Path

from chunkstore.backends import ANY
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import ObjectNotFoundError


class MemoryWitness:
    """Another backend on the same objects: memory has no rawer access than that."""

    def __init__(self, name: str) -> None:
        self._backend = MemoryBackend(name)

    def get(self, key: str) -> bytes | None:
        try:
            return self._backend.get(key).data
        except ObjectNotFoundError:
            return None

    def put(self, key: str, data: bytes) -> None:
        self._backend.put(key, data, ANY)

    def keys(self) -> set[str]:
        return {entry.key for folder in self._backend.folders() for entry in self._backend.list(f"{folder}/")}

    def remove_folder(self, folder: str) -> None:
        for entry in self._backend.list(f"{folder}/"):
            self._backend.delete(entry.key)


class FolderWitness:
    """Plain files under a folder. What lies beside the folders of the keys (locks) is the backend's own business."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, key: str) -> bytes | None:
        path = self._root / key
        return path.read_bytes() if path.exists() else None

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def keys(self) -> set[str]:
        files = (path.relative_to(self._root) for path in self._root.rglob("*") if not path.is_dir())
        return {path.as_posix() for path in files if not path.parts[0].startswith(".")}

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self._root / folder)
