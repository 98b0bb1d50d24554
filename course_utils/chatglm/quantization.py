"""Weights in 8 or 4 bits: whole numbers and one scale for each row, expanded where they are used.

This is the format of the published int8 and int4 files. It needs nothing but torch, so it runs on a CPU and
on any GPU; it saves memory, not time. bitsandbytes is faster on the GPUs that it supports.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from course_utils.chatglm.published import Rows, StoredTensor, Tensors
from course_utils.messages import CourseError

ROWWISE = {"int8": 8, "int4": 4}
BITSANDBYTES = {"bnb-int8": "int8", "bnb-nf4": "int4"}  # and what runs anywhere in its place


# A CPU works on so many rows at a time: such a block stays in its cache, the whole matrix takes several times
# as long. Much smaller ones would cost more in starting threads than they save.
BLOCK = 256


def row_scale(weight: Tensor, bits: int) -> Tensor:
    """The number that the whole numbers of each row are multiplied by."""
    return (weight.abs().amax(dim=-1).float() / (2 ** (bits - 1) - 1)).to(weight.dtype)


def quantize_rows(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """A matrix as whole numbers of `bits` bits and the scale of each row, rounded as in the published files.

    Four-bit numbers are packed in pairs, the first of a pair in the high half of the byte.
    """
    scale = row_scale(weight, bits)
    divisor = torch.where(scale == 0, 1, scale).float()  # a row of zeros stays one
    quotient = (weight.float() / divisor[:, None]).to(weight.dtype)  # rounded to the weight's type first
    # A scale that was rounded down makes quotients that are too large, and int8 would turn 128 into -128.
    limit = 2 ** (bits - 1) - 1
    whole = torch.round(quotient.float()).clamp(-limit, limit).to(torch.int8)
    if bits == 4:
        whole = (whole[:, 0::2] << 4) | (whole[:, 1::2] & 0x0F)
    return whole, scale


def dequantize_rows(whole: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """The matrix that `quantize_rows` made `whole` and `scale` from, nearly."""
    if bits == 4:  # shifting an int8 to the right keeps its sign
        whole = torch.stack((whole >> 4, (whole << 4) >> 4), dim=-1).flatten(-2)
    return whole.to(dtype) * scale.to(dtype)[:, None]


def _multiply(x: Tensor, whole: Tensor, scale: Tensor, bits: int) -> Tensor:
    if x.device.type != "cpu":
        return F.linear(x, dequantize_rows(whole, scale, bits, x.dtype))
    return _multiply_on_cpu(x, whole, scale, bits)


def _multiply_on_cpu(x: Tensor, whole: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The same block by block, in float32, which a CPU turns whole numbers into much faster than into float16.

    Every block is expanded into the same memory. Fresh memory for each would go back to the operating system
    after each, and fetching it again, page by page, takes several times as long as the multiplication. The
    scales wait for the products, which are fewer than the weights.
    """
    wide = x.float()
    products = wide.new_empty(*x.shape[:-1], len(whole))
    expanded = wide.new_empty(min(BLOCK, len(whole)), whole.shape[1])
    # Of a pair in one byte, the first number meets an even column of x and the second an odd one.
    even, odd = wide[..., 0::2].contiguous(), wide[..., 1::2].contiguous()
    for rows, product in zip(whole.split(BLOCK), products.split(BLOCK, dim=-1), strict=True):
        block = expanded[: len(rows)]
        if bits == 8:
            product.copy_(F.linear(wide, block.copy_(rows)))
        else:  # shifting an int8 to the right keeps its sign
            product.copy_(F.linear(even, block.copy_(rows >> 4)))
            product += F.linear(odd, block.copy_((rows << 4) >> 4))
    return products.mul_(scale.float()).to(x.dtype)


