"""The blob client against Azurite, and the local mirror."""

from __future__ import annotations

import ssl
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from localazure.core.errors import AzureError, NotFound
from localazure.storage import blobs as module
from localazure.storage.blobs import BlobStore
from localazure.storage.locations import Location


@pytest.fixture
def folder() -> str:
    return f"t/{uuid.uuid4().hex}"


def test_write_read_list_delete(blobs: BlobStore, folder: str) -> None:
    names = [f"{folder}/b.csv", f"{folder}/a ü+&=%25.csv", f"{folder}/sub/c"]
    for name in names:
        blobs.write("lake", name, name.encode())
    listed = blobs.list("lake", folder)
    assert [blob.name for blob in listed] == sorted(names)
    assert {blob.name: blob.size for blob in listed}[names[0]] == len(names[0])
    assert blobs.properties("lake", names[1]).etag == listed[0].etag
    assert all(blobs.read("lake", name) == name.encode() for name in names)
    assert blobs.delete("lake", names[0])
    assert not blobs.delete("lake", names[0])
    assert not blobs.exists("lake", names[0])
    assert blobs.delete_prefix("lake", folder + "/") == 2
    assert blobs.list("lake", folder) == []


def test_what_is_not_there_is_named(blobs: BlobStore) -> None:
    with pytest.raises(NotFound, match=r"no blob 'azflowlake/lake/none\.csv'"):
        blobs.read("lake", "none.csv")
    with pytest.raises(NotFound, match="no container 'azflowlake/nowhere'"):
        blobs.list("nowhere")
    with pytest.raises(NotFound, match="no container"):
        blobs.write("nowhere", "x", b"")
    assert not blobs.container_exists("nowhere")
    with pytest.raises(ValueError, match="empty prefix"):
        blobs.delete_prefix("lake", "")


