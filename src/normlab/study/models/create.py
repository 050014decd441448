"""A name → a network, for studies, which say what it takes and gives, and for commands, which take it as it is."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from importlib import metadata
from types import FunctionType
from typing import Any

from torch import nn

from normlab.errors import SpecError, Unavailable, UnknownName, came
from normlab.registry import Call
from normlab.study.identity import fingerprint
from normlab.study.job import ModelSpec
from normlab.study.models import stems
from normlab.study.models.libraries import OWN, import_timm, of_timm, of_torchvision
from normlab.study.models.registry import MODELS
from normlab.study.objects import guarded, load_object, split_call

LIBRARIES = ("timm", "torchvision")
GIVEN = ("in_channels", "num_classes")
FORMS = ("timm:NAME", "torchvision:NAME", "package.module:factory", "file.py:factory")


def create_model(spec: ModelSpec | str, *, in_channels: int, num_classes: int) -> nn.Module:
    """Build the network of a study: `create_model("resnet8(width=16)", in_channels=1, num_classes=10)`.

        resnet8(width=16)                             built in
        timm:resnet18 · timm:resnet18(drop_rate=0.1)  of timm; no norm starts at 0 (`zero_init_last=False`)
        torchvision:resnet18                          of torchvision
        package.module:factory · file.py:factory      a function or class that makes it; it is given in_channels and
                                                      num_classes where it takes them

    Its initial values come from torch's default generator; a recipe's `prepare` draws them anew.

    Args:
        spec: a name, with arguments in brackets where they are wanted; a `ModelSpec` to have a stem for small images.

    Raises:
        SpecError: no such network, with the nearest name; or it cannot be made, with the reason.
        Unavailable: timm or torchvision is not installed.
    """
    spec = spec if isinstance(spec, ModelSpec) else ModelSpec(name=spec)
    name, arguments = split_call(spec.name, "model")
    library, colon, rest = name.partition(":")
    _check(spec, library if colon else "", arguments)
    if not colon:
        _check_built_in(name)
        return MODELS.create(spec.name, in_channels=in_channels, num_classes=num_classes)
    if library not in LIBRARIES:
        factory = _factory(name)
        return _made(spec.name, factory, {**arguments, **_taken(factory, in_channels, num_classes)})
    small = spec.stem == "cifar"
    if library == "timm":
        model = _timm(rest, {**arguments, "in_chans": in_channels, "num_classes": num_classes}, small=small)
    else:
        model = of_torchvision(rest, {**arguments, "num_classes": num_classes})
        _take(model, in_channels, spec.name)
    if small:
        stems.shrink(model, rest)
    return model


def canonical_model(spec: ModelSpec) -> ModelSpec:
    """The spec with every default of a built-in network written out, so that equal networks read the same.

    A factory's code counts too (`source`), so that a network made by other code is another one. Neither timm nor
    torchvision is loaded.

    Raises:
        SpecError: as `create_model`, but for what only timm or torchvision know.
    """
    name, arguments = split_call(spec.name, "model")
    library, colon, rest = name.partition(":")
    _check(spec, library if colon else "", arguments)
    if not colon:
        _check_built_in(name)
        return spec.model_copy(update={"name": str(MODELS.parse(spec.name, given=GIVEN)), "source": None})
    call = str(Call(rest, dict(sorted(arguments.items()))))
    source = None if library in LIBRARIES else fingerprint(_factory(name))
    return spec.model_copy(update={"name": f"{library}:{call}", "source": source})


def model_facts(spec: ModelSpec) -> dict[str, str]:
    """What a run should record about where its network came from: the library's version."""
    library, colon, _ = spec.name.partition(":")
    return {library: metadata.version(library)} if colon and library in LIBRARIES else {}


