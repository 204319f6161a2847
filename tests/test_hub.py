"""The hub: what goes there holds nothing private, what comes from there is data of known names, sizes and digests."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch

import gansmith
import gansmith.portable.publish  # before anything of it is replaced
from gansmith import checkpoint

REPO = "me/digits"


def quiet(text: str) -> None:
    pass


class Hub:
    """A stand-in for the hub: a folder; the calls are checked against those of the real client, if it is there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.private, self.downloads = folder, False, list[str]()
        real = pytest.importorskip("huggingface_hub").HfApi
        self.api = create_autospec(real, instance=True)
        for name in ("create_repo", "model_info", "upload_folder", "hf_hub_download"):
            getattr(self.api, name).side_effect = getattr(self, name)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if not self.folder.exists():
            self.folder.mkdir()
            self.private = private

    def upload_folder(self, *, repo_id: str, folder_path: Path, delete_patterns: str, commit_message: str) -> None:
        shutil.rmtree(self.folder / delete_patterns.removesuffix("/*"), ignore_errors=True)
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)

    def model_info(self, repo_id: str, *, revision: str | None = None, files_metadata: bool = False) -> Any:
        if not self.folder.exists():
            raise OSError(f"404: no such repository {repo_id}\nmore")
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        siblings = [
            SimpleNamespace(rfilename=path.relative_to(self.folder).as_posix(), size=path.stat().st_size)
            for path in files
        ]
        return SimpleNamespace(sha="c0ffee" * 6 + "abcd", siblings=siblings, private=self.private)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str, local_dir: Path) -> str:
        self.downloads.append(filename)
        (target := Path(local_dir) / filename).parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copyfile(self.folder / filename, target))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    for module in ("gansmith.hub", "gansmith.portable.publish"):
        monkeypatch.setattr(f"{module}.client", lambda: made.api)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path, small: Callable[..., dict[str, Any]]) -> Path:
    out = tmp_path_factory.mktemp("private") / "run"
    return gansmith.train("gan", data=pictures, out=out, steps=2, device="cpu", quiet=True, **small("gan"))


@pytest.fixture(scope="module")
def small() -> Callable[..., dict[str, Any]]:
    from conftest import small_flags

    return small_flags


def test_what_is_pushed_is_pulled_sampled_and_trained_on(hub: Hub, run: Path, pictures: Path, tmp_path: Path) -> None:
    assert gansmith.push(run, REPO, say=quiet) == f"https://huggingface.co/{REPO}"
    assert {path.relative_to(hub.folder).as_posix() for path in hub.folder.rglob("*.*")} == {
        *("README.md", "recipe.yaml", "samples.png"),
        *(f"checkpoints/00000002/{file}" for file in ("state.json", "tensors.safetensors")),
    }
    for file in hub.folder.rglob("*.*"):  # of the run's folder, of the data's, of the user
        assert not [p for p in (run.parent, pictures, Path.home()) if str(p).encode() in file.read_bytes()], file
    assert f"gansmith.load('hf:{REPO}', maker='sample')" in (hub.folder / "README.md").read_text()
    (hub.folder / "evil.py").write_text("raise SystemExit")
    pulled = gansmith.pull(REPO, out=tmp_path / "pulled", say=quiet)
    assert sorted(path.name for path in pulled.iterdir()) == ["checkpoints", "recipe.yaml"]
    own = gansmith.load(run, device="cpu").sample(4)
    assert np.array_equal(gansmith.load(pulled, device="cpu").sample(4), own)
    gansmith.train(pulled, data=pictures, steps=4, device="cpu", quiet=True)
    gansmith.train(run, steps=4, device="cpu", quiet=True)
    one, other = (checkpoint.read(path / "checkpoints" / "00000004") for path in (run, pulled))
    assert one[1]["sha256"] == other[1]["sha256"]


