"""Rasters behind HTTP that throttles, expires, stalls and cuts: settings, signing, retries.

GDAL repeats a request that was throttled, never one that was refused, and hides what happened: an
expired token, a stall and a damaged file all end as "not recognized as being in a supported file
format", and the failure stays in its cache. So after a failure the server is asked once more,
plainly, for the first bytes of the file; its answer tells whether a new token, patience or a person
is needed. The next try reads past the cache: the address gets a fragment (``#1``), which GDAL takes
for another file and never sends.

Longer than the budget because settings, tokens and retries answer the same failures.
"""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import rasterio
import requests
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from ecomap.errors import DataError

T = TypeVar("T")

NUM_REQUEST_RETRIES = 2
"""Times that GDAL repeats one throttled request before a whole read is begun anew."""
REQUEST_RETRY_DELAY_S = 0.5
FIRST_WAIT_S = 0.5
"""Scale of the first pause between two tries; later ones double."""
LONGEST_WAIT_S = 120.0
"""Longest pause between two tries, whatever the server asks for."""
TOKEN_MARGIN = timedelta(minutes=2)
"""A token is replaced so long before it expires."""
STALL_SHARE = 4
"""A transfer that stands still for this fraction of the time limit is given up."""
HEADER_CACHE_BYTES = 64 * 2**20
"""Headers that a process keeps: 32 KiB a file."""
WINDOW_BYTES = 64 * 2**20
"""Compressed blocks of a window up to which they are asked for together, not one by one."""
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
"""Answers that may be others a little later."""
REFUSED_STATUSES = frozenset({401, 403})
READABLE_SCHEMES = frozenset({"http", "https", "file"})
RASTER_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP", b"\x89HDF", b"CDF")
"""First bytes of TIFF, BigTIFF, JPEG 2000 and NetCDF files."""
DECODING_WORDS = ("decod", "inflate", "lzw", "zstd", "jpeg", "directory", "invalid tiff")
"""Words of GDAL's errors about bytes that came, but make no sense."""


class ReadError(DataError):
    """A raster could not be read."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        is_refused: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        """Whether another try, now or in another run, may succeed."""
        self.is_refused = is_refused
        """Whether the server wants another token."""
        self.wait_s = wait_s
        """Seconds for which the server asked to be left alone."""


class Signer(Protocol):
    """Makes addresses that a server accepts."""

    can_renew: bool
    """Whether a refused address may be accepted after `renew`."""

    def sign(self, address: str, collection: str) -> str:
        """Address with what the server wants to see."""

    def renew(self, collection: str, refused: str) -> None:
        """Forget the token in an address that was refused."""


class NoSigner:
    """For servers that want nothing."""

    can_renew = False

    def sign(self, address: str, collection: str) -> str:
        """The address itself."""
        return address

    def renew(self, collection: str, refused: str) -> None:
        """Nothing to forget."""


class TokenSigner:
    """Appends Planetary Computer's tokens, one a collection, fetched when they are needed.

    One object serves all threads of a process.

    Args:
        token_url: Address to which ``/{collection}`` is appended.
        timeout_s: Limit of a request for a token.
    """

    can_renew = True

    def __init__(self, token_url: str, *, timeout_s: float) -> None:
        self._token_url = token_url
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, datetime]] = {}

    def sign(self, address: str, collection: str) -> str:
        """Address with a token that is good for at least `TOKEN_MARGIN`, if the server gives such.

        Raises:
            ReadError: If no token could be had.
        """
        if not _is_remote(address) or "sig=" in urlsplit(address).query:
            return address
        with self._lock:
            token, expiry = self._tokens.get(collection) or self._fetch(collection)
            if expiry <= datetime.now(UTC) + TOKEN_MARGIN and collection in self._tokens:
                token, expiry = self._fetch(collection)
            self._tokens[collection] = token, expiry
        return f"{address}{'&' if urlsplit(address).query else '?'}{token}"

    def renew(self, collection: str, refused: str) -> None:
        """Forget the collection's token if it is the one in the refused address."""
        with self._lock:
            if self._tokens.get(collection, (refused,))[0] in refused:
                self._tokens.pop(collection, None)

    def _fetch(self, collection: str) -> tuple[str, datetime]:
        url = f"{self._token_url}/{collection}"
        try:
            answer = requests.get(url, timeout=self._timeout_s)
        except requests.RequestException as error:
            raise ReadError(f"{url}: no token could be had: {error}.", retryable=True) from None
        if answer.status_code != 200:
            raise _status_error(url, answer.status_code, answer.headers.get("Retry-After"))
        try:
            content = answer.json()
            expiry = datetime.fromisoformat(content["msft:expiry"])
            return str(content["token"]), expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)
        except (KeyError, TypeError, ValueError) as error:
            raise ReadError(
                f"{url}: the answer is not a token ({error!r}). Try later.", retryable=True
            ) from None


