"""A small DCGAN on Fashion-MNIST whose discriminator is normalized in one of several ways, and a score for it.

Holds the training function of conv_norm_gan.toml. Nothing is downloaded: the score is the Fréchet distance between test
images and generated ones in features of a classifier that each run trains first, the same one in every run,

    d² = |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½),

as FID is with an Inception network. Numbers of other classifiers, FID's included, are not comparable.

Source: Radford et al., arXiv:1511.06434; hinge loss and spectral normalization, Miyato et al., arXiv:1802.05957; Heusel
et al., arXiv:1706.08500.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from normlab import Diverged, Streams
from normlab.layers import ConvNorm
from normlab.study.data import load
from normlab.study.job import DataSpec

LATENT = 64
SLOPE = 0.1
FEATURES = 64
JUDGE = Streams(0)  # of the classifier, whatever the run's seed
SCORED_AT_ONCE = 500
KERNELS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def train(arm, streams, context):
    """Train the classifier, then generator and discriminator in turn, then score.

    arm      discriminator  "none", "batch", "spectral" or "conv_norm"
             data           as in a study file; epochs, batch_size, lr, width
             judge_epochs   of the classifier
             samples        generated images that are scored

    Returns fid, the Fréchet distance; fid_train, that of as many training images, which no generator can be expected
    to beat; judge_accuracy in %.
    """
    images, labels, test, test_labels = pixels(arm["data"], context.device)
    judge = judged(images, labels, arm["judge_epochs"], context.device)
    pair = Pair(arm, streams, context.device)
    first = 0
    if (state := context.restore()) is not None:
        pair.load(state)
        first = state["epoch"]
    for epoch in range(first, arm["epochs"]):
        losses = pair.epoch(images, streams, epoch, arm["batch_size"])
        if not all(map(math.isfinite, losses.values())):
            raise Diverged(f"{losses} in epoch {epoch + 1}")
        context.log(**losses)
        context.checkpoint({"epoch": epoch + 1, **pair.state()}, done=(epoch + 1) / arm["epochs"])
    real = features(judge, test)
    made = features(judge, pair.samples(arm["samples"], streams))
    accuracy = (judge(test).argmax(1) == test_labels).double().mean().item()
    return {
        "fid": frechet(real, made),
        "fid_train": frechet(real, features(judge, images[: len(test)])),
        "judge_accuracy": 100 * accuracy,
    }


def pixels(data, device):
    """Training images [n, 1, 28, 28] in [-1, 1] and labels, test images and labels."""
    loaded = load(DataSpec.model_validate(data))
    found = []
    for split in (loaded.train, loaded.test):
        found.append(torch.from_numpy(split.images).to(device).float() * (2 * loaded.scale) - 1)
        found.append(torch.from_numpy(split.labels).to(device))
    return found


class Pair:
    """Generator and discriminator with their optimizers."""

    def __init__(self, arm, streams, device):
        self.generator = drawn(generator(arm["width"]), streams, "generator").to(device)
        judging = drawn(discriminator(arm["width"], arm["discriminator"]), streams, "discriminator")
        if arm["discriminator"] == "spectral":
            normalize_spectrally(judging, streams.integer("init", "spectral"))
        self.discriminator = judging.to(device)
        self.optimizers = [adam(net, arm["lr"]) for net in (self.generator, self.discriminator)]
        self.device = device

    def epoch(self, images, streams, epoch, batch_size):
        """One pass over the images: on each batch a step of the discriminator, then one of the generator."""
        for net in (self.generator, self.discriminator):
            net.train()
        order = torch.from_numpy(streams.numpy("shuffle", epoch).permutation(len(images))).to(images.device)
        noise = streams.torch("latent", epoch, device=self.device)
        batches = order[: len(order) // batch_size * batch_size].split(batch_size)
        totals = torch.zeros(2, device=self.device)
        for batch in batches:
            losses = self.learn(images[batch], self.latent(batch_size, noise), self.latent(batch_size, noise))
            totals += torch.stack(losses)
        return dict(zip(("discriminator_loss", "generator_loss"), (totals / len(batches)).tolist(), strict=True))

    def learn(self, real, first, second):
        """Hinge losses: the discriminator's on real and generated images, apart; the generator's on others."""
        learns, judges = self.optimizers
        made = self.generator(first).detach()
        against = F.relu(1 - self.discriminator(real)).mean() + F.relu(1 + self.discriminator(made)).mean()
        judges.zero_grad()
        against.backward()
        judges.step()
        learns.zero_grad()
        loss = -self.discriminator(self.generator(second)).mean()
        loss.backward()
        learns.step()
        return against.detach(), loss.detach()

    def latent(self, count, noise):
        """What the generator makes images of, [count, LATENT]."""
        return torch.randn(count, LATENT, generator=noise, device=self.device)

    @torch.no_grad()
    def samples(self, count, streams):
        """[count, 1, 28, 28] of the generator in eval mode, the same latents in every arm."""
        self.generator.eval()
        noise = streams.torch("samples", device=self.device)
        return torch.cat([self.generator(part) for part in self.latent(count, noise).split(SCORED_AT_ONCE)])

    def parts(self):
        """Whatever has a state."""
        return self.generator, self.discriminator, *self.optimizers

    def state(self):
        """What `load` takes."""
        return {"parts": [part.state_dict() for part in self.parts()]}

    def load(self, state):
        """Back to what `state` gave."""
        for part, saved in zip(self.parts(), state["parts"], strict=True):
            part.load_state_dict(saved)


def generator(width):
    """[n, LATENT] → [n, 1, 28, 28] in [-1, 1], with BatchNorm throughout."""
    return nn.Sequential(
        nn.Linear(LATENT, 4 * width * 49, bias=False),
        nn.Unflatten(1, (4 * width, 7, 7)),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 1, 3, 1, 1),
        nn.Tanh(),
    )


def discriminator(width, norm):
    """[n, 1, 28, 28] → [n, 1]; BatchNorm on all convolutions but the first, as DCGAN has it, ConvNorm on all."""
    layers = []
    for inside, outside, stride in ((1, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 1)):
        kind = ConvNorm if norm == "conv_norm" else nn.Conv2d
        options = {"bn": False} if norm == "conv_norm" else {}
        layers.append(kind(inside, outside, 5 if stride == 2 else 3, stride, 2 if stride == 2 else 1, **options))
        if norm == "batch" and inside > 1:
            layers.append(nn.BatchNorm2d(outside))
        layers.append(nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 49, 1))


def normalize_spectrally(model, seed):
    """Every kernel of convolutions and fully connected layers over its largest singular value, by power iteration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in model:
            if isinstance(layer, KERNELS):
                spectral_norm(layer)


