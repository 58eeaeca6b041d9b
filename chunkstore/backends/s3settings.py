"""What is said about a bucket: where it is, how to talk to it, and with which engine. Checked before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from chunkstore.backends.probe import Root
from chunkstore.errors import InvalidInputError

ConditionalWrites = Literal["auto", "require", "off"]
EngineName = Literal["auto", "s3fs", "obstore"]


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Settings:
    """Where the bucket is and how to talk to it. Empty texts mean: what botocore finds in its own configuration."""

    bucket: str
    prefix: str = ""
    endpoint_url: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    region: str = ""
    profile: str = ""
    deadline: float = 30.0
    """Seconds that one operation may take, with all its tries."""
    max_connections: int = 20
    conditional_writes: ConditionalWrites = "auto"
    """`require` refuses a server that ignores conditions, `auto` falls back to locks of this host, `off` always does."""
    lock_folder: str = ""
    """Where these locks are; empty: in the user's cache folder, one folder for each root."""
    engine: EngineName = "auto"
    """What sends the requests; `auto` takes obstore where it is installed, able and safe. See `s3engine`."""

    def __post_init__(self) -> None:
        """Refuses what cannot work, before anything is sent."""
        if not self.bucket or "/" in self.bucket:
            raise InvalidInputError(f"bucket must be the name of one bucket, not {self.bucket!r}")
        if self.endpoint_url and urlsplit(self.endpoint_url).scheme not in {"http", "https"}:
            raise InvalidInputError(f"endpoint_url must begin with http:// or https://: {masked(self.endpoint_url)!r}")
        if "@" in urlsplit(self.endpoint_url).netloc:
            raise InvalidInputError("endpoint_url holds credentials, which everybody would see: use key and secret")
        if bool(self.key) != bool(self.secret):
            raise InvalidInputError("key and secret come together: give both, or neither")
        if self.deadline <= 0 or self.max_connections < 1:
            raise InvalidInputError("deadline must be above 0 and max_connections at least 1")
        if self.engine not in {"auto", "s3fs", "obstore"}:
            raise InvalidInputError(f"engine must be auto, s3fs or obstore, not {self.engine!r}")
        if self.conditional_writes not in {"auto", "require", "off"}:
            raise InvalidInputError(f"conditional_writes must be auto, require or off, not {self.conditional_writes!r}")

    @property
    def root(self) -> Root:
        """What tells this place from others."""
        return Root(masked(self.endpoint_url).rstrip("/").lower(), self.bucket, self.prefix.strip("/"))

    @property
    def place(self) -> str:
        """The place for people, without secrets."""
        url = f"s3://{self.root.bucket}/{self.root.prefix}".rstrip("/")
        return f"{url} at {masked(self.endpoint_url)}" if self.endpoint_url else url


def masked(url: str) -> str:
    """A URL without the user and password that may stand in it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()
