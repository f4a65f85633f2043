"""Chat templates: what they render to, and that a hostile one reaches nothing."""

import datetime
import sys
import time

import pytest

from zerfoo_numba import chat
from zerfoo_numba.errors import FileError, InputError
from zerfoo_numba.text import template_sandbox

USER = [{"role": "user", "content": " Hi <é> "}]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]
# The features that published templates use: slices, namespaces, filters, tests, loop variables.
TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set prefix = messages[0]['content'] + '\\n\\n' %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set prefix = '' %}
    {%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles must alternate') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string %}
        {{- message['content'] | trim }}
    {%- else %}
        {%- for part in message['content'] %}
            {{- '<image>' if part['type'] == 'image' else part['text'] }}
        {%- endfor %}
    {%- endif %}
    {{- '<end_of_turn>' ~ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""


def test_a_conversation():
    assert chat.render(TEMPLATE, TURNS, bos_token="<bos>") == (
        "<bos><start_of_turn>user\nBe brief.\n\none<end_of_turn>\n"
        "<start_of_turn>model\ntwo<end_of_turn>\n"
        "<start_of_turn>user\nthree<end_of_turn>\n<start_of_turn>model\n"
    )


def test_without_generation_prompt_and_with_parts():
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    text = chat.render(TEMPLATE, parts, add_generation_prompt=False)
    assert text == "<start_of_turn>user\n<image>what?<end_of_turn>\n"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),  # trim_blocks, lstrip_blocks
        ("{{ messages[0].content | tojson }}", '" Hi <é> "'),  # no HTML escapes
        ("{{ {'b': 1, 'a': [none]} | tojson(indent=1) }}", '{\n "b": 1,\n "a": [\n  null\n ]\n}'),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% set n = namespace(x=1) %}{% set n.x = n.x + 1 %}{{ n.x }}", "2"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) ~ f('a') }}", "[1][a]"),
        ("{{ 'a,b'.split(',')[1].upper() + 'x' * 3 + '%d' % 4 }}", "Bxxx4"),
        ("{{ eos_token ~ missing ~ (missing is defined) }}", "</s>False"),
        ("{{ tools is none and documents is none and builtin_tools is not defined }}", "True"),
        (
            "{{ '{} of {n}'.format(1, n=2) ~ '%s-%02d' % ('a', 3) ~ '%s' | format(4) }}",
            "1 of 2a-034",
        ),
        ("{{ [1700000000, 1.5] | map('tojson') | join(', ') }}", "1700000000, 1.5"),
        ("{% generation %}a{{ 1 }}{% endgeneration %}b", "a1b"),
        (
            "{% for k, v in {'a': [1, 2], 'b': ()}.items() %}{{ k }}{{ v | length }}{% endfor %}",
            "a2b0",
        ),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        (
            "{{ 'a\nb' | replace('\n', '<br>') | indent(2) ~ ' x '.strip().replace('x', 'y') }}",
            "a<br>by",
        ),
        (
            "{% set s %}[{{ 'q' }}]{% endset %}{{ s * 2 }}{% filter upper %}z{% endfilter %}",
            "[q][q]Z",
        ),
        ("{{ '{0.__class__}'.format(messages) }}", ""),  # reaches nothing
    ],
)
def test_what_templates_use(template, text):
    assert chat.render(template, USER, eos_token="</s>") == text


def test_strftime_now():
    assert chat.render("{{ strftime_now('%Y') }}", USER) == str(datetime.datetime.now().year)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ raise_exception.__globals__['sys'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__}'.format(messages) | upper | tojson | nothing }}",
        "{{ messages.append(1) }}",
        "{% set _ = messages[0].update({'role': 'x'}) %}",
        "{% include 'pyproject.toml' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{{ 'x' * 4000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 10**10 }}",
        "{{ [0] * 10**10 }}",
        "{{ (10**10000) ** 10000 }}",
        "{% set x = 'xxxxxxxx' %}" + "{% set x = x ~ x %}" * 60,
        "{% set x = 'xxxxxxxx' %}" + "{% set x = x + x %}" * 60,
        "{{ 'x'.center(10**9) }}",
        "{{ 'x' | indent(10**9) }}",
        "{{ {} | tojson(indent=10**9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        # Little that would become much.
        "{% set b = 'x' * 4000000 %}{{ [b, b, b, b] }}",
        "{% set b = 'x' * 4000000 %}{{ [b, b] | join }}{{ ''.join([b] * 3000) }}",
        "{{ ('a' * 4000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 4000) | replace('a', 'b' * 1000000) }}",
        "{{ ('x' * 400000) | list | join('y' * 100000) }}",
        "{{ ('y' * 100000).join(range(90000) | map('string')) }}",
        "{{ ('a\n' * 1000000) | indent(90000) }}",
        "{{ ('\t' * 4000000).expandtabs(90000) }}",
        "{{ ('{0}' * 90000).format('x' * 1000000) }}",
        "{{ ('%9999d' * 9999) % range(9999) | list }}",
        "{{ ('a' * 400).translate({97: 'b' * 1000000}) }}",
        "{{ 1.5 | round(10**9) }}",
        "{{ [[1]] | tojson(indent=10**9) }}",
        "{% set b = 'x' * 4000000 %}{% set s %}"
        "{% for i in range(9000) %}{{ b }}{% endfor %}{% endset %}",
        "{% macro f() %}{% for i in range(90000) %}"
        + "y" * 9999
        + "{% endfor %}{% endmacro %}{{ f() }}",
        "{% set n = namespace(x=1) %}"
        "{% for i in range(90) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
        "{% set n = namespace(x=9) %}{% for i in range(90) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{% set n = namespace(x=1) %}{% set n.x = n %}{{ n }}",
        "{% set n = namespace(x=0) %}{% for i in range(90000) %}"
        "{% set n.x = namespace(x=n.x, y='y' * 400000) %}{% endfor %}",
        "{{ 'x' | indent(90000) }}" * 9000,
        "{{ " + "(" * 90000 + "1" + ")" * 90000 + " }}",
        "{{ 1" + " + 1" * 60000 + " }}",
        "{% if %}",
        "{{ nothing.attribute }}",
        "{{ 1 / 0 }}",
        " " * (template_sandbox.MAX_TEMPLATE_CHARS + 1),
    ],
)
def test_a_broken_or_hostile_template_is_stopped(template):
    messages = [dict(message) for message in TURNS]
    before, start = sys.gettrace(), time.monotonic()
    with pytest.raises(FileError, match="chat template") as caught:
        chat.render(template, messages, time_limit_s=0.3)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert messages == TURNS and sys.gettrace() is before


def test_a_templates_own_refusal_is_about_the_messages():
    with pytest.raises(InputError, match="roles must alternate"):
        chat.render(TEMPLATE, [*TURNS, TURNS[1]])


@pytest.mark.parametrize(
    "messages",
    [[], "hi", None, ["hi"], [{"content": "x"}], [{"role": "user"}],
     [{"role": 1, "content": "x"}], [{"role": "user", "content": 5}]],
)  # fmt: skip
def test_malformed_messages(messages):
    with pytest.raises(InputError, match="message"):
        chat.render(TEMPLATE, messages)


def test_a_file_without_a_template_says_so():
    with pytest.raises(FileError, match=r"tokenizer\.chat_template"):
        chat.render_for({}, None, USER)
