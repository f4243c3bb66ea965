"""`make demo` on fewer images: it prints its table, draws its pictures, and resumes."""

from __future__ import annotations

import sys

from PIL import Image


def test_demo_runs_and_runs_again(fo, tmp_path, monkeypatch, capsys):
    from demo import __main__ as demo

    monkeypatch.setattr(sys, "argv", ["demo", "--targets", "3", "--out", str(tmp_path)])
    try:
        demo.main()
        first = capsys.readouterr().out
        assert "3 images segmented, 0 already done, 0 failed" in first
        assert first.count("3 images segmented") == 4
        for name in ("default", "paper", "prompt (VRP)", "both"):
            assert f"all, {name} " in first
        assert first.count("Expected precision") == 1
        assert "nAP on 3 drawn scenes, 10 novel classes, 5 references per class" in first
        for name in ("references", "predictions"):
            assert str(tmp_path / f"{name}.png") in first
            assert Image.open(tmp_path / f"{name}.png").width > 900
        demo.main()
        assert "0 images segmented, 3 already done, 0 failed" in capsys.readouterr().out
    finally:
        fo.delete_dataset(demo.DATASET)
