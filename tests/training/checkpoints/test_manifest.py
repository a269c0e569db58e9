"""A checkpoint's manifest names the file that is not as it was written."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from lens_openrlhf.training.checkpoints import manifest
from lens_openrlhf.training.checkpoints.manifest import ManifestError


@pytest.fixture
def folder(tmp_path):
    """A checkpoint with its manifest."""
    (tmp_path / "global_step3").mkdir()
    (tmp_path / "latest").write_text("global_step3")
    (tmp_path / "global_step3" / "model.pt").write_bytes(os.urandom(3 * manifest.CHUNK_BYTES + 17))
    (tmp_path / "global_step3" / "empty.pt").touch()
    manifest.write(tmp_path)
    return tmp_path


def test_it_lists_every_file(folder):
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    content = (folder / "global_step3" / "model.pt").read_bytes()
    assert listed.keys() == {"latest", "global_step3/model.pt", "global_step3/empty.pt"}
    assert listed["global_step3/model.pt"] == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.check(folder)
    manifest.write(folder)  # again, over itself
    manifest.check(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["global_step3", "latest", "manifest.json"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: flip(f / "global_step3" / "model.pt"), "global_step3/model.pt: has other contents"),
        (lambda f: os.truncate(f / "global_step3" / "model.pt", 5), "global_step3/model.pt: has 5 bytes"),
        (lambda f: (f / "latest").unlink(), "latest: is missing"),
        (lambda f: (f / "global_step3" / "more.pt").touch(), "global_step3/more.pt: is not listed"),
        (lambda f: (f / "link").symlink_to("/etc/passwd"), "link: is neither a file nor a folder"),
        (lambda f: (f / "manifest.json").unlink(), "has no manifest.json"),
        (lambda f: (f / "manifest.json").write_text('{"files": {"latest": {"size": 1}}}'), "is no manifest"),
        (lambda f: (f / "manifest.json").write_text("[" * 100_000), "is no manifest"),
        (lambda f: os.truncate(f / "manifest.json", 40), "is no manifest"),
        (lambda f: (f / "manifest.json").write_text("[]"), "is no manifest"),
        (lambda f: (f / "manifest.json").write_text("{}"), "is no manifest"),
        (lambda f: (f / "manifest.json").write_text('{"files": []}'), "is no manifest"),
        (lambda f: (f / "manifest.json").write_text('{"files": {"latest": 3}}'), "is no manifest"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "is no manifest"),
        (lambda f: (f / "global_step3" / "manifest.json").touch(), "global_step3/manifest.json: is not listed"),
        (lambda f: os.mkfifo(f / "global_step3" / "pipe"), "global_step3/pipe: is neither a file nor a folder"),
    ],
)
def test_what_is_not_as_written_is_named(folder, change, told):
    change(folder)
    with pytest.raises(ManifestError) as caught:
        manifest.check(folder)
    assert told in str(caught.value)


def test_it_is_written_as_documented(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "manifest.json").write_text("abc")  # of that name, the one at the top alone is ours
    (tmp_path / "a.pt").write_text("")
    (tmp_path / ".manifest.json.123").write_text("what a crash left of an earlier try")
    manifest.write(tmp_path)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (tmp_path / "manifest.json").read_text() == (
        f"""{{
 "files": {{
  "a.pt": {{
   "size": 0,
   "sha256": "{nothing}"
  }},
  "b/manifest.json": {{
   "size": 3,
   "sha256": "{abc}"
  }}
 }}
}}
"""
    )
    manifest.check(tmp_path)


def test_the_message_has_the_place_and_both_sizes(folder):
    assert manifest.has_one(folder) and not manifest.has_one(folder / "global_step3")
    (folder / "latest").write_text("global_step10")
    with pytest.raises(ManifestError) as caught:
        manifest.check(folder)
    assert str(caught.value) == f"{folder}/latest: has 13 bytes, and manifest.json says 12"
    (folder / "manifest.json").unlink()
    with pytest.raises(ManifestError) as caught:
        manifest.check(folder)
    assert str(caught.value) == f"{folder}: has no manifest.json; it is written last, so the checkpoint is not whole"


def test_no_file_is_read_where_names_or_sizes_tell_already(folder):
    flip(folder / "global_step3" / "model.pt")
    os.truncate(folder / "latest", 3)
    with pytest.raises(ManifestError, match="latest: has 3 bytes"):
        manifest.check(folder)


def test_nothing_but_files_can_be_listed(folder):
    (folder / "link").symlink_to(folder / "latest")
    with pytest.raises(ManifestError, match="link: is neither a file nor a folder; a checkpoint has nothing else"):
        manifest.write(folder)


@pytest.mark.parametrize("key", ["size", "sha256"])
def test_one_entry_that_says_too_little_is_enough(folder, key):
    content = json.loads((folder / "manifest.json").read_text())
    del content["files"]["latest"][key]
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="manifest.json: is no manifest .an entry without size and sha256"):
        manifest.check(folder)


def test_of_several_files_the_first_by_name_is_told(folder):
    for number in range(20):
        (folder / f"added-{number:02}").touch()
    with pytest.raises(ManifestError, match="added-00: is not listed"):
        manifest.check(folder)
    manifest.write(folder)
    listed = list(json.loads((folder / "manifest.json").read_text())["files"])
    assert listed == sorted(listed) and len(listed) == 23
    for number in range(20):
        (folder / f"added-{number:02}").unlink()
    with pytest.raises(ManifestError, match="added-00: is missing"):
        manifest.check(folder)
    for number in range(20):
        (folder / f"added-{number:02}").write_text("x" * (1 + number % 7))
    manifest.write(folder)
    for number in range(20):
        (folder / f"added-{number:02}").write_text("y" * (1 + number % 7))
    with pytest.raises(ManifestError, match="added-00: has other contents"):
        manifest.check(folder)


def test_a_manifest_appears_whole_or_not_at_all(folder, monkeypatch):
    before = (folder / "manifest.json").read_text()

    def fail(descriptor):
        assert os.fstat(descriptor).st_size
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        manifest.write(folder)
    assert (folder / "manifest.json").read_text() == before
    assert sorted(os.listdir(folder)) == ["global_step3", "latest", "manifest.json"]
    manifest.check(folder)
