"""The network of ChatGLM-6B, the first generation, on today's transformers.

The library has no class for it, so here it is whole. Module names are those of the published weights, which
therefore need no renaming. Read it from the bottom up: the language model runs the transformer, the
transformer runs its blocks, a block runs attention and a small network.

Four things set this model apart from a plain GPT:

* It reads the prompt in both directions. Everything before the token `<sop>` is visible to every position;
  from `<sop>` on, where the answer is written, a position sees only what stands before it.
* Every token has two positions: where it stands in the prompt, and how far into the answer it is. Half of
  each attention head is rotated by the first and half by the second.
* The residual connection carries the *normalised* value, multiplied by √56.
* In front of the text may stand learned keys and values, the prefix of P-Tuning v2.

Shapes in the comments: b sequences, s tokens, h hidden size, n heads of d numbers each (h = n·d).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from course_utils.messages import CourseError

# The published network multiplies its residuals by √(2·28) however many layers it has.
RESIDUAL_SCALE = math.sqrt(2 * 28)


class ChatGLM1Config(PreTrainedConfig):
    """Sizes and special tokens of a first-generation model, under the names of the published config.json."""

    model_type = "chatglm1"  # the published "chatglm" means three different networks
    attribute_map = {  # noqa: RUF012
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
    }

    def __init__(
        self,
        vocab_size: int = 130528,
        hidden_size: int = 4096,
        num_layers: int = 28,
        num_attention_heads: int = 32,
        inner_hidden_size: int = 16384,
        layernorm_epsilon: float = 1e-5,
        max_sequence_length: int = 2048,
        bos_token_id: int = 130004,
        eos_token_id: int = 130005,
        pad_token_id: int = 3,
        mask_token_id: int | None = None,
        gmask_token_id: int | None = None,
        pre_seq_len: int | None = None,
        prefix_projection: bool = False,
        use_cache: bool = True,
        tie_word_embeddings: bool = True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.inner_hidden_size = inner_hidden_size
        self.layernorm_epsilon = layernorm_epsilon
        self.max_sequence_length = max_sequence_length
        # The earliest revisions name only <sop>; [MASK] and [gMASK] stand four and three places before it.
        self.mask_token_id = bos_token_id - 4 if mask_token_id is None else mask_token_id
        self.gmask_token_id = bos_token_id - 3 if gmask_token_id is None else gmask_token_id
        self.pre_seq_len = pre_seq_len
        self.prefix_projection = prefix_projection
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )


# ----------------------------------------------------------------------------------------- positions and mask


def context_lengths(input_ids: Tensor, config: ChatGLM1Config) -> Tensor:
    """Index of the first `<sop>` of each sequence: what is before it is the prompt."""
    is_sop = input_ids == config.bos_token_id
    if not bool(is_sop.any(dim=-1).all()):
        raise CourseError(
            "A prompt has no <sop> token, so the model cannot tell where its answer begins: encode text with "
            "load_tokenizer(folder), which appends [gMASK] <sop>.",
            "提示中没有 <sop>，模型不知道回答从哪里开始：请用 load_tokenizer(folder) 编码，它会在末尾加上 [gMASK] "
            "<sop>。",
        )
    return is_sop.int().argmax(dim=-1)  # [b]


def position_pairs(input_ids: Tensor, attention_mask: Tensor | None, config: ChatGLM1Config) -> Tensor:
    """Both positions of every token, [b, 2, s].

    For the prompt 你 好 [gMASK] and the answer <sop> 早 上:

        place in the prompt    0 1 2 | 2 2 2   the answer stays where its gap [gMASK] is
        place in the answer    0 0 0 | 1 2 3
    """
    index = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)  # [b, s]
    context = context_lengths(input_ids, config)[:, None]  # [b, 1]
    is_gap = input_ids == config.gmask_token_id
    has_gmask = is_gap.any(dim=-1, keepdim=True)
    is_gap = torch.where(has_gmask, is_gap, input_ids == config.mask_token_id)
    gap = is_gap.int().argmax(dim=-1, keepdim=True)  # [b, 1]
    # Padding on the left takes no position: the first real token has position 0.
    padding = 0 if attention_mask is None else attention_mask.int().argmax(dim=-1, keepdim=True)
    in_prompt = (torch.where(index < context, index, gap) - padding).clamp(min=0)
    in_answer = (index - context + 1).clamp(min=0)
    return torch.stack((in_prompt, in_answer), dim=1)


def visibility(length: int, past: int, context: Tensor | None, attention_mask: Tensor | None, device) -> Tensor:
    """Who may look at whom, True = visible: [b or 1, 1, length, past + length].

    `past` columns are already in the cache; prefix columns (P-Tuning) are counted there too, and as
    `attention_mask` knows only text, the prefix is what it is shorter by.
    """
    total = past + length
    rows = torch.arange(past, total, device=device)[:, None]
    columns = torch.arange(total, device=device)[None, :]
    visible = (columns <= rows)[None]  # a position sees itself and what is before it
    if context is not None:
        visible = visible | (columns < past + context[:, None, None])  # and all of the prompt
    if attention_mask is not None:
        real = F.pad(attention_mask.bool(), (total - attention_mask.shape[1], 0), value=True)
        visible = visible & real[:, None, :]  # but no padding
    return visible[:, None]


# ------------------------------------------------------------------------------------------- rotary embedding


def rotary_table(positions: Tensor, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, each [b, 1, s, dim].

    The weights were trained and published with frequencies and angles rounded to half precision, and they
    live with that: a half-precision run with exact angles disagrees with the published one on long texts. So
    the frequencies are always rounded, and in half precision the angles too.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(0, dim, 2, device=positions.device).float() / dim)
    precision = torch.float16 if dtype == torch.float16 else torch.float32
    angles = positions[:, None, :, None].to(precision) * frequencies.half().to(precision)  # [b, 1, s, dim/2]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + dim/2]) by its angle."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_both(x: Tensor, tables: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Half of each head turns with the position in the prompt, half with the position in the answer."""
    prompt_half, answer_half = x.chunk(2, dim=-1)
    return torch.cat((rotate(prompt_half, tables[0]), rotate(answer_half, tables[1])), dim=-1)