@cache
def _shared_signer(token_url: str, timeout_s: float) -> TokenSigner:
    return TokenSigner(token_url, timeout_s=timeout_s)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How rasters are reached."""

    signer: Signer
    timeout_s: float = 60.0
    """Limit of one request."""
    num_retries: int = 5
    """Further tries of a read after a failure that may pass."""


def access_to(*, token_url: str | None, timeout_s: float, num_retries: int) -> Access:
    """Access whose tokens are shared by all threads of the process; unsigned without an address."""
    signer: Signer = _shared_signer(token_url, timeout_s) if token_url else NoSigner()
    return Access(signer=signer, timeout_s=timeout_s, num_retries=num_retries)


def gdal_env(*, timeout_s: float, num_retries: int) -> rasterio.Env:
    """Settings of GDAL under which remote rasters are read; enter it once in each thread.

    Folders are not listed, headers are read in one request and kept for the life of the process,
    throttled requests are repeated `NUM_REQUEST_RETRIES` times, and one that stands still is given
    up.
    """
    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_INGESTED_BYTES_AT_OPEN="32768",
        GDAL_HTTP_MAX_RETRY=str(min(num_retries, NUM_REQUEST_RETRIES)),
        GDAL_HTTP_RETRY_DELAY=str(REQUEST_RETRY_DELAY_S),
        GDAL_HTTP_TIMEOUT=str(max(1, round(timeout_s))),
        GDAL_HTTP_CONNECTTIMEOUT=str(max(1, round(timeout_s / 2))),
        GDAL_HTTP_LOW_SPEED_TIME=str(max(1, round(timeout_s / STALL_SHARE))),
        GDAL_HTTP_LOW_SPEED_LIMIT="1000",
        GDAL_HTTP_MERGE_CONSECUTIVE_RANGES="YES",
        GDAL_HTTP_MULTIPLEX="YES",
        GDAL_HTTP_VERSION="2TLS",
        GDAL_MAX_RAW_BLOCK_CACHE_SIZE=str(WINDOW_BYTES),
        CPL_VSIL_CURL_CACHE_SIZE=str(HEADER_CACHE_BYTES),
    )


def is_readable(address: str) -> bool:
    """Whether `read_raster` knows how to reach an address: HTTP, ``file://``, path, GDAL name."""
    scheme = urlsplit(address).scheme
    return "://" not in address or scheme in READABLE_SCHEMES


def read_raster(
    address: str, function: Callable[[DatasetReader], T], *, collection: str, access: Access
) -> T:
    """Open a raster, sign its address, and try again what may pass.

    Args:
        address: HTTP address without signature, ``file://`` address, path, or GDAL name (``/vsi``).
        function: Reads what is needed. Called once a try, within the thread's `gdal_env`.
        collection: Whose token the address takes.
        access: Signer, limits.

    Raises:
        ReadError: If all tries failed, or no other try can help.
    """
    if not is_readable(address):
        raise ReadError(
            f"{address} cannot be read: addresses of this kind are not supported; expected "
            "https://, file:// or a path. Take a provider whose files are served over HTTP."
        )
    num_undecodable = 0

    def read_once() -> T:
        nonlocal num_undecodable
        signed = access.signer.sign(address, collection)
        try:
            with rasterio.open(_gdal_name(address, signed)) as dataset:
                return function(dataset)
        except RasterioError as error:
            message = _innermost(error)
        if not _is_remote(address):
            raise ReadError(f"{address} cannot be read: {message}. Get the file anew.")
        _generations[address] = next(_numbers)
        num_undecodable += any(word in message.lower() for word in DECODING_WORDS)
        failure = _diagnose(address, signed, message, access)
        if failure.is_refused:
            access.signer.renew(collection, signed)
        if failure.retryable and num_undecodable > 1:
            raise ReadError(
                f"{address} is damaged: {message}, twice, of bytes fetched anew. "
                "Leave the scene out, or take it from another provider."
            )
        raise failure

    return with_retries(read_once, num_retries=access.num_retries)


