"""The error border of S3: one table from what a server, or the network, said to what it means for us.

It goes by the status and the code of the response in an exception's chain, then by the exception's type. Never by errno:
s3fs gives a failed `If-Match` as EINVAL and one and the same 412 as EEXIST or EINVAL, whatever the server wrote into it.
Types go by name, so that nothing here imports s3fs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_CREDENTIALS: Final = re.compile(r"//[^/\s\"']*@")
_REPLY: Final = re.compile(r"Server returned non-2xx status code: (?P<status>\d{3})(?P<body>.*)", re.DOTALL)
_CODE: Final = re.compile(r"<Code>\s*([^<\s]+)\s*</Code>")
_NO_CONNECTION: Final = re.compile(r"legacy::Error\(\s*Connect,")
_UNTRUSTED: Final = re.compile(r"InvalidCertificate|UnknownIssuer|CertificateError")


class StrangeReplyError(Exception):
    """A reply of success that no S3 server gives: a gateway's page, or nothing at all."""


class UnnamedVersionError(StrangeReplyError):
    """A reply of success to a write that names no version."""


class UnfitReplyError(StrangeReplyError):
    """A reply of success to a read that obstore cannot take: it does not tell its length."""


class RefusedError(Exception):
    """A reply of failure that came through obstore, kept as botocore keeps it."""

    def __init__(self, said: str, status: int, code: str) -> None:
        super().__init__(said)
        self.response = {"Error": {"Code": code} if code else {}, "ResponseMetadata": {"HTTPStatusCode": status}}


class ElsewhereError(RefusedError):
    """The server sends us to another region or endpoint."""


class NeverSentError(Exception):
    """There was no connection through obstore, so the server never heard of the request."""


class UntrustedError(NeverSentError):
    """There was no connection, because the server's certificate was not trusted."""


class WireBrokeError(Exception):
    """No whole reply came through obstore: the connection broke, or nothing came for too long."""


