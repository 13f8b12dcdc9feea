"""Ask a web service for JSON: patient with what may pass, clear about what will not.

One request at a time goes to a host from each process, since limits count the address of the
machine. A `Retry-After` holds back every thread that asks the same host.
"""

import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from ecomap.errors import DataError

FIRST_WAIT_S = 0.5
"""Pause before the first further try; each later one is twice as long, with up to half added at
random so that processes do not come back together."""
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 120.0
"""A service that asks for a longer pause gets it from the next run, not from this one."""
RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
MESSAGE_CHARS = 300
"""Length to which a service's own words are cut in a message."""


class ServiceError(DataError):
    """A service did not give what was asked.

    Attributes:
        retryable: Whether the same request may succeed later.
        retry_after_s: Pause that the service asked for, where it did.
    """

    def __init__(
        self, message: str, *, retryable: bool, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class _Host:
    """Turnstile of one host."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.resume_at = 0.0
        """Time of `time.monotonic` before which the host does not want to be asked."""


_hosts: dict[str, _Host] = {}
_hosts_lock = threading.Lock()


def get_json(url: str, params: Mapping[str, str], *, timeout_s: float, num_retries: int) -> Any:
    """Ask a service and return its parsed answer.

    Waits for this process's other requests to the same host. Tries again after 408, 425, 429,
    5xx, refused or cut connections, stalls, and answers that are not JSON; other statuses are
    final.

    Args:
        url: Address without the query.
        params: Query.
        timeout_s: Longest wait for a connection, and for each next piece of the answer.
        num_retries: Further tries.

    Raises:
        ServiceError: If no answer came (`retryable` is true), or the service refuses the request
            (false; the message has its own words).
    """
    retrying = Retrying(
        retry=retry_if_exception(_may_pass_soon),
        stop=stop_after_attempt(num_retries + 1),
        wait=_pause_s,
        reraise=True,
    )
    try:
        return retrying(_get_once, url, dict(params), timeout_s)
    except ServiceError as error:
        if not error.retryable:
            raise
        tries = int(retrying.statistics["attempt_number"])
        raise ServiceError(
            f"{error} Gave up after {tries} {'try' if tries == 1 else 'tries'}; run again later.",
            retryable=True,
            retry_after_s=error.retry_after_s,
        ) from None


def _get_once(url: str, params: dict[str, str], timeout_s: float) -> Any:
    host = _host_of(url)
    with host.lock:
        left_s = host.resume_at - time.monotonic()
        if left_s > LONGEST_RETRY_AFTER_S:
            raise _asked_to_wait(url, left_s)
        if left_s > 0:
            time.sleep(left_s)
        try:
            response = requests.get(
                url,
                params=params,
                timeout=timeout_s,
                headers={"Accept": "application/json", "User-Agent": "ecomap"},
            )
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            raise _no_answer(url, error, timeout_s) from None
        except requests.RequestException as error:
            raise ServiceError(
                f"{_shown(url)} cannot be asked: {error}. Check the address in the config.",
                retryable=False,
            ) from None
        if response.status_code in RETRYABLE_STATUS:
            retry_after_s = _retry_after_s(response)
            host.resume_at = time.monotonic() + (retry_after_s or 0.0)
            raise _refused(response, url, retryable=True, retry_after_s=retry_after_s)
    if response.status_code != 200:
        raise _refused(response, url, retryable=False)
    try:
        return response.json()
    except requests.JSONDecodeError as error:
        raise ServiceError(
            f"{_shown(url)} answered something that is not JSON ({error}): {response.text[:80]!r}.",
            retryable=True,
        ) from None


def _host_of(url: str) -> _Host:
    with _hosts_lock:
        return _hosts.setdefault(urlsplit(url).netloc, _Host())


def _may_pass_soon(error: BaseException) -> bool:
    return (
        isinstance(error, ServiceError)
        and error.retryable
        and (error.retry_after_s or 0.0) <= LONGEST_RETRY_AFTER_S
    )


def _pause_s(state: RetryCallState) -> float:
    """Pause before the next try: what the service asks for, or twice the last."""
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, ServiceError) else None
    pause_s = min(FIRST_WAIT_S * 2 ** (state.attempt_number - 1), LONGEST_WAIT_S)
    return (pause_s if asked_s is None else asked_s) + random.uniform(0, pause_s / 2)


def _retry_after_s(response: requests.Response) -> float | None:
    """Seconds of the header ``Retry-After``, which may be a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _asked_to_wait(url: str, left_s: float) -> ServiceError:
    return ServiceError(
        f"{_shown(url)} asks for no requests in the next {left_s:.0f} s.",
        retryable=True,
        retry_after_s=left_s,
    )


def _no_answer(url: str, error: Exception, timeout_s: float) -> ServiceError:
    if isinstance(error, requests.Timeout):
        reason = f"did not answer within {timeout_s:g} s"
    elif isinstance(error, requests.exceptions.ChunkedEncodingError):
        reason = f"cut its answer short ({error})"
    else:
        reason = f"cannot be reached ({error})"
    return ServiceError(f"{_shown(url)} {reason}.", retryable=True)


def _refused(
    response: requests.Response,
    url: str,
    *,
    retryable: bool,
    retry_after_s: float | None = None,
) -> ServiceError:
    query = urlsplit(response.url).query
    return ServiceError(
        f"{_shown(url)} answered {response.status_code}: {_words(response)} (Asked: {query}.)",
        retryable=retryable,
        retry_after_s=retry_after_s,
    )


def _words(response: requests.Response) -> str:
    """What a service says about a refusal, in one line."""
    try:
        content = response.json()
    except requests.JSONDecodeError:
        content = response.text
    if isinstance(content, dict):
        found = [
            content[key] for key in ("messages", "detail", "message", "error") if key in content
        ]
        content = found[0] if found and found[0] else content
    if isinstance(content, list):
        content = " ".join(str(part) for part in content)
    words = " ".join(str(content).split()) or response.reason or "no reason given"
    return words if len(words) <= MESSAGE_CHARS else words[:MESSAGE_CHARS] + "…"


def _shown(url: str) -> str:
    """Address without a user's name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
