"""Who signs the requests to S3: credentials from where the settings say, renewed before they run out and when a server refuses them.

botocore's own chain and its own fetcher of a role's credentials find them; here is only when they are asked. botocore's own way
begins to renew 15 minutes before the end: with a session of 15 minutes, which is the default, it would ask STS for each request.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import logging
import os
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chunkstore.backends.s3faults import (
    CERTIFICATE,
    NO_CREDENTIALS,
    Fault,
    UnsentError,
    answer_of,
    fault_of,
    response_of,
)
from chunkstore.backends.s3settings import S3Settings

_RENEW_BEFORE: Final = 900.0
"""Seconds before the end, or a third of the life where that is less, from which on they are renewed while requests go on."""

_HURRY_BEFORE: Final = 10.0
"""Seconds before the end, or a tenth of the life, from which on requests wait for new ones: they would arrive too late."""

_REST: Final = 30.0
"""Seconds between two tries to renew credentials that still hold, or a tenth of what is left."""

_ROLE_REGION: Final = "us-east-1"
_SESSION_NAME: Final = "chunkstore"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """Credentials as they were found."""

    frozen: Any = field(repr=False)
    """As botocore signs with."""
    source: str
    """For people: where they come from."""
    expires: float | None = None
    """Seconds of the epoch; None: nobody said."""
    found: float = field(default_factory=time.time)

    def left(self) -> float:
        """Seconds until they run out."""
        return float("inf") if self.expires is None else self.expires - time.time()

    def part_of_life(self, part: float, most: float) -> float:
        """So many seconds, at most so large a part of the whole life."""
        return 0.0 if self.expires is None else min(most, (self.expires - self.found) * part)


class Credentials:
    """What both engines sign with; one for each engine of a process, on whose loop it lives.

    All that want new ones at the same time share one request for them. While the present ones hold nobody waits for it, and
    nobody sees it fail.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._held: Held | None = None
        self._renewing: asyncio.Task[Held] | None = None
        self._rests_until = 0.0
        self.renewals = 0
        """How often they were found. Whoever sends a request notes it, to say later which ones were refused."""

    @property
    def held(self) -> Held | None:
        """Those that sign at present; None before the first request."""
        return self._held

    async def get_frozen_credentials(self) -> Any:
        """Those to sign with. Raises `UnsentError` where there are none."""
        held = self._held
        if held is None or held.left() <= held.part_of_life(0.1, _HURRY_BEFORE):
            held = await self._in_a_hurry(held)
        elif held.left() <= held.part_of_life(1 / 3, _RENEW_BEFORE) and time.time() >= self._rests_until:
            self._begin()
        return held.frozen

    async def renew(self, seen: int) -> bool:
        """Whether there are others than those that were refused; `seen` is what `renewals` was before that request."""
        if self.renewals != seen or self._held is None:
            return True
        refused = self._held.frozen
        return bool((await self._renewed()).frozen != refused)

    async def _in_a_hurry(self, held: Held | None) -> Held:
        if held is not None and held.left() > 0 and time.time() < self._rests_until:
            return held
        try:
            return await self._renewed()
        except UnsentError:
            if held is None or held.left() <= 0:
                raise
            return held

    async def _renewed(self) -> Held:
        if _are_at_hand(self._settings):
            return await self._find()
        # Shielded: the deadline of the one who asked first must not take it away from the others.
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[Held]:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.ensure_future(self._find())
            self._renewing.add_done_callback(_hear)
        return self._renewing

    async def _find(self) -> Held:
        try:
            found = await found_by(self._settings)
        except UnsentError as error:
            self._rest(error)
            raise
        self._held = found
        self.renewals += 1
        self._rests_until = 0.0
        log.debug("credentials for %s: %s", self._settings.place, shown(found))
        return found

    def _rest(self, error: UnsentError) -> None:
        held = self._held
        if held is None or held.left() <= 0:
            return
        self._rests_until = time.time() + min(_REST, held.left() / 10)
        log.warning(
            "the credentials for %s could not be renewed: %s. Those that are there are used until they expire: %s",
            self._settings.place,
            error,
            shown(held),
        )


