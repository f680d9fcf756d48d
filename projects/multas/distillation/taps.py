"""Taps: what a named submodule returned in the current forward pass.

A tap name is the dotted name of a submodule (``backbone.bottom_up.res3``), optionally followed by
keys or indices into what that submodule returned (``backbone.p3``: entry "p3" of the dict that
``backbone`` returns; ``head.0``: first element of the tuple that ``head`` returns). A submodule
that is called several times per forward (a head shared by pyramid levels) gives the list of its
results in call order. The model itself is never changed: hooks live only while recording.
"""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from multas.modeling.network_input import PREPARED
from multas.util.errors import UserError
from multas.util.modules import evaluation_mode
from multas.util.sizes import round_up


class TapError(UserError):
    """A tap that does not exist, is never called, or returns no tensor.

    Attributes:
        tap: its name.
    """

    def __init__(self, tap: str, message: str) -> None:
        super().__init__(message)
        self.tap = tap


class _AllFired(Exception):
    """Unwinds a forward pass once every tap has fired; never leaves this module."""


def leaves(value: Any) -> list[Tensor]:
    """All tensors inside nested dicts, lists and tuples, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def map_leaves(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nested dicts, lists and tuples, with a function applied to each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


class Taps:
    """Records the results of named submodules of one model.

    Args:
        model: any module; not modified.
        names: tap names (see the module's docstring).
        owner: how error messages call the model ("student", "teacher").

    Raises:
        TapError: a name does not begin with a submodule; the message has the nearest valid names.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], owner: str = "model") -> None:
        self.owner = owner
        self._modules = dict(model.named_modules())
        self._resolved = {name: self._resolve(name) for name in dict.fromkeys(names)}
        tapped = dict.fromkeys(module for module, _ in self._resolved.values())
        self._calls = dict.fromkeys(tapped, 0)
        self._rewritten: set[str] = set()
        self._probed = False

    @property
    def modules(self) -> list[nn.Module]:
        """The submodules that are tapped."""
        return [self._modules[name] for name in self._calls]

    def _resolve(self, name: str) -> tuple[str, list[str]]:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            prefix = ".".join(parts[:end])
            if prefix in self._modules:
                return prefix, parts[end:]
        raise TapError(name, f"The {self.owner} has no layer '{name}'. {self._near(name)}")

    def _near(self, name: str) -> str:
        names = [n for n in self._modules if n]
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
        parts = [n for n in names if "." not in n]
        return f"Nearest: {', '.join(near)}." if near else f"Its parts are: {', '.join(parts)}."

    @contextmanager
    def record(
        self, stop_early: bool = False, names: Collection[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Record one forward pass made inside the ``with`` block.

        Args:
            stop_early: end the forward pass, without an output, as soon as each tap has been
                reached as often as in :meth:`probe`.
            names: the taps to record, all of which this pass must reach; None for all.

        Yields:
            A dict that holds ``{tap name: value}`` after the block.
        """
        taps = {n: r for n, r in self._resolved.items() if names is None or n in names}
        results: dict[str, list[Any]] = {module: [] for module, _ in taps.values()}
        remaining = sum(self._calls[module] for module in results)
        versions: list[tuple[str, Tensor, int]] = []

        def hook_of(name: str):
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                nonlocal remaining
                copied = name in self._rewritten
                results[name].append(map_leaves(Tensor.clone, output) if copied else output)
                if not self._probed:
                    versions.extend((name, leaf, leaf._version) for leaf in leaves(output))
                remaining -= 1
                if stop_early and self._probed and remaining == 0:
                    raise _AllFired

            return hook

        handles = [self._modules[n].register_forward_hook(hook_of(n)) for n in results]
        record: dict[str, Any] = {}
        try:
            yield record
        except _AllFired:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if not self._probed:
            self._learn(results, versions)
        record.update({name: self._pick(name, results) for name in taps})

    def _learn(self, results: Mapping[str, list], versions: Sequence[tuple]) -> None:
        """Keep how often each module is called, and whose result is overwritten in place later."""
        # Detectron2's residual blocks add the shortcut in place, so that a tap in front of it would
        # hold the sum. From now on such taps, and no others, are copied.
        self._calls = {name: len(values) for name, values in results.items()}
        self._rewritten = {name for name, leaf, version in versions if leaf._version != version}
        for tap, (name, keys) in self._resolved.items():
            if self._calls[name]:
                continue
            inside = ", ".join([n for n, _ in self._modules[name].named_children()][:8])
            if keys:
                raise TapError(
                    tap,
                    f"The {self.owner} has no layer '{tap}': in '{name}' there is "
                    f"{inside or 'nothing'}.",
                )
            cure = f"Tap what is inside: {inside}." if inside else ""
            raise TapError(
                tap,
                f"Layer '{name}' of the {self.owner} ({type(self._modules[name]).__name__}) is "
                f"never called in a forward pass. {cure}",
            )
        self._probed = True

    def _pick(self, name: str, results: Mapping[str, list]) -> Any:
        module, keys = self._resolved[name]
        values = results[module]
        value = values[0] if len(values) == 1 else values
        for key in keys:
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, list | tuple) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise TapError(name, self._bad_key(name, key, module, value))
        if not leaves(value):
            raise TapError(
                name,
                f"Layer '{name}' of the {self.owner} returned {type(value).__name__}, which holds "
                "no tensor; tap a layer that returns tensors.",
            )
        return value

    def _bad_key(self, name: str, key: str, module: str, value: Any) -> str:
        has = f"a {type(value).__name__} without entries"
        if isinstance(value, Mapping):
            has = f"the entries {', '.join(map(str, value))}"
        elif isinstance(value, list | tuple):
            has = f"the indices 0 to {len(value) - 1}"
        return (
            f"The {self.owner} has no layer '{name}': '{module}' is no parent of '{key}', and it "
            f"returns {has}. {self._near(name)}"
        )

    @torch.no_grad()
    def probe(self, model: nn.Module, batched_inputs: list[dict]) -> dict[str, Any]:
        """Record one full forward pass in eval mode, and learn from it what :meth:`record` needs.

        Parameters, buffers and modes stay as they were.
        """
        self._probed = False
        self._rewritten = set()
        with evaluation_mode(model), self.record() as record:
            model(batched_inputs)
        return record


def blank_image(model: nn.Module, cfg: CfgNode) -> dict:
    """A gray image for a model, of the training size, from which the shapes of layers are learned.

    Returns:
        "image" (3, S, S) float32, marked as prepared. S is INPUT.MIN_SIZE_TRAIN (MIN_SIZE_TEST
        if that is empty), rounded up to the model's divisor, and at most 320, since larger images
        only cost time.
    """
    side = cfg.INPUT.MIN_SIZE_TRAIN[0] if cfg.INPUT.MIN_SIZE_TRAIN else cfg.INPUT.MIN_SIZE_TEST
    divisor = max(getattr(getattr(model, "backbone", None), "size_divisibility", 0), 32)
    side = min(round_up(max(side, 1), divisor), 320)
    image = torch.full((3, side, side), 114.0)
    return {"image": image, "height": side, "width": side, PREPARED: True}
