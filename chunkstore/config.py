"""From a URL and settings to an open store. Everything is checked here, before anything is sent or written."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from chunkstore.backends import Backend
from chunkstore.errors import InvalidInputError, NotSupportedError
from chunkstore.schema import OWN, Schema
from chunkstore.store import ChunkedRunLogStore, StoreSettings

_MAX_PREFIX_BYTES: Final = 600  # of S3's 1,024 for a key; a run id and a chunk's name need the rest
_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: `C:` is a drive


def _without_credentials(url: str) -> str:
    if "@" in url:
        raise ValueError("credentials do not belong into the URL, where everybody sees them; use key and secret")
    return url


class Settings(BaseModel):
    """All settings of a store, with their defaults. Those of another kind of place are checked and then not used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retention_days: int = Field(default=90, ge=1)
    """For how many days a run is worth keeping. Nothing is deleted by itself."""
    enable_compression: bool = True
    compression_threshold_bytes: int = Field(default=1_000_000, ge=0)
    timeout_seconds: float = Field(default=60, gt=0, allow_inf_nan=False)
    """How long one operation may take, with all its tries."""
    max_connections: int = Field(default=64, ge=1)
    """Requests at once to an object store."""
    cache_bytes: int = Field(default=64 << 20, ge=0)
    """Memory for the chunks that the process saw last."""
    compact_at_end: bool = False
    """Pack a run when its terminal status is acknowledged. See `docs/how-to/packs.md`."""
    durability: Literal["process", "barrier", "power"] = "barrier"
    """Local disk: which acknowledged writes survive. See `docs/concepts.md`."""
    conditional_writes: Literal["auto", "require", "off"] = "auto"
    """S3: what to do where the server ignores conditions; `require` refuses it, `off` never sends them."""
    engine: Literal["auto", "s3fs", "obstore"] = "auto"
    """S3: what sends the requests; `auto` takes obstore where it is installed, able and safe."""
    require: Literal["across-processes", "across-hosts"] | None = None
    """Refuse to open a place that cannot promise this much for parallel writers."""
    endpoint_url: Annotated[str, AfterValidator(_without_credentials)] = ""
    key: SecretStr = SecretStr("")
    secret: SecretStr = SecretStr("")
    token: SecretStr = SecretStr("")
    region: str = ""
    lock_folder: str = ""
    """Where the lock files of this host are, for places without conditional writes; by default in the user's cache folder."""

    def for_store(self) -> StoreSettings:
        """The part that is the store's own; the rest is the backend's."""
        return StoreSettings(
            retention_days=self.retention_days,
            compress_above=self.compression_threshold_bytes if self.enable_compression else None,
            timeout_seconds=self.timeout_seconds,
            known_bytes=self.cache_bytes,
            compact_at_end=self.compact_at_end,
        )


def open_store(url: str | os.PathLike[str], *, schema: Schema = OWN, **settings: object) -> ChunkedRunLogStore:
    """A store at a place: a folder (`runs/`), `file://…`, `memory://name`, or `s3://bucket/prefix` (also MinIO and its like).

    Settings are the fields of `Settings`. S3 credentials that are not given come from the usual places (environment,
    profile, role). Nothing is sent, except where `require` asks for a promise that only the server can tell about.

    Raises `InvalidInputError` for a URL or a setting that cannot be used, naming the nearest known one, and
    `NotSupportedError` where the place cannot promise what `require` asks for, or an extra is not installed.
    """
    checked = checked_settings(settings)
    backend = open_backend(url, checked)
    if checked.require is not None:
        _require(backend, checked.require)
    return ChunkedRunLogStore(backend, settings=checked.for_store(), schema=schema)


def checked_settings(settings: Mapping[str, object]) -> Settings:
    """The settings as one value. Raises `InvalidInputError` that names what is wrong, and never a secret."""
    for name in settings:
        if name not in Settings.model_fields:
            raise InvalidInputError(
                f"there is no setting {name!r}; {_nearest(name, list(Settings.model_fields))}", name=name
            )
    try:
        return Settings.model_validate(dict(settings))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
    raise InvalidInputError(
        f"settings cannot be used: {wrong}"
    )  # not within `except`: the context would hold the values


def open_backend(url: str | os.PathLike[str], settings: Settings) -> Backend:
    """The place that a URL names."""
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
    opener = _OPENERS.get(scheme)
    if opener is None:
        known = list(_OPENERS)
        raise InvalidInputError(f"no store for {scheme}:// URLs; {_nearest(scheme, known)}", name=scheme)
    return opener(text, settings)


def has_scheme(url: str) -> bool:
    """Whether this is a URL; otherwise it is a path."""
    return _SCHEME.match(url) is not None


def _open_local(url: str, settings: Settings) -> Backend:
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


def _open_memory(url: str, _settings: Settings) -> Backend:
    from chunkstore.backends.memory import MemoryBackend

    return MemoryBackend(_after_slashes(url).strip("/"))


def _after_slashes(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        raise InvalidInputError(f"the URL lacks its slashes; write {scheme.partition(':')[0]}://name")
    return rest


def _open_s3(url: str, settings: Settings) -> Backend:
    from chunkstore.backends.s3 import S3Backend

    bucket, _, prefix = _after_slashes(url).partition("/")
    if not bucket:
        raise InvalidInputError(f"{url!r} names no bucket; write s3://bucket/prefix")
    check_shown(url)
    _check_prefix(prefix)
    return S3Backend(
        bucket=bucket,
        prefix=prefix.strip("/"),
        endpoint_url=settings.endpoint_url,
        key=settings.key.get_secret_value(),
        secret=settings.secret.get_secret_value(),
        token=settings.token.get_secret_value(),
        region=settings.region,
        # The last try begins within the first half of ours. It is a put, which is read back when its reply is lost.
        deadline=settings.timeout_seconds / 4,
        max_connections=settings.max_connections,
        conditional_writes=settings.conditional_writes,
        lock_folder=settings.lock_folder,
        engine=settings.engine,
    )


def check_shown(url: str) -> None:
    """Refuses a URL that holds credentials, before anything shows it."""
    scheme, slashes, rest = url.partition("://")
    host = rest.partition("/")[0]
    if slashes and scheme.lower() != "file" and re.search("[@:?#]", host) and not host.startswith("arn:"):
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


_OPENERS: Final[Mapping[str, Callable[[str, Settings], Backend]]] = {
    "file": _open_local,
    "memory": _open_memory,
    "s3": _open_s3,
}


def _require(backend: Backend, promise: str) -> None:
    guarantees = backend.guarantees
    kept = guarantees.across_hosts if promise == "across-hosts" else guarantees.across_processes
    if not kept:
        raise NotSupportedError(
            f"{backend.place} cannot promise that parallel writers are safe {promise.replace('-', ' ')}; "
            "choose another place, or leave out require"
        )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
