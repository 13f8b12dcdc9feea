"""A stand-in for NASA POWER's point service: made-up climate for any place, and faults on demand.

As a fixture::

    with PowerServer(units="RE", faults=["429", "truncated"]) as server:
        config = ClimateSettings(url=server.url)

or as a process: ``python -m tests.power_server --port 8765 --fault 429 --fault 500``.
"""

import argparse
import calendar
import json
import math
import threading
import time
from collections.abc import Iterable
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

Units = Literal["AG", "RE", "SI"]
Fault = Literal["429", "500", "503", "422", "html", "truncated", "cut", "list", "stall", "drop"]

UNITS: dict[Units, dict[str, str]] = {
    "AG": {"T2M": "C", "PRECTOTCORR": "mm/day", "ALLSKY_SFC_SW_DWN": "MJ/m^2/day"},
    "RE": {"T2M": "C", "PRECTOTCORR": "mm/day", "ALLSKY_SFC_SW_DWN": "kW-hr/m^2/day"},
    "SI": {"T2M": "K", "PRECTOTCORR": "kg m-2 s-1", "ALLSKY_SFC_SW_DWN": "W m-2"},
}
NAMES = {
    "temperature_c": "T2M",
    "precipitation_mm_day": "PRECTOTCORR",
    "solar_radiation_mj_m2_day": "ALLSKY_SFC_SW_DWN",
}
FILL = -999.0


def true_value(name: str, lat: float, lon: float, month: str) -> float:
    """The made-up mean of a month (``YYYY-MM``), in the contract's unit."""
    year, number = int(month[:4]), int(month[5:])
    # Warmest in July in the north and in January in the south; no season at the equator.
    season = math.sin(math.radians(lat)) * math.cos(2 * math.pi * (number - 7) / 12)
    weather = math.sin(2.3 * year + 1.7 * number + 0.11 * lat + 0.07 * lon)
    if name == "temperature_c":
        return 28 - 40 * abs(math.sin(math.radians(lat))) ** 1.5 + 14 * season + 1.5 * weather
    if name == "precipitation_mm_day":
        wet = 2.5 + 1.5 * math.sin(math.radians(3 * lon)) - 1.2 * season
        return max(0.0, wet * (1 + 0.7 * weather))
    return max(0.5, 17 - 6 * abs(math.sin(math.radians(lat))) + 9 * season - 0.8 * weather)


