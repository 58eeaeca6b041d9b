"""From a URL and settings to an open store. Everything is checked here, before anything is sent or written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from chunkstore.backends import Backend
from chunkstore.errors import InvalidInputError, NotSupportedError
from chunkstore.schema import OWN, Schema
from chunkstore.settings import DatabaseSettings, LocalSettings, MemorySettings, S3StoreSettings, Settings
from chunkstore.settings.checking import checked, hint, nearest_of
from chunkstore.settings.placeholders import Secrets, filled, filled_url, finder, found_in, in_environment
from chunkstore.store import ChunkedRunLogStore

_MAX_PREFIX_BYTES: Final = 600  # of S3's 1,024 for a key; a run id and a chunk's name need the rest
_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: `C:` is a drive


def open_store(
    url: str | os.PathLike[str], *, schema: Schema = OWN, secrets: Secrets | None = None, **settings: object
) -> ChunkedRunLogStore:
    """A store at a place: a folder (`runs/`), `file://…`, `memory://name`, `s3://bucket/prefix` (also MinIO's), or a database.

    A database is `sqlite:///runs.db` or `postgresql://user@host/database`; in PostgreSQL `backends.sql.create_tables` makes the table.

    Settings are the fields of `Settings`, and those that the kind of place adds: `LocalSettings`, `S3StoreSettings` and so on. S3
    credentials that are not given come from the usual places (environment, profile, role). Nothing is sent, except where
    `require` asks for a promise that only the server can tell about.

    With `secrets`, a mapping or a function from names to texts, each `${name}` in the URL and in settings is filled from them, or else from
    the environment, and `$$` is a dollar; without, every text is taken as it is.

    Raises `InvalidInputError` for a URL or a setting that cannot be used, naming the nearest known one or the kind of place that
    has it, and `NotSupportedError` where the place cannot promise what `require` asks for, or an extra is not installed.
    """
    if secrets is not None:
        find = finder(found_in(secrets), in_environment)
        url = cast(str, filled_url(url, "url", find)) if isinstance(url, str) else url
        settings = {name: filled(value, name, find) for name, value in settings.items()}
    return open_checked(url, checked_settings(url, settings), schema=schema)


def open_checked(url: str | os.PathLike[str], settings: Settings, *, schema: Schema = OWN) -> ChunkedRunLogStore:
    """`open_store`, with settings that are checked already."""
    backend = open_backend(url, settings)
    if settings.require is not None:
        _require(backend, settings.require)
    return ChunkedRunLogStore(backend, settings=settings.for_store(), schema=schema)


def checked_settings(url: str | os.PathLike[str], settings: Mapping[str, object]) -> Settings:
    """The settings of the place that a URL names, as one value. Raises `InvalidInputError` that names what is wrong, and no secret."""
    model = settings_model(url)
    for name in settings:
        if name not in model.model_fields:
            raise InvalidInputError(unknown_setting(name, model), name=name)
    return checked(model, settings, "settings cannot be used")


def settings_model(url: str | os.PathLike[str]) -> type[Settings]:
    """The settings that the place has. Raises as `scheme_of` does."""
    return _WAYS[scheme_of(url)].model


def unknown_setting(name: str, model: type[Settings], known: Collection[str] = ()) -> str:
    """What to say of a setting that a place does not have: whose it is, or the nearest. `known` are its names, if not the fields."""
    own = known or list(model.model_fields)
    ways = reversed(list(_WAYS.values()))  # of a setting that several have, the first way is named
    others = {field: way.model.place_name for way in ways for field in way.model.model_fields}
    if name in others:
        return f"{name!r} is a setting of {others[name]}; {model.place_name} has none such: leave it out"
    near = nearest_of(name, own) or nearest_of(name, list(others))
    return f"there is no setting {name!r}; " + (f"did you mean {near!r}?" if near else f"known are: {', '.join(own)}")


def schemes() -> dict[str, type[Settings]]:
    """How places can be opened, each with its settings."""
    return {scheme: way.model for scheme, way in _WAYS.items()}


def open_backend(url: str | os.PathLike[str], settings: Settings) -> Backend:
    """The place that a URL names, or memory in its stead with `mock`; the settings are those of `checked_settings` for it."""
    if settings.mock:
        return _mock(url)
    scheme = scheme_of(url)
    way = _WAYS[scheme]
    if not isinstance(settings, way.model):
        raise InvalidInputError(f"{scheme}: takes {way.model.__name__}, not {type(settings).__name__}")
    return way.open(os.fspath(url), settings)


def scheme_of(url: str | os.PathLike[str]) -> str:
    """How a place is opened: `file`, `memory`, `s3`. Raises `InvalidInputError` for what is no URL, or of no known scheme."""
    given: object = url
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise InvalidInputError(f"a URL must be text or a path, not {type(text).__name__}")
    if text != text.strip() and _SCHEME.match(text.strip()):
        raise InvalidInputError("there is a blank before or behind the URL; leave it out")
    if not text.strip() or "\0" in text:
        raise InvalidInputError("the URL is empty, or has a null character; give 'runs/', or 's3://bucket/prefix'")
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "file"
    family = scheme.partition("+")[0]
    if family in _OTHER_DATABASES or (family in ("sqlite", "postgresql") and scheme not in _WAYS):
        raise InvalidInputError(
            f"no store for {scheme}:// URLs: chunkstore speaks SQLite (sqlite:///runs.db) and PostgreSQL "
            "(postgresql://user@host/database); nothing is proven on other databases and drivers",
            name=scheme,
        )
    if scheme not in _WAYS:
        raise InvalidInputError(f"no store for {scheme}:// URLs; {hint(scheme, _WAYS)}", name=scheme)
    return scheme


def has_scheme(url: str) -> bool:
    """Whether this is a URL; otherwise it is a path."""
    return _SCHEME.match(url) is not None


def _mock(url: str | os.PathLike[str]) -> Backend:
    """Memory in the place's stead: the same for the same place, and nothing of the place is looked at."""
    from chunkstore.backends.memory import MemoryBackend

    return MemoryBackend(f"mock-{hashlib.sha256(os.fspath(url).encode(errors='surrogatepass')).hexdigest()[:12]}")


def _open_local(url: str, settings: LocalSettings) -> Backend:
    from chunkstore.backends.local import LocalBackend

    try:
        folder = Path(_path_of(url)).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(
            f"{url!r} begins with the home folder of a user whom this host does not know"
        ) from error
    return LocalBackend(folder, durability=settings.durability, deadline=settings.timeout_seconds / 2)


def _path_of(url: str) -> str:
    if not url.lower().startswith("file:"):
        return url
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):  # not shown: it may hold a password
        raise InvalidInputError(
            "the file URL names a host; a local folder is written file:///folder, with three slashes"
        )
    path = unquote(parts.path)
    if not path or "\0" in path or parts.query or parts.fragment:
        raise InvalidInputError(f"{url!r} names no folder; write file:///folder, and %3F and %23 for ? and #")
    return path


