"""Digests: a file that is not what was written is named, and no name leads out of its directory."""

import pytest

from hf_ats.storage import check_files, inside, is_sealed, sealed, sha256_of


@pytest.fixture
def written(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/weights").write_bytes(bytes(range(256)))
    (tmp_path / "config").write_text("{}")
    (tmp_path / "empty").touch()
    return tmp_path, sha256_of(tmp_path)


def test_digests_are_by_path(written):
    directory, sha256 = written
    assert list(sha256) == ["config", "empty", "sub/weights"]
    assert sha256["empty"].startswith("e3b0c44298fc1c14")
    assert sha256_of(directory, ["config"]) == {"config": sha256["config"]}
    check_files(directory, sha256, "the export")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut off"),
        (lambda path: path.write_bytes(b"\1" + path.read_bytes()[1:]), "altered"),
    ],
)
def test_a_damaged_file_is_named(written, damage, fault):
    directory, sha256 = written
    damage(directory / "sub/weights")
    with pytest.raises(ValueError, match=f"the export {directory} is not whole: sub/weights .*{fault}"):
        check_files(directory, sha256, "the export")


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "/etc/passwd", "", "..\\secret", "sub/.."])
def test_a_name_that_leads_out_is_refused(written, name):
    directory, _ = written
    for check in (lambda: inside(directory, name), lambda: check_files(directory, {name: ""}, "the export")):
        with pytest.raises(ValueError, match="not a path inside it"):
            check()


def test_a_link_that_leads_out_is_refused_only_where_names_are_not_trusted(written, tmp_path_factory):
    directory, _ = written
    secret = tmp_path_factory.mktemp("outside") / "secret"
    secret.write_text("secret")
    (directory / "link").symlink_to(secret)
    (directory / "near").symlink_to(directory / "config")
    with pytest.raises(ValueError, match="leads out of it"):
        inside(directory, "link")
    assert inside(directory, "near") == directory / "near"
    check_files(directory, sha256_of(directory), "the snapshot")  # as the Hub's cache has them


def test_a_record_that_was_altered_is_not_sealed():
    record = sealed({"steps": 5, "files": {"a": "0"}})
    assert is_sealed(record) and is_sealed(dict(reversed(record.items())))
    for other in (record | {"steps": 6}, record | {"more": 1}, {}, [], None, {"steps": 5}):
        assert not is_sealed(other)
