"""Measures of makers that tell the class of a picture, or its cluster: against the labels of held-back pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gansmith.build import fields_of, game_of, load_split, needs_of
from gansmith.data.imageset import ImageSet
from gansmith.data.load import SHUFFLED, mixed
from gansmith.data.prepare import UNLABELLED
from gansmith.errors import UserError
from gansmith.evaluation.receipts import Receipt, called
from gansmith.inference import Sampler
from gansmith.metrics import clusters
from gansmith.metrics.neighbours import share
from gansmith.recipe import Recipe

AT_ONCE = 500  # pictures that are looked at together


@dataclass(frozen=True)
class Labelling:
    """A row: a function of what was told (N,) and of the labels (N,), higher is better."""

    measure: Callable[[Tensor, Tensor], float]
    taught: bool = False  # for games that train on labels: their classes have names; the others are for clusters
    protocol: Mapping[str, Any] = field(default_factory=dict)


LABELS: dict[str, Labelling] = {
    "accuracy": Labelling(lambda told, labels: share(told == labels), taught=True),
    "cluster_accuracy": Labelling(
        clusters.cluster_accuracy, protocol={"clusters": "each a class of its own, the best"}
    ),
    "nmi": Labelling(clusters.nmi, protocol={"normalised by": "the mean of both entropies"}),
    "ari": Labelling(clusters.ari),
}


def score_labels(
    sampler: Sampler,
    recipe: Recipe,
    split: str,
    names: Sequence[str] | None,
    n: int | None,
    subject: Mapping[str, Any],
    say: Callable[[str], None],
) -> list[Receipt]:
    """The receipts of what a maker says of the first n pictures of a split, of all if n is None.

    Labels are needed here, also where the game does without. What was not asked for by name may be left out, which is
    said: all where the pictures have no labels.
    """
    taught = any("y" in fields for fields in game_of(recipe).needs)
    chosen = {name: row for name, row in LABELS.items() if row.taught == taught and (names is None or name in names)}
    for name in [name for name in names or () if name not in chosen]:
        say(f"{name} is left out: the game {recipe.game.name} was trained {'with' if taught else 'without'} labels")
    try:
        found = _labelled(sampler, recipe, split, say)
    except UserError as error:
        if names is not None:
            raise
        say(f"{', '.join(chosen)} is left out: {error}")
        return []
    if taught and found.classes != sampler.classes.names:
        raise UserError(f"{found.name} has the classes {', '.join(found.classes)}, and not those of the training")
    assert found.labels is not None
    # As in `measures.Reference`: the first pictures are those that others took, where the published order is mixed.
    places = (np.arange(len(found)) if recipe.data.name in SHUFFLED else mixed(len(found)))[:n]
    parts = [places[i : i + AT_ONCE] for i in range(0, len(places), AT_ONCE)]
    told = [sampler.logits(fields_of(recipe, [found], part, sampler.device)).argmax(1).cpu() for part in parts]
    both = torch.cat(told), torch.from_numpy(found.labels[places])
    images = "x".join(map(str, (*recipe.data.size, recipe.data.channels)))
    shared = {"n": len(places), "images": images, split: f"{len(found)} images {found.digest[:12]}"}
    seen = any({sampler.maker.pictures[0], "y"} <= {*fields} for fields in game_of(recipe).needs)
    labels = "none" if not seen else "all" if recipe.data.labelled is None else recipe.data.labelled
    about = {**subject, "labels seen": labels}
    receipts = []
    for name, row in chosen.items():
        try:
            value = row.measure(*both)
        except UserError as error:
            if names is not None:
                raise
            say(f"{name} is left out: {error}")
            continue
        metric, protocol = called(name, len(places), split), {**shared, **row.protocol}
        receipts.append(Receipt(metric, name, [value], "", "higher", None, protocol, about, {}))
    return receipts


def _labelled(sampler: Sampler, recipe: Recipe, split: str, say: Callable[[str], None]) -> ImageSet:
    """The pictures that a maker tells classes of, with their labels."""
    own = sampler.maker.pictures[0]
    needs = tuple(fields for fields in needs_of(recipe) if fields != UNLABELLED)
    needs = tuple((*fields, "y") if own in fields and "y" not in fields else fields for fields in needs)
    sets = load_split(recipe.data, split, needs=needs, say=say, progress=False)
    return next(one for one, fields in zip(sets, needs, strict=True) if own in fields)
