"""Who this machine is to S3: keys in the environment, else what Amazon's library finds the standard ways.

A profile or a file of credentials, web identity (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN), a container's
role, the instance's role; the library renews what runs out. It takes a quarter of a second to load, so it is
loaded only where no keys are in the environment. The environment is the one that is given: with a table of
sources there are several, and the key of one cloud is not for the other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

from handlers.adapters.sigv4 import Credentials
from handlers.core.errors import Denied

_FILES = {"AWS_SHARED_CREDENTIALS_FILE": "credentials_file", "AWS_CONFIG_FILE": "config_file"}
_OF_THE_MACHINE = ("container-role", "iam-role")
_WEB_IDENTITY = "assume-role-with-web-identity"


class KeyRing:
    """The credentials of one environment; asked for each request, since those of a role change.

    May be used by many threads. Raises the errors of botocore, and `Denied` where there are no credentials.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = threading.Lock()
        self._session: Any = None
        self._found: Any = None

    def given(self) -> Credentials | None:
        """The keys in the environment; None where there are none, and `found` has to look."""
        key, secret = self._environ.get("AWS_ACCESS_KEY_ID"), self._environ.get("AWS_SECRET_ACCESS_KEY")
        if key and secret:
            return Credentials(key, secret, self._environ.get("AWS_SESSION_TOKEN", ""))
        return None

    def found(self) -> Credentials:
        """The credentials now from elsewhere, renewed where they run out."""
        session = self.session()
        with self._lock:
            if self._found is None:
                self._found = session.get_credentials()
            if self._found is None:
                raise Denied(
                    "S3: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                    "a profile, or a role of the machine"
                )
            frozen = self._found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")

    def session(self) -> Any:
        """A session of botocore with these credentials, for whoever needs more than they are."""
        with self._lock:
            if self._session is None:
                self._session = _session(self._environ, self.given())
            return self._session


def _session(environ: Mapping[str, str], given: Credentials | None) -> Any:
    from botocore.session import Session

    profile = environ.get("AWS_PROFILE") or None
    session = Session(profile=profile)
    for variable, name in _FILES.items():
        if environ.get(variable):
            session.set_config_variable(name, environ[variable])
    if given:
        session.set_credentials(given.key, given.secret, given.token or None)
        return session
    chain = session.get_component("credential_provider")
    _leave_out(chain, "env")  # those of the process, which are not those that were given
    if not profile:
        _leave_out(chain, _WEB_IDENTITY)
        if environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") and environ.get("AWS_ROLE_ARN"):
            chain.providers.insert(0, _web_identity(session, environ))
    if profile or any(environ.get(v) for v in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE")):
        for name in _OF_THE_MACHINE:
            _leave_out(chain, name)  # who names credentials does not want others when they fail
    return session


def _leave_out(chain: Any, name: str) -> None:
    chain.providers[:] = [provider for provider in chain.providers if name != provider.METHOD]


def _web_identity(session: Any, environ: Mapping[str, str]) -> Any:
    """The library's own provider, which would read the environment of the process."""
    from botocore.credentials import AssumeRoleWithWebIdentityProvider

    row = {
        "web_identity_token_file": environ["AWS_WEB_IDENTITY_TOKEN_FILE"],
        "role_arn": environ["AWS_ROLE_ARN"],
        "role_session_name": environ.get("AWS_ROLE_SESSION_NAME") or "hydra",
    }
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = environ.get("AWS_ENDPOINT_URL_STS") or None
    return AssumeRoleWithWebIdentityProvider(
        load_config=lambda: {"profiles": {"given": row}},
        client_creator=functools.partial(session.create_client, region_name=region, endpoint_url=endpoint),
        profile_name="given",
        disable_env_vars=True,
    )
