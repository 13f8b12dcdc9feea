"""A STAC catalogue on this machine: search, assets with ranges, signing, and faults on demand.

In a test ``with StacServer(folder) as server: ...``; as a process of its own, for benchmarks,
``python -m tests.stac_server FOLDER --port 8080 --latency-s 0.05``.

It serves every STAC item that lies in a folder (single items and FeatureCollections):

- ``/``: API with POST and GET ``/search`` (bbox, intersects, datetime, collections, ids, query,
  limit and paging), ``/collections``, ``/conformance``
- ``/catalog.json``: the same items as a static catalogue
- ``/data/...``: the folder's files, with HEAD and single byte ranges
- ``/api/sas/v1/token/...``: tokens such as Planetary Computer gives

GDAL keeps Python's lock while it looks for files beside an asset, which a server in the same
process cannot outlive: open assets with ``GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR``, always.
"""

import argparse
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlencode, urljoin, urlsplit

from shapely import box
from shapely.geometry import shape
from shapely.ops import unary_union

FaultKind = Literal["truncated", "stall", "wrong-json", "expired-token"]
CONFORMANCE = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]
QUERY_CONFORMANCE = "https://api.stacspec.org/v1.0.0/item-search#query"
COMPARISONS = {
    "lt": lambda value, limit: value < limit,
    "lte": lambda value, limit: value <= limit,
    "gt": lambda value, limit: value > limit,
    "gte": lambda value, limit: value >= limit,
    "eq": lambda value, limit: value == limit,
}


@dataclass(frozen=True)
class Request:
    """One request as the server saw it."""

    kind: str
    """root, conformance, collections, items, search, catalog, token, data, other."""
    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    body: Any
    status: int
    """What was answered; for truncated and stall faults 200 and 0."""


@dataclass
class Fault:
    """What goes wrong at requests whose path fits a pattern."""

    pattern: str
    """Regular expression, searched in the path (without query)."""
    kind: FaultKind | int
    """A status, or one of the kinds."""
    hits: tuple[int, ...] | None
    """Which matching requests, the first being 1; None: all."""
    retry_after_s: float | None
    stall_s: float
    methods: tuple[str, ...]
    num_seen: int = 0


