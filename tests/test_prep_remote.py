"""Reading over HTTP from a server on this machine, with everything that goes wrong."""

import pickle
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import requests
from rasterio.io import DatasetReader

from data_prep import remote
from data_prep.remote import (
    Access,
    NoSigner,
    ReadError,
    TokenSigner,
    access_to,
    gdal_env,
    is_readable,
    read_raster,
    with_retries,
)
from ecomap.errors import DataError
from tests.fake_scenes import ramp, write_cog
from tests.stac_server import StacServer

VALUES = ramp(512, 400)
NAME = "scene.tif"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StacServer]:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(remote, "REQUEST_RETRY_DELAY_S", 0.01)
    write_cog(tmp_path / NAME, VALUES, crs="EPSG:32633", left=6e5, top=5e6, resolution_m=10)
    with StacServer(tmp_path) as server:
        yield server


def read_all(dataset: DatasetReader) -> np.ndarray:
    return dataset.read(1)


def read(
    server: StacServer,
    name: str = NAME,
    *,
    num_retries: int = 3,
    timeout_s: float = 2,
    signer: remote.Signer | None = None,
) -> np.ndarray:
    access = Access(signer=signer or NoSigner(), timeout_s=timeout_s, num_retries=num_retries)
    with gdal_env(timeout_s=timeout_s, num_retries=num_retries):
        return read_raster(server.data_url(name), read_all, collection="s2", access=access)


def test_a_sound_server_is_asked_little(server: StacServer):
    np.testing.assert_array_equal(read(server), VALUES)
    assert [request.method for request in server.requests[:2]] == ["HEAD", "GET"]
    num_first = len(server.requests)
    np.testing.assert_array_equal(read(server), VALUES)
    # the second time the header comes from the cache, this small file with it
    assert len(server.requests) == num_first


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("hits", [(1,), (2,), (1, 2, 3, 4)])
def test_answers_that_pass_are_waited_out(server: StacServer, status: int, hits: tuple[int, ...]):
    server.add_fault(NAME, status, hits=hits)
    np.testing.assert_array_equal(read(server), VALUES)


@pytest.mark.parametrize("status", [429, 503])
def test_also_when_already_the_question_for_the_size_fails(server: StacServer, status: int):
    server.add_fault(NAME, status, hits=(1, 2, 3, 4), methods=("HEAD",))
    np.testing.assert_array_equal(read(server), VALUES)


@pytest.mark.parametrize("hits", [(1,), (2,), (1, 2)])
def test_cut_bodies_are_read_again(server: StacServer, hits: tuple[int, ...]):
    server.add_fault(NAME, "truncated", hits=hits)
    np.testing.assert_array_equal(read(server), VALUES)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_stall_ends_and_is_tried_again(server: StacServer, method: str):
    server.add_fault(NAME, "stall", hits=(1,), methods=(method,))
    start = time.monotonic()
    np.testing.assert_array_equal(read(server, timeout_s=6), VALUES)
    assert time.monotonic() - start < 5  # long before the limit of a request


def test_an_endless_stall_ends_as_a_failure_that_may_pass(server: StacServer):
    server.add_fault(NAME, "stall", hits=None, methods=("HEAD", "GET"))
    with pytest.raises(ReadError, match=f"{NAME} cannot be reached.*Try later") as raised:
        read(server, num_retries=0, timeout_s=1)
    assert raised.value.retryable


def test_an_overloaded_server_is_given_up_after_so_many_tries(server: StacServer):
    server.add_fault(NAME, 503, hits=None, methods=("HEAD", "GET"))
    with pytest.raises(ReadError, match="answers 503") as raised:
        read(server, num_retries=2)
    assert raised.value.retryable
    num_tries, repeats, diagnosis = 3, 1 + remote.NUM_REQUEST_RETRIES, 1
    assert len(server.requests) == num_tries * (repeats + diagnosis)


def test_the_server_may_ask_for_a_longer_pause(server: StacServer):
    server.add_fault(NAME, 429, hits=(1, 2, 3, 4), retry_after_s=1, methods=("HEAD", "GET"))
    start = time.monotonic()
    np.testing.assert_array_equal(read(server), VALUES)
    assert time.monotonic() - start >= 1


def test_a_missing_file_is_not_asked_for_again(server: StacServer):
    with pytest.raises(ReadError, match=r"nothing\.tif: the server answers 404\. ") as raised:
        read(server, "nothing.tif")
    assert not raised.value.retryable
    assert server.count("data", method="HEAD") == 1
    assert isinstance(raised.value, DataError)


