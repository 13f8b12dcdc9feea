"""Catalogues over HTTP and in files: patient reading, and walks through static ones."""

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
import requests
from pystac.utils import make_absolute_href
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from pystac_client.warnings import NoConformsTo
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError
from urllib3.response import BaseHTTPResponse

from ecomap.errors import DataError

Item = dict[str, Any]

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
LONGEST_RETRY_AFTER_S = 120.0
"""Longest pause that a service is granted when it asks for one."""
PASSING_STATUSES = (408, 425, 429, 500, 502, 503, 504)
STAC_KEYS = ("type", "conformsTo", "collections", "features")
"""One of these is in every answer of a STAC service, none in the errors of a gateway."""
MESSAGE_CHARS = 300
"""Length to which a library's own words are cut in a message."""


class _BoundedRetry(Retry):
    """Retries that do not sleep for hours because a service says so."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        asked_s = super().get_retry_after(response)
        return None if asked_s is None else min(asked_s, LONGEST_RETRY_AFTER_S)


class _NotStac(APIError):
    """An answer of status 200 that is a page of some proxy."""


class PatientIO(StacApiIO):
    """Reads JSON; asks again after what may pass: 429, 5xx, stalls, cut and senseless bodies.

    urllib3 repeats what it sees (status, connection, no answer); bodies are looked at here.
    """

    def __init__(self, *, num_retries: int, timeout_s: float) -> None:
        retries = _BoundedRetry(
            total=num_retries,
            status_forcelist=PASSING_STATUSES,
            allowed_methods=None,  # searches are POST requests
            backoff_factor=FIRST_WAIT_S,
            backoff_jitter=FIRST_WAIT_S,
            backoff_max=LONGEST_WAIT_S,
        )
        super().__init__(max_retries=retries, timeout=timeout_s, headers={"User-Agent": "ecomap"})
        self._num_retries = num_retries

    def request(self, *args: Any, **kwargs: Any) -> str:
        """Text of an answer that is JSON of a STAC service."""
        retrying = Retrying(
            retry=retry_if_exception(_has_bad_body),
            stop=stop_after_attempt(self._num_retries + 1),
            wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            reraise=True,
        )
        return retrying(self._request_once, *args, **kwargs)

    def _request_once(self, *args: Any, **kwargs: Any) -> str:
        text = super().request(*args, **kwargs)
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict) or content.keys().isdisjoint(STAC_KEYS):
            raise _NotStac(f"an answer that is not STAC JSON: {text[:80]!r}")
        return text


def _has_bad_body(error: BaseException) -> bool:
    """Whether an answer began well and ended badly."""
    cause = error.__context__
    if isinstance(error, _NotStac):
        return True
    if not isinstance(error, APIError) or not isinstance(cause, requests.RequestException):
        return False
    was_repeated = any(isinstance(part, MaxRetryError) for part in cause.args)
    return not was_repeated and isinstance(
        cause, requests.ConnectionError | requests.exceptions.ChunkedEncodingError
    )


def open_api(url: str, stac_io: PatientIO) -> Client:
    """Open an API that can search.

    Raises:
        DataError: If it cannot, or is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoConformsTo)  # an error below, in our own words
            # Without the limit given again, opening a client would take it away.
            client = Client.open(url, stac_io=stac_io, timeout=stac_io.timeout)
        if client.conforms_to("ITEM_SEARCH") and client.get_links("search"):
            return client
    except (pystac.STACError, ValueError, KeyError, TypeError, OSError):
        pass  # what was read is no root of an API, as the message below says
    raise DataError(
        f"{url} is not a STAC API with item search. Set imagery.url to the root of one, or use "
        "provider static-catalog for a catalogue of files."
    )


def walk(url: str, stac_io: PatientIO) -> Iterator[Item]:
    """Items of a catalogue of files, or of a file of items, with absolute hrefs.

    Args:
        url: Path or address of a catalogue, a collection, an item or a FeatureCollection.
        stac_io: Reads it.

    Raises:
        DataError: If a file that is linked is none of these.
    """
    is_remote = urlsplit(url).scheme in ("http", "https")
    waiting = [url if is_remote else str(Path(url).resolve())]
    seen = set(waiting)
    while waiting:
        href = waiting.pop()
        content = _read_stac(href, stac_io)
        if content["type"] == "Feature":
            yield with_absolute_hrefs(content, href)
        elif content["type"] == "FeatureCollection":
            for item in content["features"]:
                yield with_absolute_hrefs(item, href)
        else:
            linked = [
                make_absolute_href(link["href"], href)
                for link in content["links"]
                if link["rel"] in ("child", "item")
            ]
            waiting.extend(reversed([target for target in linked if target not in seen]))
            seen.update(linked)


def _read_stac(href: str, stac_io: PatientIO) -> dict[str, Any]:
    """Content of a file of one of the four kinds."""
    try:
        content: Any = stac_io.read_json(href)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{href} is not a STAC file: {brief(error)}. Set imagery.url to the path or address "
            "of a catalogue, a collection, an item or a FeatureCollection of items."
        ) from None
    kind = content.get("type") if isinstance(content, dict) else None
    part = {"Feature": "assets", "FeatureCollection": "features"}.get(str(kind), "links")
    kinds = ("Feature", "FeatureCollection", "Catalog", "Collection")
    if kind not in kinds or not isinstance(content.get(part), dict | list):
        raise DataError(
            f"{href} is not a STAC file: its type is {kind!r}; expected one of {', '.join(kinds)}, "
            "with what belongs to it. Set imagery.url to the path or address of such a file."
        )
    links = content.get("links") or []
    if kind == "FeatureCollection" and any(link.get("rel") == "next" for link in links):
        raise DataError(
            f"{href} is one page of a search, and links to the next. Save all pages in one file, "
            "or use provider stac-api."
        )
    return dict(content)


def with_absolute_hrefs(item: Mapping[str, Any], base: str) -> Item:
    """Copy of an item whose assets can be found from anywhere."""
    assets = {
        key: {**asset, "href": make_absolute_href(asset["href"], base)}
        if asset.get("href")
        else asset
        for key, asset in (item.get("assets") or {}).items()
    }
    return {**item, "assets": assets}


def brief(error: BaseException) -> str:
    """An error in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    status = getattr(error, "status_code", None)
    words = words if status is None else f"status {status}: {words}"
    return words if len(words) <= MESSAGE_CHARS else words[:MESSAGE_CHARS] + "..."
