"""Sets that other projects saved, which say nothing about themselves."""

import pytest

from raydd.cli import run
from raydd.evaluation.jobs import Outcome


@pytest.mark.parametrize("command", ["continual --steps 2 --seeds 1", "nas --sample 2"])
def test_their_files_are_read_as_the_flags_say(command, capfd, small_synset, pretend, tmp_path):
    asked, folder = pretend(lambda matrix, job: Outcome(0.5, 60.0)), tmp_path / "png"
    assert run(["export", str(small_synset), "--format", "png", "--out", str(folder)]) == 0
    (folder / "raydd.json").unlink()
    verb, *flags = command.split()
    words = [
        verb,
        str(folder),
        *flags,
        "--out",
        str(tmp_path / "out"),
        "--dataset",
        "digits",
        "--preprocessing",
        "raw01",
    ]
    capfd.readouterr()
    assert run([*words, "--lr", "0.07", "--format", "png"]) == 0
    (synset,) = asked[0].matrix.rows[0].sets
    assert (synset.transform.kind, float(synset.lr)) == ("raw01", pytest.approx(0.07))
    assert "is not kept" not in capfd.readouterr().err
    assert run([*words, "--lr", "0.07", "--format", "pnk"]) == 2
    assert "pnk" in capfd.readouterr().err
    assert run([*words, "--lr", "-1"]) == 2
    assert "lr = -1.0: input should be greater than 0" in capfd.readouterr().err
    assert len(asked) == 1
