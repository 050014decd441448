"""Lightning: recipes, probes, recalibration before evaluation, and SAM; `pip install 'normlab[lightning]'`.

    class Net(SAMModule):  # or L.LightningModule, without SAM
        def configure_optimizers(self):
            groups = param_groups(self, lr=0.1, weight_decay=5e-4)
            return SAM(torch.optim.SGD(groups, momentum=0.9), self, rho=0.1, scope="norm")

    callbacks = [NormRecipe("revisited(scale=0.1)"), EMAWeightAveraging(), RecalibrateOnEval(batches=200)]

`NormProbe(["gradient_factor", "stable_rank"], every=100)`, anywhere among them, logs what norms do to the network.
In this order: averaged are the prepared weights, recalibrated the averaged ones. A scheduler is made with the SAM that
`configure_optimizers` returns. Under manual optimization SAM needs no `SAMModule`; either of its protocols does:

    sam = self.optimizers()
    self.manual_backward(self.loss(batch))    # after sam.zero_grad(); more of them accumulate
    sam.first_step()
    self.manual_backward(self.loss(batch))
    sam.step()                                # is second_step(), also with 16-bit precision and its GradScaler
"""

from normlab.errors import Unavailable

try:
    from normlab.integrations.lightning.probes import NormProbe
    from normlab.integrations.lightning.recalibrate import RecalibrateOnEval
    from normlab.integrations.lightning.recipes import NormRecipe, param_groups
    from normlab.integrations.lightning.sam import SAMModule
except ImportError as error:
    raise Unavailable(f"lightning cannot be imported: {error}; pip install 'normlab[lightning]'") from None

__all__ = ["NormProbe", "NormRecipe", "RecalibrateOnEval", "SAMModule", "param_groups"]
