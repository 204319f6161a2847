"""`gansmith push`: a run's newest checkpoint, recipe and card on the Hugging Face hub, without what is private."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from gansmith import checkpoint
from gansmith.errors import UserError
from gansmith.hub import asked, client, parsed
from gansmith.inference import Round, load, open_run
from gansmith.portable.card import about, write_card
from gansmith.recipe import to_dict, to_yaml, without_paths


def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    round: Round = None,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Upload a run to owner/name on the Hugging Face hub, that others sample it and go on with it; return its address.

    What goes: the recipe without paths of this machine, one whole checkpoint, the card, scores, and samples from
    latents. `private` asks for a private repository; UserError where there is a public one.
    """
    name, revision = parsed(repo)
    if revision is not None:
        raise UserError(f"{repo}: a revision is for pull; push goes on top of {name}")
    opened, api = open_run(run, round, say, trust=trust), client()
    recipe, at = without_paths(opened.recipe), opened.info["round"]
    info = {**opened.info, "recipe": to_dict(recipe)}
    with tempfile.TemporaryDirectory(prefix="gansmith-push-") as temporary:
        stage = Path(temporary)
        (stage / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        constant = checkpoint.not_finite(opened.tree)  # a mask's -inf, say: it was read, so it was no mistake
        checkpoint.write(stage / "checkpoints", at, opened.tree, info=info, constant=constant)
        sampler = load(opened, device="cpu", say=say)
        write_card(stage, Path(run), sampler, about(opened, sampler), name)
        asked(name, api.create_repo, private=private, exist_ok=True)
        if private and not asked(name, api.model_info).private:
            raise UserError(f"{name} exists and is public; make it private first, or leave --private out")
        said = f"Round {at}, by gansmith push"
        asked(name, api.upload_folder, folder_path=stage, delete_patterns="checkpoints/*", commit_message=said)
    return f"https://huggingface.co/{name}"
