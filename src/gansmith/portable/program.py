"""A maker as one torch.export program in plain ranges: what every format is made of, and its readable Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from gansmith.data.values import VALUES
from gansmith.errors import UserError
from gansmith.inference import Sampler

MADE = "made"
"""The name of what comes out, in ONNX and in example.npz."""
ROWS = 4
"""Of the example; it is traced with fewer, but not with 1, which torch.export takes for a constant."""

MOST = 2**31
"""Rows; torch 2.6 refuses a program without such an end."""


class Plain(nn.Module):
    """A maker by the names of its inputs: pictures (N, C, H, W) in [0, 1] in and out, labels whole numbers from 0,

    latents as the prior draws them, a mask 1 where the hole is, bits 0, 1 or NaN, where the picture keeps what it has.
    """

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.maker, self.values, self.view = sampler.maker, VALUES[sampler.values], sampler.view
        self.numbers = sampler.maker.classifies or sampler.values == "raw"
        self.nets = nn.ModuleDict(dict(zip(sampler.maker.players, sampler.nets, strict=True)))
        names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in self.maker.inputs]

        def forward(*given: Tensor, **named: Tensor) -> Tensor:
            return self.made({**dict(zip(self.maker.inputs, given, strict=False)), **named})

        forward.__signature__ = Signature(names)  # type: ignore[attr-defined]  # where torch.export finds the names
        self.forward = forward

    def made(self, given: Mapping[str, Tensor]) -> Tensor:
        inputs = self.maker.inputs
        fields = {field: given[name] for name, field in inputs.items()}
        fields |= {field: self.values.to_network(fields[field] * 255) for field in self.maker.pictures}
        fields = self.view(fields)
        made = self.maker.make(*self.nets.values(), **{name: fields[field] for name, field in inputs.items()})
        return made if self.numbers else self.values.to_unit(made)


def example(sampler: Sampler) -> dict[str, Tensor]:
    """Inputs of ROWS rows: latents of the first seeds, a class each, pictures of noise, a hole, bits of all kinds."""
    shape = sampler.shape or (1, 1, 1)
    noise = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for name, field in sampler.maker.inputs.items():
        if field == "latent":
            found[name] = sampler.latents(range(ROWS))
        elif field == "y":
            found[name] = torch.arange(ROWS) % max(1, len(sampler.classes.names))
        elif field == "bits":
            kinds = torch.randint(3, (ROWS, len(sampler.classes.names)), generator=noise)
            found[name] = torch.tensor([0.0, 1.0, float("nan")])[kinds]
        elif field == "mask":
            found[name] = torch.zeros(ROWS, 1, *shape[1:])
            found[name][:, :, shape[1] // 4 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = 1
        else:
            found[name] = torch.rand(ROWS, *shape, generator=noise)
    return found


def exported(sampler: Sampler, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """The program, for any number of rows, and for pictures of any size that the networks take.

    UserError where torch.export cannot follow a network.
    """
    plain, rows = Plain(sampler), Dim("N", max=MOST)
    sides = {2: Dim.AUTO, 3: Dim.AUTO} if hasattr(sampler.nets[0], "check_size") else {}
    few = {name: x[:2] for name, x in inputs.items()}
    sizes = {name: {0: rows, **(sides if x.dim() == 4 else {})} for name, x in inputs.items()}
    try:
        with torch.no_grad():
            return export(plain.eval(), (), few, dynamic_shapes=sizes, strict=False)
    except Exception as error:  # whatever a network's own lines, or the tracer, raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "to be a constant" in str(error):
            reason = "a forward of it fixes the number of rows, as len(z) does and z.shape[0] does not"
        raise UserError(f"torch.export cannot follow {', '.join(plain.nets)}: {reason}") from None


def interface(sampler: Sampler, program: ExportedProgram) -> dict[str, Any]:
    """Inputs and output for whoever has none of this code: name, dtype, shape (N, H and W may be any), and meaning."""
    names = ", ".join(sampler.classes.names)
    drawn = " ".join((type(sampler.prior).__doc__ or "").split("\n\n")[0].split())
    means = {
        "latent": f"a draw of the prior for each row: {drawn}",
        "y": f"a class for each row, its place in: {names}",
        "bits": f"1 where the picture shall have it, 0 where not, NaN where it keeps what it has, of: {names}",
        "mask": "1 where the hole is, else 0",
    }
    nodes = {node.name: node for node in program.graph.nodes}

    def described(name: str, at: str, means: str) -> dict[str, Any]:
        return {"name": name, **sized(nodes[at].meta["val"]), "means": means}

    inputs = [
        described(name, name, means.get(field, f"pictures ({field}), values in [0, 1]"))
        for name, field in sampler.maker.inputs.items()
    ]
    made = "numbers" if sampler.values == "raw" else "pictures, values in [0, 1]"
    (out,) = program.graph_signature.user_outputs
    output = described(MADE, str(out), "logits" if sampler.maker.classifies else made)
    return {"inputs": inputs, "output": output, "draws": draws(program)}


def sized(value: Tensor) -> dict[str, Any]:
    """dtype and shape, with a letter for what is not fixed."""
    letters = "N", "C", "H", "W"
    shape = [n if isinstance(n, int) else letters[i] for i, n in enumerate(value.shape)]
    return {"dtype": str(value.dtype).removeprefix("torch."), "shape": shape}


def draws(program: ExportedProgram) -> list[str]:
    """The names of the program's operations that draw random numbers as it runs, such as dropout."""
    nodes = [node for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    random = (node for node in nodes if torch.Tag.nondeterministic_seeded in node.target.tags)
    # Dropout has the tag whether it is on or not.
    return sorted({str(node.target) for node in random if "dropout" not in str(node.target) or node.args[2] is True})


def weights(program: ExportedProgram) -> dict[str, tuple[str, Tensor]]:
    """placeholder -> (name as in the networks, tensor) of what the program's operations read."""
    signature = program.graph_signature
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    held |= signature.inputs_to_lifted_tensor_constants
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    values = {**program.constants, **program.state_dict}
    return {at: (name.removeprefix("nets."), values[name]) for at, name in held.items() if at in read}


def python(program: ExportedProgram) -> str:
    """The program as a function `forward(w, z, ...)` of plain torch, one operation a line; `w` are the weights by name.

    What is no longer needed is set free, as in the program itself.
    """
    held = {at: name for at, (name, _) in weights(program).items()}
    head, *lines = program.graph.python_code("self").src.strip().splitlines()
    if not head.startswith("def forward(self, ") or any("self." in line for line in lines):
        raise UserError("this maker has parts that are not plain operations of torch: use --format torch")
    return "\n".join([f"def forward(w, {', '.join(program.graph_signature.user_inputs)}):", *_lines(lines, held)])


def _lines(lines: list[str], held: Mapping[str, str]) -> Iterator[str]:
    for line in lines:
        operation, _, rest = line.rstrip().partition(";  ")
        free = [name for name in rest.split(" = ")[:-1] if name not in held]
        named = re.sub(r"\w+", lambda word: f'w["{held[word[0]]}"]' if word[0] in held else word[0], operation)
        yield named + (f";  {' = '.join([*free, 'None'])}" if free else "")