class StacServer:
    """Server of a folder; see the module's docstring.

    ``requests`` lists what was asked, in order; ``count`` counts it. ``latency_s`` is waited
    before every answer. ``has_query=False`` leaves the query extension out of the conformance
    and refuses bodies that use it, as static-minded servers do.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        max_page: int = 100,
        has_query: bool = True,
        token_lifetime_s: float = 45 * 60,
    ) -> None:
        self.folder = Path(folder)
        self.latency_s = latency_s
        self.max_page = max_page
        self.has_query = has_query
        self.token_lifetime_s = token_lifetime_s
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.fresh_tokens: set[str] = set()
        self.num_tokens = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._http = _QuietServer(("127.0.0.1", port), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self.items: list[dict[str, Any]] = []
        self.reload()

    # -- life

    def start(self) -> "StacServer":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopped.set()  # wakes those that stall
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> "StacServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- addresses

    @property
    def catalog_url(self) -> str:
        """Static catalogue of the same items."""
        return f"{self.url}/catalog.json"

    @property
    def token_url(self) -> str:
        """Where tokens are asked for; ``/{collection}`` is to be appended."""
        return f"{self.url}/api/sas/v1/token"

    def data_url(self, relative: str) -> str:
        """Address of a file of the folder."""
        return f"{self.url}/data/{relative}"

    # -- content

    def reload(self) -> None:
        """Look again for items in the folder."""
        found: dict[tuple[str | None, str], dict[str, Any]] = {}
        for path in sorted(self.folder.rglob("*json")):
            for item in _items_in(path):
                base = self.data_url(path.relative_to(self.folder).as_posix())
                for asset in item["assets"].values():
                    asset["href"] = urljoin(base, asset["href"])
                found.setdefault((item.get("collection"), item["id"]), item)
        self.items = [found[key] for key in sorted(found, key=str)]

    # -- faults

    def add_fault(
        self,
        pattern: str,
        kind: FaultKind | int,
        *,
        hits: tuple[int, ...] | None = (1,),
        retry_after_s: float | None = None,
        stall_s: float = 30.0,
        methods: tuple[str, ...] = ("GET", "POST"),
    ) -> Fault:
        """Let requests fail: by default only the first that fits; ``hits=None`` lets all fail.

        ``expired-token`` answers 403 until the query carries a ``sig`` from the token address
        that was not expired since; give it ``hits=None``.
        """
        fault = Fault(pattern, kind, hits, retry_after_s, stall_s, methods)
        self.faults.append(fault)
        return fault

    def expire_tokens(self) -> None:
        """Tokens given so far are no longer good."""
        self.fresh_tokens.clear()

    # -- what happened

    def count(self, kind: str | None = None, *, pattern: str = "", method: str = "") -> int:
        """Requests of a kind, of a path that fits a pattern, of a method."""
        return sum(
            (kind is None or request.kind == kind)
            and re.search(pattern, request.path) is not None
            and method in ("", request.method)
            for request in self.requests
        )

    @property
    def counts(self) -> Counter[str]:
        """Requests by kind."""
        return Counter(request.kind for request in self.requests)

    def reset(self) -> None:
        """Forget requests and faults."""
        self.requests.clear()
        self.faults.clear()

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def fault_for(self, method: str, path: str, query: dict[str, list[str]]) -> Fault | None:
        """The fault that strikes now, having counted this request for every one that fits."""
        struck = None
        with self._lock:
            for fault in self.faults:
                if method not in fault.methods or not re.search(fault.pattern, path):
                    continue
                fault.num_seen += 1
                due = fault.hits is None or fault.num_seen in fault.hits
                if fault.kind == "expired-token":
                    due = due and query.get("sig", [""])[0] not in self.fresh_tokens
                if due and struck is None:
                    struck = fault
        return struck

    def wait(self, seconds: float) -> None:
        if seconds > 0:
            self._stopped.wait(seconds)

    def new_token(self) -> dict[str, str]:
        with self._lock:
            self.num_tokens += 1
            signature = f"fresh{self.num_tokens}"
            self.fresh_tokens.add(signature)
        end = datetime.now(UTC) + timedelta(seconds=self.token_lifetime_s)
        expiry = end.strftime("%Y-%m-%dT%H:%M:%SZ")
        token = urlencode({"se": expiry, "sp": "rl", "sig": signature})
        return {"msft:expiry": expiry, "token": token}

    # -- answers

    def search(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Items that fit a search body."""
        return [item for item in self.items if _fits(item, body)]

    def page_of(self, body: dict[str, Any], *, method: str, href: str) -> dict[str, Any]:
        """One page of a search, with a link to the next."""
        start = int(str(body.get("token", "next:0")).removeprefix("next:"))
        limit = min(int(body.get("limit", 10)), self.max_page)
        matched = self.search(body)
        page = {
            "type": "FeatureCollection",
            "features": matched[start : start + limit],
            "numberMatched": len(matched),
            "numberReturned": len(matched[start : start + limit]),
            "links": [],
        }
        if start + limit < len(matched):
            following = {**body, "token": f"next:{start + limit}"}
            link: dict[str, Any] = {"rel": "next", "type": "application/geo+json"}
            if method == "POST":
                link |= {"href": href, "method": "POST", "body": following}
            else:
                link |= {"href": f"{href}?{urlencode(_as_query(following))}", "method": "GET"}
            page["links"] = [link]
        return page

    def landing_page(self) -> dict[str, Any]:
        search = {"rel": "search", "href": f"{self.url}/search", "type": "application/geo+json"}
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "local",
            "description": "Items of a folder",
            "conformsTo": CONFORMANCE + [QUERY_CONFORMANCE] * self.has_query,
            "links": [
                {"rel": "self", "href": f"{self.url}/", "type": "application/json"},
                {"rel": "root", "href": f"{self.url}/", "type": "application/json"},
                {"rel": "data", "href": f"{self.url}/collections", "type": "application/json"},
                {"rel": "conformance", "href": f"{self.url}/conformance"},
                {**search, "method": "GET"},
                {**search, "method": "POST"},
            ],
        }

    def collections(self) -> list[dict[str, Any]]:
        names = sorted({item["collection"] for item in self.items if item.get("collection")})
        return [self.collection(name) for name in names]

    def collection(self, name: str) -> dict[str, Any]:
        return {
            "type": "Collection",
            "stac_version": "1.0.0",
            "id": name,
            "description": name,
            "license": "proprietary",
            "extent": {
                "spatial": {"bbox": [[-180, -90, 180, 90]]},
                "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]},
            },
            "links": [
                {"rel": "self", "href": f"{self.url}/collections/{name}"},
                {"rel": "root", "href": f"{self.url}/"},
                {"rel": "items", "href": f"{self.url}/collections/{name}/items"},
            ],
        }

    def static_catalog(self) -> dict[str, Any]:
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "local",
            "description": "Items of a folder",
            "links": [{"rel": "root", "href": "./catalog.json", "type": "application/json"}]
            + [
                {"rel": "item", "href": f"./items/{item['id']}.json", "type": "application/json"}
                for item in self.items
            ],
        }


