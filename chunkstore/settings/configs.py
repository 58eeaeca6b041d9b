"""The types of a configuration that name their place by keys of their own, as the stores did that came before: each gives a URL and settings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal, cast

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, create_model

from chunkstore.settings.database import DatabaseSettings
from chunkstore.settings.general import Settings
from chunkstore.settings.local import LocalSettings
from chunkstore.settings.s3 import Endpoint, S3StoreSettings


class PlaceKeys(Settings):
    """What the keys of a type have in common: they are settings too, and say where the place is."""

    where: ClassVar[str]
    """The key that names the place."""

    @abstractmethod
    def place_url(self) -> str:
        """The URL that these keys mean; a secret may be in it where the place's URLs may hold one."""


def _folder(path: str) -> str:
    if "://" in path:
        raise ValueError("it must be a folder; for a URL take the type chunkstore")
    return path


def _bucket(name: str) -> str:
    if "://" in name or name.startswith("/"):
        raise ValueError("it must be the name of a bucket, without s3:// and without a slash before it")
    return name


def _database(url: SecretStr) -> SecretStr:
    if ":" not in url.get_secret_value():
        raise ValueError("it must be a URL: sqlite:///runs.db, or postgresql://user@host/database")
    return url


class UrlKeys(PlaceKeys):
    """Type `chunkstore`: a URL, and the settings of the place that it names."""

    where: ClassVar[str] = "url"

    url: str = Field(min_length=1)
    """The place: a folder such as `runs/`, or `s3://bucket/prefix`."""

    def place_url(self) -> str:
        return self.url


@lru_cache
def url_keys(settings: type[Settings]) -> type[PlaceKeys]:
    """The keys of type `chunkstore` for places with these settings."""
    made = create_model(f"{settings.__name__}AndUrl", __base__=cast(Any, (UrlKeys, settings)), __doc__=settings.__doc__)
    return cast(type[PlaceKeys], made)


class FolderKeys(PlaceKeys, LocalSettings):
    """Type `chunkstore-fs`: the keys of runnable's and magnus's `chunked-fs` and `file-system`."""

    where: ClassVar[str] = "log_folder"

    log_folder: Annotated[str, AfterValidator(_folder)] = Field(default=".run_log_store", min_length=1)
    """The folder of the runs."""

    def place_url(self) -> str:
        return self.log_folder


class S3Keys(PlaceKeys, S3StoreSettings):
    """Type `chunkstore-s3`: the keys of magnus's `s3`."""

    where: ClassVar[str] = "s3_bucket"

    s3_bucket: Annotated[str, AfterValidator(_bucket)] = Field(min_length=1)
    """The bucket of the runs."""
    prefix: str = ""
    """Before the keys of all runs."""
    region: str = "eu-west-1"
    profile: str = Field(default="", validation_alias=AliasChoices("aws_profile", "profile"))
    credentials_file: str = Field(default="", validation_alias=AliasChoices("aws_credentials_file", "credentials_file"))
    access_key_name: str = Field(
        default="AWS_ACCESS_KEY_ID", validation_alias=AliasChoices("aws_access_key_name", "access_key_name")
    )
    secret_access_key_name: str = Field(
        default="AWS_SECRET_ACCESS_KEY",
        validation_alias=AliasChoices("aws_secret_access_key_name", "secret_access_key_name"),
    )
    session_token_name: str = Field(
        default="AWS_SESSION_TOKEN", validation_alias=AliasChoices("aws_session_key_name", "session_token_name")
    )

    def place_url(self) -> str:
        return f"s3://{self.s3_bucket}/{self.prefix.strip('/')}"


class MinioKeys(PlaceKeys, S3StoreSettings):
    """Type `chunkstore-minio`: the keys of runnable's `chunked-minio` and `minio`, with their defaults."""

    where: ClassVar[str] = "bucket"

    bucket: Annotated[str, AfterValidator(_bucket)] = Field(default="runnable/run-logs", min_length=1)
    """The bucket of the runs; behind a slash, a prefix."""
    endpoint_url: Endpoint = "http://localhost:9002"
    key: SecretStr = Field(default=SecretStr("minioadmin"), validation_alias=AliasChoices("aws_access_key_id", "key"))
    secret: SecretStr = Field(
        default=SecretStr("minioadmin"), validation_alias=AliasChoices("aws_secret_access_key", "secret")
    )
    region: str = "us-east-1"
    addressing_style: Literal["auto", "path", "virtual"] = "path"

    def place_url(self) -> str:
        return f"s3://{self.bucket.rstrip('/')}"


class DatabaseKeys(PlaceKeys, DatabaseSettings):
    """Type `chunkstore-db`: the keys of magnus's `db`."""

    where: ClassVar[str] = "connection_string"

    connection_string: Annotated[SecretStr, AfterValidator(_database)] = Field(min_length=1)
    """The database, as SQLAlchemy writes it."""

    def place_url(self) -> str:
        return self.connection_string.get_secret_value()


KEYS: Final[Mapping[str, type[PlaceKeys]]] = {
    "chunkstore-fs": FolderKeys,
    "chunkstore-s3": S3Keys,
    "chunkstore-minio": MinioKeys,
    "chunkstore-db": DatabaseKeys,
}
"""The types that know which place they are for, by their names; of `chunkstore` it depends on the URL."""
