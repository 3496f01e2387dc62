"""A network of transformers, made ready for a CPU."""

from typing import Any

import torch

from speechtext.cpu.attention import speed_up_attention
from speechtext.cpu.gelus import fuse_gelus
from speechtext.cpu.openvino_network import OpenVinoModel
from speechtext.cpu.packed import can_pack, pack_linear_layers


def leave_file(network: Any) -> None:
    """Copy the weights of a network that a CPU will pack out of the file they are mapped from.

    What is let go of one of them later gives its memory back; of a mapped file, nothing does.
    """
    if network.device.type == "cpu" and can_pack(network.dtype):
        for weight in (*network.parameters(), *network.buffers()):
            weight.data = weight.data.clone()


def speed_up_network(network: torch.nn.Module) -> None:
    """Let a network that is ready for inference on a CPU compute the same in less time.

    Answers differ by rounding alone. One that is compiled already stays as it is.
    """
    if not isinstance(network, (torch.jit.ScriptModule, OpenVinoModel)):
        pack_linear_layers(network)
        fuse_gelus(network)
        speed_up_attention(network)
