"""AC-GAN: D also tells the class of every picture (Odena et al. 2017, arXiv 1610.09585).

Legend: K classes, y labels (N,).
"""

from dataclasses import KW_ONLY, dataclass

from torch.nn.functional import cross_entropy

from gansmith.games.critique import Critique, full, judged, per_sample, score, scores
from gansmith.games.game import LABELLED, Batch, Losses, Maker
from gansmith.games.two_player import Simultaneous
from gansmith.schema import NonNegativeFloat


@dataclass
class AuxiliaryClassifierGAN(Simultaneous):
    """D maximises L_S + L_C, and G maximises L_C - L_S, eq. 2 and 3: as losses, with those of the objective for L_S,

        L_D = objective.d + lambda_category (CE(D(x), y) + CE(D(G(z, y)), y)) / 2,
        L_G = objective.g + lambda_category CE(D(G(z, y)), y).

    D's loss is half of the paper's, as the cross-entropies of the objectives are; of L_C only the fakes concern G.
    Fakes are made for the labels of the batch, draws of the paper's p_c; both gradients are taken at the same point.
    """

    _: KW_ONLY
    lambda_category: NonNegativeFloat = 1.0

    needs = (("x", "y"),)
    makers = {**LABELLED, "classify": Maker(("D",), {"x": "x"}, "y", lambda D, x: D(x).category)}

    def losses(self, part: Batch) -> Losses:
        x, y, n = part["x"], part["y"], len(part)
        fake = self.G.net(self.latent(n), y)
        of_real, of_fake = self.D.net(x), self.D.net(fake)
        c = Critique(scores(of_real, n), scores(of_fake, n))
        category_real, category_fake = (cross_entropy(full(said.category), y) for said in (of_real, of_fake))
        loss_d = per_sample(self.objective.d, c).mean() + self.lambda_category * (category_real + category_fake) / 2
        loss_d = loss_d + self.penalty(score(self.D.probe), x, fake.detach(), self.noise, self.D.moves)
        loss_g = per_sample(self.objective.g, c).mean() + self.lambda_category * category_fake
        said = {"game/category_real": category_real, "game/category_fake": category_fake}
        return {"D": (self.D, loss_d), "G": (self.G, loss_g)}, {**judged(c, self.objective), **said}