def _open_memory(url: str, _settings: MemorySettings) -> Backend:
    from chunkstore.backends.memory import MemoryBackend

    return MemoryBackend(_after_slashes(url).strip("/"))


def _after_slashes(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        raise InvalidInputError(f"the URL lacks its slashes; write {scheme.partition(':')[0]}://name")
    return rest


def _open_s3(url: str, settings: S3StoreSettings) -> Backend:
    from chunkstore.backends.s3 import S3Backend

    bucket, _, prefix = _after_slashes(url).partition("/")
    if not bucket:
        raise InvalidInputError(f"{url!r} names no bucket; write s3://bucket/prefix")
    check_shown(url)
    _check_prefix(prefix)
    return S3Backend(
        bucket=bucket,
        prefix=prefix.strip("/"),
        # The last try begins within the first half of ours. It is a put, which is read back when its reply is lost.
        deadline=settings.timeout_seconds / 4,
        max_connections=settings.max_connections,
        **settings.for_backend(),
    )


def _open_database(url: str, settings: DatabaseSettings) -> Backend:
    try:
        import sqlalchemy  # noqa: F401
    except ImportError as error:
        raise NotSupportedError("for a database SQLAlchemy is needed: pip install 'chunkstore[sql]'") from error
    from chunkstore.backends.sql import SqlBackend

    return SqlBackend(
        url,
        table_name=settings.table_name,
        password=settings.password.get_secret_value(),
        deadline=settings.timeout_seconds / 4,  # as for S3
        max_connections=settings.max_connections,
        recycle_seconds=settings.pool_recycle_seconds,
        create_tables=settings.create_tables,
        durability=settings.durability,
    )


def check_shown(url: str) -> None:
    """Refuses a URL that holds credentials, before anything shows it."""
    scheme, slashes, rest = url.partition("://")
    host = rest.partition("/")[0]
    way = _WAYS.get(scheme.lower())
    if scheme.lower() == "file" or (way is not None and way.model.url_may_hold_credentials):
        return
    if slashes and re.search("[@:?#]", host) and not host.startswith("arn:"):
        scheme_of(url)  # of another database it says so: nobody meant a bucket
        raise InvalidInputError(
            "the name of the bucket has '@', ':', '?' or '#'; credentials do not belong into the URL, where everybody sees "
            "them: use the settings key and secret"
        )


def _check_prefix(prefix: str) -> None:
    if len(prefix.encode()) > _MAX_PREFIX_BYTES:
        raise InvalidInputError(f"the prefix has {len(prefix.encode())} bytes; {_MAX_PREFIX_BYTES} are the most")
    if any(part in (".", "..", "") for part in prefix.strip("/").split("/")) and prefix.strip("/"):
        raise InvalidInputError("the prefix has an empty part, '.' or '..'; leave it out")
    if re.search(r"[*?\[\]{}\x00-\x1f\\]", prefix):
        raise InvalidInputError(
            "the prefix has a character that object stores or their tools expand: one of *?[]{}\\ or a control character; "
            "leave it out"  # the prefix itself is not shown: behind a "?" there may be a secret
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """How places of one scheme are opened: by which settings, and by whom."""

    model: type[Settings]
    open: Callable[[str, Any], Backend]


_WAYS: Final[Mapping[str, _Way]] = {
    "file": _Way(LocalSettings, _open_local),
    "memory": _Way(MemorySettings, _open_memory),
    "s3": _Way(S3StoreSettings, _open_s3),
    "sqlite": _Way(DatabaseSettings, _open_database),
    "postgresql": _Way(DatabaseSettings, _open_database),
    "sqlite+pysqlite": _Way(DatabaseSettings, _open_database),
    "postgresql+psycopg": _Way(DatabaseSettings, _open_database),
}


_OTHER_DATABASES: Final = frozenset(
    {"mysql", "mariadb", "oracle", "mssql", "postgres", "cockroachdb", "duckdb", "db2", "snowflake"}
)


def _require(backend: Backend, promise: str) -> None:
    guarantees = backend.guarantees
    kept = guarantees.across_hosts if promise == "across-hosts" else guarantees.across_processes
    if not kept:
        raise NotSupportedError(
            f"{backend.place} cannot promise that parallel writers are safe {promise.replace('-', ' ')}; "
            "choose another place, or leave out require"
        )