def _items_in(path: Path) -> list[dict[str, Any]]:
    """STAC items of a JSON file; none where it is something else."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        return []
    features = content.get("features", []) if content.get("type") != "Feature" else [content]
    return [feature for feature in features if "assets" in feature and "id" in feature]


def _fits(item: dict[str, Any], body: dict[str, Any]) -> bool:
    properties = item["properties"]
    if body.get("collections") and item.get("collection") not in body["collections"]:
        return False
    if body.get("ids") and item["id"] not in body["ids"]:
        return False
    if body.get("datetime") and not _is_within(properties["datetime"], body["datetime"]):
        return False
    for name, tests in (body.get("query") or {}).items():
        for comparison, limit in tests.items():
            value = properties.get(name)
            if value is None or not COMPARISONS[comparison](value, limit):
                return False
    where = _area_of(body)
    return where is None or shape(item["geometry"]).intersects(where)


def _area_of(body: dict[str, Any]) -> Any:
    if body.get("intersects"):
        return shape(body["intersects"])
    if not body.get("bbox"):
        return None
    west, south, east, north = body["bbox"]
    if west <= east:
        return box(west, south, east, north)
    return unary_union([box(west, south, 180, north), box(-180, south, east, north)])


def _is_within(instant: str, interval: str) -> bool:
    first, _, last = interval.partition("/")
    last = last or first
    moment = _instant(instant)
    starts = first == ".." or _instant(first) <= moment
    return starts and (last == ".." or moment <= _instant(last))


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _as_query(body: dict[str, Any]) -> dict[str, str]:
    """A search body as the parameters of a GET request."""
    return {
        key: ",".join(map(str, value))
        if isinstance(value, list | tuple)
        else json.dumps(value)
        if isinstance(value, dict)
        else str(value)
        for key, value in body.items()
    }


def _as_body(query: dict[str, list[str]]) -> dict[str, Any]:
    """Parameters of a GET request as a search body."""
    body: dict[str, Any] = {key: values[0] for key, values in query.items()}
    for key in ("collections", "ids"):
        if key in body:
            body[key] = body[key].split(",")
    if "bbox" in body:
        body["bbox"] = [float(edge) for edge in body["bbox"].split(",")]
    for key in ("intersects", "query"):
        if key in body:
            body[key] = json.loads(body[key])
    return body


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are not worth a trace."""


@dataclass
class _Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up_after: int | None = None


def _kind_of(path: str) -> str:
    for prefix, kind in {
        "/search": "search",
        "/conformance": "conformance",
        "/collections": "collections",
        "/items": "items",
        "/catalog.json": "catalog",
        "/api/sas": "token",
        "/data": "data",
    }.items():
        if path.startswith(prefix):
            return kind
    return "root" if path == "/" else "other"


def _json_reply(content: Any, status: int = 200) -> _Reply:
    kind = "application/geo+json" if "features" in content else "application/json"
    return _Reply(status, json.dumps(content).encode(), {"Content-Type": kind})


