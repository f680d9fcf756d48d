"""Cut the graph of a network at named layers, to differentiate with respect to their features.

Behind the boundary the features Z are variables of their own. A gradient with respect to several
layers, of which one feeds the other, is then that of L(Z), as the chain rule over Z wants it, and
costs no pass through what lies in front. :func:`gradient_through` sends gradients on to the front.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multas.distillation.taps import map_leaves
from multas.util.errors import UserError
from multas.util.names import did_you_mean
from multas.util.ranks import GradientRow

SCOPE_KEY = "MODEL.DISTILLATION.AGGREGATION.SCOPE_LAYERS"


class BoundaryFeature(NamedTuple):
    """One feature map at the boundary.

    Attributes:
        before: what the layer returned, with the graph in front of it.
        behind: the variable with the same values that replaces it.
    """

    before: Tensor
    behind: Tensor


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """A submodule of the student that SCOPE_LAYERS names; a ValueError if there is none."""
    modules = dict(model.named_modules())
    if layer not in modules:
        near = did_you_mean(layer, [name for name in modules if name and name.count(".") < 3])
        raise UserError(f"{SCOPE_KEY}: the student has no layer '{layer}'.{near}")
    return modules[layer]


class FeatureBoundary:
    """The layers of one network at which its graph is cut.

    Args:
        model: the network; not modified.
        layers: dotted names of its submodules; without any the graph stays whole.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self._modules = [find_layer(model, layer) for layer in layers]
        self._layers = ", ".join(layers)

    @contextmanager
    def record(self) -> Iterator[list[BoundaryFeature]]:
        """Cut what the layers return inside the ``with`` block, in the order of their calls."""
        features: list[BoundaryFeature] = []

        def cut(before: Tensor) -> Tensor:
            behind = before.detach().requires_grad_()
            features.append(BoundaryFeature(before, behind))
            # A copy: the next layer may work in place, which a variable does not allow.
            return behind.clone()

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            return map_leaves(cut, output) if torch.is_grad_enabled() else None

        handles = [module.register_forward_hook(hook) for module in self._modules]
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()

    def check(
        self,
        names: Sequence[str],
        losses: Sequence[Tensor],
        features: Sequence[BoundaryFeature],
        overlap: Tensor,
    ) -> None:
        """Check that gradients at the boundary can stand for those of what lies in front.

        Args:
            names, losses: the names of the K paths, and their losses with graph.
            features: the features at the boundary in the same forward pass.
            overlap: (K, K), whether the gradients of two paths have a feature map in common.

        Raises:
            UserError: they cannot; the message says why, and what helps.
        """
        pairs = list(zip(names, losses, overlap.diagonal(), strict=True))
        beside = ", ".join(name for name, loss, _ in pairs if bypasses(loss, features))
        outside = ", ".join(name for name, _, reached in pairs if not reached)
        why = ""
        if not any(before.requires_grad for before, _ in features):
            why = f"nothing is trained in front of {self._layers}. Name a later layer"
        elif beside:
            why = (
                f"the paths {beside} depend on layers in front of {self._layers} not only through "
                "their features, which then bound nothing. Name an earlier layer"
            )
        elif outside:
            why = f"the paths {outside} do not pass through {self._layers}. Name an earlier layer"
        elif len(names) > 1 and int(overlap.sum()) == len(names):
            why = (
                f"each path passes through another feature map of {self._layers}, so no two "
                "gradients have anything in common: the Gram matrix is diagonal and shows no "
                "conflict. Name a common ancestor"
            )
        if why:
            raise UserError(f"{SCOPE_KEY}: {why}, or set SCOPE to parameters.")


def bypasses(loss: Tensor, features: Sequence[BoundaryFeature]) -> bool:
    """Whether a loss depends on what lies in front of the boundary by another way, too."""
    in_front = _variables([before.grad_fn for before, _ in features])
    in_front -= {id(behind) for _, behind in features}
    return not in_front.isdisjoint(_variables([loss.grad_fn]))


def gradient_through(
    loss: Tensor,
    parameters: Sequence[Tensor],
    features: Sequence[BoundaryFeature],
    known: GradientRow | None = None,
    *,
    keep_graph: bool = False,
) -> GradientRow:
    """The gradient of a loss, first behind the boundary, then through its features in front of it.

    Args:
        loss: scalar.
        parameters: what to differentiate with respect to.
        features: the features at the boundary in the forward pass; without any the graph is whole.
        known: the gradient of another loss behind the boundary, with respect to the parameters and
            then the features. It is added there, and goes through the front with this one.
        keep_graph: whether the graph behind the boundary shares a part with the one in front.

    Returns:
        One gradient for each parameter; None where the loss does not depend on it.
    """
    inputs = [*parameters, *(behind for _, behind in features)]
    keep = keep_graph or None
    row: GradientRow = torch.autograd.grad(loss, inputs, retain_graph=keep, allow_unused=True)
    if known is not None:
        row = [_sum(own, more) for own, more in zip(row, known, strict=True)]
    for i, (before, _) in reversed(list(enumerate(features))):
        gradient = row[len(parameters) + i]
        if gradient is not None and before.requires_grad:
            # Layers side by side share what lies in front of both.
            further = torch.autograd.grad(
                before, inputs, gradient, retain_graph=len(features) > 1, allow_unused=True
            )
            row = [_sum(own, more) for own, more in zip(row, further, strict=True)]
    return row[: len(parameters)]


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


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
        waiting.extend(parent for parent, _ in node.next_functions if parent is not None)
    return found
