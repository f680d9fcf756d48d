"""Cut the graph of a network at named layers, to differentiate with respect to their features.

Behind the cut the features Z are variables of their own: a gradient with respect to several layers,
of which one feeds the other, is then that of L(Z), as the chain rule over Z wants it, and costs no
pass through what lies in front. :meth:`Cuts.join` sends the gradients on.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from multas.util.names import did_you_mean

# What a layer returned, and the variable that replaced it behind the cut.
Cut = tuple[Tensor, Tensor]


def find_layer(model: nn.Module, layer: str, key: str) -> nn.Module:
    """A submodule of the student by its dotted name.

    Raises:
        ValueError: there is none; the message starts with ``key`` and gives the nearest.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        near = did_you_mean(layer, [name for name in modules if name and name.count(".") < 3])
        raise ValueError(f"{key}: the student has no layer '{layer}'.{near}")
    return modules[layer]


class Cuts:
    """The layers of one network at which its graph is cut.

    Args:
        model: the network; not modified.
        layers: dotted names of its submodules.
        key: config key that named them, for error messages.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], key: str) -> None:
        self._modules = [find_layer(model, layer, key) for layer in layers]
        self._layers = ", ".join(layers)
        self._key = key

    @contextmanager
    def record(self) -> Iterator[list[Cut]]:
        """Cut what the layers return inside the ``with`` block, in the order of their calls."""
        cuts: list[Cut] = []

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            return _replace(output, cuts) if torch.is_grad_enabled() else None

        handles = [module.register_forward_hook(hook) for module in self._modules]
        try:
            yield cuts
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def bypassed(loss: Tensor, cuts: Sequence[Cut]) -> bool:
        """Whether a loss depends on parameters in front of the cuts not only through them."""
        in_front = _variables([before.grad_fn for before, _ in cuts])
        in_front -= {id(behind) for _, behind in cuts}
        return not in_front.isdisjoint(_variables([loss.grad_fn]))

    def check(
        self,
        names: Sequence[str],
        losses: Sequence[Tensor],
        cuts: Sequence[Cut],
        overlap: Tensor,
    ) -> None:
        """Check that gradients at the cuts can stand for those of what lies in front.

        Args:
            names, losses: the K paths, with graph.
            cuts: of the same forward pass.
            overlap: (K, K), whether the gradients of two paths have a feature map in common.

        Raises:
            ValueError: they cannot; the message says why and what helps.
        """
        instead = "or set SCOPE to parameters."
        if not any(before.requires_grad for before, _ in cuts):
            raise ValueError(
                f"{self._key}: nothing is trained in front of {self._layers}. Name a later layer, "
                f"{instead}"
            )
        pairs = zip(names, losses, strict=True)
        beside = [name for name, loss in pairs if self.bypassed(loss, cuts)]
        if beside:
            raise ValueError(
                f"{self._key}: the paths {', '.join(beside)} depend on layers in front of "
                f"{self._layers} not only through their features, which then bound nothing. Name "
                f"an earlier layer, {instead}"
            )
        beside = [n for n, reached in zip(names, overlap.diagonal(), strict=True) if not reached]
        if beside:
            raise ValueError(
                f"{self._key}: the paths {', '.join(beside)} do not pass through {self._layers}. "
                f"Name an earlier layer, {instead}"
            )
        if len(names) > 1 and int(overlap.sum()) == len(names):
            raise ValueError(
                f"{self._key}: each path passes through another feature map of {self._layers}, so "
                "no two gradients have anything in common: the Gram matrix is diagonal and shows "
                f"no conflict. Name a common ancestor, {instead}"
            )

    @staticmethod
    def join(cuts: Sequence[Cut]) -> None:
        """Go on with the backward pass in front of the cuts, from the gradients behind them."""
        for before, behind in reversed(cuts):
            if behind.grad is not None and before.requires_grad:
                # Layers side by side share what lies in front of both.
                before.backward(behind.grad, retain_graph=len(cuts) > 1)


def _replace(value: Any, cuts: list[Cut]) -> Any:
    if isinstance(value, Tensor):
        behind = value.detach().requires_grad_()
        cuts.append((value, behind))
        # A copy: the next layer may work in place, which a variable does not allow.
        return behind.clone()
    if isinstance(value, Mapping):
        return {key: _replace(item, cuts) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace(item, cuts) for item in value)
    return value


def _variables(nodes: Sequence[Any]) -> set[int]:
    """Identities of the variables from which these nodes of the graph were computed."""
    found, seen, waiting = set(), set(), [node for node in nodes if node is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions if following is not None)
    return found