class PowerServer:
    """The service on a free port of this machine, in a thread.

    ``units`` is the system of the answers. ``faults`` are met by the first requests, one each;
    ``always`` by all. ``gaps`` are keys (``202003``, ``20200314``) whose values are missing.
    ``today`` decides where the data end.
    """

    def __init__(
        self,
        *,
        units: Units = "AG",
        faults: Iterable[Fault] = (),
        always: Fault | None = None,
        gaps: Iterable[str] = (),
        today: date | None = None,
        retry_after: str | None = "0",
        stall_s: float = 5.0,
        port: int = 0,
    ) -> None:
        self.units, self.always, self.retry_after = units, always, retry_after
        self.faults, self.gaps = list(faults), frozenset(gaps)
        self.today, self.stall_s = today or date.today(), stall_s
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Path and query of every request, those that met a fault too."""
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"power": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = False  # closing waits for answers, so that no socket leaks
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def num_requests(self) -> int:
        return len(self.requests)

    def next_fault(self, path: str, query: dict[str, str]) -> Fault | None:
        with self._lock:
            self.requests.append((path, query))
            return self.always or (self.faults.pop(0) if self.faults else None)

    def enter(self, step: int) -> None:
        with self._lock:
            self._now += step
            self.most_at_once = max(self.most_at_once, self._now)

    def stall(self) -> None:
        self._closing.wait(self.stall_s)

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        """Status and content for a request without a fault."""
        step = {"/api/temporal/monthly/point": "monthly", "/api/temporal/daily/point": "daily"}.get(
            path
        )
        if step is None:
            return 404, {"detail": "Not Found"}
        wrong = self._objections(step, query)
        if wrong:
            header = f"The POWER {step.title()} API failed to complete your request."
            return 422, {"header": header, "messages": wrong}
        return 200, self._feature(step, query)

    def _objections(self, step: str, query: dict[str, str]) -> list[str]:
        digits = 4 if step == "monthly" else 8
        wrong = [
            f"Please supply a correct {side} {'year' if digits == 4 else 'date'}."
            for side in ("start", "end")
            if not (query.get(side, "").isdecimal() and len(query[side]) == digits)
        ]
        if wrong:
            return wrong
        latest = self.today.year - 1 if digits == 4 else int(self.today.strftime("%Y%m%d"))
        if not int("1981" + "0101"[: digits - 4]) <= int(query["start"]) <= int(query["end"]):
            wrong.append("Please supply a start within the data, and before the end.")
        if int(query["end"]) > latest:
            wrong.append(f"The end must not lie after {latest}.")
        unknown = [p for p in query.get("parameters", "").split(",") if p not in NAMES.values()]
        if unknown:
            wrong.append(f"{unknown[0]!r} is an invalid parameter.")
        if not (abs(float(query["latitude"])) <= 90 and abs(float(query["longitude"])) <= 180):
            wrong.append("Please supply a correct latitude and longitude.")
        return wrong

    def _feature(self, step: str, query: dict[str, str]) -> dict[str, Any]:
        lat, lon = float(query["latitude"]), float(query["longitude"])
        names = {NAMES[name]: name for name in NAMES if NAMES[name] in query["parameters"]}
        months = [
            f"{year:04d}-{number:02d}"
            for year in range(int(query["start"][:4]), int(query["end"][:4]) + 1)
            for number in range(1, 13)
        ]
        fill = self._monthly if step == "monthly" else self._daily
        values = {
            parameter: fill(name, lat, lon, months, query) for parameter, name in names.items()
        }
        start, end = query["start"].ljust(8, "0"), query["end"].ljust(8, "0")
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [lon, lat, 171.6]},
            "properties": {"parameter": values},
            "header": {
                "title": f"Made-up climate, {step}",
                "api": {"version": "v2.10.0", "name": f"POWER {step.title()} API"},
                "sources": ["MERRA2", "SYN1DEG"],
                "fill_value": FILL,
                "time_standard": "LST",
                "start": start,
                "end": end,
            },
            "messages": [],
            "parameters": {p: {"units": UNITS[self.units][p], "longname": p} for p in names},
            "times": {"data": 0.1, "process": 0.01},
        }

    def _monthly(
        self, name: str, lat: float, lon: float, months: list[str], query: dict[str, str]
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        for month in months:
            found[month.replace("-", "")] = self._shown(
                name, true_value(name, lat, lon, month), month
            )
            if month.endswith("12"):
                year = [found[f"{month[:4]}{number:02d}"] for number in range(1, 13)]
                found[f"{month[:4]}13"] = FILL if FILL in year else round(sum(year) / 12, 2)
        return found

    def _daily(
        self, name: str, lat: float, lon: float, months: list[str], query: dict[str, str]
    ) -> dict[str, float]:
        found: dict[str, float] = {}
        for month in months:
            mean = true_value(name, lat, lon, month)
            num_days = calendar.monthrange(int(month[:4]), int(month[5:]))[1]
            for day in range(1, num_days + 1):
                key = f"{month.replace('-', '')}{day:02d}"
                swing = (2 * day - num_days - 1) / num_days  # -1 to 1; its mean is 0
                value = mean + 3 * swing if name == "temperature_c" else mean * (1 + 0.5 * swing)
                if query["start"] <= key <= query["end"]:
                    found[key] = self._shown(name, value, key)
        return found

    def _shown(self, name: str, value: float, key: str) -> float:
        """A value as the service writes it."""
        is_dark = name == "solar_radiation_mj_m2_day" and key[:4] < "1984"
        if is_dark or key.replace("-", "") in self.gaps:
            return FILL
        unit = UNITS[self.units][NAMES[name]]
        if unit == "kg m-2 s-1":
            return round(value / 86_400, 10)
        if unit == "K":
            return round(value + 273.15, 2)
        return round(value / {"kW-hr/m^2/day": 3.6, "W m-2": 0.0864}.get(unit, 1), 2)


class _Handler(BaseHTTPRequestHandler):
    power: PowerServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.power.enter(1)
        try:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            fault = self.power.next_fault(parts.path, query)
            status, content = self.power.answer(parts.path, query)
            self.power._closing.wait(0.005)  # two requests at once are seen to be two
        finally:
            self.power.enter(-1)  # before the reply, after which the next one may come at once
        self._reply(fault, status, json.dumps(content).encode())

    def _reply(self, fault: Fault | None, status: int, body: bytes) -> None:
        if fault == "drop":
            return
        if fault == "stall":
            self.power.stall()
            return
        if fault in ("429", "500", "503", "422"):
            status = int(fault)
            body = json.dumps({"messages": [f"Made-up fault {fault}."]}).encode()
        elif fault == "html":
            body = b"<!DOCTYPE html><title>Down for maintenance</title>"
        elif fault == "list":
            body = b"[1, 2, 3]"
        elif fault == "cut":
            body = body[: len(body) // 2]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if fault == "html" else "application/json")
        if fault in ("429", "503") and self.power.retry_after is not None:
            self.send_header("Retry-After", self.power.retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "truncated" else body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--units", choices=sorted(UNITS), default="AG")
    parser.add_argument("--fault", action="append", default=[], help="for the first requests")
    parser.add_argument("--always", help="fault of all requests")
    parser.add_argument("--today", type=date.fromisoformat)
    options = parser.parse_args()
    with PowerServer(
        units=options.units,
        faults=options.fault,
        always=options.always,
        today=options.today,
        port=options.port,
    ) as server:
        print(server.url, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