class UnsentError(Exception):
    """A request that could not be made, for want of credentials or of a file that the settings name. It says itself what to do."""

    def __init__(self, said: str, fault: Fault) -> None:
        super().__init__(said)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a request can fail."""

    what: str
    """For people: what happened."""
    advice: str
    """For people: the next step."""
    transient: bool = False
    """May the same request succeed later, without anybody changing anything?"""
    landed: bool = False
    """May a write have been done all the same?"""
    resend: bool = False
    """May a write be sent again before anybody has looked whether it landed?"""


MISSING: Final = Fault("there is no such object", "List the run to see what is there.")
NO_BUCKET: Final = Fault("there is no such bucket", "Create the bucket, or correct its name.")
CONDITION: Final = Fault("the condition did not hold", "Read the object and decide again.")
RACE: Final = Fault(
    "another request on the same object was under way",
    "Read the object to know who won.",
    transient=True,
    landed=True,
)
UNSUPPORTED: Final = Fault(
    "the server does not implement what was asked for", 'Set conditional_writes to "auto" or "off".'
)
REFUSED: Final = Fault(
    "access was refused",
    "Check the access key, the secret, and what they may do with this bucket and prefix.",
)
EXPIRED: Final = Fault(
    "the credentials have expired",
    "Renew them where they come from; those of a role (role_arn) are renewed by themselves.",
)
NO_CREDENTIALS: Final = Fault(
    "no usable credentials were found",
    "Give key and secret, or a profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
)
CLOCK: Final = Fault("the clocks of this host and the server are too far apart", "Set the clock of this host.")
REGION: Final = Fault(
    "the bucket is served by another region or endpoint", "Set region (and endpoint_url) to where the bucket is."
)
CERTIFICATE: Final = Fault(
    "the TLS connection could not be trusted",
    "Check the certificate; the setting ca_bundle, or AWS_CA_BUNDLE, names a file of your own authority.",
)
REJECTED: Final = Fault("the server did not accept the request", "Check the bucket, the prefix and the endpoint.")
FULL: Final = Fault("there is no room left", "Free some space or raise the quota, then repeat the call.")
BUSY: Final = Fault(
    "the server is busy", "Try again later, or send fewer requests at once.", transient=True, landed=True, resend=True
)
BROKEN: Final = Fault("the server, or the way to it, failed", "Try again.", transient=True, landed=True)
UNREACHABLE: Final = Fault(
    "the endpoint cannot be reached",
    "Check that it runs and that its address is right.",
    transient=True,
    resend=True,
)
LATE: Final = Fault("there was no answer in time", "Try again, or raise the deadline.", transient=True, landed=True)

CODES: Final[Mapping[str, Fault]] = {
    code: fault
    for fault, codes in {
        MISSING: "NoSuchKey NoSuchVersion",
        NO_BUCKET: "NoSuchBucket",
        CONDITION: "PreconditionFailed",
        RACE: "ConditionalRequestConflict OperationAborted",
        UNSUPPORTED: "NotImplemented XNotImplemented",
        REFUSED: (
            "AccessDenied AccountProblem AllAccessDisabled CredentialsNotSupported CrossLocationLoggingProhibited"
            " Forbidden InvalidAccessKeyId InvalidPayer InvalidSecurity InvalidToken InvalidTokenId"
            " MissingSecurityElement MissingSecurityHeader NotSignedUp SignatureDoesNotMatch"
            " Unauthorized UnauthorizedAccess XMinioInvalidIAMCredentials"
        ),
        EXPIRED: "ExpiredToken ExpiredTokenException TokenRefreshRequired",
        CLOCK: "RequestTimeTooSkewed RequestExpired",
        REGION: (
            "AuthorizationHeaderMalformed IllegalLocationConstraintException InvalidLocationConstraint"
            " PermanentRedirect Redirect TemporaryRedirect"
        ),
        REJECTED: (
            "BadRequest BucketAlreadyExists BucketAlreadyOwnedByYou BucketNotEmpty EncryptionTypeMismatch"
            " EntityTooLarge EntityTooSmall InlineDataTooLarge InvalidAddressingHeader InvalidArgument"
            " InvalidBucketName InvalidBucketState InvalidDigest InvalidEncryptionAlgorithmError InvalidObjectName"
            " InvalidObjectState InvalidPart InvalidPartOrder InvalidPolicyDocument InvalidRange InvalidRequest"
            " InvalidSOAPRequest InvalidStorageClass InvalidTargetBucketForLogging InvalidURI InvalidWriteOffset"
            " KeyTooLongError MalformedXML MaxMessageLengthExceeded MetadataTooLarge MethodNotAllowed"
            " MissingContentLength MissingRequestBodyError TooManyBuckets TooManyParts"
            " UnexpectedContent UserKeyMustBeSpecified XMinioInvalidObjectName"
        ),
        FULL: "QuotaExceeded XMinioAdminBucketQuotaExceeded XMinioStorageFull",
        BUSY: (
            "BandwidthLimitExceeded EC2ThrottledException LimitExceededException PriorRequestNotComplete ProvisionedThroughputExceededException"
            " RequestLimitExceeded RequestThrottled RequestThrottledException RestoreAlreadyInProgress"
            " ServiceUnavailable SlowDown SlowDownRead SlowDownWrite ThrottledException Throttling ThrottlingException"
            " TooManyRequests TooManyRequestsException TransactionInProgressException XMinioServerNotInitialized"
        ),
        BROKEN: (
            "BadDigest IncompleteBody InternalError InternalServerError RequestTimeout RequestTimeoutException"
            " XAmzContentChecksumMismatch XAmzContentSHA256Mismatch"
        ),
    }.items()
    for code in codes.split()
}
"""Error codes of S3 and of servers that speak its language. A code that is not here goes by its status."""

STATUSES: Final[Mapping[int, Fault]] = {
    301: REGION,
    302: REGION,
    307: REGION,
    308: REGION,
    401: REFUSED,
    403: REFUSED,
    404: MISSING,
    408: BROKEN,
    409: RACE,
    412: CONDITION,
    425: BUSY,
    429: BUSY,
    501: UNSUPPORTED,
    503: BUSY,
    509: BUSY,
}
"""Statuses, for codes that are not in the table and replies without a body. Other 5xx are BROKEN, the rest REJECTED."""

TYPES: Final[Mapping[str, Fault | None]] = {
    name: fault
    for fault, names in {
        # aiobotocore says this of refused connections and of connections that broke: the cause knows which.
        None: "EndpointConnectionError ProxyConnectionError",
        UNREACHABLE: "ClientConnectorError ConnectTimeoutError ConnectionRefusedError gaierror NeverSentError",
        CERTIFICATE: "SSLError ClientSSLError UntrustedError",
        NO_CREDENTIALS: (
            "NoCredentialsError PartialCredentialsError CredentialRetrievalError MetadataRetrievalError ProfileNotFound"
            " UnknownCredentialError NoAuthTokenError SSOError LoginError TokenRetrievalError"
            " RefreshWithMFAUnsupportedError"
        ),
        BROKEN: (
            "HTTPClientError ConnectionError IncompleteReadError ChecksumError FlexibleChecksumError"
            " StrangeReplyError WireBrokeError ResponseParserError ClientPayloadError ClientConnectionError ClientResponseError TimeoutError OSError"
        ),
        REJECTED: "BotoCoreError ClientError",
    }.items()
    for name in names.split()
}
"""Exception types without a response, by name: an exception is what its nearest base in the table is. None: ask its cause."""


def fault_of(error: BaseException) -> Fault | None:
    """What an exception of s3fs, botocore or aiohttp means; None for one that is none of theirs (a programming error)."""
    links = list(_chain(error))
    for link in links:
        # First of all: what the giver of credentials answered says nothing about the server.
        if isinstance(link, UnsentError):
            return link.fault
    for link in links:
        if (response := response_of(link)) is not None:
            return _fault_of_response(response)
    for link in links:
        if (fault := _fault_of_type(type(link))) is not None:
            return fault
    return BROKEN if any(type(link).__name__ in TYPES for link in links) else None


def answer_of(error: BaseException) -> str:
    """What the server said, or else the exception itself, in one line for people."""
    for link in _chain(error):
        if isinstance(link, UnsentError):
            return str(link)
        if (response := response_of(link)) is not None:
            code, status = _code_of(response), _status_of(response)
            return f"{status} {code}" if code != str(status) else code
    said = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
    return _CREDENTIALS.sub("//***@", said)[:300]  # botocore shows the endpoint as it was given


def doubts_credentials(error: BaseException) -> bool:
    """Whether the server refused credentials that may have run out. Nothing was done then.

    MinIO forgets expired ones, and AWS answers a HEAD with a bare 400, since it has no body to say more in.
    """
    for link in _chain(error):
        if isinstance(link, UnsentError):
            return False
        if (response := response_of(link)) is not None:
            code = _code_of(response)
            return CODES.get(code) is EXPIRED or code in _DOUBTS
    return False


_DOUBTS: Final = {"InvalidAccessKeyId", "InvalidToken", "InvalidTokenId", "400"}


def obstore_said(error: Exception, key: str) -> Exception:
    """What an exception of obstore tells, as one that `fault_of` knows; itself, where it is none of obstore's.

    Its types lie (a 409, where nothing was written, comes as "already exists"), so its text decides: obstore writes the reply's
    status and body into it, and behind that, in the form that programmers see, what became of a connection.
    """
    # The key stands before all that, and could hold anything.
    text, _, inside = str(error).replace(key, "").partition("\n\nDebug source:")
    reply = _REPLY.search(text)
    said = _fit_to_be_shown(text if reply is None else text[: reply.start("body")]) or type(error).__name__
    if reply is not None:
        code = _CODE.search(reply["body"])
        return _refused(said, int(reply["status"]), code[1] if code else "")
    if "BareRedirect" in inside or "kind: Redirect" in inside:
        return ElsewhereError(said, 301, "")
    if "Header missing from response" in text:
        return UnnamedVersionError(said) if "ETag" in text else UnfitReplyError(said)
    if _NO_CONNECTION.search(inside):
        return (UntrustedError if _UNTRUSTED.search(inside) else NeverSentError)(said)
    return WireBrokeError(said) if inside else error


def _fit_to_be_shown(text: str) -> str:
    """One line without what an endpoint may hold; the body of a reply is left out before: servers repeat a token in it."""
    return _CREDENTIALS.sub("//***@", text.partition("\n")[0])[:300]


def _refused(said: str, status: int, code: str) -> RefusedError:
    refused = RefusedError(said, status, code)
    return ElsewhereError(said, status, code) if _fault_of_response(refused.response) is REGION else refused


def response_of(error: BaseException) -> Mapping[str, Any] | None:
    """The response that botocore keeps in its `ClientError`."""
    response = getattr(error, "response", None)
    return response if isinstance(response, Mapping) and "Error" in response else None


def _fault_of_response(response: Mapping[str, Any]) -> Fault:
    code, status = _code_of(response), _status_of(response)
    if (fault := CODES.get(code) or STATUSES.get(status)) is not None:
        return fault
    return BROKEN if status >= 500 else REJECTED


def _fault_of_type(kind: type[BaseException]) -> Fault | None:
    for base in kind.__mro__:
        if base.__name__ in TYPES:
            return TYPES[base.__name__]
    return None


def _code_of(response: Mapping[str, Any]) -> str:
    return str(response["Error"].get("Code") or _status_of(response))


def _status_of(response: Mapping[str, Any]) -> int:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status:
        return int(status)
    code = str(response["Error"].get("Code", ""))
    return int(code) if code.isdecimal() else 0


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what it was raised from, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