def _hear(done: asyncio.Task[Held]) -> None:
    """Whoever waits hears of a failure; where nobody does it was logged."""
    if not done.cancelled():
        done.exception()


class Provider:
    """Gives a session of botocore these credentials, as its component `credential_provider`."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> Any:
        """Something that botocore takes for its own, and asks for what to sign each request with."""
        return _asking()(self._credentials, await self._credentials.get_frozen_credentials())


@functools.cache
def _asking() -> Any:
    from aiobotocore.credentials import AioCredentials

    class Asking(AioCredentials):  # type: ignore[misc]
        def __init__(self, credentials: Credentials, frozen: Any) -> None:
            super().__init__(frozen.access_key, frozen.secret_key, frozen.token)
            self._credentials = credentials

        async def get_frozen_credentials(self) -> Any:
            return await self._credentials.get_frozen_credentials()

    return Asking


def shown(held: Held) -> str:
    """Where credentials come from and until when they hold; no secret."""
    if held.expires is None:
        return held.source
    return f"{held.source}, until {datetime.fromtimestamp(held.expires, UTC):%Y-%m-%d %H:%M:%S} UTC"


def session_for(settings: S3Settings) -> Any:
    """A session of botocore that looks where the settings say."""
    from aiobotocore.session import AioSession

    profile = settings.profile
    if settings.names_another_file:
        # Said, and not only meant: botocore then leaves the credentials of the environment alone.
        profile = profile or os.environ.get("AWS_PROFILE") or "default"
    session = AioSession(profile=profile or None)
    if settings.credentials_file:
        session.set_config_variable("credentials_file", str(Path(settings.credentials_file).expanduser()))
    # It holds what botocore knows about S3, some 0.1 s of parsing that each forked worker would repeat.
    session.register_component("data_loader", _service_models())
    return session


@functools.cache
def _service_models() -> Any:
    from aiobotocore.session import AioSession

    return AioSession().get_component("data_loader")


async def found_by(settings: S3Settings) -> Held:
    """The credentials that the settings lead to, looked up anew. Raises `UnsentError`, which holds no secret and has no context."""
    failed: UnsentError
    try:
        return await _found(settings)
    except UnsentError as error:
        failed = error
    except Exception as error:  # noqa: BLE001 - whatever it was: nothing was signed, so nothing was sent
        failed = _lookup_failed(settings, error)
    # Out here, where it has no context: replies of credential services and a program's output may hold anything.
    raise failed


async def _found(settings: S3Settings) -> Held:
    _check_authority(settings)
    # Made anew each time: a session keeps what it read, also of files that were renewed meanwhile. And only where it is needed.
    session = None if _are_at_hand(settings) else session_for(settings)
    own = await _own(settings, session)
    held = await _of_role(settings, session, own) if settings.role_arn else own
    if held.left() <= 0:
        raise UnsentError(
            f"{held.source}: they have expired when they come",
            _fault("Renew them where they come from, and check the clock of this host."),
        )
    return held


def _check_authority(settings: S3Settings) -> None:
    name, path = "ca_bundle", settings.authority
    if not path:
        name = "AWS_CA_BUNDLE"
        path = os.environ.get(name, "")
    try:
        if path:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        what = "holds no certificates" if isinstance(error, ssl.SSLError) else "cannot be read"
        raise UnsentError(
            f"{name} {what}: {path}",
            Fault(CERTIFICATE.what, "Name a file of certificates in PEM that this user may read."),
        ) from error


def _are_at_hand(settings: S3Settings) -> bool:
    """Whether nobody must be asked for them."""
    return bool(settings.key or settings.use_credentials) and not settings.role_arn


async def _own(settings: S3Settings, session: Any) -> Held:
    from botocore.credentials import ReadOnlyCredentials

    if settings.key:
        return Held(
            ReadOnlyCredentials(settings.key, settings.secret, settings.token or None), "the settings key and secret"
        )
    if settings.use_credentials:
        return Held(ReadOnlyCredentials(*_of_environment(settings)), f"the environment's {settings.access_key_name}")
    return await _of_chain(settings, session)


def _of_environment(settings: S3Settings) -> tuple[str, str, str | None]:
    names = (settings.access_key_name, settings.secret_access_key_name)
    key, secret = (os.environ.get(name, "") for name in names)
    if not (key and secret):
        missing = " and ".join(name for name, value in zip(names, (key, secret), strict=True) if not value)
        raise UnsentError(
            f"use_credentials is set, and the environment has no {missing}",
            _fault(
                "Set it, or name other variables by access_key_name, secret_access_key_name and session_token_name."
            ),
        )
    return key, secret, os.environ.get(settings.session_token_name) or None


async def _of_chain(settings: S3Settings, session: Any) -> Held:
    _check_files(settings, session)
    found = await session.get_credentials()
    if found is None:
        raise UnsentError("nothing in the environment, the files of AWS, the container or the instance", NO_CREDENTIALS)
    # Asked first: some know only then when they expire.
    frozen = await found.get_frozen_credentials()
    expiry: datetime | None = getattr(found, "_expiry_time", None)
    return Held(frozen, _source(session, str(found.method)), expiry.timestamp() if expiry else None)


def _check_files(settings: S3Settings, session: Any) -> None:
    """A file that is not there is passed over by botocore, which takes the credentials from elsewhere."""
    file = session.get_config_variable("credentials_file")
    if settings.names_another_file and not os.access(os.path.expanduser(file), os.R_OK):
        raise UnsentError(
            f"credentials_file cannot be read: {file}", _fault("Correct its name, or make it readable for this user.")
        )
    profile, known = session.get_config_variable("profile"), session.available_profiles
    if profile and profile not in known:
        near = difflib.get_close_matches(profile, known, n=1) or known
        raise UnsentError(
            f"there is no profile {profile!r} in {file} or {session.get_config_variable('config_file')}",
            _fault(f"Set profile to one that is there: {', '.join(near)}." if near else "Make it: aws configure."),
        )


def _source(session: Any, method: str) -> str:
    profile = session.get_config_variable("profile") or "default"
    file = session.get_config_variable("credentials_file")
    known = {
        "env": "the environment's AWS_ACCESS_KEY_ID",
        "shared-credentials-file": f"profile {profile!r} of {file}",
        "config-file": f"profile {profile!r} of {session.get_config_variable('config_file')}",
        "assume-role": f"the role of profile {profile!r}",
        "assume-role-with-web-identity": "a role by its web identity token",
        "custom-process": f"the credential_process of profile {profile!r}",
        "container-role": "the role of the container",
        "iam-role": "the role of the instance",
        "sso": f"single sign-on of profile {profile!r}",
    }
    return known.get(method, method)


async def _of_role(settings: S3Settings, session: Any, own: Held) -> Held:
    from aiobotocore.credentials import AioAssumeRoleCredentialFetcher, AioCredentials

    frozen = own.frozen
    fetcher = AioAssumeRoleCredentialFetcher(
        client_creator=functools.partial(_sts_client, settings, session),
        source_credentials=AioCredentials(frozen.access_key, frozen.secret_key, frozen.token),
        role_arn=settings.role_arn,
        extra_args={
            "RoleSessionName": settings.role_session_name or _SESSION_NAME,
            "DurationSeconds": settings.session_duration_in_seconds,
            **({"ExternalId": settings.external_id} if settings.external_id else {}),
        },
    )
    failed: UnsentError
    try:
        got = await fetcher.fetch_credentials()
    except Exception as error:  # noqa: BLE001 - as above
        failed = _role_failed(settings, own, error)
    else:
        return _assumed(settings, own, got)
    raise failed


def _assumed(settings: S3Settings, own: Held, got: dict[str, Any]) -> Held:
    from botocore.credentials import ReadOnlyCredentials

    frozen = ReadOnlyCredentials(got["access_key"], got["secret_key"], got["token"])
    expires = datetime.fromisoformat(got["expiry_time"]).timestamp()
    return Held(frozen, f"role {settings.role_arn}, assumed with {own.source}", expires)


def _sts_client(settings: S3Settings, session: Any, service: str, **keys: Any) -> Any:
    from aiobotocore.config import AioConfig

    # Sooner than the deadline of the request that waits for it, which would be taken for sent otherwise.
    patience = min(5.0, settings.deadline / 3)
    config = AioConfig(
        connect_timeout=patience, read_timeout=patience, retries={"mode": "standard", "total_max_attempts": 1}
    )
    return session.create_client(
        service,
        region_name=settings.region or session.get_config_variable("region") or _ROLE_REGION,
        endpoint_url=settings.sts_endpoint_url or None,
        verify=settings.authority or None,
        config=config,
        **keys,
    )


def _role_failed(settings: S3Settings, own: Held, error: Exception) -> UnsentError:
    said = f"role {settings.role_arn} could not be assumed with {own.source}: {answer_of(error)}"
    return UnsentError(said, _fault(_role_advice(error), transient=_may_pass(error)))


def _role_advice(error: Exception) -> str:
    response = response_of(error)
    if response is None:
        return "Check that STS can be reached; the setting sts_endpoint_url names another one than AWS's."
    code = str(response["Error"].get("Code", ""))
    return _ROLE_ADVICE.get(code, "Check role_arn, and what the role's trust policy demands.")


_ROLE_ADVICE: Final = {
    "AccessDenied": "The role's trust policy must name who assumes it, and external_id where it demands one.",
    "InvalidClientTokenId": "STS does not know the access key: check it, and sts_endpoint_url where the bucket is not at AWS.",
    "SignatureDoesNotMatch": "Check the secret of the credentials that assume the role.",
    "ExpiredToken": "Renew the credentials that assume the role.",
    "ExpiredTokenException": "Renew the credentials that assume the role.",
    "ValidationError": "Check role_arn, and that session_duration_in_seconds is not above what the role allows.",
    "RegionDisabledException": "Switch STS on for that region, or set another region.",
}


def _lookup_failed(settings: S3Settings, error: Exception) -> UnsentError:
    """Its text is left out, which may be the reply of a credential service, or what a program wrote: it could hold a secret."""
    where = f"profile {settings.profile!r}" if settings.profile else "the usual places of AWS"
    advice = "Look with `aws sts get-caller-identity`, which asks the same places; or give key and secret."
    said = f"credentials could not be taken from {where}: {type(error).__name__}"
    return UnsentError(said, _fault(advice, transient=_may_pass(error)))


def _fault(advice: str, *, transient: bool = False) -> Fault:
    """Nothing was sent, so a write may be sent again where trying again can help."""
    return Fault(NO_CREDENTIALS.what, advice, transient=transient, resend=transient)


def not_in_time(seconds: float) -> UnsentError:
    """Whoever gives the credentials did not within a request's deadline."""
    said = f"whoever gives them did not answer within {seconds:g} s"
    return UnsentError(said, _fault("Try again, or raise the deadline.", transient=True))


def _may_pass(error: Exception) -> bool:
    """Whether the service that gives credentials may give them later."""
    if type(error).__name__ in {"MetadataRetrievalError", "CredentialRetrievalError"}:
        # Of a program that gives credentials it says the same, and that one has had its say.
        return getattr(error, "kwargs", {}).get("provider") != "custom-process"
    fault = fault_of(error)
    return fault is not None and fault.transient
