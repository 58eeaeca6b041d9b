"""The settings of a store in an S3 bucket. How they are used is in `backends.s3settings` and what stands on it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, SecretStr

from chunkstore.settings.general import Settings


def _without_credentials(url: str) -> str:
    if "@" in url:
        raise ValueError("credentials do not belong into the URL, where everybody sees them; use key and secret")
    return url


Endpoint = Annotated[str, AfterValidator(_without_credentials)]
_NO_SECRET: Final = SecretStr("")


class S3StoreSettings(Settings):
    """Of a bucket, `s3://bucket/prefix`: at AWS, MinIO or their like. What is empty comes from where botocore finds it."""

    place_name: ClassVar[str] = "s3://"

    endpoint_url: Endpoint = ""
    """Of MinIO and its like; AWS's without it, or the environment's `AWS_ENDPOINT_URL`."""
    region: str = ""
    """The bucket's region."""
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name stands in a request: in the path, or before the host's name."""
    ca_bundle: str = ""
    """A file with the certificates that the server's is checked against."""

    key: SecretStr = _NO_SECRET
    """The access key's id."""
    secret: SecretStr = _NO_SECRET
    """The secret access key."""
    token: SecretStr = _NO_SECRET
    """The session token of temporary credentials."""
    profile: str = ""
    """The profile in the files of AWS."""
    credentials_file: str = ""
    """The file with the credentials of profiles."""
    use_credentials: bool = False
    """Take the credentials from variables of the environment and nowhere else."""
    access_key_name: str = "AWS_ACCESS_KEY_ID"
    """The variable that has the access key's id."""
    secret_access_key_name: str = "AWS_SECRET_ACCESS_KEY"  # noqa: S105  the name of a variable
    """The variable that has the secret access key."""
    session_token_name: str = "AWS_SESSION_TOKEN"  # noqa: S105  the name of a variable
    """The variable that has the session token."""

    role_arn: str = ""
    """A role to assume; its credentials renew themselves."""
    role_session_name: str = ""
    """How the role's session is called in AWS's logs."""
    external_id: str = ""
    """What the role's owner asks for, where it belongs to another account."""
    session_duration_in_seconds: int = Field(default=900, ge=900, le=43_200)
    """How long credentials of the role live."""
    sts_endpoint_url: Endpoint = ""
    """Of the service that gives the role's credentials."""

    server_side_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = ""
    """How the server encrypts what it stores."""
    sse_kms_key_id: str = ""
    """The key of AWS KMS that it encrypts with."""
    sse_customer_key: SecretStr = _NO_SECRET
    """Your own key, which the server encrypts with and forgets."""

    conditional_writes: Literal["auto", "require", "off"] = "auto"
    """What to do where the server ignores conditions; `require` refuses it, `off` never sends them."""
    engine: Literal["auto", "s3fs", "obstore"] = "auto"
    """What sends the requests; `auto` takes obstore where it is installed, able and safe."""
    lock_folder: str = ""
    """Where the lock files of this host are, for servers that ignore conditions; by default in the user's cache folder."""