def test_a_name_of_the_hub_is_loaded_once_for_each_commit(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gansmith.push(run, REPO, round=2, say=quiet)
    for _ in range(2):
        sampler = gansmith.load(f"hf:{REPO}@main", device="cpu", say=quiet)
        assert np.array_equal(sampler.sample(2), gansmith.load(run, round=2, device="cpu").sample(2))
        assert len(hub.downloads) == 2
    with pytest.raises(gansmith.UserError, match="a stranger's, and nothing is imported for it"):
        gansmith.load(f"hf:{REPO}", trust=True)
    monkeypatch.setenv("GANSMITH_TRUST", "1")
    with pytest.raises(gansmith.UserError, match="a stranger's"):
        gansmith.load(f"hf:{REPO}")


def test_a_mask_of_infinities_is_pushed_as_it_is(hub: Hub, run: Path, tmp_path: Path) -> None:
    masked = Path(shutil.copytree(run, tmp_path / "masked"))
    _, tree, info = checkpoint.newest_good(masked / "checkpoints", quiet)
    tree["players"]["D"]["net"]["mask"] = torch.tensor(-torch.inf)
    checkpoint.write(masked / "checkpoints", info["round"], tree, info=info, constant={"players.D.net.mask"})
    gansmith.push(masked, REPO, say=quiet)
    pulled = checkpoint.newest_good(gansmith.pull(REPO, out=tmp_path / "pulled", say=quiet) / "checkpoints", quiet)
    assert pulled.tree["players"]["D"]["net"]["mask"] == -torch.inf


def test_a_pulled_run_imports_nothing(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gansmith.push(run, REPO, round=2, say=quiet)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    tree, info = checkpoint.read(hub.folder / "checkpoints" / "00000002")
    info["recipe"]["networks"]["G"] = {"name": "evil_module:G"}
    checkpoint.write(hub.folder / "checkpoints", 2, tree, info=info)
    pulled = gansmith.pull(REPO, out=tmp_path / "pulled", say=quiet)
    with pytest.raises(gansmith.UserError, match="networks.G.name is 'evil_module:G', which imports"):
        gansmith.load(pulled)
    assert "evil_module" not in sys.modules


def test_what_is_not_as_push_leaves_it_is_refused_and_leaves_nothing(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "run"

    def refused(match: str, repo: str = REPO) -> None:
        with pytest.raises(gansmith.UserError, match=match):
            gansmith.pull(repo, out=out, say=quiet)
        assert not out.exists() and not [*out.parent.glob("*")]

    out.parent.mkdir()
    refused("the hub did not do it for me/digits: 404: no such repository me/digits$")
    for name in ("digits", "../x/y", "me/..", "me/a..b", "a/b/c", "me/x@", "me/x@a b"):
        refused("is no repository of the hub", name)
    gansmith.push(run, REPO, round=2, say=quiet)
    state, tensors = (hub.folder / "checkpoints" / "00000002" / f for f in ("state.json", "tensors.safetensors"))
    good, body = tensors.read_bytes(), state.read_text()
    tensors.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused("its checkpoint is broken: tensors.safetensors does not match its digest")
    tensors.write_bytes(good)
    state.write_text(body.replace('"round": 2', '"round": 3', 1))
    refused("its checkpoint is broken: state.json does not match its digest")
    state.write_text("[" * 100_000)
    refused("its checkpoint is broken")
    state.write_text(body)
    real = hub.api.hf_hub_download.side_effect

    def a_link(**asked: Any) -> str:
        (path := Path(real(**asked))).unlink()
        path.symlink_to(hub.folder / asked["filename"])
        return str(path)

    def longer(**asked: Any) -> str:
        with (path := Path(real(**asked))).open("ab") as file:
            file.write(b"x")
        return str(path)

    for wrong in (a_link, longer, lambda **asked: str(hub.folder / asked["filename"])):
        hub.api.hf_hub_download.side_effect = wrong
        refused("is not the plain file that the hub says it is; nothing is kept")
    hub.api.hf_hub_download.side_effect = real
    monkeypatch.setitem(gansmith.hub._MOST, "state.json", 10)  # type: ignore[attr-defined]
    refused("holds no run as gansmith push leaves it")


def test_push_refuses_a_public_place_for_a_private_run_and_a_revision(hub: Hub, run: Path) -> None:
    with pytest.raises(gansmith.UserError, match="a revision is for pull"):
        gansmith.push(run, f"{REPO}@main")
    gansmith.push(run, REPO, round=2, private=True, say=quiet)
    assert hub.private
    hub.private, before = False, sorted(hub.folder.rglob("*"))
    with pytest.raises(gansmith.UserError, match="exists and is public"):
        gansmith.push(run, REPO, private=True, say=quiet)
    assert sorted(hub.folder.rglob("*")) == before


def test_without_the_extra_one_line_says_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: gansmith.pull(REPO), lambda: gansmith.push(run, REPO), lambda: gansmith.load(f"hf:{REPO}")):
        with pytest.raises(gansmith.UserError, match=r'pip install "gansmith\[hub\]"'):
            call()


def test_the_samples_of_a_translator_stay_at_home(
    hub: Hub, data_of: Callable[[str], str], small: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    flags = {**small("srresnet"), "data": data_of("srresnet")}
    run = gansmith.train("srresnet", out=tmp_path / "run", steps=1, device="cpu", quiet=True, **flags)
    gansmith.push(run, REPO, say=quiet)
    assert not [*hub.folder.rglob("*.png")] and "they would show pictures" in (hub.folder / "README.md").read_text()
    assert json.loads((hub.folder / "checkpoints" / "00000001" / "state.json").read_text())["recipe"]["data"]["name"]
