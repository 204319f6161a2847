"""CoGAN: pictures of two domains that belong together, learnt without a single pair (Liu & Tuzel 2016, 1606.07536).

Legend: z latents (N, Z); G(z) = (a, b), a picture of each domain; D(a, b) = the scores of each. To `scores` and
`per_sample` these are two scales, of which the losses are added.
"""

from dataclasses import dataclass

from gansmith.games.critique import Critique, per_sample, scores, shown
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Metrics, Player
from gansmith.priors import Prior


@dataclass
class CoupledGAN(InTurns, Adversarial):
    """max_G min_D of the sum of two games on one z, eq. 4: a move of D, then one of G on the same G(z), Algorithm 1.

    What the two generators share, and the two critics, is one module, in which the gradients of both domains meet: so G
    and D are one player each. The algorithm of appendix B takes the mean of both gradients of a shared weight and not
    their sum, which Adam does not see.
    """

    G: Player
    D: Player
    prior: Prior

    needs = (("a",), ("b",))
    makers = {
        "a": Maker(("G",), {"z": "latent"}, "a", lambda G, z: G(z)[0]),
        "b": Maker(("G",), {"z": "latent"}, "b", lambda G, z: G(z)[1]),
    }

    def losses_d(self, part: Batch) -> Losses:
        n = len(part)
        made = self.G.net(self.prior.sample(n, self.noise, self.G.dtype))
        self.made.append(made)
        c = Critique(scores(self.D.net(part["a"], part["b"]), n), scores(self.D.net(*(x.detach() for x in made)), n))
        said: Metrics = {}
        for i, of in enumerate("AB"):
            said |= shown(Critique(c.real[i : i + 1], c.fake[i : i + 1]), self.objective, f"_{of}")
        return {"D": (self.D, per_sample(self.objective.d, c).mean())}, said

    def losses_g(self, part: Batch) -> Losses:
        n = len(part)
        fake = scores(self.D.lend(*self.made.pop(0)), n)
        real = scores(self.D.lend(part["a"], part["b"]), n) if self.objective.g_uses_real else fake
        return {"G": (self.G, per_sample(self.objective.g, Critique(real, fake)).mean())}, {}