def with_retries(function: Callable[[], T], *, num_retries: int) -> T:
    """Call a function until it succeeds, as long as it raises a `ReadError` that may pass.

    Pauses grow from half a second, at random, and are never shorter than the server asks.

    Raises:
        ReadError: The last one.
    """
    backoff = wait_random_exponential(multiplier=FIRST_WAIT_S, max=30)

    def wait_s(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_s = error.wait_s if isinstance(error, ReadError) else 0.0
        return max(backoff(state), min(asked_s, LONGEST_WAIT_S))

    retrying = Retrying(
        retry=retry_if_exception(lambda e: isinstance(e, ReadError) and e.retryable),
        stop=stop_after_attempt(num_retries + 1),
        wait=wait_s,
        reraise=True,
    )
    return retrying(function)


_generations: dict[str, int] = {}
"""Address -> fragment under which it is read past what GDAL's cache holds of a failure."""
_numbers = itertools.count(1)


def _is_remote(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _gdal_name(address: str, signed: str) -> str:
    """Name by which GDAL opens an address or path."""
    if not _is_remote(address):
        return url2pathname(urlsplit(address).path) if address.startswith("file://") else address
    generation = _generations.get(address)
    return f"/vsicurl/{signed}" + (f"#{generation}" if generation else "")


def _innermost(error: BaseException) -> str:
    """Message of the error that was first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).rstrip(".")


def _diagnose(address: str, signed: str, message: str, access: Access) -> ReadError:
    """Ask the server for the first bytes of a file that could not be read, to learn why."""
    try:
        with requests.get(
            signed, headers={"Range": "bytes=0-15"}, timeout=access.timeout_s, stream=True
        ) as answer:
            status, retry_after = answer.status_code, answer.headers.get("Retry-After")
            start = next(answer.iter_content(16), b"") if status in (200, 206) else b""
    except requests.RequestException as error:
        cause = str(error).replace(signed, address)
        return ReadError(f"{address} cannot be reached: {cause}. Try later.", retryable=True)
    if status not in (200, 206):
        return _status_error(address, status, retry_after, can_renew=access.signer.can_renew)
    if start and not start.startswith(RASTER_MAGIC):
        return ReadError(
            f"{address} is not a raster: it starts with {start!r}; expected a GeoTIFF. "
            "Leave the scene out, or take it from another provider."
        )
    return ReadError(
        f"{address} was not read completely: {message.replace(signed, address)}. The server "
        "answers; the transfer was cut or stood still. Try later, with a longer timeout_s.",
        retryable=True,
    )


def _status_error(
    address: str, status: int, retry_after: str | None, *, can_renew: bool = False
) -> ReadError:
    """Error for an answer other than success."""
    what = f"{address}: the server answers {status}"
    if status in REFUSED_STATUSES:
        hint = "with a new token too" if can_renew else "the provider wants a signature"
        return ReadError(
            f"{what} (refused); {hint}. Check that the provider is the right one.",
            retryable=can_renew,
            is_refused=True,
        )
    if status in PASSING_STATUSES:
        wait_s = float(retry_after) if retry_after and retry_after.strip().isdecimal() else 0.0
        return ReadError(
            f"{what} (overloaded or throttling). Try later, with fewer threads.",
            retryable=True,
            wait_s=wait_s,
        )
    return ReadError(f"{what}. The catalogue names what is not there; search it again.")
