"""How large a model is."""

from __future__ import annotations

from typing import TypedDict

from torch import nn

__all__ = ["ModelSize", "get_model_size", "print_model_info"]


class ModelSize(TypedDict):
    """Numbers of values, and their bytes; what modules share counts once."""

    parameters: int
    trainable: int
    buffers: int
    bytes: int


def get_model_size(model: nn.Module) -> ModelSize:
    """Count the parameters and buffers of a model."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return ModelSize(
        parameters=sum(each.numel() for each in parameters),
        trainable=sum(each.numel() for each in parameters if each.requires_grad),
        buffers=sum(each.numel() for each in buffers),
        bytes=sum(each.numel() * each.element_size() for each in [*parameters, *buffers]),
    )


def print_model_info(model: nn.Module, name: str = "model") -> None:
    """Print a model's size, and that of each part it is directly made of."""
    lines = [f"{name}: {_described(get_model_size(model))}"]
    lines += [
        f"  {child} ({type(part).__name__}): {_described(get_model_size(part))}"
        for child, part in model.named_children()
    ]
    print("\n".join(lines))  # noqa: T201 - what it is for


def _described(size: ModelSize) -> str:
    return (
        f"{size['parameters']:,} parameters, {size['trainable']:,} trainable, "
        f"{size['bytes'] / 1e6:.1f} MB"
    )
