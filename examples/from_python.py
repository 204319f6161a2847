"""The command line's verbs from Python: train for a moment, sample by seed, walk from one seed to another.

Run it in an empty folder: python from_python.py
"""

from pathlib import Path

import gansmith
from gansmith.run.export import save_images


def main() -> None:
    run = gansmith.train("gan", steps=300, lr=2e-4, sample_interval=100)  # dotted keys go into overrides={...}
    sampler = gansmith.load(run)
    save_images(sampler.sample(64), Path("samples.png"), columns=8)  # the first 64 seeds
    path = sampler.interpolate(seeds=[0, 7], frames=8)  # (1, 8, C, H, W)
    save_images(path[0], Path("path.png"), columns=8)
    print(f"{run}, samples.png, path.png")


if __name__ == "__main__":
    main()
