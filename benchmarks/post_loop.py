"""The post's script, typed in plainly with all that it does: what the recipe gan is compared with.

G first, then D on the same, detached fakes; Sigmoid and BCELoss; plain Adam; a DataLoader that makes a PIL picture of
each digit and resizes, converts and normalises it in the main process; a printed line with two `.item()` per batch; a
grid of 25 images every 400 batches; D runs on the fakes twice, and G's backward pass takes D's gradients too. Nothing
of gansmith but the digits, the check of the device and, for --out, the grid. tests/test_oracle.py proves that the
update is the recipe's.

    python benchmarks/post_loop.py --n_epochs 12 --out post.png
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.utils import save_image

from gansmith.data import Wanted, load_sets
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.run.pictures import grid, save_png, to_uint8


class Digits(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """What torchvision.datasets.MNIST does for an index, on the digits that gansmith ships."""

    def __init__(self) -> None:
        (data,) = load_sets(Wanted("mnist", (28, 28), 1, needs=(("x", "y"),)))
        assert data.labels is not None
        self.images = torch.from_numpy(data.images[:, 0].copy())
        self.labels = torch.from_numpy(data.labels.copy())
        self.transform = transforms.Compose(
            [transforms.Resize(28), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index], int(self.labels[index])
        return self.transform(Image.fromarray(image.numpy(), mode="L")), label


def generator_block(before: int, after: int, normalize: bool = True) -> list[nn.Module]:
    norm = [nn.BatchNorm1d(after, 0.8)] if normalize else []
    return [nn.Linear(before, after), *norm, nn.LeakyReLU(0.2, inplace=True)]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--n_epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, help="batches, in place of --n_epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="96 samples of the last G, in training mode, as a PNG")
    options = parser.parse_args()
    for name in ("n_epochs", "steps"):
        if (given := getattr(options, name)) is not None and given < 1:
            parser.error(f"--{name} is {given}; it must be at least 1")
    try:
        device = choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    torch.manual_seed(options.seed)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    generator = nn.Sequential(
        *generator_block(100, 128, normalize=False),
        *generator_block(128, 256),
        *generator_block(256, 512),
        *generator_block(512, 1024),
        nn.Linear(1024, 784),
        nn.Tanh(),
    ).to(device)
    discriminator = nn.Sequential(
        *(nn.Linear(784, 512), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Linear(256, 1), nn.Sigmoid()),
    ).to(device)
    adversarial_loss = nn.BCELoss()
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=0.0002, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=0.0002, betas=(0.5, 0.999))
    loader = torch.utils.data.DataLoader(Digits(), batch_size=64, shuffle=True)

    total = options.steps or options.n_epochs * len(loader)
    n_epochs = -(-total // len(loader))
    wait()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for epoch in range(n_epochs):
            for i, (images, _) in enumerate(loader):
                valid = torch.ones(len(images), 1, device=device)
                fake = torch.zeros(len(images), 1, device=device)
                real = images.to(device)

                optimizer_g.zero_grad()
                generated = generator(torch.randn(len(images), 100).to(device)).view(-1, 1, 28, 28)
                loss_g = adversarial_loss(discriminator(generated.flatten(1)), valid)
                loss_g.backward()
                optimizer_g.step()

                optimizer_d.zero_grad()
                loss_real = adversarial_loss(discriminator(real.flatten(1)), valid)
                loss_fake = adversarial_loss(discriminator(generated.detach().flatten(1)), fake)
                loss_d = (loss_real + loss_fake) / 2
                loss_d.backward()
                optimizer_d.step()

                print(
                    f"epoch {epoch + 1}/{n_epochs}  batch {i + 1}/{len(loader)}"
                    f"  D {loss_d.item():.4f}  G {loss_g.item():.4f}"
                )
                done = epoch * len(loader) + i
                if done % 400 == 0:
                    save_image(generated.detach()[:25], Path(folder, f"{done}.png"), nrow=5, normalize=True)
                if done + 1 == total:
                    break
    wait()
    print(f"{time.perf_counter() - began:.3f} seconds from the first batch to the last")

    if options.out is not None:
        with torch.no_grad():
            samples = generator(torch.randn(96, 100).to(device)).view(-1, 1, 28, 28)
        save_png(grid(to_uint8(samples.cpu()), columns=16), options.out)


if __name__ == "__main__":
    main()