def drawn(model, streams, name):
    """The model, its kernels from N(0, 0.02²) by their place, so that all arms share them; biases 0, scales 1."""
    kernels = [module for module in model.modules() if isinstance(module, KERNELS)]
    kernels = [module for module in kernels if getattr(module, "groups", 1) == 1]
    with torch.no_grad():
        for place, module in enumerate(kernels):
            module.weight.normal_(0, 0.02, generator=streams.torch("init", name, place))
        for module in model.modules():
            if isinstance(module, ConvNorm):  # its r-kernel does nothing at first
                nn.init.dirac_(module.affine_conv.weight, groups=module.affine_conv.groups)
        for key, value in model.named_parameters():
            if key.endswith("bias"):
                value.zero_()
    return model


def adam(net, lr):
    """Adam as DCGAN has it."""
    return torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.999))


def judged(images, labels, epochs, device):
    """A classifier of the images, trained the same in every run, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(JUDGE.integer("init"))
        judge = classifier().to(device)
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    steps = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=max(steps, 1))
    for epoch in range(epochs):
        order = torch.from_numpy(JUDGE.numpy("shuffle", epoch).permutation(len(images))).to(device)
        for batch in order[: len(order) // 128 * 128].split(128):
            optimizer.zero_grad()
            F.cross_entropy(judge(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def classifier():
    """Three convolutions, `FEATURES` features, ten classes."""
    layers = []
    for inside, outside in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(64 * 16, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(FEATURES, 10))


@torch.no_grad()
def features(judge, images):
    """[n, FEATURES] float64: what the classifier's last layer gets."""
    return torch.cat([judge[:-1](part) for part in images.split(SCORED_AT_ONCE)]).double().cpu().numpy()


def frechet(a, b):
    """Fréchet distance d² between normal distributions fitted to two sets of features [n, d], [m, d]."""
    apart = a.mean(0) - b.mean(0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = square_root(first)
    cross = np.linalg.eigvalsh(root @ second @ root)  # those of C₁ C₂
    return float(apart @ apart + np.trace(first) + np.trace(second) - 2 * np.sqrt(cross.clip(0)).sum())


def square_root(matrix):
    """The root of a symmetric matrix without negative eigenvalues, rounding aside."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
