"""Tensors on disk: retrieval, limits, concurrent use, and failures that must not affect a run."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from nts.cache import SCHEMA_VERSION, TensorCache, content_key, default_cache
from nts.utils.files import pack_tensors


@pytest.fixture
def cache(tmp_path) -> TensorCache:
    return TensorCache(tmp_path / "cache", 10**9)


def some_tensors(seed: int = 0, size: int = 100) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(size, generator=generator), "b": torch.arange(seed, dtype=torch.int16)}


def file_of(cache: TensorCache, key: str):
    (path,) = cache.folder.glob(f"*/{key}.safetensors")
    return path


def test_stored_tensors_are_found_again(cache):
    key = content_key("thing", image="abc")
    assert cache.get(key) is None
    cache.put(key, some_tensors(3), {"words": "hello"})
    tensors, header = TensorCache(cache.folder.parent, 10**9).get(key)
    assert torch.equal(tensors["a"], some_tensors(3)["a"])
    assert torch.equal(tensors["b"], some_tensors(3)["b"])
    assert header["words"] == "hello"


def test_any_strides_are_stored(cache):
    one, other = torch.ones(1, 1).diagonal(), torch.arange(12).reshape(3, 4).T
    strided = torch.arange(4)[1::2][:1]
    assert strided.stride() != (1,)
    cache.put("thing-0", {"one": one, "other": other, "strided": strided})
    tensors, _ = cache.get("thing-0")
    assert torch.equal(tensors["one"], one)
    assert torch.equal(tensors["other"], other)
    assert torch.equal(tensors["strided"], strided)


def test_keys_know_every_ingredient_and_no_order():
    assert content_key("k", a=1, b=[2]) == content_key("k", b=[2], a=1)
    names = {content_key("k", a=1), content_key("k", a=2), content_key("k", b=1), content_key("l", a=1)}
    assert len(names) == 4


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_missing_and_made_again(cache, caplog, content):
    cache.put("thing-0", some_tensors())
    path = file_of(cache, "thing-0")
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    assert cache.get("thing-0") is None
    assert "is made again" in caplog.text
    assert not path.exists()
    cache.put("thing-0", some_tensors())
    assert cache.get("thing-0") is not None


@pytest.mark.parametrize("start", [-16, -300])
def test_a_file_whose_end_was_lost_with_the_power_is_found_out(cache, start):
    cache.put("thing-0", some_tensors(8))
    path = file_of(cache, "thing-0")
    path.write_bytes(path.read_bytes()[:start] + bytes(-start))
    assert cache.get("thing-0") is None
    assert not path.exists()


def test_a_file_under_another_name_is_missing(cache):
    cache.put("thing-0", some_tensors())
    cache.put("other-0", some_tensors())
    file_of(cache, "other-0").replace(file_of(cache, "thing-0"))
    assert cache.get("thing-0") is None


def test_tensors_of_all_types_are_stored(cache):
    tensors = {
        "none": torch.zeros(0, 4, dtype=torch.float16),
        "one": torch.tensor(3.5),
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "across": torch.arange(12).reshape(3, 4).T,
        "yes": torch.tensor([True, False]),
    }
    cache.put("thing-0", tensors)
    found, _ = cache.get("thing-0")
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_file_of_something_else_is_missing(cache):
    cache.put("thing-0", some_tensors())
    file_of(cache, "thing-0").write_bytes(pack_tensors(some_tensors(), "another-format", 1, {}))
    assert cache.get("thing-0") is None


def test_versions_do_not_see_each_other(cache, monkeypatch):
    cache.put("thing-0", some_tensors())
    monkeypatch.setattr("nts.cache.tensors.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    newer = TensorCache(cache.folder.parent, 10**9)
    assert newer.get("thing-0") is None
    newer.put("thing-0", some_tensors(1))
    assert torch.equal(cache.get("thing-0")[0]["a"], some_tensors()["a"])


def test_the_least_recently_used_file_is_evicted_first(tmp_path):
    cache = TensorCache(tmp_path, 3500)  # five files of about 650 bytes
    for k in range(5):
        cache.put(f"thing-{k}", some_tensors(0))
        path = file_of(cache, f"thing-{k}")
        os.utime(path, (k, k))
    assert cache.get("thing-0") is not None  # now the most recently used
    cache.put("thing-5", some_tensors(0))
    assert cache.size() <= 3500
    assert cache.get("thing-1") is None
    assert cache.get("thing-0") is not None
    assert cache.get("thing-5") is not None


def test_files_of_others_count_against_the_budget(tmp_path):
    first, second = TensorCache(tmp_path, 3000), TensorCache(tmp_path, 3000)
    for k in range(8):
        first.put(f"one-{k}", some_tensors(0))
        second.put(f"two-{k}", some_tensors(0))
    first.put("last-0", some_tensors(0))
    assert first.size() <= 3000 + 600  # a process may not have seen the last file of another


def test_a_budget_of_zero_stores_nothing(tmp_path):
    cache = TensorCache(tmp_path / "cache", 0)
    cache.put("thing-0", some_tensors())
    assert not (tmp_path / "cache").exists()


def test_everything_can_be_removed(cache):
    for k in range(3):
        cache.put(f"thing-{k}", some_tensors(k))
    cache.put("other-0", some_tensors())
    assert (cache.count(), cache.count("thing")) == (4, 3)
    size = cache.size()
    assert cache.clear() == (4, size)
    assert (cache.count(), cache.size()) == (0, 0)
    cache.put("thing-0", some_tensors())
    assert cache.count() == 1


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = TensorCache(tmp_path / "cache", 10**9)
    cache.put("thing-0", some_tensors())
    cache.put("thing-1", some_tensors())
    assert cache.get("thing-0") is None
    assert caplog.text.count("The cache cannot be written") == 1


def test_a_file_that_cannot_be_touched_is_read_all_the_same(cache, monkeypatch):
    cache.put("thing-0", some_tensors())

    def of_another_user(*_, **__):
        raise PermissionError("of another user")

    monkeypatch.setattr(os, "utime", of_another_user)
    assert cache.get("thing-0") is not None


def test_files_that_cannot_be_removed_stop_nothing(tmp_path, monkeypatch):
    cache = TensorCache(tmp_path, 1500)

    def open_elsewhere(*_, **__):
        raise PermissionError("open elsewhere")

    monkeypatch.setattr(Path, "unlink", open_elsewhere)
    monkeypatch.setattr("nts.cache.tensors.write_file", lambda path, data, durable: path.write_bytes(data))
    for k in range(5):
        cache.put(f"thing-{k}", some_tensors(k))
    file_of(cache, "thing-0").write_bytes(b"damaged")
    assert cache.get("thing-0") is None
    assert cache.clear() == (0, 0)
    assert cache.count() == 5


def test_a_folder_that_is_removed_during_a_write_is_tolerated(cache, monkeypatch, caplog):
    def removed(*_, **__):
        raise FileNotFoundError("removed by another process")

    with monkeypatch.context() as patched:
        patched.setattr("nts.cache.tensors.write_file", removed)
        cache.put("thing-0", some_tensors())
    cache.put("thing-1", some_tensors())
    assert cache.get("thing-0") is None
    assert cache.get("thing-1") is not None
    assert not caplog.text


def test_an_entry_larger_than_the_budget_evicts_nothing(tmp_path):
    cache = TensorCache(tmp_path, 3000)
    cache.put("thing-0", some_tensors())
    cache.put("thing-1", some_tensors(size=1000))
    assert cache.get("thing-0") is not None
    assert cache.get("thing-1") is None


def test_abandoned_partial_files_are_removed(cache):
    cache.put("thing-0", some_tensors())
    old, new = (file_of(cache, "thing-0").with_name(f".thing-{k}.safetensors.123.4") for k in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert cache.clear()[0] == 1
    assert not old.exists()
    assert new.exists()


def test_threads_may_store_the_same_entry_concurrently(cache, caplog):
    with ThreadPoolExecutor(8) as threads:
        for seed in range(20):
            list(threads.map(lambda k, seed=seed: cache.put(f"thing-{seed}", some_tensors(seed)), range(8)))
    assert cache.count() == 20
    assert torch.equal(cache.get("thing-7")[0]["a"], some_tensors(7)["a"])
    assert not caplog.text


def work_on(folder: str, seed: int, rounds: int) -> int:
    """Write, read, evict and clear in turn; return the number of files read."""
    cache, read = TensorCache(folder, 20_000), 0
    for k in range(1, rounds + 1):
        number = (k * 7 + seed) % 60
        cache.put(f"thing-{number}", some_tensors(number))
        found = cache.get(f"thing-{(k * 11) % 60}")
        if found is not None:
            read += 1
            assert torch.equal(found[0]["a"], some_tensors((k * 11) % 60)["a"])
        if k % 50 == 0:
            cache.clear()
    return read


def test_processes_can_share_a_folder(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        read = pool.starmap(work_on, [(str(tmp_path), 0, 1000), (str(tmp_path), 1, 1000)])
    assert min(read) > 10


def test_the_users_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("NTS_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("NTS_CACHE_GB", "1.5")
    assert default_cache().folder.parent == tmp_path
    assert default_cache().budget == 1_500_000_000
    monkeypatch.setenv("NTS_CACHE_GB", "much")
    with pytest.raises(ValueError, match="NTS_CACHE_GB must be a number of gigabytes, got 'much'"):
        default_cache()
    monkeypatch.delenv("NTS_CACHE_GB")
    assert default_cache().budget == 20_000_000_000