def _handler_of(server: StacServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # header and body leave together, else delayed ACKs cost 40 ms each

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer("GET")

        def do_HEAD(self) -> None:
            self._answer("HEAD")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            parts = urlsplit(self.path)
            path, query = unquote(parts.path), parse_qs(parts.query)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length) if length else b""
            body = json.loads(raw) if raw else None
            wanted = self.headers.get("Range")
            server.wait(server.latency_s)
            fault = server.fault_for(method, path, query)
            reply = self._normal_reply(method, path, query, body, wanted)
            if fault is not None:
                reply = _spoilt(reply, fault)
                if fault.kind == "stall":
                    server.note(Request(_kind_of(path), method, path, query, wanted, body, 0))
                    server.wait(fault.stall_s)
                    self.close_connection = True
                    return
            server.note(Request(_kind_of(path), method, path, query, wanted, body, reply.status))
            self._send(reply, method)

        def _send(self, reply: _Reply, method: str) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if method != "HEAD":
                self.wfile.write(reply.body[: reply.hangs_up_after])
            if reply.hangs_up_after is not None:
                self.close_connection = True

        def _normal_reply(
            self, method: str, path: str, query: dict[str, list[str]], body: Any, wanted: str | None
        ) -> _Reply:
            if path.startswith("/data/"):
                return _file_reply(server.folder, path.removeprefix("/data/"), wanted)
            if path == "/search":
                wish = (body or {}) if method == "POST" else _as_body(query)
                if "query" in wish and not server.has_query:
                    return _json_reply({"code": "BadRequest", "description": "query"}, 400)
                return _json_reply(server.page_of(wish, method=method, href=f"{server.url}/search"))
            if path.startswith("/api/sas/v1/token/"):
                return _json_reply(server.new_token())
            return _catalogue_reply(server, path)

    return Handler


def _catalogue_reply(server: StacServer, path: str) -> _Reply:
    parts = [part for part in path.split("/") if part]
    if not parts:
        return _json_reply(server.landing_page())
    if parts == ["conformance"]:
        return _json_reply({"conformsTo": server.landing_page()["conformsTo"]})
    if parts == ["catalog.json"]:
        return _json_reply(server.static_catalog())
    if parts == ["collections"]:
        return _json_reply({"collections": server.collections(), "links": []})
    if parts[0] == "collections" and len(parts) == 2:
        known = [c for c in server.collections() if c["id"] == parts[1]]
        return _json_reply(known[0]) if known else _json_reply({"code": "NotFound"}, 404)
    wanted = parts[-1].removesuffix(".json")
    items = [item for item in server.items if item["id"] == wanted and "items" in parts]
    return _json_reply(items[0]) if items else _json_reply({"code": "NotFound"}, 404)


def _file_reply(folder: Path, relative: str, wanted: str | None) -> _Reply:
    path = (folder / relative).resolve()
    if not path.is_file() or not path.is_relative_to(folder.resolve()):
        return _Reply(404, b"<Error><Code>BlobNotFound</Code></Error>")
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Type": "image/tiff" if path.suffix == ".tif" else "application/json",
        "ETag": f'"{path.stat().st_mtime_ns:x}"',
    }
    size = path.stat().st_size
    span = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if span is None or span.groups() == ("", ""):
        return _Reply(200, path.read_bytes(), headers)
    if span[1]:
        start, end = int(span[1]), min(int(span[2] or size - 1), size - 1)
    else:
        start, end = max(size - int(span[2]), 0), size - 1
    if start > end:
        return _Reply(416, b"", {"Content-Range": f"bytes */{size}"})
    with path.open("rb") as file:
        file.seek(start)
        part = file.read(end - start + 1)
    return _Reply(206, part, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"})


def _spoilt(reply: _Reply, fault: Fault) -> _Reply:
    if fault.kind == "truncated":
        return _Reply(reply.status, reply.body, reply.headers, max(len(reply.body) // 2, 1))
    if fault.kind == "wrong-json":
        return _Reply(200, b"<html>maintenance</html>", {"Content-Type": "application/json"})
    if fault.kind == "stall":
        return reply
    if fault.kind == "expired-token":
        message = b"<Error><Code>AuthenticationFailed</Code></Error>"
        return _Reply(403, message, {"Content-Type": "application/xml"})
    headers = {"Content-Type": "application/json"}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = f"{fault.retry_after_s:g}"
    return _Reply(fault.kind, json.dumps({"code": str(fault.kind)}).encode(), headers)


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description="Serve the STAC items of a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--latency-s", type=float, default=0.0)
    options = parser.parse_args()
    with StacServer(options.folder, port=options.port, latency_s=options.latency_s) as server:
        print(f"{len(server.items)} items at {server.url}", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print(json.dumps(server.counts), flush=True)


if __name__ == "__main__":
    main()
