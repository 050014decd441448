"""Attacks on images within ±eps per pixel value, and training against them.

Holds the training function of conv_norm_fgsm.toml and conv_norm_pgd.toml.

    FGSM   x' = clip(x + eps · sign ∇ₓL(x))                      one step from x
    PGD    x ← clip(Π(x + step · sign ∇ₓL(x)))                   from a random start, Π back to within ±eps
    free   δ ← clip(δ + step · sign ∇L), w ← w − lr · ∇L         `repeats` times on each batch, of one backward pass

Pixels are in [0, 1] and stay there. Source: Goodfellow et al., arXiv:1412.6572; Madry et al., arXiv:1706.06083; Shafahi
et al., arXiv:1904.12843, with δ = 0 at the start of each batch, as in the code of ConvNorm, trainer/adv_trainer.py.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from normlab.study.training import Trainer, read_job

EPS = 8 / 255
FREE_STEP = 8 / 255
PGD_STEP = 2 / 255
PGD_STEPS = 20
ATTACKED_AT_ONCE = 250
OWN = ("weights", "repeats", "attacked")


def train(arm, streams, context):
    """Free adversarial training, then the test images as they are, with noise, and attacked.

    arm      a job of the built-in trainer ([data], [model], [train], recipe, norm), and
             weights   "spectral" puts spectral normalization on every convolution
             repeats   steps on each batch; 1 trains on the images as they are
             attacked  how many test images are attacked, from the first on; absent = all

    Returns the trainer's metrics, and pgd_accuracy, fgsm_accuracy and noise_accuracy in %.
    """
    job = read_job({key: value for key, value in arm.items() if key not in OWN})

    def loss(net, images, labels):
        return free_loss(net, images, labels, trainer.optimizer, arm["repeats"])

    trainer = Trainer(job, streams, context, loss=loss)
    if arm.get("weights") == "spectral":
        normalize_spectrally(trainer.model, streams.integer("init", "spectral"))
    trainer.fit()
    metrics = trainer.test()
    del metrics["correct"]  # of the images as they are; the report would take it for that of the attacked ones
    return {**metrics, **robustness(trainer, streams, arm.get("attacked"))}


def free_loss(net, images, labels, optimizer, repeats):
    """All steps on a batch but the last, whose loss and scores are returned for the trainer to step with."""
    delta = torch.zeros_like(images)
    for _ in range(repeats - 1):
        delta.requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(net((images + delta).clamp(0, 1)), labels).backward()
        delta = (delta.detach() + FREE_STEP * delta.grad.sign()).clamp(-EPS, EPS)
        optimizer.step()
    optimizer.zero_grad()
    scores = net((images + delta).clamp(0, 1))
    return F.cross_entropy(scores, labels), scores


def normalize_spectrally(model, seed):
    """Divide each convolution's kernel [out, in · kh · kw] by its largest singular value, by power iteration.

    Source: Miyato et al., arXiv:1802.05957.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in list(model.modules()):
            if isinstance(module, nn.Conv2d):
                spectral_norm(module)


def robustness(trainer, streams, count=None):
    """Accuracies in % on test images under FGSM, under PGD, and with Gaussian noise of SD 0.1."""
    model, data, part = trainer.model.eval(), trainer.data, trainer.data.test
    indices = torch.arange(len(part) if count is None else min(count, len(part)), device=part.labels.device)
    noise = streams.torch("attack", device=trainer.device)
    right = {"noise": 0, "fgsm": 0, "pgd": 0}
    for some in indices.split(ATTACKED_AT_ONCE):
        images, labels = data.evaluated(part, some)
        noisy = images + 0.1 * torch.randn(images.shape, generator=noise, device=images.device)
        changed = {
            "noise": noisy.clamp(0, 1),
            "fgsm": fgsm(model, images, labels, EPS),
            "pgd": pgd(model, images, labels, EPS, PGD_STEP, PGD_STEPS, noise),
        }
        with torch.no_grad():
            for name, attacked in changed.items():
                right[name] += (model(attacked).argmax(1) == labels).sum().item()
    return {f"{name}_accuracy": 100 * count / len(indices) for name, count in right.items()}


def fgsm(model, images, labels, eps):
    """The images [b, C, H, W] one step of `eps` up the loss."""
    return (images + eps * gradient(model, images, labels).sign()).clamp(0, 1)


def pgd(model, images, labels, eps, step, steps, generator):
    """The images after `steps` steps from a random start, within ±eps of where they were."""
    start = torch.rand(images.shape, generator=generator, device=images.device)
    attacked = (images + eps * (2 * start - 1)).clamp(0, 1)
    for _ in range(steps):
        attacked = attacked + step * gradient(model, attacked, labels).sign()
        attacked = torch.minimum(torch.maximum(attacked, images - eps), images + eps).clamp(0, 1)
    return attacked


def gradient(model, images, labels):
    """Of the summed loss by the images."""
    images = images.detach().requires_grad_()
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    return torch.autograd.grad(loss, images)[0]
