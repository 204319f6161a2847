"""Train generative adversarial networks in PyTorch: one line to start, exact to resume, each variant one small file."""

from typing import TYPE_CHECKING, Any

from gansmith._version import __version__ as __version__
from gansmith.errors import Diverged as Diverged
from gansmith.errors import UserError as UserError

if TYPE_CHECKING:
    from gansmith.evaluation.evaluator import evaluate as evaluate
    from gansmith.exactness import verify as verify
    from gansmith.hub import pull as pull
    from gansmith.inference import Sampler as Sampler
    from gansmith.inference import load as load
    from gansmith.portable.formats import export as export
    from gansmith.portable.publish import push as push
    from gansmith.recipe import plan as plan
    from gansmith.recipe import recipe_names as recipe_names
    from gansmith.run.log import history as history
    from gansmith.training import Stopped as Stopped
    from gansmith.training import train as train
    from gansmith.translation import translate as translate

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
__all__ = sorted(["Diverged", "UserError", "__version__", *_HOMES])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"gansmith.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gansmith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
