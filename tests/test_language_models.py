"""Language models of `transformers` and adapters of `peft`, measured by the Python interface: against dense
Hessians in float64."""

import copy
import warnings

import pytest
import torch
from test_api import truth
from torch.nn import functional as F

import sharpcli as sharp
from sharpcli.api.huggingface import own_loss, predicted_labels

transformers = pytest.importorskip("transformers")
IDS = torch.randint(0, 11, (6, 7), generator=torch.Generator().manual_seed(0))
LABELS = IDS.clone()
LABELS[:2, 4:] = -100  # texts of several lengths
MASK = (LABELS != -100).long()


def gpt2():
    sizes = {"n_layer": 1, "n_embd": 4, "n_head": 2, "vocab_size": 11, "n_positions": 7}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def llama():
    config = transformers.LlamaConfig(
        num_hidden_layers=1,
        hidden_size=8,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=11,
        max_position_embeddings=7,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def lora():
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fan_in_fan_out, which GPT-2's Conv1D sets
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.0, init_lora_weights=False)
        return peft.get_peft_model(gpt2(), config)


# Llama's normalization and its positions are computed in float32 whatever the weights are
MODELS = {
    "GPT-2": (gpt2, torch.float64),
    "Llama": (llama, torch.float32),
    "GPT-2 with LoRA": (lora, torch.float64),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    made, dtype = MODELS[request.param]
    return made().to(dtype).eval()


def of_logits(model, batch):
    return next_token(model(**{**batch, "labels": None}).logits, batch["labels"])


def next_token(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def as_dicts(cut):
    """The examples in batches of `cut`, as a tokenizer gives them."""
    names = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    return [{name: t[i : i + cut] for name, t in names.items()} for i in range(0, len(IDS), cut)]


def test_the_hessian_is_that_of_torch_func_in_one_batch_and_in_several(model):
    exact = truth(model, lambda net: next_token(net(input_ids=IDS, attention_mask=MASK).logits, LABELS))
    before = copy.deepcopy(model.state_dict())
    for cut in (len(IDS), 4):  # the batches of 4 hold 20 and 12 predicted tokens
        H = sharp.hessian(model, of_logits, as_dicts(cut), weight=predicted_labels)
        rounding = 1e4 * torch.finfo(H.dtype).eps
        assert (H.dense() - exact).abs().max() < rounding * exact.abs().max()
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_measures_agree_with_the_dense_hessian(model):
    exact = truth(model, lambda net: next_token(net(input_ids=IDS, attention_mask=MASK).logits, LABELS))
    values = torch.linalg.eigvalsh(exact)
    found = sharp.measure(
        model, of_logits, as_dicts(3), ["sharpness", "trace"], weight=predicted_labels, k=2, rtol=0.02
    )
    for i in (1, 2):
        assert abs(found[f"lambda_{i}"] - float(values[-i])) <= 1e-3 * float(values[-1])
    assert abs(found["trace"] - float(exact.trace())) <= max(found.error("trace"), 1e-5)
    assert {name: v.shape for name, v in found.vectors("sharpness")[0].items()} == {
        name: p.shape for name, p in model.named_parameters() if p.requires_grad
    }


def test_float64_weights_of_a_model_that_computes_in_float32_are_refused_and_where_is_said():
    with pytest.raises(sharp.Refused, match=r"in float32 for weights in float64 \(modeling_llama.py, line"):
        sharp.hessian(llama().double().eval(), of_logits, as_dicts(6), weight=predicted_labels)
    with pytest.raises(sharp.Refused, match=r"in float32 for weights in float64 \(loss_utils.py, line"):
        sharp.hessian(gpt2().double().eval(), own_loss, as_dicts(6), weight=predicted_labels)
    half = torch.nn.Sequential(torch.nn.Linear(3, 2), Halved())
    with pytest.raises(sharp.Refused, match=r"computes in bfloat16 for weights in float32 \(test_language"):
        sharp.measure(half, torch.nn.MSELoss(), (torch.randn(8, 3), torch.randn(8, 2)))


class Halved(torch.nn.Module):
    """Rounds to half precision and back."""

    def forward(self, x):
        return x.bfloat16().float()


def test_only_adapters_are_measured_and_only_their_products_are_taken():
    torch.manual_seed(0)
    model = lora().double().eval()
    H = sharp.hessian(model, of_logits, as_dicts(6), weight=predicted_labels)
    assert all("lora_" in name for name in H.names) and H.shape[0] == 2 * (4 + 12)
    only = sharp.hessian(model, of_logits, as_dicts(6), weight=predicted_labels, params="*lora_B*")
    block = [i for i, name in enumerate(_entries(H)) if "lora_B" in name]
    assert torch.allclose(only.dense(), H.dense()[block][:, block], atol=1e-12)


def _entries(H):
    """The parameter's name of each entry of a flat vector."""
    return [name for name, shape in H.names.items() for _ in range(shape.numel())]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_attention_kernel_without_a_second_derivative_is_replaced(attention):
    torch.manual_seed(0)
    model = gpt2().double().eval()
    model.set_attn_implementation(attention)
    exact = truth(model, lambda net: next_token(net(input_ids=IDS).logits, IDS))
    H = sharp.hessian(model, of_logits, [{"input_ids": IDS, "labels": IDS}])
    assert (H.dense() - exact).abs().max() < 1e-10 * exact.abs().max()


def test_half_precision_is_measured_in_float32_copies():
    torch.manual_seed(0)
    model = gpt2().eval()
    rounded = copy.deepcopy(model).bfloat16()
    data, settings = as_dicts(6), {"weight": predicted_labels, "tol": 1e-5}
    wanted = sharp.measure(copy.deepcopy(rounded).float(), of_logits, data, **settings)["lambda_1"]
    found = sharp.measure(rounded, of_logits, data, **settings)
    assert abs(found["lambda_1"] - wanted) <= 1e-4 * wanted
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
