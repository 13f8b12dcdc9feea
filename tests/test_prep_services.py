"""Asking web services: faults that pass, faults that do not, and one request at a time."""

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from data_prep import services
from data_prep.services import ServiceError, get_json
from tests.power_server import Fault, PowerServer

PARAMS = {
    "parameters": "T2M",
    "latitude": "50",
    "longitude": "8.75",
    "start": "2020",
    "end": "2020",
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(services, "FIRST_WAIT_S", 0.01)


def ask(server: PowerServer, *, num_retries: int = 0, timeout_s: float = 5.0) -> Any:
    return get_json(
        f"{server.url}/api/temporal/monthly/point",
        PARAMS,
        timeout_s=timeout_s,
        num_retries=num_retries,
    )


PASSING: list[Fault] = ["429", "500", "503", "html", "truncated", "cut", "drop", "stall"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_outlived(fault: Fault):
    with PowerServer(faults=[fault, fault]) as server:
        answer = ask(server, num_retries=2, timeout_s=0.2 if fault == "stall" else 5)
        assert len(answer["properties"]["parameter"]["T2M"]) == 13
        assert server.num_requests == 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("429", "answered 429: Made-up fault 429"),
        ("500", "answered 500"),
        ("html", "not JSON.*DOCTYPE"),
        ("cut", "not JSON"),
        ("truncated", "cut its answer short|cannot be reached"),
        ("drop", "cannot be reached"),
        ("stall", "did not answer within 0.2 s"),
    ],
)
def test_a_fault_that_stays_is_an_error_that_may_be_tried_again(fault: Fault, message: str):
    with (
        PowerServer(always=fault) as server,
        pytest.raises(ServiceError, match=f"{message}.*Gave up after 2 tries") as caught,
    ):
        ask(server, num_retries=1, timeout_s=0.2)
    assert caught.value.retryable
    assert server.num_requests == 2


def test_a_refusal_is_final_and_in_the_services_words():
    with PowerServer() as server, pytest.raises(ServiceError) as caught:
        get_json(
            f"{server.url}/api/temporal/monthly/point",
            PARAMS | {"start": "2020-01"},
            timeout_s=5,
            num_retries=5,
        )
    assert not caught.value.retryable
    assert "answered 422: Please supply a correct start year." in str(caught.value)
    assert "start=2020-01" in str(caught.value)
    assert server.num_requests == 1


def test_an_address_without_service_is_final():
    with PowerServer() as server, pytest.raises(ServiceError, match="404: Not Found") as caught:
        get_json(f"{server.url}/nothing", {}, timeout_s=5, num_retries=5)
    assert not caught.value.retryable
    assert server.num_requests == 1


def test_an_address_that_is_none_is_final():
    with pytest.raises(ServiceError, match="cannot be asked") as caught:
        get_json("power.example", {}, timeout_s=5, num_retries=5)
    assert not caught.value.retryable


def test_a_host_that_is_off_may_come_back():
    with PowerServer() as server:
        url = server.url.replace("http://", "http://user:secret@")
    with pytest.raises(ServiceError, match="cannot be reached") as caught:
        get_json(url, {}, timeout_s=1, num_retries=1)
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


def test_the_pause_that_a_service_asks_for_is_kept():
    with PowerServer(faults=["429"], retry_after="1") as server:
        begin = time.monotonic()
        ask(server, num_retries=1)
        assert time.monotonic() - begin >= 1


def test_the_pause_may_be_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    with PowerServer(faults=["503"], retry_after=soon) as server:
        begin = time.monotonic()
        ask(server, num_retries=1)
        assert time.monotonic() - begin >= 0.9  # the date is in whole seconds


@pytest.mark.parametrize("text", ["soon", "", "-3"])
def test_a_pause_that_cannot_be_read_is_our_own(text: str):
    with PowerServer(faults=["429"], retry_after=text) as server:
        ask(server, num_retries=1)
        assert server.num_requests == 2


def test_a_long_pause_is_for_the_next_run_and_for_every_thread():
    with PowerServer(always="429", retry_after="3600") as server:
        for _ in range(2):
            with pytest.raises(ServiceError, match="1 try") as caught:
                ask(server, num_retries=5)
            assert caught.value.retryable
            assert caught.value.retry_after_s == pytest.approx(3600, abs=5)
        assert server.num_requests == 1


def test_one_request_at_a_time_goes_to_a_host():
    with PowerServer(faults=["500", "429"] * 2) as server:
        threads = [
            threading.Thread(target=ask, args=(server,), kwargs={"num_retries": 5})
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.num_requests == 10
        assert server.most_at_once == 1


def test_pauses_double_up_to_a_limit(monkeypatch: pytest.MonkeyPatch):
    pauses: list[float] = []
    monkeypatch.setattr(services, "FIRST_WAIT_S", 8.0)
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    with PowerServer(always="500") as server, pytest.raises(ServiceError):
        ask(server, num_retries=4)
    for pause, least in zip(pauses, [8, 16, 30, 30], strict=True):
        assert least <= pause <= 1.5 * least


def test_long_words_of_a_service_are_cut(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PowerServer, "answer", lambda *_: (400, {"detail": "why " * 500}))
    with PowerServer() as server, pytest.raises(ServiceError, match=r"why why.*…") as caught:
        ask(server)
    assert len(str(caught.value)) < 700
