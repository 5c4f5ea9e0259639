"""`sightline pretrain i2p-mae-...` before anything starts: what a run of clouds costs, and every mistake named with its hint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy_clouds
import yaml
from asking import Ask
from made import TOYS, made_run
from toy import write_images


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("points")
    toy_clouds.write_clouds(root / "clouds", 30)
    toy_clouds.write_teacher(root / "teacher.safetensors")
    write_images(root / "images", 4, 0)
    (root / "toy.yaml").write_text(yaml.safe_dump(toy_clouds.SETTINGS))
    return root


TEACHER = "model.teacher={at}/teacher.safetensors"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "model.teacher is not set: guided masks and the loss of features need a 2-D encoder"),
        (["pretext.mask=random"], "or go without: pretext.mask=random loss.features=0"),
        (["pretext.mask=random", "loss.features=0", TEACHER], "model.teacher is named but not used"),
        (["model.teacher=teachr"], "did you mean 'teacher'?"),
        (["model.teacher={at}/none.safetensors"], "no run, folder, file or registry model"),
        (["model.teacher=cloudy"], "is no encoder of images"),
        ([TEACHER, "model.points=10"], "model.groups[0] 16 is more than model.points 10"),
        ([TEACHER, "model.groups=[16, 20, 8]"], "model.groups[1] 20 is more than model.groups[0] 16"),
        ([TEACHER, "model.groups=[16, 8]"], "three whole numbers are needed, one a scale, the finest first"),
        ([TEACHER, "model.heads=5"], "heads 5 does not divide dims 12"),
        ([TEACHER, "pretext.mask_ratio=0.05"], "hides 0 of the 8 tokens"),
        ([TEACHER, "loss.points=0", "loss.features=0"], "nothing would be learned"),
        (
            [TEACHER, "model.points=200", "model.groups=[100, 12, 8]"],
            "has enough points: at most 96 in different places",
        ),
        ([TEACHER, "data.train={at}/images"], "holds images, but points are needed"),
        ([TEACHER, "data.val={at}/images"], "holds images, but points are needed"),
    ],
)
def test_a_wrong_setting_is_answered_before_anything_starts(
    words: list[str], said: str, ask: Ask, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOYS, "i2p_mae", toy_clouds.SETTINGS)
    made_run("teacher")
    made_run("cloudy", "i2p_mae", **{"pretext.mask": "random", "loss.features": 0})
    given = [word.format(at=place) for word in words]
    data = [f"data.train={place}/clouds"] if not any(word.startswith("data.train") for word in given) else []
    code, out, err = ask("pretrain", place / "toy.yaml", *data, *given, "--dry-run")
    assert code == 2 and said in err and "Traceback" not in err
    assert out == "" or given[0].startswith("model.teacher="), "a teacher is looked for when the settings are printed"
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["cloudy", "teacher"]


@pytest.mark.slow
def test_a_dry_run_counts_the_network_and_what_runs_before_it(ask: Ask, place: Path, home: Path) -> None:
    words = ["pretrain", place / "toy.yaml", f"data.train={place}/clouds", "--dry-run"]
    code, out, _ = ask(*words, TEACHER.format(at=place), "--json")
    taught = json.loads(out)["estimate"]
    assert code == 0 and taught["gflops_per_sample"] > 0 and taught["stage_gflops_per_sample"] > 0 and taught["steps"] == 16
    assert taught["teachers"].startswith("model.teacher: test, ") and "GFLOP a sample, in the data workers" in taught["teachers"]
    _, out, _ = ask(*words, "pretext.mask=random", "loss.features=0", "--json")
    alone = json.loads(out)["estimate"]
    assert (
        alone["teachers"] is None
        and alone["stage_gflops_per_sample"] is None
        and 0 < alone["gflops_per_sample"] < taught["gflops_per_sample"]
    )
    _, out, _ = ask(*words, TEACHER.format(at=place))
    assert "teachers " in out and "for the teacher" in out and not home.exists()
