"""What is said about a bucket: where it is, how to talk to it, and with which engine. Checked before anything is sent."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from chunkstore.backends.probe import Root
from chunkstore.errors import InvalidInputError

ConditionalWrites = Literal["auto", "require", "off"]
EngineName = Literal["auto", "s3fs", "obstore"]
AddressingStyle = Literal["auto", "path", "virtual"]
Encryption = Literal["", "AES256", "aws:kms", "aws:kms:dsse"]

_ENVIRONMENT: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_USUAL_FILE: Final = "~/.aws/credentials"
_SHORTEST_SESSION: Final = 900
_SESSION_NAME: Final = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)


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
    """Of the files of AWS. Empty: the environment's, or the default one."""
    credentials_file: str = ""
    """Instead of `~/.aws/credentials`. With another one the credentials of the environment are not looked at."""
    use_credentials: bool = False
    """Credentials come from the variables of the environment that are named below, and from nowhere else."""
    access_key_name: str = _ENVIRONMENT[0]
    secret_access_key_name: str = _ENVIRONMENT[1]
    session_token_name: str = _ENVIRONMENT[2]
    role_arn: str = ""
    """Assumed with the credentials that are found; its own are renewed for as long as the process lives."""
    role_session_name: str = ""
    external_id: str = field(default="", repr=False)
    session_duration_in_seconds: int = _SHORTEST_SESSION
    sts_endpoint_url: str = field(default="", repr=False)
    """Who gives the role's credentials; empty: AWS. MinIO does so at its own address."""
    addressing_style: AddressingStyle = "auto"
    """Where the bucket's name stands; `auto`: in the path where there is an endpoint_url, else as botocore decides."""
    ca_bundle: str = ""
    """A file of certificates that are trusted, instead of those that are known; also for STS."""
    server_side_encryption: Encryption = ""
    sse_kms_key_id: str = ""
    sse_customer_key: str = field(default="", repr=False)
    """32 bytes in base64. The server encrypts with it and forgets it: who loses it, loses the runs."""
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
        """Refuses what cannot work, or would not be used, before anything is sent."""
        if not self.bucket or "/" in self.bucket:
            raise InvalidInputError(f"bucket must be the name of one bucket, not {self.bucket!r}")
        _check_url("endpoint_url", self.endpoint_url)
        _check_url("sts_endpoint_url", self.sts_endpoint_url)
        if self.deadline <= 0 or self.max_connections < 1:
            raise InvalidInputError("deadline must be above 0 and max_connections at least 1")
        self._check_choices()
        self._check_sources()
        self._check_role()
        self._check_encryption()

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                *most, last = (choice for choice in choices if choice)
                raise InvalidInputError(f"{name} must be {', '.join(most)} or {last}, not {value!r}")

    def _check_sources(self) -> None:
        if bool(self.key) != bool(self.secret):
            raise InvalidInputError("key and secret come together: give both, or neither")
        if self.token and not self.key:
            raise InvalidInputError("token belongs to key and secret: give all three, or none")
        given = {"key": self.key, "profile": self.profile, "credentials_file": self.names_another_file}
        others = [name for name, value in given.items() if value]
        if self.use_credentials and others:
            raise InvalidInputError(
                f"use_credentials takes the credentials from the environment, {others[0]} from elsewhere: leave one out"
            )
        if self.key and self.names_another_file:
            raise InvalidInputError("the credentials are in key and secret, and in credentials_file: leave one out")
        if not self.use_credentials and self._variables != _ENVIRONMENT:
            raise InvalidInputError(
                "access_key_name, secret_access_key_name and session_token_name name variables of the environment, "
                "which are looked at with use_credentials only: set it too"
            )
        if "" in self._variables:
            raise InvalidInputError(
                "a variable of the environment must have a name: leave the setting out for AWS's own"
            )

    @property
    def names_another_file(self) -> bool:
        """Whether `credentials_file` is not where the credentials are anyway; the stores before had to be told of that one too."""
        return self.credentials_file not in {"", _USUAL_FILE}

    @property
    def _variables(self) -> tuple[str, str, str]:
        return self.access_key_name, self.secret_access_key_name, self.session_token_name

    def _check_role(self) -> None:
        if not self.role_arn:
            if idle := [
                name for name in ("role_session_name", "external_id", "sts_endpoint_url") if getattr(self, name)
            ]:
                raise InvalidInputError(f"{idle[0]} is used with role_arn only: set that too, or leave it out")
        elif not self.role_arn.startswith("arn:") or len(self.role_arn) < 20:
            raise InvalidInputError(f"role_arn must be as arn:aws:iam::123456789012:role/name, not {self.role_arn!r}")
        if self.session_duration_in_seconds < _SHORTEST_SESSION:
            raise InvalidInputError(
                f"session_duration_in_seconds must be at least {_SHORTEST_SESSION}, not {self.session_duration_in_seconds}"
            )
        if self.role_session_name and not _SESSION_NAME.fullmatch(self.role_session_name):
            raise InvalidInputError(
                f"role_session_name must be 2 to 64 letters, digits or any of +=,.@-_, not {self.role_session_name!r}"
            )
        if len(self.external_id) == 1:
            raise InvalidInputError("external_id must have at least two characters")

    def _check_encryption(self) -> None:
        if self.sse_kms_key_id and not self.server_side_encryption.startswith("aws:kms"):
            raise InvalidInputError("sse_kms_key_id needs server_side_encryption to be aws:kms or aws:kms:dsse")
        if not self.sse_customer_key:
            return
        if self.server_side_encryption:
            raise InvalidInputError(
                "sse_customer_key and server_side_encryption are two ways to encrypt an object: give one"
            )
        if self.endpoint_url.lower().startswith("http:"):
            raise InvalidInputError("sse_customer_key would be sent unencrypted: endpoint_url must begin with https://")
        try:
            length = len(base64.b64decode(self.sse_customer_key, validate=True))
        except (binascii.Error, ValueError):
            length = 0
        if length != 32:
            # Out here, where it has no context that could show the key.
            raise InvalidInputError("sse_customer_key must be 32 bytes in base64: openssl rand -base64 32 makes one")

    @property
    def authority(self) -> str:
        """The file of `ca_bundle`, empty where none was named."""
        return str(Path(self.ca_bundle).expanduser()) if self.ca_bundle else ""

    @property
    def root(self) -> Root:
        """What tells this place from others."""
        return Root(masked(self.endpoint_url).rstrip("/").lower(), self.bucket, self.prefix.strip("/"))

    @property
    def place(self) -> str:
        """The place for people, without secrets."""
        url = f"s3://{self.root.bucket}/{self.root.prefix}".rstrip("/")
        return f"{url} at {masked(self.endpoint_url)}" if self.endpoint_url else url


_CHOICES: Final = {
    "engine": get_args(EngineName),
    "conditional_writes": get_args(ConditionalWrites),
    "addressing_style": get_args(AddressingStyle),
    "server_side_encryption": get_args(Encryption),
}


def _check_url(name: str, url: str) -> None:
    if url and urlsplit(url).scheme not in {"http", "https"}:
        raise InvalidInputError(f"{name} must begin with http:// or https://: {masked(url)!r}")
    if "@" in urlsplit(url).netloc:
        raise InvalidInputError(f"{name} holds credentials, which everybody would see: use key and secret")


def masked(url: str) -> str:
    """A URL without the user and password that may stand in it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()