def test_something_else_than_a_raster_is_not_asked_for_again(server: StacServer, tmp_path: Path):
    (tmp_path / "page.tif").write_bytes(b"<html>maintenance</html>")
    with pytest.raises(ReadError, match=r"page\.tif is not a raster.*<html>") as raised:
        read(server, "page.tif")
    assert not raised.value.retryable
    assert server.count("data", method="HEAD") == 1


def test_a_damaged_file_is_tried_twice(server: StacServer, tmp_path: Path):
    content = bytearray((tmp_path / NAME).read_bytes())
    content[-20_000:] = b"\xaa" * 20_000
    (tmp_path / "bad.tif").write_bytes(content)
    with pytest.raises(ReadError, match=r"bad\.tif is damaged: .*twice") as raised:
        read(server, "bad.tif", num_retries=5)
    assert not raised.value.retryable
    assert server.count("data", pattern="bad", method="HEAD") == 2


def test_a_failure_does_not_stay_in_the_cache(server: StacServer):
    fault = server.add_fault(NAME, 404, hits=None, methods=("HEAD", "GET"))
    with pytest.raises(ReadError, match="404"):
        read(server)
    fault.hits = ()
    np.testing.assert_array_equal(read(server), VALUES)


def test_a_refused_address_without_a_signer_is_not_tried_again(server: StacServer):
    server.add_fault(NAME, 403, hits=None, methods=("HEAD", "GET"))
    with pytest.raises(ReadError, match=r"403.*wants a signature") as raised:
        read(server)
    assert not raised.value.retryable
    assert server.count("data", method="HEAD") == 1


def test_an_expired_token_is_replaced(server: StacServer):
    server.add_fault(NAME, "expired-token", hits=None, methods=("HEAD", "GET"))
    signer = TokenSigner(server.token_url, timeout_s=2)
    np.testing.assert_array_equal(read(server, signer=signer), VALUES)
    assert server.num_tokens == 1
    server.expire_tokens()
    (server.folder / "other.tif").write_bytes((server.folder / NAME).read_bytes())
    server.add_fault("other", "expired-token", hits=None, methods=("HEAD", "GET"))
    np.testing.assert_array_equal(read(server, "other.tif", signer=signer), VALUES)
    assert server.num_tokens == 2


def test_what_stays_refused_ends_and_shows_no_token(server: StacServer):
    server.add_fault(NAME, 403, hits=None, methods=("HEAD", "GET"))
    signer = TokenSigner(server.token_url, timeout_s=2)
    with pytest.raises(ReadError, match="with a new token too") as raised:
        read(server, signer=signer, num_retries=2)
    assert raised.value.retryable
    assert server.num_tokens == 3
    assert "sig" not in str(raised.value)


def test_threads_share_a_token_and_its_replacement(server: StacServer):
    signer = TokenSigner(server.token_url, timeout_s=2)
    signed: list[str] = []

    def work() -> None:
        signed.append(signer.sign(server.data_url(NAME), "s2"))

    def in_threads() -> None:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    in_threads()
    assert (len(signed), len(set(signed)), server.num_tokens) == (8, 1, 1)
    for _ in range(3):  # three threads were refused with the same token
        signer.renew("s2", signed[0])
        signer.sign(server.data_url(NAME), "s2")
    assert server.num_tokens == 2
    signer.sign(server.data_url(NAME), "another")
    assert [r.path.rsplit("/", 1)[1] for r in server.requests] == ["s2", "s2", "another"]


@pytest.mark.parametrize(("lifetime_s", "num_tokens"), [(3600, 1), (90, 2)])
def test_a_token_is_replaced_shortly_before_it_expires(
    tmp_path: Path, lifetime_s: float, num_tokens: int
):
    with StacServer(tmp_path, token_lifetime_s=lifetime_s) as server:
        signer = TokenSigner(server.token_url, timeout_s=2)
        for _ in range(2):
            assert "sig=fresh" in signer.sign(server.data_url(NAME), "s2")
        assert server.num_tokens == num_tokens
        assert timedelta(seconds=90) < remote.TOKEN_MARGIN < timedelta(hours=1)


def test_signed_addresses_and_files_are_left_alone(tmp_path: Path):
    signer = TokenSigner("http://127.0.0.1:1/token", timeout_s=1)
    for address in ("http://a/b.tif?st=1&sig=2", "/data/b.tif", "file:///data/b.tif"):
        assert signer.sign(address, "s2") == address


