"""The GELU of a feed-forward block, computed with the product before it, still in the cache."""

from typing import Any

import torch
from transformers.activations import GELUActivation, NewGELUActivation

from speechtext.cpu.packed import PackedLinear

# How oneDNN calls the two forms of the GELU, by the activation of a feed-forward layer.
GELUS: dict[type[Any], str] = {GELUActivation: "none", NewGELUActivation: "tanh"}
# What transformers calls a linear layer, and the activation that all it gives goes through.
FEED_FORWARDS = {
    "intermediate_dense": "intermediate_act_fn",
    "dense": "intermediate_act_fn",
    "lin1": "activation",
    "c_fc": "act",
}


def fuse_gelus(network: torch.nn.Module) -> None:
    """Let the packed layers of feed-forward blocks compute the GELU behind them."""
    for parent in network.modules():
        for name, activation_name in FEED_FORWARDS.items():
            layer, activation = (getattr(parent, each, None) for each in (name, activation_name))
            if isinstance(layer, PackedLinear) and type(activation) in GELUS:
                layer.gelu = GELUS[type(activation)]
                setattr(parent, activation_name, torch.nn.Identity())
