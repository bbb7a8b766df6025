import importlib.util

import pytest

from raydd.remote import tune
from raydd.remote.tune import logger_callbacks


def test_nothing_is_sent_anywhere_unless_it_is_asked_for():
    assert logger_callbacks(None, None, "space") == []


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_package_is_named_with_its_remedy(package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"--{package} needs a package .* uv pip install {package}"):
        logger_callbacks(**({"mlflow": None, "wandb": None} | {package: "there"}), name="space")


def test_a_missing_key_is_said_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(tune, "require_package", lambda package: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"there is no key; .* WANDB_MODE=offline"):
        logger_callbacks(None, "project", "space")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    tune.require_wandb_key()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    tune.require_wandb_key()
    assert not (tmp_path / ".netrc").exists()


def test_a_folder_of_mlflow_is_a_database_in_it(tmp_path):
    folder = tmp_path / "new" / "runs"
    assert tune._tracking_uri(str(folder)) == f"sqlite:///{folder / 'mlflow.db'}"
    assert folder.is_dir()
    assert tune._tracking_uri("http://there:5000") == "http://there:5000"
