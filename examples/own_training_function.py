"""Compare normalizers with a training loop of your own.

normlab calls `train` once per arm and seed, in worker processes, keeps every result, goes on where it was interrupted,
and compares the arms seed by seed. Run it twice: the second time nothing is trained.

    python examples/own_training_function.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import normlab

EPOCHS = 20


def network(norm: str) -> nn.Module:
    """A small convolutional network for 8x8 digits, with BatchNorm, GroupNorm or no normalization."""
    layers: list[nn.Module] = []
    for inside, outside in [(1, 16), (16, 32)]:
        layers.append(nn.Conv2d(inside, outside, 3, padding=1))
        if norm == "batch":
            layers.append(nn.BatchNorm2d(outside))
        elif norm == "group":
            layers.append(nn.GroupNorm(8, outside))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def train(arm, streams, context):
    """Train one network.

    arm      what stands in `arms` below, here {"norm": ..., "lr": ...}
    streams  random numbers: a stream has a name, and all arms of one seed share it; that is the pairing
    context  checkpoints, the training curve, and the directory of this run
    """
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))  # the same split in every run
    fit, test = order[:500], order[500:]

    torch.manual_seed(streams.integer("init"))
    model = network(arm["norm"])
    optimizer = torch.optim.SGD(model.parameters(), lr=arm["lr"], momentum=0.9)

    first = 0
    if (state := context.restore()) is not None:  # only after an interruption
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]

    for epoch in range(first, EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = arm["lr"] * (1 - epoch / EPOCHS)
        model.train()
        shuffled = fit[torch.randperm(len(fit), generator=streams.torch("shuffle", epoch))]
        for batch in shuffled.split(50):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        context.log(train_loss=loss.item())
        context.checkpoint(
            {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
            done=(epoch + 1) / EPOCHS,
        )

    model.eval()
    with torch.no_grad():
        correct = model(images[test]).argmax(1) == labels[test]
    return {"accuracy": 100 * correct.double().mean().item(), "correct": correct.numpy()}


if __name__ == "__main__":
    study = normlab.Study(
        arms={
            "none": {"norm": "none", "lr": 0.1},
            "batch": {"norm": "batch", "lr": 0.1},
            "group": {"norm": "group", "lr": 0.1},
        },
        seeds=8,
        train=train,
        metric="accuracy",
        name="own_training_function",
        question="Does normalization help a small network on 500 digits?",
    )
    results = study.run()
    print(results.compare())
    print("Report:", results.write("runs/own_training_function"))
