"""What a run depends on."""

from ecomap.versions import PACKAGES, fingerprint, versions


def test_a_fingerprint_tells_names_contents_and_order_apart(tmp_path):
    a, b, same = (tmp_path / name for name in ("a", "b", "same"))
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    same.write_bytes(b"1")
    prints = [fingerprint(p) for p in ([a], [b], [same], [a, b], [b, a], [])]
    assert len(set(prints)) == 6
    assert fingerprint([tmp_path, a]) == prints[0]
    b.write_bytes(b"3")
    assert fingerprint([a, b]) != prints[3]


def test_versions_name_python_our_code_and_each_package():
    found = versions()
    assert set(found) == {"python", "ecomap_code", *PACKAGES}
    assert len(found["ecomap_code"]) == 12
    assert versions() == found
