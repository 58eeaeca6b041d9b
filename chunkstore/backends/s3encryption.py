"""What each engine must say so that a server encrypts what it keeps, and what it must say to read it."""

from __future__ import annotations

import base64
from typing import Any

from chunkstore.backends.s3settings import S3Settings


def for_s3fs(settings: S3Settings) -> dict[str, Any]:
    """Parameters of botocore's. s3fs gives each call those that it knows: a customer's key goes with reads as well."""
    if settings.sse_customer_key:
        return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(settings.sse_customer_key)}
    asked = {"ServerSideEncryption": settings.server_side_encryption, "SSEKMSKeyId": settings.sse_kms_key_id}
    return {name: value for name, value in asked.items() if value}


def for_obstore(settings: S3Settings) -> dict[str, Any]:
    """The same in obstore's configuration."""
    if settings.sse_customer_key:
        return {"server_side_encryption": "sse-c", "sse_customer_key_base64": settings.sse_customer_key}
    asked = {"server_side_encryption": settings.server_side_encryption, "sse_kms_key_id": settings.sse_kms_key_id}
    return {name: value for name, value in asked.items() if value}
