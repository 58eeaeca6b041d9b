"""Reads one page of a listing. botocore's own way through its model takes ten times as long, longer than the server does."""

from __future__ import annotations

import functools
import inspect
from typing import Any
from xml.etree import ElementTree as ET

_MODEL = "ListObjectsV2Output"


def page_of(body: bytes) -> dict[str, Any] | None:
    """What botocore makes of a page, as far as we look at it; None for anything but a whole page, which is botocore's to judge."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - by the same parser as botocore's
        if _name(root) != "ListBucketResult":
            return None
        return _page(root)
    except (ET.ParseError, ValueError, TypeError, LookupError):
        return None


def _page(root: ET.Element) -> dict[str, Any]:
    page: dict[str, Any] = {}
    contents: list[dict[str, Any]] = []
    folders: list[dict[str, Any]] = []
    for child in root:
        name = _name(child)
        if name == "Contents":
            found: dict[str, Any] = {_name(field): field.text or "" for field in child}
            found["Size"] = int(found["Size"])
            contents.append(found)
        elif name == "CommonPrefixes":
            folders.append({_name(field): field.text or "" for field in child})
        elif name == "IsTruncated":
            page[name] = (child.text or "").strip().lower() == "true"
        elif name in {"NextContinuationToken", "EncodingType"}:
            page[name] = child.text or ""
    if contents:
        page["Contents"] = contents
    if folders:
        page["CommonPrefixes"] = folders
    if any("Key" not in found for found in contents):
        raise ValueError("an object without a key")
    return page


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


@functools.cache
def parsers() -> Any:
    """For an `AioSession`, as its component `response_parser_factory`."""
    from aiobotocore.parsers import AioResponseParserFactory

    class Parsers(AioResponseParserFactory):  # type: ignore[misc]
        def create_parser(self, protocol_name: str) -> Any:
            return _Parser(super().create_parser(protocol_name))

    return Parsers()


class _Parser:
    """botocore's parser, but for pages of listings."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def parse(self, response: dict[str, Any], shape: Any) -> Any:
        if getattr(shape, "name", "") == _MODEL and response["status_code"] == 200:
            page = page_of(response["body"])
            if page is not None:
                return {**page, "ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": dict(response["headers"])}}
        parsed = self._inner.parse(response, shape)
        return await parsed if inspect.isawaitable(parsed) else parsed
