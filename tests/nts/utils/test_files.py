"""Files of equal content."""

from __future__ import annotations

from nts.utils.files import content_id, same_content, same_files


def test_files_of_equal_content_are_found_under_any_name(tmp_path):
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"three", "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents] + [tmp_path / "missing", tmp_path]
    assert same_files(paths, [tmp_path / "c", tmp_path / "gone", tmp_path]) == {0, 2}
    assert same_files(paths, [tmp_path / "empty"]) == {4}
    assert same_files(paths, []) == same_files([], paths) == set()
    assert same_content(paths, [content_id(b"one"), content_id(b"three")]) == {0, 2, 3}


def test_only_files_of_a_matching_size_are_read(tmp_path, monkeypatch):
    read = []
    for name, content in {"a": b"one", "b": b"three", "c": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    original = type(tmp_path).read_bytes
    monkeypatch.setattr(type(tmp_path), "read_bytes", lambda path: read.append(path.name) or original(path))
    assert same_files([tmp_path / "a", tmp_path / "b"], [tmp_path / "c"]) == set()
    assert read == ["c", "a"]