# --------------------------------------------------------------------------------------------- prefix encoder


class PrefixEncoder(nn.Module):
    """Learned keys and values that stand before the text in every layer (P-Tuning v2), for every generation.

    Without projection they are one row of a table for each of the `length` places; with projection a
    two-layer network makes them from the rows. All of it stays in float32, where small steps of training
    survive.
    """

    def __init__(self, config: PreTrainedConfig, length: int, projection: bool):
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.length = length
        self.layers = config.num_hidden_layers
        self.heads = getattr(config, "num_key_value_heads", heads)
        self.head_dim = getattr(config, "head_dim", hidden // heads)
        width = self.layers * 2 * self.heads * self.head_dim
        # Rows to be projected are short in the first generation, and as wide as the result later on.
        row = hidden if projection and isinstance(config, ChatGLM1Config) else width
        self.embedding = nn.Embedding(length, row, dtype=torch.float32)
        if projection:
            self.trans = nn.Sequential(
                nn.Linear(row, hidden, dtype=torch.float32),
                nn.Tanh(),
                nn.Linear(hidden, width, dtype=torch.float32),
            )
        else:
            self.trans = nn.Identity()
        self.dropout = nn.Dropout(0.1)

    def reset(self) -> None:
        """Fresh values. A table without projection *is* the keys and values, so it starts as large."""
        if isinstance(self.trans, nn.Identity):
            init.normal_(self.embedding.weight)
            return
        for module in (self.embedding, self.trans[0], self.trans[2]):
            init.normal_(module.weight, std=0.02)
        for module in (self.trans[0], self.trans[2]):
            init.zeros_(module.bias)

    def forward(self, batch: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Key and value of each layer, each [batch, heads, length, head_dim]."""
        prefix = self.trans(self.embedding.weight)  # [length, layers·2·heads·head_dim]
        prefix = prefix.to(dtype).view(self.length, self.layers, 2, self.heads, self.head_dim)
        prefix = prefix.permute(1, 2, 3, 0, 4)  # [layers, 2, heads, length, head_dim]
        prefix = self.dropout(prefix[:, :, None].expand(-1, -1, batch, -1, -1, -1))  # anew for each example
        return [(key, value) for key, value in prefix]


# ------------------------------------------------------------------------------------------------ the network


class Attention(nn.Module):
    """Multi-head attention; the projection gives query, key and value of one head after the other."""

    def __init__(self, config: ChatGLM1Config, layer: int):
        super().__init__()
        hidden = config.hidden_size
        self.layer = layer
        self.head_dim = hidden // config.num_attention_heads
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, visible: Tensor, tables, prefix, cache: Cache | None) -> Tensor:
        b, s, h = x.shape
        qkv = self.query_key_value(x).view(b, s, -1, 3, self.head_dim)  # [b, s, n, 3, d]
        query, key, value = qkv.permute(3, 0, 2, 1, 4)  # each [b, n, s, d]
        query, key = rotate_both(query, tables), rotate_both(key, tables)
        if prefix is not None:  # prefix keys are not rotated: they have no position
            key = torch.cat((prefix[0], key), dim=2)
            value = torch.cat((prefix[1], value), dim=2)
        if cache is not None:  # all keys and values so far
            key, value = cache.update(key, value, self.layer)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        return self.dense(mixed.transpose(1, 2).reshape(b, s, h))


class MLP(nn.Module):
    """Widen four times, bend, narrow again."""

    def __init__(self, config: ChatGLM1Config):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x), approximate="tanh"))


class Block(GradientCheckpointingLayer):
    """One layer. What is added back is the normalised input, not the input itself."""

    def __init__(self, config: ChatGLM1Config, layer: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = Attention(config, layer)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, visible: Tensor, tables, prefix, past_key_values: Cache | None = None) -> Tensor:
        a = self.input_layernorm(x)
        x = RESIDUAL_SCALE * a + self.attention(a, visible, tables, prefix, past_key_values)
        a = self.post_attention_layernorm(x)
        return RESIDUAL_SCALE * a + self.mlp(a)


class ChatGLM1PreTrainedModel(PreTrainedModel):
    """What transformers must know about the network in order to load, save and train it."""

    config_class = ChatGLM1Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["prefix_encoder"]  # noqa: RUF012
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, PrefixEncoder):
            module.reset()
        else:
            super()._init_weights(module)


class ChatGLM1Model(ChatGLM1PreTrainedModel):
    """The transformer: token ids in, one vector for each token out."""

    def __init__(self, config: ChatGLM1Config):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        if config.pre_seq_len:
            self.prefix_encoder = PrefixEncoder(config, config.pre_seq_len, config.prefix_projection)
        else:
            self.prefix_encoder = None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,  # [b, s]
        attention_mask: Tensor | None = None,  # [b, text so far], 1 = token, 0 = padding
        position_ids: Tensor | None = None,  # [b, 2, s]
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,  # [b, s, h] in place of looking up input_ids
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        if input_ids is None and (inputs_embeds is None or position_ids is None):
            raise ValueError("ChatGLM-6B needs input_ids; with inputs_embeds alone give position_ids too.")
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        batch, length = x.shape[:2]

        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.training:
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()

        # The first call of a text reads the prompt; later calls only add tokens of the answer.
        first = past == 0
        if position_ids is None:
            if not first:
                raise ValueError("To continue from a cache, give position_ids: they depend on the whole text.")
            position_ids = position_pairs(input_ids, attention_mask, self.config)
        prefixes: list = [None] * len(self.layers)
        if first and self.prefix_encoder is not None:
            prefixes = self.prefix_encoder(batch, x.dtype)
            past = self.prefix_encoder.length
        # The first token with a position in the answer is <sop>, so the zeros before it count the context.
        context = (position_ids[:, 1] == 0).sum(dim=-1) if first else None
        visible = visibility(length, past, context, attention_mask, x.device)

        half = self.config.hidden_size // self.config.num_attention_heads // 2
        tables = tuple(rotary_table(position_ids[:, channel], half, x.dtype) for channel in (0, 1))
        for block, prefix in zip(self.layers, prefixes, strict=True):
            x = block(x, visible, tables, prefix, past_key_values=past_key_values)
        return BaseModelOutputWithPast(
            last_hidden_state=self.final_layernorm(x), past_key_values=past_key_values if use_cache else None
        )


class ChatGLM1ForCausalLM(ChatGLM1PreTrainedModel, GenerationMixin):
    """The language model: the transformer, and a score for every token of the vocabulary as the next one."""

    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: ChatGLM1Config):
        super().__init__(config)
        self.transformer = ChatGLM1Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,  # [b, s], -100 where no prediction is asked for
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,  # the last so many places, 0 = all; or which ones
        **kwargs,
    ) -> CausalLMOutputWithPast:
        output = self.transformer(input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=output.past_key_values)

    def prepare_inputs_for_generation(self, input_ids: Tensor, attention_mask=None, **kwargs) -> dict:
        """What one step of `generate` feeds: the new tokens, with positions that depend on the whole text."""
        # `generate` counts position_ids up by one in both channels, which is wrong here: compute them anew.
        kwargs["position_ids"] = position_pairs(input_ids, attention_mask, self.config)
        return super().prepare_inputs_for_generation(input_ids, attention_mask=attention_mask, **kwargs)


AutoConfig.register("chatglm1", ChatGLM1Config, exist_ok=True)
AutoModel.register(ChatGLM1Config, ChatGLM1Model, exist_ok=True)
AutoModelForCausalLM.register(ChatGLM1Config, ChatGLM1ForCausalLM, exist_ok=True)
