"""Train generative adversarial networks in PyTorch: one line to start, exact to resume, each variant one small file."""

from typing import TYPE_CHECKING, Any

from gansmith._version import __version__
from gansmith.errors import Diverged, UserError

if TYPE_CHECKING:
    from gansmith.evaluation.evaluator import evaluate
    from gansmith.exactness import verify
    from gansmith.hub import pull
    from gansmith.inference import Sampler, load
    from gansmith.portable.formats import export
    from gansmith.portable.publish import push
    from gansmith.recipe import plan, recipe_names
    from gansmith.run.log import history
    from gansmith.training import Stopped, train
    from gansmith.translation import translate

__all__ = [
    "Diverged",
    "Sampler",
    "Stopped",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "history",
    "load",
    "plan",
    "pull",
    "push",
    "recipe_names",
    "train",
    "translate",
    "verify",
]

# Where the public names live; they are imported on first use, because torch takes seconds to import.
_HOMES = {
    "Sampler": "inference",
    "Stopped": "training",
    "evaluate": "evaluation.evaluator",
    "export": "portable.formats",
    "history": "run.log",
    "load": "inference",
    "plan": "recipe",
    "pull": "hub",
    "push": "portable.publish",
    "recipe_names": "recipe",
    "train": "training",
    "translate": "translation",
    "verify": "exactness",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"gansmith.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gansmith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