def load_model(spec: str, *, in_channels: int = 3, num_classes: int = 10) -> nn.Module:
    """A network by the name that the commands take, as its library makes it, with random weights.

    The names are those of `create_model`; a factory gets the arguments in the spec and no others, and the network
    itself will do in its place. Nothing is downloaded.

    Args:
        spec: with arguments in brackets where they are wanted.
        in_channels, num_classes: of a built-in network; the others say theirs in the spec.

    Raises:
        SpecError: no such network, with the nearest name; or it cannot be made, with the reason.
        Unavailable: timm or torchvision is not installed.
    """
    name, arguments = split_call(spec, "model")
    library, colon, rest = name.partition(":")
    if not colon:
        _check_built_in(name)
        return MODELS.create(spec, in_channels=in_channels, num_classes=num_classes)
    if library in LIBRARIES:
        _refuse_weights(spec, arguments)
        return (of_timm if library == "timm" else of_torchvision)(rest, arguments)
    found = load_object(name, kind="model")
    return found if isinstance(found, nn.Module) else _made(spec, found, arguments)


def _check(spec: ModelSpec, library: str, arguments: Mapping[str, Any]) -> None:
    """What can be told without loading a library."""
    if library in LIBRARIES:
        _refuse_weights(spec.name, arguments)
    elif spec.stem == "cifar":
        raise SpecError(f"model {spec.name!r}: stem = 'cifar' is for {stems.KNOWN}; this one is as its code says")
    said = [key for key in (*GIVEN, "in_chans") if key in arguments]
    if library and said:
        raise SpecError(f"model {spec.name!r}: leave out {said[0]}, which the data decide")


def _check_built_in(name: str) -> None:
    if name in MODELS:
        return
    with contextlib.suppress(Unavailable):
        if import_timm().is_model(name):
            raise SpecError(
                f"unknown model {name!r}; did you mean 'timm:{name}'? Known: {', '.join([*MODELS, *FORMS])}."
            )
    raise UnknownName("model", name, [*MODELS, *FORMS])


def _refuse_weights(spec: str, arguments: Mapping[str, Any]) -> None:
    if any(arguments.get(key) for key in OWN):
        raise SpecError(f"model {spec!r}: weights are random here; load others in a factory, file.py:factory")


def _timm(name: str, arguments: Mapping[str, Any], *, small: bool) -> nn.Module:
    """With every norm's scale at 1, where timm would let some start at 0."""
    import_timm()
    arguments = {**(stems.timm_arguments(name) if small else {}), **arguments}
    try:
        return of_timm(name, {"zero_init_last": False, **arguments})
    except SpecError as error:  # a network without such blocks does not know the word
        if not isinstance(error.__cause__, TypeError) or "zero_init_last" not in str(error):
            raise
        return of_timm(name, arguments)


def _take(model: nn.Module, in_channels: int, spec: str) -> None:
    """Let a network of torchvision, which always expects 3 channels, take `in_channels`."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        raise SpecError(f"model {spec!r} has no convolution that could take {in_channels} channels")
    if first.in_channels != in_channels:
        first.in_channels = in_channels
        first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, in_channels, *first.kernel_size))
        first.reset_parameters()


def _factory(name: str) -> FunctionType | type[nn.Module]:
    found = load_object(name, kind="model")
    if isinstance(found, FunctionType) or (isinstance(found, type) and issubclass(found, nn.Module)):
        return found
    if isinstance(found, nn.Module):
        raise SpecError(
            f"model {name!r} is a network, which one run would leave trained to the next; name what makes it"
        )
    raise SpecError(f"model {name!r} should be a function or a class of networks, not {came(found)}")


def _taken(factory: Any, in_channels: int, num_classes: int) -> dict[str, int]:
    parts = inspect.signature(factory).parameters
    return {key: value for key, value in zip(GIVEN, (in_channels, num_classes), strict=True) if key in parts}


def _made(spec: str, factory: Any, arguments: Mapping[str, Any]) -> nn.Module:
    if not callable(factory):
        raise SpecError(f"model {spec!r} is {type(factory).__name__}, and no function that makes a torch module")
    made = guarded(lambda: factory(**arguments), f"model {spec!r}")
    if not isinstance(made, nn.Module):
        raise SpecError(f"model {spec!r} made {type(made).__name__}, and no torch module")
    return made