def test_a_listing_of_several_pages(blobs: BlobStore, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/{n:03}" for n in range(12)]
    for name in names:
        blobs.write("lake", name, b"")
    send = blobs._send

    def small_pages(*arguments: object, query: dict[str, str] | None = None, **options: object) -> httpx.Response:
        if query and query.get("comp") == "list":
            query = query | {"maxresults": "5"}
        return send(*arguments, query=query, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(blobs, "_send", small_pages)
    assert [blob.name for blob in blobs.list("lake", folder)] == names


def test_large_files_go_in_blocks_and_come_back(
    blobs: BlobStore, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1000)
    source = tmp_path / "source"
    for size in (0, 999, 1000, 2500):
        source.write_bytes(bytes(n % 251 for n in range(size)))
        blobs.upload_file("lake", f"{folder}/large", source)
        blobs.download_file("lake", f"{folder}/large", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_failed_download_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        blobs.download_file("lake", "none", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_sas_of_a_blob_and_of_a_container(blobs: BlobStore, folder: str) -> None:
    name = f"{folder}/s ü.txt"
    blobs.write("lake", name, b"s")
    verify = str(blobs._settings.ca_certificate)
    with httpx.Client(verify=ssl.create_default_context(cafile=verify), trust_env=False) as client:
        one = client.get(f"{blobs.url('lake', name)}?{blobs.sas('lake', name, 'r')}")
        assert (one.status_code, one.content) == (200, b"s")
        listing = f"{blobs.url('lake')}?restype=container&comp=list&prefix={folder}&{blobs.sas('lake')}"
        assert "s ü.txt" in client.get(listing).text
        new = f"{blobs.url('lake', folder + '/new')}?{blobs.sas('lake', permissions='rcwl')}"
        assert client.put(new, content=b"n", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 201
        refused = client.put(
            f"{blobs.url('lake', name)}?{blobs.sas('lake', name, 'r')}",
            content=b"",
            headers={"x-ms-blob-type": "BlockBlob"},
        )
        assert refused.status_code == 403
        expired = client.get(f"{blobs.url('lake', name)}?{blobs.sas('lake', name, 'r', hours=-1)}")
        assert expired.status_code == 403


def test_another_key_is_refused(blobs: BlobStore) -> None:
    stranger = BlobStore(blobs._settings)
    stranger._key = b"x" * 64
    with pytest.raises(AzureError, match=r"AuthorizationFailure|InvalidAuthenticationInfo"):
        stranger.list("lake")
    stranger.close()


def test_trees_go_up_and_come_down(blobs: BlobStore, folder: str, tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "MLmodel").write_text("flavors:")
    (tmp_path / "m" / "deep" / "model.pkl").write_bytes(b"\0")
    names = blobs.upload_tree(tmp_path / "m", Location("lake", f"{folder}/model/"))
    assert names == [f"{folder}/model/MLmodel", f"{folder}/model/deep/model.pkl"]
    local = blobs.materialize(Location("lake", f"{folder}/model"))
    assert local.name == "model"
    assert sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()) == [
        "MLmodel",
        "deep/model.pkl",
    ]
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        blobs.upload_tree(tmp_path / "none", Location("lake", folder))


def test_a_file_is_fetched_again_only_when_it_changed(
    blobs: BlobStore, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = Location("lake", f"{folder}/x.csv")
    blobs.write("lake", location.path, b"1")
    fetched = []
    download = blobs._mirror._download
    monkeypatch.setattr(blobs._mirror, "_download", lambda *a: (fetched.append(a[1]), download(*a))[1])
    local = blobs.materialize(location)
    assert local.name == "x.csv"
    assert blobs.materialize(location).read_bytes() == b"1"
    assert len(fetched) == 1
    blobs.write("lake", location.path, b"22")
    assert blobs.materialize(location).read_bytes() == b"22"
    local.write_bytes(b"changed behind our back")
    assert blobs.materialize(location).read_bytes() == b"22"
    assert len(fetched) == 3


def test_a_folder_that_is_held_stays_as_it_was(blobs: BlobStore, folder: str) -> None:
    for name in ("a", "b"):
        blobs.write("lake", f"{folder}/{name}", name.encode())
    held = blobs.materialize(Location("lake", folder))
    blobs.write("lake", f"{folder}/a", b"new")
    blobs.delete("lake", f"{folder}/b")
    blobs.write("lake", f"{folder}/c", b"c")
    fresh = blobs.materialize(Location("lake", folder + "/"))
    assert {path.name: path.read_bytes() for path in held.iterdir()} == {"a": b"a", "b": b"b"}
    assert {path.name: path.read_bytes() for path in fresh.iterdir()} == {"a": b"new", "c": b"c"}
    assert blobs.materialize(Location("lake", folder)) == fresh


def test_wildcards(blobs: BlobStore, folder: str) -> None:
    for name in ("d1/f.csv", "d2/f.csv", "d2/_SUCCESS", "d2/deep/f.csv", "e1/f.csv"):
        blobs.write("lake", f"{folder}/{name}", name.encode())

    def found(pattern: str) -> list[str]:
        local = blobs.materialize(Location("lake", f"{folder}/{pattern}"))
        return sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())

    assert found("d*/f.csv") == ["d1/f.csv", "d2/f.csv"]
    assert found("*/*.csv") == ["d1/f.csv", "d2/f.csv", "e1/f.csv"]
    assert found("**/f.csv") == ["d1/f.csv", "d2/deep/f.csv", "d2/f.csv", "e1/f.csv"]
    assert found("d2*") == ["d2/_SUCCESS", "d2/deep/f.csv", "d2/f.csv"]
    with pytest.raises(NotFound, match="Nothing matches"):
        found("z*/f.csv")


def test_a_name_that_begins_alike_is_another_folder(blobs: BlobStore, folder: str) -> None:
    blobs.write("lake", f"{folder}/day/x", b"")
    blobs.write("lake", f"{folder}/day2/y", b"")
    local = blobs.materialize(Location("lake", f"{folder}/day"))
    assert [path.name for path in local.iterdir()] == ["x"]
    with pytest.raises(NotFound, match=f"nothing at 'lake/{folder}/da'"):
        blobs.materialize(Location("lake", f"{folder}/da"))


def test_a_folders_marker_blob_is_no_file(blobs: BlobStore, folder: str) -> None:
    blobs.write("lake", f"{folder}/out", b"")
    blobs.write("lake", f"{folder}/out/part-0", b"p")
    local = blobs.materialize(Location("lake", f"{folder}/out"))
    assert [path.name for path in local.iterdir()] == ["part-0"]
    assert [path.name for path in blobs.materialize(Location("lake", folder)).iterdir()] == ["out"]


def test_names_that_would_leave_the_mirror_are_refused(blobs: BlobStore, folder: str) -> None:
    mirror = blobs._mirror
    for name in ("../x", "a/../../x", "a/./b"):
        with pytest.raises(NotFound, match="a name that no file can have"):
            mirror._path("blobs", "lake", name)


def test_many_readers_at_once(blobs: BlobStore, folder: str) -> None:
    for n in range(5):
        blobs.write("lake", f"{folder}/many/{n}", str(n).encode())
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: blobs.materialize(Location("lake", f"{folder}/many")), range(16)))
    assert len(set(paths)) == 1
    assert sorted(path.read_text() for path in paths[0].iterdir()) == list("01234")


def test_waiting_for_nothing_times_out(blobs: BlobStore) -> None:
    from dataclasses import replace

    nobody = BlobStore(replace(blobs._settings, port_base=1024))
    with pytest.raises(TimeoutError, match="didn't answer"):
        nobody.wait_until_ready(0.1)


def test_an_append_blob_grows(blobs: BlobStore) -> None:
    for part in (b"one\n", b"two\n"):
        blobs.append("lake", "events/a.jsonl", part)
    assert blobs.read("lake", "events/a.jsonl") == b"one\ntwo\n"