class _Multiply(torch.autograd.Function):
    """x · weightᵀ. The backward pass expands the weight again instead of keeping it in memory meanwhile."""

    @staticmethod
    def forward(ctx, x: Tensor, whole: Tensor, scale: Tensor, bits: int) -> Tensor:
        ctx.save_for_backward(whole, scale)
        ctx.bits = bits
        return _multiply(x, whole, scale, bits)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        whole, scale = ctx.saved_tensors
        return gradient @ dequantize_rows(whole, scale, ctx.bits, gradient.dtype), None, None, None


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight is held in 8 or 4 bits. It is frozen; what is around it can be trained.

    A LoRA beside it cannot be merged into it: whole numbers have no place for its small steps. Merge it into the
    float16 model.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, bits: int, dtype: torch.dtype):
        super().__init__(in_features, out_features, bias, device="meta", dtype=dtype)
        self.bits = bits
        whole = torch.empty(out_features, in_features * bits // 8, dtype=torch.int8, device="meta")
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("weight_scale", torch.empty(out_features, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        product = _Multiply.apply(x, self.weight, self.weight_scale, self.bits)
        return product if self.bias is None else product + self.bias


def _is_quantized(name: str) -> bool:
    """Only the matrices of the blocks are: embedding and output matrix keep their precision."""
    return ".layers." in name


def replace_linears(model: nn.Module, bits: int) -> None:
    """Put an empty QuantizedLinear in the place of every linear layer of the blocks."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and _is_quantized(name):
            size = module.in_features, module.out_features, module.bias is not None
            model.set_submodule(name, QuantizedLinear(*size, bits, module.weight.dtype))


@register_quantization_config("rowwise")
class RowwiseConfig(QuantizationConfigMixin):
    """`quantization_config` in the config.json of a saved model: transformers reads it back by this name."""

    def __init__(self, bits: int = 8, **kwargs):
        self.quant_method = "rowwise"
        self.bits = bits


@register_quantizer("rowwise")
class RowwiseQuantizer(HfQuantizer):
    """Tells `from_pretrained` to put QuantizedLinear in the place of the blocks' linear layers."""

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs) -> None:
        replace_linears(model, self.quantization_config.bits)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        # Else Trainer accepts a quantised model only with a PEFT adapter, and not with a prefix.
        return True


def quantized_tensors(tensors: Tensors, bits: int) -> Tensors:
    """The same checkpoint with the matrices of its blocks quantised, each at the moment it is read."""
    quantized: Tensors = {}
    for name, tensor in tensors.items():
        if not (_is_quantized(name) and len(tensor.shape) == 2):
            quantized[name] = tensor
            continue
        rows, columns = tensor.shape
        whole = partial(_by_blocks, tensor, lambda block: quantize_rows(block, bits)[0])
        quantized[name] = StoredTensor((rows, columns * bits // 8), torch.int8, whole)
        quantized[f"{name}_scale"] = StoredTensor(
            (rows,), tensor.dtype, partial(_by_blocks, tensor, lambda block: row_scale(block, bits))
        )
    return quantized


def _by_blocks(tensor: StoredTensor, compute: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
    """`compute` of some rows of a matrix, of which no more than a block is in memory at a time.

    transformers asks for up to four matrices at once, and a whole one takes a quarter of a GiB.
    """
    chosen = tensor.rows(rows)
    for start in range(0, chosen.shape[0], BLOCK):
        block = compute(chosen.rows(slice(start, start + BLOCK)).read())
        if start == 0:
            result = block.new_empty(chosen.shape[0], *block.shape[1:])
        result[start : start + BLOCK] = block
    return result


def bitsandbytes_config(kind: str, device: torch.device, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The setting for bitsandbytes, or an error that says why this machine cannot and what can."""
    instead = BITSANDBYTES[kind]
    if find_spec("bitsandbytes") is None:
        raise CourseError(
            f"quantize={kind!r} needs the package bitsandbytes: `pip install bitsandbytes`, or use "
            f"quantize={instead!r}, which needs no package.",
            f"quantize={kind!r} 需要 bitsandbytes：请运行 `pip install bitsandbytes`，或改用无需安装的 "
            f"quantize={instead!r}。",
        )
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        if kind == "bnb-int8" and (major, minor) < (7, 5):
            raise CourseError(
                f"bitsandbytes computes int8 on tensor cores from sm_75 on (T4); {name} is sm_{major}{minor} and has "
                f"none: use quantize={instead!r}.",
                f"bitsandbytes 的 int8 需要 sm_75 及以上（T4）的张量核心；{name} 是 sm_{major}{minor}，没有张量核心："
                f"请用 quantize={instead!r}。",
            )
        if (major, minor) < (7, 5) and not (torch.version.cuda or "").startswith("12.6"):
            raise CourseError(
                f"Only the CUDA 12.6 build of bitsandbytes runs on {name} (sm_{major}{minor}), and this torch is "
                f"built for CUDA {torch.version.cuda}: use quantize={instead!r}, or install torch from the cu126 "
                "index.",
                f"只有 CUDA 12.6 版的 bitsandbytes 能在 {name}（sm_{major}{minor}）上运行，而当前 torch 对应 CUDA "
                f"{torch.version.cuda}：请用 quantize={instead!r}，或安装 cu126 版的 torch。",
            )
    if kind == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    # The scales are quantised as well, as in QLoRA: a quarter of a GiB less of a model with 6 billion parameters.
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )
