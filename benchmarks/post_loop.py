"""The post's training loop, typed in plainly: what the recipe gan is compared with by eye in docs/results.md.

G first, then D on the same, detached fakes; Sigmoid and BCELoss; plain Adam; nothing of gansmith but the images and the
grid. (That both give the same weights is proved by tests/test_oracle.py; here are the pictures after many epochs.)

    python benchmarks/post_loop.py --n_epochs 12 --out post.png
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from gansmith.data import load_images
from gansmith.report.pictures import grid, save_png, to_uint8


def generator_block(before: int, after: int, normalize: bool = True) -> list[nn.Module]:
    norm = [nn.BatchNorm1d(after, 0.8)] if normalize else []
    return [nn.Linear(before, after), *norm, nn.LeakyReLU(0.2, inplace=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n_epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("post.png"), help="96 samples of the last G, in training mode")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    images = torch.from_numpy(load_images("mnist", img_size=28, channels=1).images.copy())
    generator = nn.Sequential(
        *generator_block(100, 128, normalize=False),
        *generator_block(128, 256),
        *generator_block(256, 512),
        *generator_block(512, 1024),
        nn.Linear(1024, 784),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        *(nn.Linear(784, 512), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Linear(512, 256), nn.LeakyReLU(0.2, inplace=True)),
        *(nn.Linear(256, 1), nn.Sigmoid()),
    )
    adversarial_loss = nn.BCELoss()
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=0.0002, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=0.0002, betas=(0.5, 0.999))

    for epoch in range(options.n_epochs):
        loss_d = loss_g = Tensor()
        for index in torch.split(torch.randperm(len(images)), 64):
            real = (images[index].float() / 255 - 0.5) / 0.5
            valid, fake = torch.ones(len(real), 1), torch.zeros(len(real), 1)

            optimizer_g.zero_grad()
            generated = generator(torch.randn(len(real), 100))
            loss_g = adversarial_loss(discriminator(generated), valid)
            loss_g.backward()
            optimizer_g.step()

            optimizer_d.zero_grad()
            loss_real = adversarial_loss(discriminator(real.flatten(1)), valid)
            loss_fake = adversarial_loss(discriminator(generated.detach()), fake)
            loss_d = (loss_real + loss_fake) / 2
            loss_d.backward()
            optimizer_d.step()
        print(f"epoch {epoch + 1}/{options.n_epochs}  D {loss_d.item():.4f}  G {loss_g.item():.4f}", flush=True)

    with torch.no_grad():
        samples = generator(torch.randn(96, 100)).view(-1, 1, 28, 28)
    save_png(grid(to_uint8(samples), columns=16), options.out)


if __name__ == "__main__":
    main()
