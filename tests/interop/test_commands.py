"""raydd export and raydd import."""

import json

import pytest
import torch

from raydd.cli import run
from raydd.data.synset import SyntheticSet


def document(capfd, *arguments):
    capfd.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert [line for line in found["notes"] if line not in err] == []
    return found


def refused(capfd, *arguments):
    capfd.readouterr()
    assert run([*map(str, arguments)]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize("layout", ["mtt", "tgdd", "dc", "dcbench", "ddranking", "hf"])
def test_a_set_goes_out_and_comes_back(layout, capfd, small_synset, tmp_path):
    wanted = SyntheticSet.load(small_synset)
    found = document(capfd, "export", small_synset.parent, "--format", layout, "--out", tmp_path / "out")
    assert found["outputs"] == {"folder": str(tmp_path / "out"), "images": 10}
    assert found["format"] == layout
    read = document(capfd, "import", tmp_path / "out", "--out", tmp_path / "back.arrow")
    assert (read["layout"], read["images"], read["classes"], read["shape"]) == (layout, 10, 10, [1, 8, 8])
    assert (read["labels"], read["preprocessing"], read["lr"]) == ("hard", "normalise", float(wanted.lr))
    assert read["outputs"] == {"synset": str(tmp_path / "back.arrow")}
    back = SyntheticSet.load(tmp_path / "back.arrow")
    assert torch.equal(back.labels, wanted.labels)
    if layout != "tgdd":  # learned pixels are no float32 pixels
        assert torch.equal(back.images, wanted.images)
    assert torch.allclose(back.images, wanted.images, atol=1e-6)


def test_what_foreign_files_leave_unsaid_is_given(capfd, images, tmp_path):
    torch.save([torch.rand(4, 3, 6, 6), torch.tensor([0, 0, 1, 1])], tmp_path / "mine.pt")
    flags = ("--format", "tgdd", "--dataset", images, "--preprocessing", "zca", "--lr", "0.25", "--factor", "2")
    settings = ("--set", "data.size=6", "--set", "data.validation=0.2")
    found = document(capfd, "import", tmp_path / "mine.pt", "--out", tmp_path / "a.arrow", *flags, *settings)
    assert (found["layout"], found["preprocessing"], found["lr"]) == ("tgdd", "zca", 0.25)
    assert (found["formation"]["factor"], found["notes"]) == (2, [])
    synset = SyntheticSet.load(tmp_path / "a.arrow")
    assert synset.recipe["data"] == {
        "dataset": str(images),
        "size": 6,
        "channels": None,
        "validation": 0.2,
        "preprocessing": "zca",
        "augment": "dsa",
        "flip": False,
    }
    assert len(synset.decoded().images) == 16


def test_refusals_are_one_line(capfd, small_synset, tmp_path):
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "data.pt")
    words = ("import", tmp_path / "data.pt", "--out", tmp_path / "a.arrow")
    assert "--dataset" in refused(capfd, *words)
    assert "'diggits'" in refused(capfd, *words, "--dataset", "diggits")
    assert "factor = 0" in refused(capfd, *words, "--dataset", "digits", "--factor", "0")
    assert "preprocessing = 'whiten'" in refused(capfd, *words, "--dataset", "digits", "--preprocessing", "whiten")
    assert "'tgd'" in refused(capfd, *words, "--dataset", "digits", "--format", "tgd")
    assert not (tmp_path / "a.arrow").exists()
    line = refused(capfd, "import", tmp_path / "data.pt", "--dataset", "digits", "--out", small_synset)
    assert "exists already" in line
    assert "logits" in refused(capfd, "export", small_synset, "--format", "datm", "--out", tmp_path / "out")


def test_a_set_is_read_into_a_folder_under_its_usual_name(capfd, small_synset, tmp_path):
    assert run(["export", str(small_synset), "--format", "mtt", "--out", str(tmp_path / "theirs")]) == 0
    words = ("import", tmp_path / "theirs", "--out", tmp_path)
    assert run([*map(str, words)]) == 0
    ours, theirs = SyntheticSet.load(tmp_path / "synset.arrow"), SyntheticSet.load(small_synset)
    assert torch.equal(ours.images, theirs.images)
    assert f"{tmp_path / 'synset.arrow'} exists already" in refused(capfd, *words)


def test_a_set_that_could_not_be_read_again_is_not_written(capfd, small_synset, tmp_path):
    for name in ("again", "again.pt", "again.arrow.old"):
        line = refused(capfd, "import", small_synset, "--out", tmp_path / name)
        assert f"name {tmp_path / name}.arrow" in line
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_our_own_takes_no_flags(capfd, small_synset, tmp_path):
    for words in (("--lr", "0.5"), ("--dataset", "digits"), ("--factor", "2"), ("--set", "data.size=8")):
        for path in (small_synset, small_synset.parent):
            line = refused(capfd, "import", path, "--out", tmp_path / "a.arrow", *words)
            assert f"leave out {words[0]}" in line
    assert list(tmp_path.iterdir()) == []
    found = document(capfd, "import", small_synset, "--out", tmp_path / "a.arrow")
    assert (found["layout"], found["notes"]) == ("raydd", [])
    assert (tmp_path / "a.arrow").read_bytes() == small_synset.read_bytes()


def test_a_pickle_protocol_of_their_own_is_said_in_one_line(capfd, tmp_path):
    """Torch's own warning takes two lines of its own."""
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "data.pt", pickle_protocol=4)
    line = refused(capfd, "import", tmp_path / "data.pt", "--dataset", "digits", "--out", tmp_path / "a.arrow")
    assert "pickle_protocol=4" in line


def test_people_see_what_was_read(capfd, small_synset, tmp_path):
    torch.save([torch.rand(10, 1, 8, 8), torch.arange(10)], tmp_path / "data.pt")
    capfd.readouterr()
    assert run(["import", str(tmp_path), "--dataset", "digits", "--out", str(tmp_path / "a.arrow")]) == 0
    out, err = capfd.readouterr()
    assert "tgdd" in out
    assert "taken as 0.01" in err
    assert run(["export", str(tmp_path / "a.arrow"), "--format", "mtt", "--out", str(tmp_path / "out")]) == 0
    assert "wrote 10 images" in capfd.readouterr().out
