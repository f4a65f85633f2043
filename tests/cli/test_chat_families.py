"""Chat templates with the structure of published ones: what each writes for a conversation."""

import datetime
from types import SimpleNamespace

import pytest

from zerfoo_numba import chat
from zerfoo_numba.errors import FileError, InputError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " one "},
    {"role": "assistant", "content": "<think>hm</think>two"},
    {"role": "user", "content": "three"},
]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"a": "int"}}}

# Headers around every message; the BOS token before the first.
LLAMA3 = """{%- if not date is defined %}{% set date = strftime_now('%Y') %}{% endif -%}
{%- for message in messages -%}
{%- set text = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'
    + message['content'] | trim + '<|eot_id|>' -%}
{%- if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif -%}
{{ text }}
{%- endfor -%}
{%- if tools is not none %}{{ date }} {{ tools | tojson(indent=2) }}{% endif -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

# ChatML with tools, and answers without their thoughts.
QWEN = """{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and ns.last < 0 %}
        {%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if tools %}
    {{- '<|im_start|>system\n# Tools' }}
    {%- for tool in tools %}
        {{- "\n" + (tool | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and loop.index0 < ns.last and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>{"name": "' ~ call.function.name ~ '", "arguments": ' }}
        {{- call.function.arguments | tojson ~ '}</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# The system message within the first question; turns must alternate.
MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system, turns = messages[0]['content'], messages[1:] %}
{%- else %}
    {%- set system, turns = none, messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system is not none %}
            {{- '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + '[/INST]' }}
        {%- endif %}
    {%- else %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

PHI3 = """{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}
{{ '<|' ~ message.role ~ '|>\n' ~ message.content ~ '<|end|>\n' -}}
{% endif %}{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"""

# Documents by a macro over mappings.
COMMAND_R_RAG = """{%- macro field(name, value) -%}
{{ name | title }}: {% if value is mapping %}
{%- for k, v in value | dictsort %}{{ k }}={{ v }};{% endfor %}
{%- elif value is iterable and value is not string %}{{ value | join(', ') }}{% else %}{{ value }}
{%- endif %}
{%- endmacro -%}
{{ bos_token }}{% for document in documents %}Document: {{ loop.index0 }}
{% for name, value in document.items() %}{{ field(name, value) }}
{% endfor %}{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"""


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        (
            LLAMA3, {},
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n<think>hm</think>two<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nthree<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            QWEN, {},
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n one <|im_end|>\n"
            "<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nthree<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            MISTRAL, {},
            "<s>[INST]  one [/INST] <think>hm</think>two</s>[INST] Be brief.\n\nthree[/INST]",
        ),
        (
            PHI3, {"add_generation_prompt": False},
            "<|system|>\nBe brief.<|end|>\n<|user|>\n one <|end|>\n"
            "<|assistant|>\n<think>hm</think>two<|end|>\n<|user|>\nthree<|end|>\n</s>",
        ),
        (
            COMMAND_R_RAG,
            {"documents": [{"title": "T", "tags": ["a", "b"]}, {"meta": {"y": 1, "x": 2}}]},
            "<s>Document: 0\nTitle: T\nTags: a, b\nDocument: 1\nMeta: x=2;y=1;\n"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
    ],
    ids=["llama3", "qwen", "mistral", "phi3", "command-r"],
)  # fmt: skip
def test_a_conversation(template, values, text):
    assert chat.render(template, TURNS, bos_token="<s>", eos_token="</s>", **values) == text


def test_tools_and_options():
    call = {"function": {"name": "add", "arguments": {"a": 1234567, "b": "é"}}}
    messages = [TURNS[1], {"role": "assistant", "tool_calls": [call]}]
    text = chat.render(QWEN, messages, tools=[TOOL], enable_thinking=False)
    assert text == (
        '<|im_start|>system\n# Tools\n{"type": "function", "function": '
        '{"name": "add", "parameters": {"a": "int"}}}<|im_end|>\n'
        "<|im_start|>user\n one <|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>{"name": "add", "arguments": {"a": 1234567, "b": "é"}}</tool_call><|im_end|>\n'
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    year = datetime.datetime.now().year
    text = chat.render(LLAMA3, TURNS[1:2], tools=["x"], add_generation_prompt=False)
    assert text.endswith(f'one<|eot_id|>{year} [\n  "x"\n]')
    text = chat.render(LLAMA3, TURNS[1:2], tools=["x"], date="now", add_generation_prompt=False)
    assert text.endswith('now [\n  "x"\n]')


def test_roles_that_do_not_alternate():
    with pytest.raises(InputError, match="roles must alternate"):
        chat.render(MISTRAL, TURNS[1:2] * 2)


NAMED = {
    "tokenizer.chat_template": "default {{ messages | length }}",
    "tokenizer.chat_template.rag": "rag {{ documents | length }}",
    "tokenizer.chat_templates": ["rag"],
}
VOCABULARY = SimpleNamespace(
    pieces=["<s>", "</s>"],
    bos_id=0,
    eos_id=1,
    add_bos=True,
    encode=lambda text, add_special, parse_special: [0, 9] if text.startswith("<s>") else [9],
)


def test_templates_by_name():
    assert list(chat.templates(NAMED)) == ["default", "rag"]
    assert chat.render_for(NAMED, VOCABULARY, TURNS) == "default 4"
    assert chat.render_for(NAMED, VOCABULARY, TURNS, template="default") == "default 4"
    text = chat.render_for(NAMED, VOCABULARY, TURNS, template="rag", documents=[1, 2])
    assert text == "rag 2"
    with pytest.raises(InputError, match="no chat template 'x'; it has default, rag"):
        chat.render_for(NAMED, VOCABULARY, TURNS, template="x")
    with pytest.raises(InputError, match="no chat template 'default'; it has rag"):
        chat.render_for({"tokenizer.chat_template.rag": "x"}, VOCABULARY, TURNS)
    with pytest.raises(FileError, match=r"tokenizer\.chat_template"):
        chat.render_for({"tokenizer.chat_template": 5}, VOCABULARY, TURNS)


def test_a_template_that_is_a_name():
    rwkv = {"tokenizer.chat_template": "rwkv-world"}
    assert chat.render_for(rwkv, VOCABULARY, TURNS[:2]) == (
        "System: Be brief.\n\nUser: one\n\nAssistant:"
    )


def test_a_prompt_begins_with_one_bos_token():
    for template in ("{{ bos_token }}x", "x"):
        assert chat.prompt_ids({"tokenizer.chat_template": template}, VOCABULARY, TURNS) == [0, 9]
    VOCABULARY.add_bos = False
    assert chat.prompt_ids({"tokenizer.chat_template": "x"}, VOCABULARY, TURNS) == [9]
