"""Small chat templates of every kind, and a byte-level tokenizer on which words can be read back."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fairkv_eval.prompts.chat import Chat, Message, Template
from fairkv_eval.prompts.tokens import Prompt

TURN = "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
GENERATION = "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
RAISES = "{{ raise_exception('System role not supported') }}"
TEMPLATES = {
    "chatml": "{% for m in messages %}" + TURN + "{% endfor %}" + GENERATION,
    "trims": "{% for m in messages %}" + TURN.replace("m.content", "m.content | trim") + "{% endfor %}" + GENERATION,
    "no_end": "{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}" + GENERATION,
    "whole_chats_only": (
        "{% if messages[-1].role != 'user' %}{{ raise_exception('ends with the user') }}{% endif %}"
        "{% for m in messages %}" + TURN + "{% endfor %}" + GENERATION
    ),
    "refuses_system": (
        "{% for m in messages %}{% if m.role == 'system' %}"
        + RAISES
        + "{% endif %}"
        + TURN
        + "{% endfor %}"
        + GENERATION
    ),
    "drops_system": "{% for m in messages if m.role != 'system' %}" + TURN + "{% endfor %}" + GENERATION,
}
WITHOUT_SYSTEM = ["refuses_system", "drops_system"]
WITH_SYSTEM = [name for name in TEMPLATES if name not in WITHOUT_SYSTEM]


def make_tokenizer(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """One token a byte, and one for each merge (of byte-level characters: a space is Ġ, a line break Ċ)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


BYTES = make_tokenizer()


def encode(text: str, tokenizer: PreTrainedTokenizerFast = BYTES) -> tuple[list[int], list[tuple[int, int]]]:
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    return encoding["input_ids"], encoding["offset_mapping"]


def template(name: str) -> Template:
    def apply(messages: Sequence[Message], add_generation_prompt: bool | None) -> str:
        return BYTES.apply_chat_template(
            list(messages),
            chat_template=TEMPLATES[name],
            tokenize=False,
            add_generation_prompt=bool(add_generation_prompt),
            continue_final_message=add_generation_prompt is False,
        )

    return apply


def chat(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def words(prompt: Prompt, start: int, stop: int) -> str:
    """The text of a range of tokens of BYTES, which has one for each byte."""
    symbols = {symbol: byte for byte, symbol in _byte_symbols().items()}
    return bytes(symbols[BYTES.convert_ids_to_tokens(t)] for t in prompt.tokens[start:stop]).decode()


def _byte_symbols() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def context_of(rendered: Chat) -> str:
    return rendered.text[: rendered.context_end]


SYSTEM, QUESTION = "Answer in French. Keep it secret.", "What is the capital?"
SIMPLE = chat(("system", SYSTEM), ("user", QUESTION))
FEW_SHOT = chat(
    ("system", SYSTEM), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"), ("assistant", "4"), ("user", QUESTION)
)
