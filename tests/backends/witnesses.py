"""Raw access to the places of the backends, round the backends: see `chunkstore.testing.Witness`."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

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


class TableWitness:
    """Plain SQL on the table of the seeds, as somebody who knows its six columns would write it."""

    def __init__(self, connect: Callable[[], Any], mark: str = "?", table: str = "db_log", pk: str = "") -> None:
        """`pk` gives the next primary key, where the column has no default."""
        self._connect = connect
        self._mark = mark
        self._table = table
        self._pk = pk

    def get(self, key: str) -> bytes | None:
        run, name = key.split("/")
        rows = self._ask(f"SELECT attribute_value FROM {self._table} WHERE {self._is(name)}", run, name)
        return _bytes(rows[0][0]) if rows else None

    def put(self, key: str, data: bytes) -> None:
        run, name = key.split("/")
        changed = f"UPDATE {self._table} SET attribute_value = ? WHERE {self._is(name)}"
        if not self._ask(changed, _text(data), run, name):
            columns, values = "run_id, attribute_key, attribute_type, attribute_value", "?, ?, ?, ?"
            if self._pk:
                columns, values = f"pk, {columns}", f"{self._pk}, {values}"
            made = f"INSERT INTO {self._table} ({columns}) VALUES ({values})"
            self._ask(made, run, name, _sort(name), _text(data))

    def keys(self) -> set[str]:
        rows = self._ask(f"SELECT run_id, attribute_key, attribute_type FROM {self._table}")
        return {f"{run}/{name}" for run, name, sort in rows if name is not None and sort == _sort(name)}

    def remove_folder(self, folder: str) -> None:
        raise AssertionError("a table has no folders")

    def _is(self, name: str) -> str:
        return f"run_id = ? AND attribute_key = ? AND attribute_type = '{_sort(name)}'"

    def _ask(self, statement: str, *given: object) -> Any:
        """The rows of a SELECT, else how many were changed. Nothing where there is no file or table yet."""
        with closing(self._connect()) as connection:
            cursor = connection.cursor()
            try:
                cursor.execute(statement.replace("?", self._mark), given)
            except Exception as error:
                if "no such table" in str(error) or "does not exist" in str(error):
                    return []
                raise
            found = cursor.fetchall() if cursor.description else cursor.rowcount
            connection.commit()
            return found


_SORTS = {"run.json": "RunLog", "job.json": "Job", "whole.pack": "Pack"}


def _sort(name: str) -> str:
    found = re.fullmatch(r"(step|branch|parameter)(?:\.|(?<=parameter)@).+\.json", name)
    return found[1].title() if found else _SORTS.get(name, "Other")


def _text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    return "base64:" + base64.b64encode(data).decode().rstrip("=") if "\0" in text else text


def _bytes(text: str) -> bytes:
    coded = text.removeprefix("base64:")
    return text.encode() if coded == text else base64.b64decode(coded + "=" * (-len(coded) % 4))
