"""Chat templates in the form of those that model families ship: what they print around turns, refuse, drop and trim.

The forms are theirs, the words are ours. Every template is rendered by transformers' own jinja environment.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple


class Family(NamedTuple):
    """A template, its arguments, and where it shows a system message: in its "own" place, in a "last" user turn."""

    template: str
    arguments: dict[str, Any] = {}  # noqa: RUF012  never changed
    system: Literal["own", "last", "none"] = "own"


ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
)
# The system message apart from the others, as many templates take it.
APART = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)


def _each(turn: str, after: str = "", rest: str = "messages") -> str:
    return f"{{% for m in {rest} %}}{turn}{{% endfor %}}{after}"


def _opens(header: str, otherwise: str = "") -> str:
    end = f"{{% else %}}{otherwise}" if otherwise else ""
    return f"{{% if add_generation_prompt %}}{header}{end}{{% endif %}}"


def _by_role(user: str, assistant: str, system: str = "") -> str:
    first = f"{{% if m.role == 'system' %}}{system}{{% elif m.role == 'user' %}}{user}"
    return f"{first}{{% elif m.role == 'assistant' %}}{assistant}{{% endif %}}"


IM = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
IM_OPENS = _opens("<|im_start|>assistant\n")


def _default_system(words: str) -> str:
    return f"{{% if messages[0].role != 'system' %}}<|im_start|>system\n{words}<|im_end|>\n{{% endif %}}"


def _mistral(where: str, user: str, assistant: str) -> str:
    """The system message is put into a user turn: the first, or the last."""
    words = f"{{% if {where} and system %}}{{{{ system }}}}\n\n{{% endif %}}{{{{ m.content }}}}"
    turns = _by_role(user.replace("WORDS", words), assistant)
    return APART + "{{ bos_token }}" + _each(ALTERNATE + turns, rest="rest")


# Thoughts are cut from answers before the last question, and shown, even if empty, in those after it.
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endfor %}{% set ns.seen = -1 %}"
    + _each(
        "{% if m.role == 'user' %}{% set ns.seen = ns.seen + 1 %}{% endif %}"
        "{% set thoughts, words = '', m.content %}"
        "{% if '</think>' in m.content %}"
        "{% set thoughts = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set words = m.content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and ns.seen >= ns.last %}<think>\n{{ thoughts }}\n</think>\n\n{% endif %}"
        "{{ words }}<|im_end|>\n"
    )
    + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA2 = APART + _each(
    ALTERNATE
    + "{% if loop.first and system %}{% set words = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}"
    + "{% else %}{% set words = m.content %}{% endif %}"
    + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + words.strip() + ' [/INST]' }}"
    + "{% else %}{{ ' ' + words.strip() + ' ' + eos_token }}{% endif %}",
    rest="rest",
)
LLAMA3_TURN = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
LLAMA3_OPENS = _opens("<|start_header_id|>assistant<|end_header_id|>\n\n")
GEMMA_TURN = (
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\nPREFIX{{ m.content | trim }}<end_of_turn>\n"
)
GEMMA_OPENS = _opens("<start_of_turn>model\n")
HARMONY = (
    "<|start|>system<|message|>You are a model.\nCurrent date: {{ strftime_now('%Y-%m-%d') }}\n\n"
    "# Valid channels: analysis, final.<|end|>"
)

FAMILIES: dict[str, Family] = {
    "chatml": Family(_each(IM) + IM_OPENS),
    "yi": Family(APART + "{{ system }}" + _each(IM, rest="rest") + IM_OPENS),
    "internlm2": Family("{{ bos_token }}" + _each(IM) + IM_OPENS),
    "qwen2": Family(_default_system("You are a helpful assistant.") + _each(IM) + IM_OPENS),
    "qwen2.5": Family(_default_system("You are Qwen, created by a cloud. Be helpful.") + _each(IM) + IM_OPENS),
    "qwen3": Family(QWEN3),
    "qwen3 without thinking": Family(QWEN3, {"enable_thinking": False}),
    "smollm2": Family(_default_system("You are a helpful AI assistant named Smol.") + _each(IM) + IM_OPENS),
    "smollm3": Family(
        APART
        + "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nToday Date: "
        + "{{ strftime_now('%d %B %Y') }}\nReasoning Mode: {{ '/no_think' if '/no_think' in system else '/think' }}\n\n"
        + "## Custom Instructions\n\n"
        + "{{ system.replace('/no_think', '').rstrip() if system else 'You are helpful.' }}\n\n<|im_end|>\n"
        + _each(IM, rest="rest")
        + IM_OPENS
    ),
    "phi4": Family(
        _each("<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>") + _opens("<|im_start|>assistant<|im_sep|>")
    ),
    "phi3": Family(
        _each(_by_role("<|user|>\n{{ m.content }}<|end|>\n", "<|assistant|>\n{{ m.content }}<|end|>\n"))
        + _opens("<|assistant|>\n", "{{ eos_token }}"),
        system="none",
    ),
    "phi3.5": Family(
        _each("<|{{ m.role }}|>\n{{ m.content }}<|end|>\n") + _opens("<|assistant|>\n", "{{ eos_token }}")
    ),
    "llama2": Family(LLAMA2),
    "llama3": Family("{{ bos_token }}" + _each(LLAMA3_TURN) + LLAMA3_OPENS),
    "llama3.1": Family(
        APART
        + "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
        + "Today Date: {{ strftime_now('%d %b %Y') }}\n\n{{ system | trim }}<|eot_id|>"
        + _each(LLAMA3_TURN, rest="rest")
        + LLAMA3_OPENS
    ),
    "llama4": Family(
        "{{ bos_token }}"
        + _each("<|header_start|>{{ m.role }}<|header_end|>\n\n{{ m.content | trim }}<|eot|>")
        + _opens("<|header_start|>assistant<|header_end|>\n\n")
    ),
    "mistral v0.1": Family(
        "{{ bos_token }}"
        + _each(ALTERNATE + _by_role("[INST] {{ m.content }} [/INST]", "{{ m.content }}{{ eos_token }} ")),
        system="none",
    ),
    "mistral v0.2": Family(_mistral("loop.first", " [INST] WORDS [/INST]", " {{ m.content }}{{ eos_token }}")),
    "mistral v0.3": Family(
        _mistral("loop.last", "[INST] WORDS[/INST]", " {{ m.content | trim }}{{ eos_token }}"), system="last"
    ),
    "mixtral": Family(_mistral("loop.first", " [INST] WORDS [/INST]", " {{ m.content }}{{ eos_token }}")),
    "mistral nemo": Family(
        _mistral("loop.last", "[INST]WORDS[/INST]", "{{ m.content | trim }}{{ eos_token }}"), system="last"
    ),
    "mistral small": Family(
        APART
        + "{{ bos_token }}[SYSTEM_PROMPT]{{ system or 'You are a model of ' + strftime_now('%Y') }}[/SYSTEM_PROMPT]"
        + _each(_by_role("[INST]{{ m.content }}[/INST]", "{{ m.content }}{{ eos_token }}"), rest="rest")
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + _each(ALTERNATE + GEMMA_TURN.replace("PREFIX", ""))
        + GEMMA_OPENS,
        system="none",
    ),
    "gemma2": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + _each(ALTERNATE + GEMMA_TURN.replace("PREFIX", ""))
        + GEMMA_OPENS,
        system="none",
    ),
    "gemma3": Family(
        APART
        + "{{ bos_token }}"
        + _each(
            ALTERNATE + GEMMA_TURN.replace("PREFIX", "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}"),
            rest="rest",
        )
        + GEMMA_OPENS
    ),
    "olmo": Family(
        "{{ eos_token }}"
        + _each(_by_role("<|user|>\n{{ m.content }}\n", "<|assistant|>\n{{ m.content }}{{ eos_token }}\n"))
        + _opens("<|assistant|>\n"),
        system="none",
    ),
    "olmo2": Family(
        "{{ bos_token }}"
        + _each(
            _by_role(
                "<|user|>\n{{ m.content }}\n",
                "<|assistant|>\n{{ m.content }}{{ eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}",
                "<|system|>\n{{ m.content }}\n",
            )
        )
        + _opens("<|assistant|>\n")
    ),
    "tulu": Family(
        _each(
            "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token if m.role == 'assistant' }}{{ '\n' if not loop.last }}"
            "{% if loop.last and add_generation_prompt %}{{ '\n<|assistant|>\n' }}{% endif %}"
        )
    ),
    "granite": Family(
        APART
        + "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n{{ system or 'Be helpful.' }}"
        + "<|end_of_text|>\n"
        + _each("<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n", rest="rest")
        + _opens("<|start_of_role|>assistant<|end_of_role|>")
    ),
    "command-r": Family(
        APART
        + "{{ bos_token }}{% if system %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ system }}<|END_OF_TURN_TOKEN|>"
        + "{% endif %}"
        + _each(
            ALTERNATE
            + "<|START_OF_TURN_TOKEN|>{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}"
            + "{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>",
            rest="rest",
        )
        + _opens("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>")
    ),
    "deepseek v2": Family(
        "{{ bos_token }}"
        + _each(
            _by_role("User: {{ m.content }}\n\n", "Assistant: {{ m.content }}{{ eos_token }}", "{{ m.content }}\n\n")
        )
        + _opens("Assistant:")
    ),
    "deepseek r1": Family(
        "{% set ns = namespace(system='') %}{% for m in messages if m.role == 'system' %}"
        "{% set ns.system = m.content %}{% endfor %}{{ bos_token }}{{ ns.system }}"
        + _each(
            _by_role("<|User|>{{ m.content }}", "<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end of sentence|>")
        )
        + _opens("<|Assistant|><think>\n")
    ),
    "zephyr": Family(_each("<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n") + _opens("<|assistant|>\n")),
    "vicuna": Family(
        APART
        + "{{ system or 'A chat between a curious user and an assistant.' }}"
        + _each(
            _by_role(" USER: {{ m.content.strip() }}", " ASSISTANT: {{ m.content.strip() }}{{ eos_token }}"),
            rest="rest",
        )
        + _opens(" ASSISTANT:")
    ),
    "alpaca": Family(
        APART
        + "{{ system or 'Below is an instruction. Write a response.' }}\n\n"
        + _each(
            _by_role("### Instruction:\n{{ m.content }}\n\n", "### Response:\n{{ m.content }}{{ eos_token }}\n\n"),
            rest="rest",
        )
        + _opens("### Response:\n")
    ),
    "solar": Family(_each("### {{ m.role.capitalize() }}:\n{{ m.content }}\n\n") + _opens("### Assistant:\n")),
    "openchat": Family(
        "{{ bos_token }}"
        + _each(
            _by_role(
                "GPT4 Correct User: {{ m.content }}<|end_of_turn|>",
                "GPT4 Correct Assistant: {{ m.content }}<|end_of_turn|>",
                "{{ m.content }}<|end_of_turn|>",
            )
        )
        + _opens("GPT4 Correct Assistant:")
    ),
    "exaone": Family(
        "{% if messages[0].role != 'system' %}[|system|][|endofturn|]\n{% endif %}"
        + _each("[|{{ m.role }}|]{{ m.content }}{{ '\n' if m.role == 'user' else '[|endofturn|]\n' }}")
        + _opens("[|assistant|]")
    ),
    "gpt-oss": Family(
        APART
        + HARMONY
        + "{% if system %}<|start|>developer<|message|># Instructions\n\n{{ system }}\n\n<|end|>{% endif %}"
        + _each(
            _by_role(
                "<|start|>user<|message|>{{ m.content }}<|end|>",
                "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
                "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}",
            ),
            rest="rest",
        )
        + _opens("<|start|>assistant")
    ),
}