def test_a_query_is_kept(server: StacServer):
    signer = TokenSigner(server.token_url, timeout_s=2)
    assert signer.sign("http://a/b.tif?v=1", "s2").startswith("http://a/b.tif?v=1&se=")
    assert signer.sign("http://a/b.tif", "s2").startswith("http://a/b.tif?se=")


@pytest.mark.parametrize(
    ("kind", "message"), [(503, "503"), ("wrong-json", "not a token"), ("stall", "no token")]
)
def test_a_token_that_cannot_be_had_may_pass(server: StacServer, kind: str | int, message: str):
    server.add_fault("token", kind, hits=None)
    with pytest.raises(ReadError, match=message) as raised:
        TokenSigner(server.token_url, timeout_s=0.3).sign(server.data_url(NAME), "s2")
    assert raised.value.retryable
    server.faults.clear()
    server.add_fault("token", kind, hits=(1,))
    signer = TokenSigner(server.token_url, timeout_s=0.3)
    np.testing.assert_array_equal(read(server, signer=signer), VALUES)


def test_an_answer_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch):
    class Answer:
        status_code = 200

        def json(self) -> dict[str, str]:
            return {"token": "a"}

    monkeypatch.setattr(requests, "get", lambda *_, **__: Answer())
    with pytest.raises(ReadError, match="msft:expiry"):
        TokenSigner("http://a", timeout_s=1).sign("http://a/b.tif", "s2")


def test_one_signer_serves_a_process():
    first = access_to(token_url="http://a/token", timeout_s=5, num_retries=1)
    second = access_to(token_url="http://a/token", timeout_s=5, num_retries=2)
    assert first.signer is second.signer
    assert second.num_retries == 2
    assert isinstance(access_to(token_url=None, timeout_s=5, num_retries=1).signer, NoSigner)


def test_files_are_read_and_never_tried_twice(server: StacServer, tmp_path: Path):
    access = Access(signer=NoSigner(), timeout_s=2, num_retries=3)
    for address in (str(tmp_path / NAME), (tmp_path / NAME).as_uri()):
        values = read_raster(address, read_all, collection="s2", access=access)
        np.testing.assert_array_equal(values, VALUES)
    with pytest.raises(ReadError, match=r"absent\.tif cannot be read") as raised:
        read_raster(str(tmp_path / "absent.tif"), read_all, collection="s2", access=access)
    assert not raised.value.retryable


@pytest.mark.parametrize("address", ["s3://bucket/a.tif", "gs://bucket/a.tif", "ftp://a/b.tif"])
def test_addresses_of_other_kinds_are_refused_by_name(address: str):
    access = Access(signer=NoSigner(), timeout_s=1, num_retries=3)
    assert not is_readable(address)
    with pytest.raises(ReadError, match=f"{address}.*not supported; expected https://") as raised:
        read_raster(address, read_all, collection="s2", access=access)
    assert not raised.value.retryable
    for other in ("/a.tif", "a.tif", "http://a/b.tif", "https://a", "file:///a", "/vsis3/b/a.tif"):
        assert is_readable(other)


def test_an_unknown_host_may_be_known_later():
    access = Access(signer=NoSigner(), timeout_s=2, num_retries=0)
    with pytest.raises(ReadError, match="cannot be reached") as raised:
        read_raster("http://127.0.0.1:1/a.tif", read_all, collection="s2", access=access)
    assert raised.value.retryable


def test_retries_end_and_spare_what_cannot_pass(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    calls: list[int] = []

    def fail(*, retryable: bool) -> None:
        calls.append(1)
        raise ReadError("x", retryable=retryable)

    for retryable, expected in ((True, 4), (False, 1)):
        calls.clear()
        with pytest.raises(ReadError):
            with_retries(lambda r=retryable: fail(retryable=r), num_retries=3)
        assert len(calls) == expected
    with pytest.raises(ZeroDivisionError):
        with_retries(lambda: 1 // 0, num_retries=3)


def test_a_read_error_crosses_processes():
    error = ReadError("x", retryable=True, wait_s=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.retryable, again.wait_s) == ("x", True, 2.0)


def test_settings_hold_in_each_thread():
    from rasterio.env import get_gdal_config

    found: list[object] = []

    def look() -> None:
        with gdal_env(timeout_s=40, num_retries=5):
            found.extend(map(get_gdal_config, ("GDAL_HTTP_TIMEOUT", "GDAL_HTTP_MAX_RETRY")))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [40, 2]
