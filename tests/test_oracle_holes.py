"""Holes: the view that cuts them, the two games that fill them, against their papers, and `translate --mask`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import experiment_of, save_noise, small_flags
from PIL import Image
from test_oracle import Made, cross_entropy, duel, step  # noqa: F401
from torch import Tensor

import gansmith
from gansmith import UserError, translate
from gansmith.data import ImageSet
from gansmith.data.stream import Stream
from gansmith.data.views import Draws, hole, low
from gansmith.games.context_encoder import ContextEncoder

OPTIONS: dict[str, Any] = {"device": "cpu", "say": lambda text: None}


def draws(n: int, position: int = 0) -> Draws:
    return Draws(0, position, n, slice(n), torch.device("cpu"))


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# ---- views -------------------------------------------------------------------------------------------------------


def test_a_hole_is_a_rectangle_of_its_share_anywhere_or_in_the_centre() -> None:
    x = noise(400, 3, 8, 12)
    found = hole({"x": x}, draws(400), share=0.5, fill=-1.0)
    mask = found["mask"]
    assert mask.shape == (400, 1, 8, 12) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert (mask.sum((1, 2, 3)) == 4 * 6).all()  # 4 x 6 of 8 x 12
    rows, columns = mask.amax((1, 3)), mask.amax((1, 2))
    assert (rows.sum(1) == 4).all() and (columns.sum(1) == 6).all()  # a rectangle
    assert torch.equal(mask[:, 0], rows[:, :, None] * columns[:, None])
    assert {int(row.argmax()) for row in rows} == set(range(5)) and {int(c.argmax()) for c in columns} == set(range(7))
    assert torch.equal(found["holed"], torch.where(mask > 0, -1.0, x)) and found["x"] is x
    centre = hole({"x": x}, draws(400), place="centre")["mask"]
    assert (centre[:, 0, 2:6, 3:9] == 1).all() and centre.sum() == 400 * 24
    assert hole({"x": x}, draws(400), share=0.0)["mask"].sum() == 400  # at least a pixel


def test_a_given_mask_stays_and_a_coarse_copy_may_lie_in_the_hole() -> None:
    x, mask = noise(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    mask[:, :, 1:3, 4:] = 1
    found = hole({"x": x, "mask": mask}, draws(2), coarse=4)
    assert found["mask"] is mask and torch.equal(found["holed"][mask == 0], x[mask == 0])
    small = x.reshape(2, 1, 2, 4, 2, 4).mean((3, 5))
    large = torch.nn.functional.interpolate(small, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found["holed"][mask > 0], large[mask > 0])


def test_a_low_copy_is_of_its_scale_and_within_the_picture_s_range() -> None:
    x = noise(3, 3, 8, 12)
    found = low({"x": x}, draws(3), scale=4)["low"]
    assert found.shape == (3, 3, 2, 3)
    assert (found.amin((1, 2, 3)) >= x.amin((1, 2, 3))).all() and (found.amax((1, 2, 3)) <= x.amax((1, 2, 3))).all()
    flat = torch.full((1, 1, 8, 8), 0.25, dtype=torch.float64)
    torch.testing.assert_close(low({"x": flat}, draws(1), scale=2)["low"], flat[:, :, :4, :4])
    edge = (torch.arange(16) >= 8).double().expand(1, 1, 16, 16)  # bicubic would overshoot
    found = low({"x": edge}, draws(1), scale=2)["low"]
    assert found.min() == 0 and found.max() <= 1


def test_holes_are_the_same_on_any_number_of_processes() -> None:
    data = ImageSet("some", {"x": np.random.default_rng(0).integers(0, 256, (23, 1, 6, 8), np.uint8)}, (), "d")
    options: dict[str, Any] = {"needs": (("holed", "mask", "x"),), "batch_size": 5, "seed": 1, "memory": "device"}

    def batches(rank: int, ranks: int) -> list[Tensor]:
        stream = Stream([data], views=[hole], rank=rank, ranks=ranks, **options)
        return [batch["holed"] for batch in itertools.islice(stream, 7)]

    for whole, *parts in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(whole, torch.cat(parts))


# ---- games -------------------------------------------------------------------------------------------------------


def of_context_encoder(d: Any, x: Tensor, holed: Tensor, mask: Tensor) -> Tensor:
    """Squares in the hole, and ten times as heavy in the border around it, over the pixels of both."""
    made = d.nets["G"](holed)
    losses = []
    for i in range(len(x)):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for row, column in itertools.product(range(16), range(16)):
            near = mask[i, 0, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].max() > 0
            if near:
                weight = 1.0 if mask[i, 0, row, column] > 0 else 10.0
                total = total + weight * (made[i, :, row, column] - x[i, :, row, column]).square().mean()
                count += 1
        losses.append(total / count)
    return torch.stack(losses).mean()


def test_context_encoder_is_its_equations_1_to_3(duel: Made) -> None:  # noqa: F811
    """D on x and on the filled picture; then G on the same G(holed), against the D that has moved."""
    d = duel("context_encoder", batch_size=3, **{f"optimizers.{p}.eps": 1e-6 for p in "GD"})
    G, D = d.nets["G"], d.nets["D"]
    optimizer_g, optimizer_d = d.adam("G"), d.adam("D")
    for (batch,) in d.rounds(3):
        x, holed, mask = batch["x"], batch["holed"], batch["mask"]
        reconstruction = of_context_encoder(d, x, holed, mask)
        filled = mask * G(holed) + (1 - mask) * x
        step(optimizer_d, (cross_entropy(D(x), True) + cross_entropy(D(filled.detach()), False)) / 2)
        step(optimizer_g, 0.999 * reconstruction + 0.001 * cross_entropy(D(filled), True))
    assert d.apart() < 1e-10


def test_a_border_of_nothing_is_the_paper_s_equation_1() -> None:
    game = ContextEncoder.__new__(ContextEncoder)
    game.overlap, game.border_weight = 0, 10.0
    made, x = noise(2, 3, 6, 6), noise(2, 3, 6, 6).flip(0)
    mask = torch.zeros(2, 1, 6, 6, dtype=torch.float64)
    mask[0, :, 1:4, 2:4] = mask[1, :, :2, :3] = 1
    inside = [(made - x)[i][mask[i].expand(3, -1, -1) > 0].square().mean() for i in range(2)]
    torch.testing.assert_close(game.reconstruction(made, x, mask), torch.stack(inside).mean())


@pytest.mark.parametrize("judges", ["the filled picture", "all that G makes"])
def test_ccgan_learns_from_labels_and_from_filled_holes(judges: str, duel: Made) -> None:  # noqa: F811
    """Both gradients at one point; what the popular script lets D judge is another game."""
    d = duel("ccgan", batch_size=5)
    G, D = d.nets["G"], d.nets["D"]
    optimizers = {"G": d.adam("G"), "D": d.adam("D")}
    for (batch,) in d.rounds(3):
        x, y, u, holed, mask = (batch[name] for name in ("x", "y", "u", "holed", "mask"))
        filled = mask * G(holed) + (1 - mask) * u if judges == "the filled picture" else G(holed)
        probabilities = torch.softmax(D(x).category, 1)[torch.arange(len(x)), y]
        adversarial = cross_entropy(D(u).score, True) + cross_entropy(D(filled.detach()).score, False)
        losses = {"G": cross_entropy(D(filled).score, True), "D": adversarial / 2 - probabilities.log().mean()}
        found = {p: torch.autograd.grad(losses[p], [*d.nets[p].parameters()], retain_graph=True) for p in "GD"}
        for player, optimizer in optimizers.items():
            for weight, grad in zip(d.nets[player].parameters(), found[player], strict=True):
                weight.grad = grad
            optimizer.step()
    assert (d.apart() < 1e-10) == (judges == "the filled picture")


def test_without_the_game_ccgan_is_a_classifier_of_the_labels_alone(data_of: Callable[[str], str]) -> None:
    made = experiment_of("ccgan", data_of("ccgan"), **{"game.lambda_gan": 0.0, "batch_size": 4})
    batch = next(made.stream)
    (_, loss) = made.game.losses(batch)[0]["D"]  # type: ignore[attr-defined]
    expected = torch.nn.functional.cross_entropy(made.game.D.net(batch["x"]).category, batch["y"])  # type: ignore[attr-defined]
    torch.testing.assert_close(loss, expected)


# ---- as a person would -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("holes")
    for part in ("a", "b"):
        save_noise(folder / "data" / part, 6)
    made = {}
    for name in ("context_encoder", "ccgan", "gan"):
        flags = {**small_flags(name), "batch_size": 4, "sample_interval": 2}
        made[name] = gansmith.train(
            name, data=folder / "data", out=folder / name, steps=2, device="cpu", quiet=True, overrides=flags
        )
    return made


@pytest.mark.parametrize("name", ["context_encoder", "ccgan"])
def test_a_given_hole_is_filled_and_what_is_seen_stays_byte_for_byte(
    name: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (16, 16), np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[2:7, 9:] = 255
    for file, values in (("x", picture), ("mask", mask), ("small", mask[:8])):
        Image.fromarray(values).save(tmp_path / f"{file}.png")
    x, out = tmp_path / "x.png", tmp_path / "out"
    (path,) = translate(runs[name], x, mask=tmp_path / "mask.png", out=out, **OPTIONS)
    with Image.open(path) as image:
        made = np.asarray(image)
    assert np.array_equal(made[mask == 0], picture[mask == 0])
    (own,) = translate(
        runs[name], x, mask=tmp_path / "mask.png", **OPTIONS
    )  # in the run, where other masks go elsewhere
    assert own.parent.name.endswith("-mask-mask") and own.read_bytes() == path.read_bytes()
    sampler = gansmith.load(runs[name], kind="pictures", device="cpu")
    signed = torch.from_numpy(picture.copy())[None, None].float() / 127.5 - 1
    m = torch.from_numpy(mask > 0)[None, None].float()
    holed = hole({"x": signed, "mask": m}, draws(1), coarse=4 if name == "ccgan" else 1)["holed"]
    with torch.no_grad():
        expected = (sampler.nets[0](holed) + 1) * 127.5
    assert np.abs(made - expected[0, 0].numpy())[mask > 0].max() <= 0.51
    for words, said in (
        ({}, r"x.png: .* needs a picture that is white where the hole is: give --mask"),
        ({"mask": tmp_path / "small.png"}, r"x.png: its size is 16,16, and that of the mask 8,16 \(height,width\)"),
        ({"mask": tmp_path / "none.png"}, "none.png cannot be read: No such file"),
        ({"mask": tmp_path / "mask.png", "style": x}, "nothing here takes a second picture: leave --style out"),
        ({"mask": tmp_path / "mask.png", "attributes": {"up": True}}, "takes no attributes"),
    ):
        with pytest.raises(UserError, match=said):
            translate(runs[name], x, out=tmp_path / "no", **words, **OPTIONS)
        assert not (tmp_path / "no").exists()


def test_the_strip_shows_the_hole_what_fills_it_and_the_truth(runs: dict[str, Path]) -> None:
    with Image.open(runs["context_encoder"] / "growth" / "000002.png") as image:
        strip = np.asarray(image)
    rows = [strip[2 + 18 * i :, 2:][:16, :16] for i in range(3)]
    inside = rows[0] == 128  # the hole, middle grey; a pixel of the noise may have that grey, too
    assert 64 <= inside.sum() < 80
    assert np.array_equal(rows[1][~inside], rows[2][~inside]) and not np.array_equal(rows[1], rows[2])


def test_a_classifier_is_scored_and_a_filler_too(runs: dict[str, Path]) -> None:
    receipts = gansmith.evaluate(runs["ccgan"], reference="train", seeds=[0], metrics=["accuracy"], **OPTIONS)
    assert [r.measure for r in receipts] == ["accuracy"] and 0 <= receipts[0].value <= 1
    (receipt,) = gansmith.evaluate(runs["context_encoder"], reference="train", seeds=[0], metrics=["psnr"], **OPTIONS)
    assert receipt.value > 5  # most of the picture stays as it is
