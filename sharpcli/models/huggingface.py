"""A language model of Hugging Face's transformers (pip install transformers), by the name of its kind or from
a folder of one's own; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import check_name


def huggingface(
    shape: tuple[int, ...],
    outputs: int,
    *,
    name: str,
    layers: int | None,
    width: int | None,
    heads: int | None,
) -> nn.Module:
    """A causal language model: tokens [n, T] go in, logits [n, T, C] come out.

    `name` is a kind (`gpt2`, `llama`, ...), whose configuration `layers`, `width` (of the hidden states;
    inner layers are four times as wide) and `heads` change, with random weights and a vocabulary of `outputs`
    tokens; or a folder that `save_pretrained` wrote, with its weights. Dropout is off, and nothing is cached.

    Refuses a machine without transformers, inputs that are no tokens, a kind that it does not have, sizes
    that do not fit, sizes beside a folder, and a vocabulary smaller than the data's.
    """
    try:
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    except ImportError:
        raise Refusal("model=huggingface: transformers is not installed; pip install transformers") from None
    if len(shape) != 1:
        raise Refusal(
            f"model=huggingface takes tokens [n, T], and these inputs are {list(shape)}; use data=tokens"
        )
    given = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    sizes = {key: value for key, value in given.items() if value is not None}
    try:
        if Path(name).is_dir():
            if sizes:
                raise Refusal(f"model.name={name}: a folder has its sizes; leave layers, width and heads out")
            net = AutoModelForCausalLM.from_pretrained(name, local_files_only=True, **_without_dropout(name))
        else:
            check_name(name, list(CONFIG_MAPPING), "transformers")
            net = AutoModelForCausalLM.from_config(_config(CONFIG_MAPPING[name], sizes, outputs, shape[0]))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ZeroDivisionError,
        RuntimeError,
    ) as problem:
        reason = str(problem).split("\n", maxsplit=1)[0][:160]
        raise Refusal(f"model.name={name}: no causal language model can be made of it ({reason})") from None
    if net.config.vocab_size < outputs:
        raise Refusal(
            f"model.name={name}: has {net.config.vocab_size} tokens, and the data {outputs}; take the tokens "
            f"of its own tokenizer"
        )
    return _Logits(net.float())


def _config(kind: Any, sizes: dict[str, int], outputs: int, length: int) -> Any:
    """A configuration in the names that all kinds have, at the kind's own defaults elsewhere."""
    default = kind()
    given: dict[str, Any] = {"vocab_size": outputs, "use_cache": False, **sizes}
    if "hidden_size" in sizes and getattr(default, "intermediate_size", None) is not None:
        given["intermediate_size"] = 4 * sizes["hidden_size"]
    if "num_attention_heads" in sizes and getattr(default, "num_key_value_heads", None) is not None:
        given["num_key_value_heads"] = sizes["num_attention_heads"]
    if getattr(default, "max_position_embeddings", length) < length:
        given["max_position_embeddings"] = length
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    given |= {key: 0 for key in special if getattr(default, key, None) is not None}
    return kind(**given, **_no_dropout(default))


def _without_dropout(folder: str) -> dict[str, Any]:
    from transformers import AutoConfig

    return {"use_cache": False, **_no_dropout(AutoConfig.from_pretrained(folder, local_files_only=True))}


def _no_dropout(config: Any) -> dict[str, float]:
    """Every probability of dropout in a configuration, as 0."""
    return {k: 0.0 for k, v in config.to_dict().items() if ("drop" in k or k.endswith("_pdrop")) and v}


class _Logits(nn.Module):
    """Tokens [n, T] -> logits [n, T, C]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(input_ids=x.to(torch.long)).logits
